"""Several real processes on loopback: what one process gives, and what happens when one stops.

Equal within float32, as on other meshes (`tests/engine/test_meshes.py` says why).
"""

import csv
import json
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from processes import ROOT, as_file, finish, start, started

from skinjax.modes.config import classification_config, segmentation_config
from skinjax.modes.evaluate import evaluate
from skinjax.modes.train import train


def tiny_config(cache_dir, task="segmentation"):
    """A phantom so small that a step takes milliseconds: 8 steps, evaluated twice."""
    config = segmentation_config() if task == "segmentation" else classification_config()
    config.image_size = (64, 32)
    config.batch_size = 8
    config.model.reduction = 4
    config.data.dataset = "phantom"
    config.data.num_images = 80
    config.data.size = 64
    config.data.cache_dir = str(cache_dir)
    config.data.num_threads = 1
    config.num_epochs = 1.0
    config.eval_every_epochs = 0.5
    config.save_every_steps = 3
    config.log_every_steps = 1
    config.ema_decay = 0.9
    config.optimizer.learning_rate = 0.02
    config.schedule.name = "plateau"
    config.schedule.patience = 100
    config.schedule.warmup_epochs = 0.0
    if task == "segmentation":
        config.model.base_features = 4
    else:
        config.model.depth = 18
        config.model.stem = "small"
        config.data.num_images = 160  # some of each class
        # Of eight pictures, BatchNorm makes steps so wild that rounding grows to hundredths.
        config.optimizer.learning_rate = 0.002
        config.num_epochs = 0.5
    return config


def events(workdir, split):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["split"] == split]


def assert_same_curve(found, wanted):
    """Both runs have the same steps, losses and scores."""
    score = "val/loss" if "val/loss" in events(wanted, "val")[0] else "val/accuracy"
    for split, key in (("train", "train/loss"), ("val", score)):
        steps = [[event["step"] for event in events(run, split)] for run in (found, wanted)]
        assert steps[0] == steps[1]
        values = [[event[key] for event in events(run, split)] for run in (found, wanted)]
        np.testing.assert_allclose(*values, rtol=2e-3)
    first = [events(run, "train")[0]["train/loss"] for run in (found, wanted)]
    np.testing.assert_allclose(*first, rtol=1e-5)


@pytest.fixture(autouse=True)
def nothing_is_left_running():
    yield
    for process in started:
        process.kill()
        process.communicate()
    started.clear()


@pytest.fixture(scope="module")
def config_file(cache_dir, tmp_path_factory):
    return as_file(tiny_config(cache_dir), tmp_path_factory.mktemp("config"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "mesh", "num_processes"),
    [
        ("segmentation", (1, 1, 4), 2),
        ("classification", (2, 2, 2), 2),
    ],
)
def test_any_mesh_may_lie_across_processes(task, mesh, num_processes, cache_dir, tmp_path):
    config = tiny_config(cache_dir, task)
    file = as_file(config, tmp_path)
    train(config, tmp_path / "one", jax.devices()[:1])
    axes = [f"--config.mesh.{a}={n}" for a, n in zip(("data", "fsdp", "space"), mesh, strict=True)]
    devices_each = int(np.prod(mesh)) // num_processes
    arguments = [f"--config={file}", f"--workdir={tmp_path / 'many'}", *axes]
    finish(start(num_processes, devices_each, *arguments))
    assert_same_curve(tmp_path / "many", tmp_path / "one")

    # The scores of one checkpoint, by one process and by several.
    wanted = evaluate(tmp_path / "many", split="val")
    folder = tmp_path / "many" / "evaluate"
    (folder / "val").rename(folder / "by_one")
    calibration = tmp_path / "many" / "calibration"
    if task == "classification":
        calibration.rename(tmp_path / "calibration")
    arguments = ["--mode=evaluate", "--split=val", f"--workdir={tmp_path / 'many'}"]
    (spoken, _), *others = finish(start(num_processes, devices_each, *arguments))
    assert "images of" in spoken and not any(silence for silence, _ in others)
    found = json.loads((folder / "val" / "metrics.json").read_text())
    assert_alike(found, wanted)
    table = "per_image.csv" if task == "segmentation" else "predictions.csv"
    rows = [read_csv(folder / name / table) for name in ("val", "by_one")]
    assert [row["image_id"] for row in rows[0]] == [row["image_id"] for row in rows[1]]
    for row, other in zip(*rows, strict=True):
        assert_alike(row, other)
    names = [{path.name for path in (folder / name).iterdir()} for name in ("val", "by_one")]
    assert names[0] == names[1]


