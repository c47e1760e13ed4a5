#!/usr/bin/env bash
# This machine: makes .venv with the test tools (once), then runs linter, type checker and tests; all
# of them, though one fails. Arguments go to pytest: launch/test.sh -m slow, launch/test.sh tests/data
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

make_environment test
cd -- "$root"

failed=()
check() {
  local name=$1 started=$SECONDS
  shift
  say "== $name"
  "$@" || failed+=("$name")
  say "== $name: $((SECONDS - started)) s"
}

check "ruff check" "$python" -m ruff check .
check "ruff format" "$python" -m ruff format --check .
check "mypy" "$python" -m mypy
check "shellcheck" "$environment/bin/shellcheck" -x -a launch/*.sh .ci/run
# Two processes: each compiles for eight devices made of the CPU and takes about 2 GB.
check "pytest" "$python" -m pytest -n 2 --dist worksteal -m "not slow" "$@"

if ((${#failed[@]})); then
  say "skinjax: failed: ${failed[*]}"
  exit 1
fi
