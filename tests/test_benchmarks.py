"""Each benchmark in a tiny form, so that none rots; nothing here asserts a time."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from xla import QUICK

from benchmarks.cases import Case, choose_cases, create_batch, create_task

ROOT = Path(__file__).resolve().parent.parent
HAS_PEER = all(importlib.util.find_spec(name) for name in ("torch", "cv2"))

COLUMNS = {
    "train_step": {"case", "parameters", "ours", "of matmul"},
    "predict_step": {"case", "parameters", "ours", "of matmul"},
    "input": {"case", "cores", "ours", "ours a core"},
    "end_to_end": {"cache", "steps", "input's share"},
    "predict": {"case", "pictures", "folder", "model", "of the model"},
    "startup": {"what", "seconds"},
    "export": {"case", "form", "MiB", "images/s one at a time"},
    "scale": {"what", "ms"},
    "faults": {"kills", "resumes", "differences"},
}


def run(name, tmp_path, *options):
    # The devices are those of the machine, as when a person calls it.
    environment = os.environ | {"XLA_FLAGS": QUICK}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks", name),
            *("--tiny", f"--json={tmp_path / 'out.json'}", *options),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((tmp_path / "out.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", COLUMNS)
def test_it_runs_and_says_what_it_ran_on(name, tmp_path):
    told, report = run(name, tmp_path)
    assert report["benchmark"] == name
    assert {"processor", "cores", "devices"} <= report["hardware"].keys()
    assert {"python", "jax"} <= report["versions"].keys()
    assert report["rows"]
    for row in report["rows"]:
        assert COLUMNS[name] <= row.keys() and name in told
        assert all(value is None or value == value for value in row.values())  # no NaN
    if name == "faults":
        row = report["rows"][0]
        assert row["kills"] == 3 and 1 <= row["resumes"] <= 3 and row["differences"] == 0


@pytest.mark.slow
@pytest.mark.skipif(not HAS_PEER, reason="the extra bench (torch and OpenCV) is not installed")
@pytest.mark.parametrize("name", ["train_step", "predict_step", "input"])
def test_the_peer_does_the_same_work_in_turn(name, tmp_path):
    _, report = run(name, tmp_path, "--peer")
    assert all(row["ratio"] > 0 and row["peer"] > 0 for row in report["rows"])


@pytest.mark.skipif(not HAS_PEER, reason="the extra bench (torch and OpenCV) is not installed")
@pytest.mark.parametrize(
    ("model", "width"), [("seunet", 8), ("cbam", 50), ("lite", 0), ("lite", 2)]
)
def test_the_peer_is_the_same_model(model, width, monkeypatch):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.peer import create_model

    # Its products are counted as those of a plain convolution.
    monkeypatch.setattr("skinjax.models.layers.is_faster", lambda *arguments: False)
    case = Case(model, width, 64, 64, 2)
    task = create_task(case)
    variables = jax.eval_shape(task.init, jax.random.key(0))
    ours = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    peer = create_model(case)
    assert ours == sum(p.numel() for p in peer.parameters())
    with FlopCounterMode(display=False) as counter:
        logits = peer(torch.zeros(2, 3, 64, 64))
    images = create_batch(case)["images"]
    cost = jax.jit(lambda v, i: task.predict(v, i)).lower(variables, images).cost_analysis()
    # XLA leaves out what falls on the padding, and counts what is not a product as well.
    assert cost["flops"] == pytest.approx(counter.get_total_flops(), rel=0.15)
    assert logits.shape == ((2, 1, 64, 64) if model == "seunet" else (2, 7))


def test_every_name_has_its_measurement():
    from benchmarks.__main__ import NAMES

    assert NAMES.keys() == COLUMNS.keys()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and all(name in done.stdout for name in NAMES)


def test_cases_are_chosen_by_what_their_name_has():
    assert [case.model for case in choose_cases(True, ["batch 2", "seunet"])] == ["seunet", "cbam"]
    assert [case.model for case in choose_cases(True, ["cbam"])] == ["cbam"]
    with pytest.raises(ValueError, match=r"'cbam-18 16x16 batch 2 float32'"):
        choose_cases(True, ["resnet"])
