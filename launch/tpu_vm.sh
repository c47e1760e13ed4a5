#!/usr/bin/env bash
# A training on a slice of Cloud TPU VMs, all its workers together, from here, by gcloud:
#   launch/tpu_vm.sh train --name=NAME --zone=ZONE --type=v5litepod-16 [--spot] [--data=gs://BUCKET/DATA] \
#     -- --config=FILE --workdir=gs://BUCKET/RUN ...
# asks for the slice (a queued resource), waits for it, installs this clone, trains, shows the log, begins
# again where the slice is preempted, and deletes it when the training is complete. Ctrl-C, or a lost
# connection, ends the showing alone; the same command takes it up again. Its parts, with the same flags:
#   create   asks for the slice and waits until it is there
#   install  brings this clone and its environment to every worker
#   run      copies the data to every worker's disk and starts the training there, in the background
#   follow   shows the log of the first worker until the training ends
#   stop     asks the training to save and end (where `train` watches, end that first: it starts it again)
#   delete   gives the slice back
# Flags:
#   --project=P    gcloud's own, unless told        --runtime=V   the TPU software, where --type does not tell
#   --spot         cheaper, may be preempted        --data=gs://... a config.data.cache_dir filled before
#   --gcloud=FLAG  a further flag of `gcloud compute tpus queued-resources create`; may come more than once
#   --dry-run      prints the commands instead of running them
set -euo pipefail
# shellcheck source=launch/commands.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/commands.sh"
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

# Where things lie on a worker, from its home.
clone=skinjax
data_folder=skinjax-data
# Crashes and failed installations after which the training is left as it is; preemptions do not count.
most_failures=20
# Seconds between two looks at what is waited for.
pause=${SKINJAX_PAUSE:-30}

mistake() {
  say "skinjax: $*"
  exit 2
}

command=${1:-}
case $command in
  train | create | install | run | follow | stop | delete) shift ;;
  *) mistake "launch/tpu_vm.sh takes train, create, install, run, follow, stop or delete." ;;
esac
name="" zone="" type="" runtime="" data=""
wide=() further=()
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --project=*) wide+=("$1") ;;
    --type=*) type=${1#*=} ;;
    --runtime=*) runtime=${1#*=} ;;
    --data=*) data=${1#*=} ;;
    --spot) further+=("$1") ;;
    --gcloud=*) further+=("${1#*=}") ;;
    --dry-run) dry_run=1 ;;
    --)
      shift
      break
      ;;
    *) mistake "$1 is not understood: what skinjax.main is to be told comes after a --." ;;
  esac
  shift
done
[[ -n $name ]] || mistake "--name is missing: how the slice is to be called."
[[ -n $zone ]] || mistake "--zone is missing, as --zone=us-west4-a."
[[ -z $data || $data == gs://* ]] || mistake "--data=$data is not in a bucket: copy it to gs://... first."
wide+=("--zone=$zone")
arguments=("$@")

queue() {
  local verb=$1
  shift
  run gcloud compute tpus queued-resources "$verb" "$name" "${wide[@]}" "$@"
}

# Takes the workers, all or a number, and what a shell there is to run.
on_workers() {
  run gcloud compute tpus tpu-vm ssh "$name" "${wide[@]}" "--worker=$1" "--command=$2"
}

# Sets `answer` to what a command prints, to nothing where it fails, and in a dry run to its first
# argument.
ask() {
  local supposed=$1
  shift
  if [[ -n $dry_run ]]; then
    "$@"
    answer=$supposed
  else
    answer=$("$@" 2>/dev/null) || answer=""
  fi
}

create() {
  local flags=()
  [[ -n $type ]] || mistake "--type is missing: the slice, as --type=v5litepod-16."
  if [[ -z $runtime ]]; then
    case $type in
      v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
      v5p-*) runtime=v2-alpha-tpuv5 ;;
      v6e-*) runtime=v2-alpha-tpuv6e ;;
      v2-* | v3-* | v4-*) runtime=tpu-ubuntu2204-base ;;
      *) mistake "--runtime is missing: for --type=$type no TPU software version is known here." ;;
    esac
  fi
  flags=("--node-id=$name" "--accelerator-type=$type" "--runtime-version=$runtime")
  ask "" queue describe "--format=value(state.state)"
  while [[ $answer != ACTIVE ]]; do
    case $answer in
      "") queue create "${flags[@]}" ${further[@]+"${further[@]}"} ;;
      FAILED | SUSPENDING | SUSPENDED)
        say "skinjax: $name is $answer; it is deleted and asked for again."
        delete
        answer=""
        continue
        ;;
      *) say "skinjax: $name is $answer ..." ;;
    esac
    if [[ -z $dry_run ]]; then sleep "$pause"; fi
    ask ACTIVE queue describe "--format=value(state.state)"
  done
}

