#!/usr/bin/env bash
# This machine: writes a run's model as ONNX, checked with ONNX Runtime,
#   launch/onnx.sh [--dry-run] --workdir=RUN --output=FILE.onnx [--checkpoint=...] [--tta]
# after making .venv and, beside it, .venv-onnx with the converter (each once). That is a folder of
# its own because pip would not install the two together: launch/onnx.txt says why.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

packages=$root/.venv-onnx
list=$root/launch/onnx.txt

# Prints what decides whether .venv-onnx is up to date.
converter() {
  "$python" -I -c 'import sys; print(sys.version)'
  cat -- "$list"
}

if [[ ${1:-} == --dry-run ]]; then
  dry_run=1
  shift
fi

# Unquoted: where there is no extra there is no word.
# shellcheck disable=SC2046
make_environment $(find_extras "$@")
set -- --mode=export "$@"
if [[ -n $dry_run ]]; then
  quoted "$python" -I -m pip install --quiet --no-deps --target "$packages" --requirement "$list"
  printf 'PYTHONPATH=%s ' "$(quoted "$packages")"
  quoted "$python" -m skinjax.main "$@"
  exit
fi
if [[ ! -f $packages/launch-state || $(<"$packages/launch-state") != "$(converter)" ]]; then
  say "skinjax: installing the converter into .venv-onnx; a minute and a download of 0.1 GB ..."
  rm -rf -- "$packages"
  mkdir -- "$packages"
  if ! "$python" -I -m pip install --disable-pip-version-check --quiet --no-deps \
    --target "$packages" --requirement "$list" >"$packages/launch.log" 2>&1; then
    tail -n 20 "$packages/launch.log" >&2
    say "skinjax: that was not installed; the end of the log is above, the whole in $packages/launch.log"
    exit 1
  fi
  converter >"$packages/launch-state"
fi
PYTHONPATH=$packages${PYTHONPATH:+:$PYTHONPATH} exec "$python" -m skinjax.main "$@"
