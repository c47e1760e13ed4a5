"""A clone to run the launch scripts in, with a stand-in for its Python."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Programs run in the real Python; modules (venv, pip, pytest ...) are noted and acted.
# A module and its arguments that fit the pattern FAILING end with STATUS; with LASTING, a module
# runs until it is told to end.
STAND_IN = """#!/usr/bin/env bash
if [[ $1 == -I ]]; then shift; fi
case "$1 $2" in
  "-m venv")
    [[ -z ${CUT_OFF:-} ]] || kill -9 $PPID
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
    printf '#!/bin/sh\\n' >"$3/bin/shellcheck" && chmod +x "$3/bin/shellcheck" ;;
  "-m pip")
    [[ $3 == install ]] || exit 0
    echo "pip ${*: -1}" >>"$NOTES"
    sleep "${PIP_SECONDS:-0}"
    echo "words of pip"
    exit "${PIP_STATUS:-0}" ;;
  "-m "*)
    name=$2
    shift 2
    { printf '%s in %s:' "$name" "$PWD"; printf ' <%s>' "$@"; echo; } >>"$NOTES"
    echo "== words of $name in 1.0s =="
    if [[ -n ${LASTING:-} ]]; then
      trap 'echo "$name saved" >>"$NOTES"; exit 75' TERM
      for ((i = 0; i < 300; i++)); do sleep 0.1; done
    fi
    [[ "$name $*" != ${FAILING:-} ]] || exit "$STATUS" ;;
  *) exec "$REAL_PYTHON" "$@" ;;
esac
"""


class Clone:
    """What the scripts read, in a folder with a space in its name, and a PATH with a stand-in."""

    def __init__(self, folder: Path):
        self.root = folder / "a clone"
        self.bin = folder / "bin"
        self.notes = folder / "notes"
        self.bin.mkdir()
        for name in ("launch", ".ci"):
            shutil.copytree(ROOT / name, self.root / name)
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root / name)
        self.add_command("python3.12", STAND_IN)
        self.add_command("nvidia-smi", "#!/bin/sh\nexit 9\n")

    def add_command(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def environment(self, **variables: str) -> dict[str, str]:
        return {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "NOTES": str(self.notes),
            "REAL_PYTHON": sys.executable,
            **variables,
        }

    def run(self, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [self.root / script, *arguments],
            cwd=self.bin,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def take_notes(self) -> list[str]:
        """What the stand-in was asked since the last call."""
        notes = self.notes.read_text().splitlines() if self.notes.exists() else []
        self.notes.unlink(missing_ok=True)
        return notes
