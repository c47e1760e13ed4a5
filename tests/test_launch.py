"""The launch scripts, run for real; only their Python is a stand-in that notes what it is asked."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from clones import STAND_IN, Clone

ROOT = Path(__file__).resolve().parent.parent


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


def test_a_folder_in_a_bucket_decides_what_is_installed(clone):
    for workdir in ("run", "gs://bucket/run", "run"):
        clone.run("launch/local.sh", "--config=c.py", f"--workdir={workdir}")
    assert installs(clone) == ["pip .", "pip .[gcs]"]


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
        ("pytest * -m slow", "1", 1),
        ("pytest * -m slow", "5", 0),  # pytest's word for "no tests", which slow ones may be
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


def test_a_dry_run_tells_all_and_does_nothing(clone):
    main = f"'{clone.root}/.venv/bin/python' -m skinjax.main"
    first = clone.run("launch/local.sh", "--dry-run")
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines() == [
        f"rm -rf -- '{clone.root}/.venv'",
        f"mkdir -- '{clone.root}/.venv'",
        f"{clone.bin}/python3.12 -m venv '{clone.root}/.venv'",
        f"cd -- '{clone.root}'",
        f"'{clone.root}/.venv/bin/python' -I -m pip install --disable-pip-version-check --quiet "
        "--constraint constraints.txt --editable .",
        f"cd -- '{clone.root}'",
        f"{main} --config=configs/quickstart.py --workdir=runs/quickstart",
        f"{main} --mode=evaluate --workdir=runs/quickstart --split=test",
    ]
    assert clone.take_notes() == []
    assert not (clone.root / ".venv").exists()

    clone.run("launch/local.sh", "x")
    clone.take_notes()
    told = clone.run("launch/local.sh", "--dry-run", "--workdir=it's mine", "--tta")
    assert told.stdout == f"exec {main} '--workdir=it'\\''s mine' --tta\n"
    assert (told.stderr, clone.take_notes()) == ("", [])


def test_a_dry_run_of_the_checks_tells_all_and_does_nothing(clone):
    clone.run("launch/test.sh")
    clone.take_notes()
    told = clone.run("launch/test.sh", "--dry-run", "-m", "slow")
    assert told.returncode == 0
    commands = told.stdout.splitlines()
    assert "shellcheck" in commands[4] and "launch/slurm.sbatch" in commands[4]
    assert commands[5].endswith("pytest -n 2 --dist worksteal -m 'not slow' -m slow")
    assert clone.take_notes() == []


def test_onnx_lays_its_converter_beside_once_and_hands_on(clone):
    arguments = ["--workdir=my run", "--output=model.onnx"]
    for _ in range(2):
        done = clone.run("launch/onnx.sh", *arguments, FAILING="skinjax.main *", STATUS="3")
        assert done.returncode == 3
    command = f"skinjax.main in {clone.bin}: <--mode=export> <--workdir=my run>"
    listed = f"pip {clone.root}/launch/onnx.txt"
    exported = f"{command} <--output=model.onnx>"
    assert clone.take_notes() == ["pip .", listed, exported, exported]
    told = clone.run("launch/onnx.sh", "--dry-run", "--workdir=W")
    folder, python = f"'{clone.root}/.venv-onnx'", f"'{clone.root}/.venv/bin/python'"
    last = f"PYTHONPATH={folder} {python} -m skinjax.main --mode=export --workdir=W"
    assert told.stdout.splitlines()[-1] == last
    assert (told.returncode, clone.take_notes()) == (0, [])
    with (clone.root / "launch" / "onnx.txt").open("a") as file:
        file.write("# changed\n")
    assert clone.run("launch/onnx.sh", "x").returncode == 0
    assert clone.take_notes()[0] == listed


def test_a_converter_that_is_not_installed_is_told_and_tried_again(clone):
    clone.run("launch/local.sh", "x")
    clone.take_notes()
    for _ in range(2):
        failed = clone.run("launch/onnx.sh", "x", PIP_STATUS="1")
        assert failed.returncode == 1 and "words of pip" in failed.stderr
        assert clone.take_notes() == [f"pip {clone.root}/launch/onnx.txt"]


def test_the_converters_list_is_pinned_and_agrees_with_what_is_tested():
    def read(path):
        lines = (ROOT / path).read_text().splitlines()
        return dict(line.split("==") for line in lines if line and not line.startswith("#"))

    converter = read("launch/onnx.txt")
    assert {"jax2onnx", "onnx", "onnxruntime"} <= converter.keys()
    # It stands before .venv on the path, and must not put another version before a tested one.
    assert not {name.lower() for name in converter} & {n.lower() for n in read("constraints.txt")}


def test_scripts_can_be_started():
    scripts = [*ROOT.glob("launch/*.sh"), *ROOT.glob("launch/*.sbatch"), ROOT / ".ci" / "run"]
    assert len(scripts) > 6
    for path in scripts:
        # What has no first line for the system is sourced by others.
        if not path.read_text(encoding="utf-8").startswith("#!"):
            continue
        name = path.relative_to(ROOT)
        assert os.access(ROOT / name, os.X_OK), f"{name} is not executable"
