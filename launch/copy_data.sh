#!/usr/bin/env bash
# Brings prepared data to this machine's own disk, before a training on several machines:
#   launch/copy_data.sh [--dry-run] SOURCE FOLDER
# SOURCE is gs://BUCKET/FOLDER or a folder that this machine sees; what FOLDER has already is not copied
# again.
set -euo pipefail
# shellcheck source=launch/commands.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/commands.sh"
if [[ ${1:-} == --dry-run ]]; then
  dry_run=1
  shift
fi
if (($# != 2)) || [[ -z $1 || -z $2 ]]; then
  say "skinjax: launch/copy_data.sh takes two arguments, from where and to which folder."
  exit 2
fi

run mkdir -p -- "$2"
if [[ $1 == gs://* ]]; then
  run gcloud storage rsync "${1%/}" "$2" --recursive
else
  # The slash makes rsync copy what is in the folder, not the folder.
  run rsync --archive "${1%/}/" "$2"
fi
