"""The command line, as a user types it: real processes, their words and their exit status."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from PIL import Image
from xla import xla_flags

from skinjax import main

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments, cwd=ROOT):
    command = [sys.executable, "-m", "skinjax.main", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workdir=w"], "--config is missing"),
        (["--config=configs/quickstart.py"], "--workdir is missing"),
        (
            ["--config=configs/quickstart.py", "--config.optimizer.learning_rat=1", "--workdir=w"],
            "did you mean --config.optimizer.learning_rate?",
        ),
        (
            ["--config=configs/quickstart.py", "--config.learning_rate=1", "--workdir=w"],
            "did you mean --config.optimizer.learning_rate?",
        ),
        (["--config", "configs/quickstart.py", "--config.seeed=1", "--workdir=w"], "config.seed?"),
        (["--config=nope.py", "--config.seed=1", "--workdir=w"], "--config=nope.py is missing"),
        (["--config=configs/joint_ham10000.py:big", "--workdir=w"], "'big' is unknown: it is ''"),
        (["--config=configs/quickstart.py", "--wrokdir=w"], "Did you mean: workdir"),
        (
            ["--mode=evaluate", "--workdir=w", "--config=configs/quickstart.py"],
            "--config is nothing",
        ),
        (["--mode=report", "--workdir=w", "--tta"], "--tta is nothing that --mode=report reads"),
        (["--mode=compare", "--workdir=w", "--output=gs://b/o"], "is in a bucket: name a place"),
        (["--mode=evaluate", "--workdir=w"], "holds no run"),
        (["--mode=evaluate", "--workdir=~/w"], f"--workdir={Path.home()}/w holds no run"),
        (
            ["--mode=audit", "--dataset=ph2", "--source=/gone", "--output=w"],
            "--source=/gone does not exist: set",
        ),
        (["--mode=compare", "--workdir=w"], "or --workdir for each run of one side"),
        (["--mode=evaluate", "--workdir=w", "--tta=zooms"], "holds no run"),
        (["--mode=compare", "--workdir=w", "--workdir=v", "--tta=zoom"], "--tta=zoom is not known"),
        (["--mode=export", "--workdir=w"], "--output is missing"),
        (["--mode=predict", "--explain", "--workdir=w", "--output=o"], "--input is missing"),
        (["train", "--workdir=w"], "flags begin with --"),
        (
            ["--config=configs/quickstart.py", "--workdir=w", "--num_processes=2"],
            "say --distributed too",
        ),
    ],
)
def test_a_mistake_ends_with_one_sentence(arguments, words, tmp_path):
    arguments = [a.replace("=w", f"={tmp_path / 'w'}") for a in arguments]
    result = run(*arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "w").exists()


def test_each_flag_is_read_by_a_mode():
    read = {flag.name for of_mode in main._READ.values() for flag in of_mode}
    ours = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(main)}
    assert read == ours - {"mode"}
    assert main._READ.keys() == set(flags.FLAGS["mode"].parser.enum_values)


def test_a_source_without_anything_in_it_is_refused(tmp_path):
    result = run(
        "--config=configs/seunet_ham10000.py:laptop",
        f"--config.data.source={tmp_path}",
        f"--config.data.cache_dir={tmp_path / 'cache'}",
        f"--workdir={tmp_path / 'w'}",
    )
    assert result.returncode == 2
    assert str(tmp_path) in result.stderr and "Traceback" not in result.stderr


TINY = {
    "segmentation": ["--config=configs/quickstart.py", "--config.model.base_features=4"],
    "classification": [
        "--config=configs/cbam_ham10000.py:laptop",
        "--config.data.dataset=phantom",
        "--config.data.sampling=0.5",
        "--config.loss.label_smoothing=0.1",
    ],
}
SHARED = [
    "--config.image_size=(32, 32)",
    "--config.batch_size=8",
    "--config.data.num_images=160",
    "--config.data.size=32",
    "--config.num_epochs=0.4",
    "--config.schedule.warmup_epochs=0",
    "--config.save_every_steps=2",
    "--config.log_every_steps=1",
]


@pytest.mark.slow
@pytest.mark.parametrize("task", TINY)
@pytest.mark.parametrize("num_devices", [1, 4])
def test_both_tasks_train_evaluate_and_resume(task, num_devices, tmp_path, cache_dir, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", xla_flags(num_devices))
    workdir = tmp_path / "run"
    train = [*TINY[task], *SHARED, f"--config.data.cache_dir={cache_dir}", f"--workdir={workdir}"]
    first = run(*train)
    assert first.returncode == 0, first.stderr
    assert f"{num_devices} x cpu" in first.stdout
    assert "complete" in run(*train).stdout
    total = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])["step"]

    # From an earlier checkpoint on: as if the last ones had never been written.
    for directory in (workdir / "checkpoints").glob("[0-9]*"):
        if int(directory.name) == total:
            shutil.rmtree(directory)
    resumed = run(*train)
    assert resumed.returncode == 0, resumed.stderr
    assert "goes on from step" in resumed.stdout

    evaluation = run("--mode=evaluate", f"--workdir={workdir}", "--tta")
    assert evaluation.returncode == 0, evaluation.stderr
    assert "baseline" in evaluation.stdout
    folder = workdir / "evaluate" / "test-tta"
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["num_images"] > 0
    pictures = {"segmentation": ["samples"]}.get(
        task, ["confusion", "roc", "reliability", "mistakes"]
    )
    for name in pictures:
        assert (folder / f"{name}.png").stat().st_size > 5_000


@pytest.mark.slow
def test_a_pretrained_encoder_is_trained_and_used_as_any_other(tmp_path, cache_dir):
    workdir, output, picture = tmp_path / "run", tmp_path / "out", tmp_path / "one.png"
    Image.effect_noise((60, 40), 50).save(picture)
    output.mkdir()
    trained = run(
        "--config=configs/cbam_ham10000.py:pretrained",
        "--config.data.dataset=phantom",
        *SHARED,
        f"--config.data.cache_dir={cache_dir}",
        f"--workdir={workdir}",
    )
    assert trained.returncode == 0, trained.stderr
    assert "began with 245 arrays of" in trained.stdout
    left = (workdir / "init_from.txt").read_text().split("left ")[1:]
    assert {path.split("/")[1] for path in left} == {"cbam", "head"}
    for arguments in (
        ["--mode=evaluate"],
        ["--mode=report"],
        ["--mode=export", f"--output={output / 'model.safetensors'}"],
        [
            "--mode=predict",
            "--explain",
            f"--input={picture}",
            f"--output={output / 'predicted'}",
        ],
    ):
        result = run(*arguments, f"--workdir={workdir}")
        assert result.returncode == 0, result.stderr
    page = (workdir / "report" / "index.html").read_text()
    assert "EfficientNet-Lite0" in page
    described = json.loads((output / "model.safetensors.json").read_text())
    assert described["architecture"]["encoder"] == "efficientnet_lite0"
    assert "Apache-2.0" in described["began_with"]


@pytest.mark.slow
def test_a_joint_training_leaves_a_run_of_each_task(tmp_path, cache_dir):
    workdir = tmp_path / "run"
    train = [
        "--config=configs/joint_ham10000.py:laptop",
        "--config.data.dataset=phantom",
        *SHARED,
        f"--config.data.cache_dir={cache_dir}",
        f"--workdir={workdir}",
    ]
    trained = run(*train)
    assert trained.returncode == 0, trained.stderr
    assert "val/jaccard" in trained.stdout and "val/balanced_accuracy" in trained.stdout
    for task, picture in (("segmentation", "samples"), ("classification", "roc")):
        evaluation = run("--mode=evaluate", f"--workdir={workdir / task}")
        assert evaluation.returncode == 0, evaluation.stderr
        assert (workdir / task / "evaluate" / "test" / f"{picture}.png").stat().st_size > 5_000
        reported = run("--mode=report", f"--workdir={workdir / task}")
        assert reported.returncode == 0, reported.stderr
    exported = tmp_path / "outlines.stablehlo"  # compared with the model before it is written
    result = run("--mode=export", f"--workdir={workdir / 'segmentation'}", f"--output={exported}")
    assert result.returncode == 0 and exported.exists(), result.stderr
    again = run(*train)
    assert again.returncode == 0 and "is complete" in again.stdout
    refused = run("--mode=evaluate", f"--workdir={workdir}")
    assert refused.returncode == 2 and "--workdir=RUN/segmentation" in refused.stderr
