#!/usr/bin/env bash
# This machine: makes .venv (once), then
#   launch/local.sh            trains SE-UNet on the built-in data and evaluates it, in runs/quickstart
#   launch/local.sh ARGUMENTS  is python -m skinjax.main ARGUMENTS in that environment
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

make_environment
if (($#)); then
  exec "$python" -m skinjax.main "$@"
fi

cd -- "$root"
"$python" -m skinjax.main --config=configs/quickstart.py --workdir=runs/quickstart
# Says the score, the baseline it stands against, and where the pictures are.
"$python" -m skinjax.main --mode=evaluate --workdir=runs/quickstart --split=test
