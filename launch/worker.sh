#!/usr/bin/env bash
# On one machine of several, called from elsewhere over ssh (by tpu_vm.sh): a training that outlives the
# connection.
#   launch/worker.sh install [EXTRA]   makes .venv; finds or fetches a Python that is new enough
#   launch/worker.sh start ARGUMENTS   python -m skinjax.main ARGUMENTS in the background; what still
#                                      runs is stopped first
#   launch/worker.sh status            prints 'running', the exit status, or 'none'
#   launch/worker.sh follow            shows the log until the training ends
#   launch/worker.sh stop              asks it to save and end, and waits for that
#   launch/worker.sh --dry-run ...     prints the commands
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
if [[ ${1:-} == --dry-run ]]; then
  dry_run=1
  shift
fi
runs=$root/runs
log=$runs/worker.log
# The process, while it runs, and its exit status, when it has ended.
process=$runs/worker.pid
ended=$runs/worker.status
# Seconds that a training has to save in, before it is killed.
patience=120

is_running() {
  # By its words too: after a restart of the machine the number may be another's.
  [[ -f $process ]] && [[ "$(ps -o args= -p "$(<"$process")" 2>/dev/null)" == *"worker.sh supervise"* ]]
}

stop() {
  local waited
  is_running || return 0
  run kill -TERM "$(<"$process")"
  if [[ -n $dry_run ]]; then return; fi
  for ((waited = 0; waited < 5 * patience; waited++)); do
    is_running || return 0
    sleep 0.2
  done
  say "skinjax: it has not ended in $patience s and is killed."
  # The group: the training and what notes its exit status.
  kill -KILL -- "-$(<"$process")"
}

case ${1:-} in
  install)
    # The Python of the TPU machines' Ubuntu 22.04 is 3.10.
    export PATH=$HOME/.local/bin:$PATH
    if ! find_python >/dev/null 2>&1; then
      run python3 -m pip install --user --quiet uv
      run uv python install 3.12
      if [[ -n $dry_run ]]; then exit; fi
    fi
    make_environment "${@:2}"
    ;;
  start)
    stop
    run mkdir -p -- "$runs"
    if [[ -n $dry_run ]]; then
      quoted cd -- "$root"
      quoted "$python" -m skinjax.main "${@:2}"
      exit
    fi
    rm -f -- "$process" "$ended"
    # A session of its own, so that the end of the connection does not reach it.
    setsid "$root/launch/worker.sh" supervise "${@:2}" >>"$log" 2>&1 </dev/null &
    until [[ -f $process ]]; do sleep 0.1; done
    ;;
  supervise)
    cd -- "$root"
    told=""
    trap 'told=1; kill -TERM "$training" || true' TERM
    "$python" -m skinjax.main "${@:2}" &
    training=$!
    echo $$ >"$process.new"
    mv -f -- "$process.new" "$process"
    # A trapped signal ends `wait` before the training has ended.
    while true; do
      told="" status=0
      wait "$training" || status=$?
      if [[ -z $told ]]; then break; fi
    done
    echo "$status" >"$ended"
    ;;
  status)
    if is_running; then echo running; elif [[ -f $ended ]]; then cat -- "$ended"; else echo none; fi
    ;;
  follow)
    if [[ ! -f $log ]]; then
      say "skinjax: nothing was started here."
      exit 1
    fi
    if is_running; then
      run tail -n 100 -F --pid="$(<"$process")" -- "$log"
    else
      run tail -n 100 -- "$log"
    fi
    ;;
  stop) stop ;;
  *)
    say "skinjax: launch/worker.sh takes install, start, status, follow or stop."
    exit 2
    ;;
esac
