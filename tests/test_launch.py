"""The launch scripts, run for real; only their Python is a stand-in that notes what it is asked."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Programs run in the real Python; modules (venv, pip, pytest ...) are noted and acted.
# A module and its arguments that fit the pattern FAILING end with STATUS.
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


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_no_arguments_train_and_evaluate_in_the_repository(clone):
    done = clone.run("launch/local.sh")
    assert done.returncode == 0, done.stderr
    run = f"skinjax.main in {clone.root}:"
    assert clone.take_notes() == [
        "pip .",
        f"{run} <--config=configs/quickstart.py> <--workdir=runs/quickstart>",
        f"{run} <--mode=evaluate> <--workdir=runs/quickstart> <--split=test>",
    ]
    assert done.stdout.splitlines()[-1] == "== words of skinjax.main in 1.0s =="


def test_arguments_and_folder_and_status_are_handed_on(clone):
    arguments = ["--mode=evaluate", "--workdir=my run"]
    done = clone.run("launch/local.sh", *arguments, FAILING="skinjax.main *", STATUS="3")
    assert done.returncode == 3
    assert clone.take_notes()[1:] == [
        f"skinjax.main in {clone.bin}: <--mode=evaluate> <--workdir=my run>"
    ]


def test_evaluation_waits_for_a_training_that_succeeds(clone):
    assert clone.run("launch/local.sh", FAILING="skinjax.main *", STATUS="2").returncode == 2
    assert len(clone.take_notes()) == 2


def installs(clone: Clone) -> list[str]:
    return [note for note in clone.take_notes() if note.startswith("pip")]


def test_a_second_call_installs_nothing(clone):
    first = clone.run("launch/local.sh", "x")
    second = clone.run("launch/local.sh", "x")
    assert installs(clone) == ["pip ."]
    assert "installing" in first.stderr
    assert second.stderr == ""


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml"])
def test_changed_requirements_are_installed(clone, name):
    clone.run("launch/local.sh", "x")
    with (clone.root / name).open("a") as file:
        file.write("# changed\n")
    clone.run("launch/local.sh", "x")
    assert installs(clone) == ["pip .", "pip ."]


def test_a_moved_clone_is_installed_again(clone):
    clone.run("launch/local.sh", "x")
    clone.root = clone.root.rename(clone.root.with_name("elsewhere"))
    clone.run("launch/local.sh", "x")
    assert installs(clone) == ["pip .", "pip ."]


def test_test_tools_are_added_and_stay(clone):
    for script in ("local", "test", "local", "test"):
        clone.run(f"launch/{script}.sh", "x")
    assert installs(clone) == ["pip .", "pip .[test]"]


def test_a_failing_installation_says_why_and_is_begun_again(clone):
    failed = clone.run("launch/local.sh", PIP_STATUS="1")
    assert failed.returncode == 1
    assert "words of pip" in failed.stderr
    assert clone.take_notes() == ["pip ."], "nothing may run in an environment that is not whole"
    (clone.root / ".venv" / "left over").touch()
    again = clone.run("launch/local.sh", "x")
    assert again.returncode == 0
    assert "not whole" in again.stderr
    assert not (clone.root / ".venv" / "left over").exists()
    assert installs(clone) == ["pip ."]


def test_a_failing_change_leaves_nothing_to_be_taken_for_whole(clone):
    clone.run("launch/local.sh", "x")
    constraints = clone.root / "constraints.txt"
    before = constraints.read_text()
    constraints.write_text(before + "# changed\n")
    clone.run("launch/local.sh", "x", PIP_STATUS="1")
    constraints.write_text(before)
    clone.run("launch/local.sh", "x")
    assert installs(clone) == ["pip .", "pip .", "pip ."]


def test_an_environment_cut_off_half_way_is_made_again(clone):
    assert clone.run("launch/local.sh", CUT_OFF="1").returncode == -9
    assert (clone.root / ".venv").is_dir()
    assert clone.run("launch/local.sh", "x").returncode == 0
    assert installs(clone) == ["pip ."]


def test_an_environment_whose_python_is_gone_is_made_again(clone):
    clone.run("launch/local.sh", "x")
    (clone.root / ".venv" / "bin" / "python").unlink()
    assert clone.run("launch/local.sh", "x").returncode == 0
    assert installs(clone) == ["pip .", "pip ."]


def test_an_environment_made_by_hand_is_kept(clone):
    folder = clone.root / ".venv" / "bin"
    folder.mkdir(parents=True)
    shutil.copy(clone.bin / "python3.12", folder / "python")
    (folder / "mine").touch()
    assert clone.run("launch/local.sh", PIP_STATUS="1").returncode == 1
    assert clone.run("launch/local.sh", "x").returncode == 0
    assert (folder / "mine").exists()


@pytest.mark.skipif(not shutil.which("flock"), reason="this machine has no flock")
def test_two_calls_at_once_install_once(clone):
    environment = clone.environment(PIP_SECONDS="1")
    script = clone.root / "launch" / "local.sh"
    calls = [
        subprocess.Popen([script, "x"], env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    words = [call.communicate(timeout=60)[1] for call in calls]
    assert [call.returncode for call in calls] == [0, 0]
    assert installs(clone) == ["pip ."]
    assert sum("waiting" in each for each in words) == 1


def test_no_python_is_told(clone):
    (clone.bin / "python3.12").unlink()
    for name in ("bash", "dirname"):
        (clone.bin / name).symlink_to(shutil.which(name))
    script = clone.root / "launch" / "local.sh"
    environment = clone.environment(PATH=str(clone.bin))
    done = subprocess.run([script], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "no Python 3.11 or newer" in done.stderr
    assert not (clone.root / ".venv").exists()


def test_old_pythons_are_passed_over(clone):
    clone.add_command("python3.13", "#!/bin/sh\nexit 1\n")
    assert clone.run("launch/local.sh", "x").returncode == 0


def accelerator(clone: Clone, prefix: Path, **variables: str) -> str:
    ask = 'set -euo pipefail; source "$0"; find_accelerator "$1"'
    done = subprocess.run(
        ["bash", "-c", ask, clone.root / "launch" / "environment.sh", prefix],
        env=clone.environment(**variables),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.strip()


def add_pci_device(prefix: Path, name: str, vendor: str, device: str) -> None:
    folder = prefix / "sys" / "bus" / "pci" / "devices" / name
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(vendor + "\n")
    (folder / "device").write_text(device + "\n")


def test_accelerator_is_what_the_machine_has(clone, tmp_path):
    assert accelerator(clone, tmp_path) == ""
    # Google's network card beside another maker's chip is no TPU.
    (tmp_path / "dev" / "vfio").mkdir(parents=True)
    (tmp_path / "dev" / "vfio" / "0").touch()
    add_pci_device(tmp_path, "0000:00:04.0", "0x1ae0", "0x0042")
    assert accelerator(clone, tmp_path) == ""
    assert accelerator(clone, tmp_path, TPU_NAME="t") == "tpu"
    add_pci_device(tmp_path, "0000:00:05.0", "0x1ae0", "0x0063")
    assert accelerator(clone, tmp_path) == "tpu"
    clone.add_command("nvidia-smi", '#!/bin/sh\n[ "$1" = -L ] && echo "GPU 0: NVIDIA H100"\n')
    assert accelerator(clone, tmp_path) == "cuda"


def test_accelerator_decides_what_is_installed(clone):
    clone.run("launch/test.sh")
    clone.add_command("nvidia-smi", '#!/bin/sh\necho "GPU 0: NVIDIA H100"\n')
    for _ in range(2):
        clone.run("launch/local.sh", "x")
    # A shared folder, back on a machine without: what is there serves both.
    (clone.bin / "nvidia-smi").unlink()
    clone.run("launch/test.sh")
    assert installs(clone) == ["pip .[test]", "pip .[test,cuda]"]


def test_test_runs_every_check_and_fails_with_any(clone):
    done = clone.run("launch/test.sh", "-m", "slow", FAILING="ruff *", STATUS="1")
    assert done.returncode == 1
    assert "failed: ruff check ruff format" in done.stderr
    ran = [note.split(" in ")[0] for note in clone.take_notes()]
    assert ran == ["pip .[test]", "ruff", "ruff", "mypy", "pytest"]
    assert clone.run("launch/test.sh").returncode == 0


@pytest.mark.parametrize(
    ("failing", "status", "expected"),
    [
        ("", "0", 0),
        ("mypy *", "1", 1),
        ("pytest * -m not slow", "1", 1),
        ("pytest -m slow", "1", 1),
        ("pytest -m slow", "5", 0),  # pytest's word for "no tests", which slow ones may be
        ("pytest * -m not slow", "5", 1),
    ],
)
def test_ci_fails_with_any(clone, failing, status, expected):
    done = clone.run(".ci/run", FAILING=failing, STATUS=status)
    assert done.returncode == expected
    assert done.stdout.splitlines()[-1] == "== words of pytest in 1.0s =="
    tests = [note for note in clone.take_notes() if note.startswith("pytest")]
    assert [note.split(" <")[-1] for note in tests] == ["not slow>", "slow>"]


@pytest.mark.parametrize("there", [True, False])
def test_ci_finds_the_real_images(clone, there):
    folder = clone.root.parent / "shared" / "data"
    if there:
        folder.mkdir(parents=True)
    note = 'echo "data: ${SKINJAX_TEST_DATA-unset}" >>"$NOTES"\n'
    clone.add_command("python3.12", STAND_IN + note)
    clone.run(".ci/run")
    assert {note for note in clone.take_notes() if note.startswith("data: ")} == {
        f"data: {folder if there else 'unset'}"
    }


def test_scripts_can_be_started():
    for name in ("launch/local.sh", "launch/test.sh", ".ci/run"):
        assert os.access(ROOT / name, os.X_OK), f"{name} is not executable"
