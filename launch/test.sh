#!/usr/bin/env bash
# This machine: makes .venv with the test tools (once), then runs linter, type checker and tests; all
# of them, though one fails. Arguments go to pytest: launch/test.sh -m slow, launch/test.sh tests/data;
# but launch/test.sh --dry-run [ARGUMENTS] prints the commands instead of running them.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
if [[ ${1:-} == --dry-run ]]; then
  dry_run=1
  shift
fi

make_environment test
if [[ -n $dry_run ]]; then quoted cd -- "$root"; fi
cd -- "$root"

failed=()
check() {
  local name=$1 started=$SECONDS
  shift
  say "== $name"
  run "$@" || failed+=("$name")
  say "== $name: $((SECONDS - started)) s"
}

check "ruff check" "$python" -m ruff check .
check "ruff format" "$python" -m ruff format --check .
check "mypy" "$python" -m mypy
check "shellcheck" "$environment/bin/shellcheck" -x -a launch/*.sh launch/*.sbatch .ci/run
# Two processes: each compiles for eight devices made of the CPU and takes about 2 GB.
check "pytest" "$python" -m pytest -n 2 --dist worksteal -m "not slow" "$@"

if ((${#failed[@]})); then
  say "skinjax: failed: ${failed[*]}"
  exit 1
fi
