# shellcheck shell=bash
# What the scripts share: finds a Python, makes .venv, installs into it. Sourced, not run.
# It keeps to what bash 3.2 has, the one that macOS ships.

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=launch/commands.sh
source "$root/launch/commands.sh"
environment=$root/.venv
python=$environment/bin/python
# Two lines, the fingerprint of what was installed and the extras; or "unfinished".
state=$environment/launch-state

# Prints the first Python that will do. 3.14 comes late: the tested versions were resolved up to 3.13.
find_python() {
  local name lacking=""
  for name in python3.13 python3.12 python3.11 python3.14 python3 python; do
    "$name" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue
    if "$name" -I -c 'import ensurepip, venv' >/dev/null 2>&1; then
      command -v "$name"
      return
    fi
    lacking=$name
  done
  if [[ -n $lacking ]]; then
    say "skinjax: $lacking cannot make an environment; on Debian and Ubuntu: apt install $lacking-venv"
  else
    say "skinjax: no Python 3.11 or newer on the PATH; install one and call this again."
  fi
  return 1
}

# Prints the extra that this machine's accelerator needs: cuda, tpu, or nothing for the CPU.
# The argument stands before /dev and /sys; only tests give one.
find_accelerator() {
  local prefix=${1:-} node file vendor device
  # Not a pipe into grep -q: under pipefail an early end of grep reads as "no GPU".
  if [[ "$(nvidia-smi -L 2>/dev/null)" == "GPU "* ]]; then
    echo cuda
    return
  fi
  # Other makers' chips make such nodes too, so a node alone is not yet a TPU.
  for node in "$prefix"/dev/accel[0-9]* "$prefix"/dev/accel_[0-9]* "$prefix"/dev/vfio/[0-9]*; do
    [[ -e $node ]] || continue
    if [[ -n ${TPU_NAME:-}${TPU_WORKER_ID:-} ]]; then
      echo tpu
      return
    fi
    for file in "$prefix"/sys/bus/pci/devices/*/vendor; do
      [[ -r $file ]] || continue
      read -r vendor <"$file"
      read -r device <"${file%vendor}device"
      # 0x1ae0 is Google; its 0x0042 is the network card of a cloud machine.
      if [[ $vendor == 0x1ae0 && $device != 0x0042 ]]; then
        echo tpu
        return
      fi
    done
    return
  done
}

# Prints the extra that the arguments of skinjax.main need: gcs where one is in a bucket.
find_extras() {
  if [[ "$*" == *gs://* ]]; then echo gcs; fi
}

# Prints what decides whether .venv is up to date; fails where its Python does not run.
fingerprint() {
  "$python" -I - "$root" 2>/dev/null <<'PYTHON'
import hashlib, pathlib, sys

root = pathlib.Path(sys.argv[1])
digest = hashlib.sha256(repr((str(root), sys.version_info[:2])).encode())
for name in ("pyproject.toml", "constraints.txt"):
    digest.update((root / name).read_bytes())
print(digest.hexdigest())
PYTHON
}

installed_extras() {
  [[ -f $state ]] && sed -n 2p "$state"
}

# Takes the extras wanted; true where they are in .venv, from the present pyproject.toml and constraints.txt.
is_installed() {
  local print extra extras
  [[ -f $state ]] || return 1
  print=$(fingerprint) || return 1
  [[ $(sed -n 1p "$state") == "$print" ]] || return 1
  extras=,$(installed_extras),
  for extra in "$@"; do
    [[ $extras == *",$extra,"* ]] || return 1
  done
}

# Notes what .venv holds; a dry run changes nothing.
note_state() {
  if [[ -n $dry_run ]]; then return; fi
  printf '%s\n' "$@" >"$state.new"
  mv -f -- "$state.new" "$state"
}

# Takes the extras wanted; adds them to those that are there, so that nobody's tools are lost.
install() {
  local base extra extras log
  if [[ -f $state && $(<"$state") == unfinished ]] ||
    ! { "$python" -I -m pip --version || { [[ -x $python ]] && run "$python" -I -m ensurepip; }; } \
      >/dev/null 2>&1; then
    base=$(find_python)
    if [[ -e $environment ]]; then say "skinjax: .venv is not whole; making it again."; fi
    run rm -rf -- "$environment"
    run mkdir -- "$environment"
    # Written first and replaced last: one that was cut off half-way is never taken for a whole one.
    note_state unfinished
    run "$base" -m venv "$environment"
  fi
  extras=$(installed_extras || true)
  # A .venv that somebody made by hand has no state yet, and is not to be thrown away.
  if [[ -f $state ]]; then note_state unfinished; fi
  for extra in "$@"; do
    [[ ,$extras, == *",$extra,"* ]] || extras=${extras:+$extras,}$extra
  done
  log=$environment/launch.log
  set -- "$python" -I -m pip install --disable-pip-version-check --quiet \
    --constraint constraints.txt --editable ".${extras:+[$extras]}"
  if [[ -n $dry_run ]]; then
    quoted cd -- "$root"
    quoted "$@"
    return
  fi
  say "skinjax: installing into .venv (${extras:-CPU}); 1 to 3 minutes and a download of 0.4 GB," \
    "with CUDA 3 GB more ..."
  if ! (cd -- "$root" && "$@") >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    say "skinjax: that was not installed; the end of the log is above, the whole in $log"
    return 1
  fi
  note_state "$(fingerprint)" "$extras"
}

# Takes further extras (test); afterwards $python is one that has skinjax and all it needs.
make_environment() {
  local accelerator
  accelerator=$(find_accelerator)
  # Unquoted: where there is no accelerator there is no word.
  # shellcheck disable=SC2086
  set -- $accelerator "$@"
  is_installed "$@" && return
  if [[ -n $dry_run ]]; then
    install "$@"
    return
  fi
  if command -v flock >/dev/null; then
    exec 9>"$root/.venv.lock"
    if ! flock --nonblock 9; then
      say "skinjax: another launch is installing; waiting for it ..."
      flock 9
    fi
    if ! is_installed "$@"; then install "$@"; fi
    exec 9>&-
  else
    install "$@"
  fi
}