delete() {
  queue delete --force --quiet
}

install() {
  local archive=${TMPDIR:-/tmp}/skinjax-$name.tar.gz
  # What git has, as it lies here now.
  if [[ -n $dry_run ]]; then
    echo "$(quoted git -C "$root" ls-files -z) | $(quoted tar -C "$root" --null -czf "$archive" -T -)"
  else
    git -C "$root" ls-files -z | COPYFILE_DISABLE=1 tar -C "$root" --null -czf "$archive" -T - || return
  fi
  run gcloud compute tpus tpu-vm scp "$archive" "$name:skinjax.tar.gz" "${wide[@]}" --worker=all || return
  run rm -f -- "$archive"
  on_workers all \
    "mkdir -p $clone && tar -xzf skinjax.tar.gz -C $clone && $clone/launch/worker.sh install gcs"
}

start() {
  local flags=(--distributed ${arguments[@]+"${arguments[@]}"})
  if [[ -n $data ]]; then
    on_workers all "$clone/launch/copy_data.sh $(quoted "$data") $data_folder" || return
    flags+=("--config.data.cache_dir=~/$data_folder")
  fi
  on_workers all "$clone/launch/worker.sh start $(quoted "${flags[@]}")"
}

follow() {
  on_workers 0 "$clone/launch/worker.sh follow"
}

give_up() {
  say "skinjax: $*"
  say "skinjax: the slice is there still and costs money: launch/tpu_vm.sh delete --name=$name --zone=$zone"
}

train() {
  local failures=0 installed="" look="$clone/launch/worker.sh status"
  # What lies on the slice goes with it, when it is preempted and when the training is complete.
  if [[ " ${arguments[*]-}" != *" --workdir=gs://"* ]]; then
    mistake "after the -- comes a run in a bucket, as --workdir=gs://BUCKET/RUN: the slice is deleted."
  fi
  while true; do
    create
    ask none on_workers 0 "$look"
    # No answer is one, too: a slice that is new takes its time.
    # Where an earlier call's training failed, what lies here may be mended, what lies there is not.
    if [[ $answer == running || $answer == 75 ]]; then installed=yes; fi
    if [[ -z $installed || -z $answer || $answer == none ]] && ! install; then
      answer=127
    elif installed=yes && [[ $answer != running ]] && ! start; then
      answer=126
    else
      # What ends it may be the connection: how the training ended is asked for.
      follow || say "skinjax: the connection to $name is lost."
      ask 0 on_workers 0 "$look"
      if [[ -n $dry_run ]]; then
        echo "# where the slice is preempted: the next command, and all from the first on again"
      fi
    fi
    case $answer in
      0)
        delete
        return
        ;;
      # To go on, or the connection is lost: then the state of the slice tells what to do.
      75 | none | running | "") ;;
      2 | 130)
        give_up "the training ended with status $answer; why, is said above."
        return "$answer"
        ;;
      *)
        failures=$((failures + 1))
        if ((failures > most_failures)); then
          give_up "it failed $failures times, the last time with status $answer."
          return 1
        fi
        say "skinjax: it failed with status $answer, and goes on from the last checkpoint."
        ;;
    esac
    sleep "$pause"
  done
}

case $command in
  run) start ;;
  stop) on_workers all "$clone/launch/worker.sh stop" ;;
  *) "$command" ;;
esac
