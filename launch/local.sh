#!/usr/bin/env bash
# This machine: makes .venv (once), then
#   launch/local.sh            trains SE-UNet on the built-in data and evaluates it, in runs/quickstart
#   launch/local.sh ARGUMENTS  is python -m skinjax.main ARGUMENTS in that environment
#   launch/local.sh --dry-run [ARGUMENTS]  prints the commands instead of running them
# With many GPUs it is the same command: one JAX process uses all the devices of a machine, so there is
# nothing to start once a GPU, and CUDA_VISIBLE_DEVICES=0,1 takes some of them. How they share the work
# is config.mesh.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
if [[ ${1:-} == --dry-run ]]; then
  dry_run=1
  shift
fi

# Unquoted: where there is no extra there is no word.
# shellcheck disable=SC2046
make_environment $(find_extras "$@")
if (($#)); then
  run exec "$python" -m skinjax.main "$@"
  exit
fi

run cd -- "$root"
run "$python" -m skinjax.main --config=configs/quickstart.py --workdir=runs/quickstart
# Says the score, the baseline it stands against, and where the pictures are.
run "$python" -m skinjax.main --mode=evaluate --workdir=runs/quickstart --split=test