def read_csv(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def assert_alike(found, wanted):
    """Two dictionaries of figures and words have the same words, and figures within float32."""
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        try:
            assert float(found[key]) == pytest.approx(float(value), abs=1e-4), key
        except (TypeError, ValueError):
            assert found[key] == value, key


@pytest.mark.slow
def test_a_run_goes_on_with_other_devices_and_processes(cache_dir, config_file, tmp_path):
    whole, workdir = tmp_path / "whole", tmp_path / "run"
    train(tiny_config(cache_dir), whole, jax.devices()[:1])
    arguments = [f"--config={config_file}", f"--workdir={workdir}"]
    finish(start(4, 1, *arguments, "--config.num_epochs=0.375", "--config.mesh.fsdp=2"))
    assert events(workdir, "train")[-1]["step"] == 3
    finish(start(2, 2, *arguments, "--config.num_epochs=0.75"))
    config = tiny_config(cache_dir)
    config.mesh.update(data=2, fsdp=2, space=2)
    train(config, workdir, jax.devices()[:8])
    losses = [[e["train/loss"] for e in events(w, "train")] for w in (workdir, whole)]
    np.testing.assert_allclose(*losses, rtol=2e-3)


def wait_for_step(process, step):
    """Reads what a process says until it has done so many steps."""
    for line in process.stdout:
        done = re.match(r"step ([\d,]+)/", line)
        if done and int(done[1].replace(",", "")) >= step:
            return
    raise AssertionError(f"the process ended before step {step}: {process.stderr.read()}")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_to_one_process_stops_all_at_one_step(config_file, tmp_path, number, status):
    workdir = tmp_path / "run"
    arguments = [f"--config={config_file}", f"--workdir={workdir}", "--config.num_epochs=1000.0"]
    processes = start(2, 1, *arguments)
    wait_for_step(processes[0], 2)
    processes[1].send_signal(number)
    (_, words), (_, others_words) = finish(processes, status)
    saved = int(words.split("saved at step ")[1].split(";")[0].replace(",", ""))
    assert (workdir / "checkpoints" / str(saved)).is_dir()
    assert "saved" not in others_words
    # Nothing is left that holds the next ones up.
    processes = start(2, 1, *arguments)
    wait_for_step(processes[0], saved + 1)
    processes[0].send_signal(signal.SIGTERM)
    finish(processes, 75)


@pytest.mark.slow
@pytest.mark.parametrize("dead", [0, 1])
def test_the_death_of_one_process_ends_the_others_and_the_run_goes_on(config_file, tmp_path, dead):
    workdir = tmp_path / "run"
    arguments = [f"--config={config_file}", f"--workdir={workdir}", "--config.num_epochs=1000.0"]
    processes = start(2, 1, *arguments)
    wait_for_step(processes[0], 4)
    processes[dead].kill()
    killed = time.monotonic()
    _, words = processes[1 - dead].communicate(timeout=90)
    processes[dead].communicate()
    assert time.monotonic() - killed < 60
    if dead == 0 and processes[1].returncode == -signal.SIGABRT:
        # JAX, which has lost the first process's service, was quicker than we.
        assert "distributed service" in words
    else:
        assert processes[1 - dead].returncode == 1, words
        assert "another process of this run has ended" in words
    processes = start(2, 1, *arguments)
    wait_for_step(processes[0], 6)
    processes[0].send_signal(signal.SIGTERM)
    finish(processes, 75)


@pytest.mark.slow
def test_processes_that_nothing_brings_together_are_told_how():
    command = [sys.executable, "-m", "skinjax.main", "--distributed", "--workdir=w"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "--coordinator=HOST:PORT" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.slow
def test_what_stops_the_first_process_stops_all_with_one_message(config_file, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "thesis.doc").touch()
    processes = start(2, 1, f"--config={config_file}", f"--workdir={workdir}")
    (_, words), (_, others_words) = finish(processes, 2, timeout=60)
    assert "thesis.doc" in words
    assert "thesis.doc" not in others_words
    # Started alike, they fail alike.
    processes = start(
        2, 1, f"--config={config_file}", f"--workdir={workdir}", "--config.batch_size=7"
    )
    for _, words in finish(processes, 2, timeout=60):
        assert "batch_size to 6 or 8" in words and "Traceback" not in words
