"""Cross-validation by one command: every image is scored once, by a model that has not seen it."""

import csv
import json
import signal

import numpy as np
import pytest
from runs import tiny_config
from sklearn.metrics import balanced_accuracy_score

from skinjax.engine.preemption import stop_on_signals
from skinjax.errors import Interrupted, UserError
from skinjax.modes import bucket, folds
from skinjax.modes.config import joint_config
from skinjax.modes.evaluations import Evaluation
from skinjax.modes.folds import pool, train_folds


def read(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def masks(first, jaccards):
    rows = [
        {
            "image_id": f"i{i}",
            "lesion_id": f"l{i // 2}",
            "jaccard": str(value),
            "dice": str(value),
            "thresholded_jaccard": str(value),
            "accuracy": "0.5",
        }
        for i, value in enumerate(jaccards, first)
    ]
    return Evaluation("test", None, {}, rows)


def test_pooled_outlines_are_means_over_all_images_with_intervals_over_lesions():
    first, second = np.linspace(0.2, 0.6, 30), np.linspace(0.5, 0.9, 10)
    pooled = pool("segmentation", [masks(0, first), masks(30, second)], ())
    assert pooled["num_images"] == 40
    assert pooled["jaccard"] == pytest.approx(np.concatenate([first, second]).mean())
    assert pooled["jaccard_low"] < pooled["jaccard"] < pooled["jaccard_high"]
    assert pooled["accuracy"] == pooled["accuracy_low"] == pooled["accuracy_high"] == 0.5


def test_pooled_diagnoses_are_scored_as_those_of_one_split():
    rng, classes = np.random.default_rng(0), ("bcc", "mel", "nv")
    probabilities, labels = rng.dirichlet(np.ones(3), 90), rng.integers(0, 3, 90)
    rows = [
        {"image_id": f"i{i}", "lesion_id": f"l{i}", "truth": classes[label]}
        | {name: f"{p:.6f}" for name, p in zip(classes, row, strict=True)}
        for i, (row, label) in enumerate(zip(probabilities, labels, strict=True))
    ]
    parts = [Evaluation("test", None, {}, part) for part in (rows[:50], rows[50:])]
    pooled = pool("classification", parts, classes)
    expected = balanced_accuracy_score(labels, probabilities.argmax(1))
    assert pooled["balanced_accuracy"] == pytest.approx(expected)
    assert pooled["auroc_low"] < pooled["auroc"] < pooled["auroc_high"]


def test_an_image_in_two_folds_is_refused():
    with pytest.raises(UserError, match="i4 is scored in two folds"):
        pool("segmentation", [masks(0, [0.5] * 5), masks(4, [0.5] * 5)], ())


def test_what_cannot_be_folded_is_refused(cache_dir, tmp_path):
    config = tiny_config(cache_dir)
    with pytest.raises(UserError, match="three or more"):
        train_folds(config, tmp_path)
    config.data.folds = 3
    bucket._write_note(tmp_path, "gs://b/run", {})
    with pytest.raises(UserError, match="a bucket's"):
        train_folds(config, tmp_path)
    joint = joint_config()
    joint.data.folds = 3
    with pytest.raises(UserError, match="each fold of a joint one"):
        train_folds(joint, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == [".bucket"]


@pytest.mark.parametrize("when", ["train", "evaluate"])
def test_a_stop_asked_for_while_a_fold_ends_is_not_lost(cache_dir, tmp_path, monkeypatch, when):
    config = tiny_config(cache_dir)
    config.data.folds = 3
    done = []

    def work(name):
        def end(*arguments, **named):
            done.append(name)
            if name == when == "train":
                with stop_on_signals(None):  # as a training that has done its last step
                    signal.raise_signal(signal.SIGTERM)
            elif name == when:
                signal.raise_signal(signal.SIGTERM)

        return end

    for name in ("train", "evaluate"):
        monkeypatch.setattr(folds, name, work(name))
    with pytest.raises(Interrupted, match="saved at fold 1 of 3") as stopped:
        train_folds(config, tmp_path)
    assert stopped.value.exit_status == 75
    assert done == ["train", "evaluate"][: 1 + (when == "evaluate")]


@pytest.mark.slow
def test_each_image_is_scored_once_and_a_second_call_trains_nothing(
    cache_dir, tmp_path, capsys, monkeypatch
):
    config = tiny_config(cache_dir)
    config.data.folds = 3
    config.num_epochs = 1.0
    pooled = train_folds(config, tmp_path)
    assert pooled["num_images"] == 64
    tables = [tmp_path / f"fold{k}" / "evaluate" / "test" / "per_image.csv" for k in range(3)]
    assert len({row["image_id"] for table in tables for row in read(table)}) == 64
    told = capsys.readouterr().out
    assert "fold 3 of 3" in told and "95% intervals" in told
    assert json.loads((tmp_path / "folds.json").read_text()) == pooled
    *_, last = read(tmp_path / "folds.csv")
    assert last["part"] == "all" and float(last["dice"]) == pytest.approx(pooled["dice"], abs=1e-5)
    monkeypatch.setattr(folds, "evaluate", lambda *arguments, **named: None)
    assert train_folds(config, tmp_path) == pooled
    assert capsys.readouterr().out.count("is complete") == 3
