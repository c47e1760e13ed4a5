"""Cross-validation by one command: every image is scored once, by a model that has not seen it."""

import csv
import json
import signal

import numpy as np
import pytest
from runs import tiny_config
from sklearn.metrics import balanced_accuracy_score

from skinjax.engine.preemption import interruption, stop_on_signals
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
            "background_accuracy": "0.75",
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
    assert pooled["background_accuracy"] == 0.75


CLASSES = ("bcc", "mel", "nv")


def diagnoses():
    rng = np.random.default_rng(0)
    probabilities, labels = rng.dirichlet(np.ones(3), 90), rng.integers(0, 3, 90)
    rows = [
        {"image_id": f"i{i}", "lesion_id": f"l{i}", "truth": CLASSES[label]}
        | {name: f"{p:.6f}" for name, p in zip(CLASSES, row, strict=True)}
        for i, (row, label) in enumerate(zip(probabilities, labels, strict=True))
    ]
    return rows, probabilities, labels


def test_pooled_diagnoses_are_scored_as_those_of_one_split():
    rows, probabilities, labels = diagnoses()
    parts = [Evaluation("test", None, {}, part) for part in (rows[:50], rows[50:])]
    pooled = pool("classification", parts, CLASSES)
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


def test_a_stop_asked_for_before_a_fold_begins_to_learn_ends_it_at_its_first_step(
    cache_dir, tmp_path, monkeypatch
):
    config = tiny_config(cache_dir)
    config.data.folds = 3

    def train(*arguments, **named):
        signal.raise_signal(signal.SIGTERM)  # while data is prepared
        with stop_on_signals(None) as stop:
            assert stop.after_step() == signal.SIGTERM
        raise interruption(signal.SIGTERM, "step 1")

    monkeypatch.setattr(folds, "train", train)
    with pytest.raises(Interrupted, match="saved at step 1"):
        train_folds(config, tmp_path)


def test_the_two_tasks_of_a_joint_training_are_pooled_apart(tmp_path, monkeypatch, capsys):
    config = joint_config()
    config.data.folds = 3
    figures = dict.fromkeys([*folds.HEADLINES["segmentation"], "auroc", "balanced_accuracy", "ece"])
    rows, _, _ = diagnoses()

    def read_of(folder, task, name):
        fold = int(folder.parent.name.removeprefix("fold"))
        assert folder.name == task and name == "test-tta"
        own = masks(30 * fold, np.linspace(0.2, 0.8, 30)).rows
        own = own if task == "segmentation" else rows[30 * fold : 30 * fold + 30]
        return Evaluation(name, folder, figures | {"num_images": len(own)}, own)

    evaluated = []
    monkeypatch.setattr(folds, "train", lambda one, folder: {})
    monkeypatch.setattr(folds, "evaluate", lambda run, split, tta: evaluated.append(run))
    monkeypatch.setattr(folds, "read_evaluation", read_of)
    monkeypatch.setattr(folds, "read_classes", lambda run: CLASSES)
    pooled = train_folds(config, tmp_path, tta="flips")
    tasks = ("segmentation", "classification")
    assert evaluated == [tmp_path / f"fold{k}" / task for k in range(3) for task in tasks]
    assert pooled["segmentation"]["jaccard"] == pytest.approx(0.5)
    assert pooled["classification"]["num_images"] == 90
    for task in tasks:
        written = json.loads((tmp_path / task / "folds-tta.json").read_text())
        assert written == pooled[task]
        assert len(read(tmp_path / task / "folds-tta.csv")) == 4
    assert capsys.readouterr().out.count("95% intervals over all lesions") == 2


@pytest.mark.slow
def test_each_image_is_scored_once_and_a_second_call_trains_nothing(
    cache_dir, tmp_path, capsys, monkeypatch
):
    config = tiny_config(cache_dir)
    config.data.folds = 3
    config.num_epochs = 1.0
    both = train_folds(config, tmp_path)
    pooled = both["segmentation"]
    assert pooled["num_images"] == 64
    tables = [tmp_path / f"fold{k}" / "evaluate" / "test" / "per_image.csv" for k in range(3)]
    assert len({row["image_id"] for table in tables for row in read(table)}) == 64
    told = capsys.readouterr().out
    assert "fold 3 of 3" in told and "95% intervals" in told
    assert json.loads((tmp_path / "folds.json").read_text()) == pooled
    *_, last = read(tmp_path / "folds.csv")
    assert last["part"] == "all" and float(last["dice"]) == pytest.approx(pooled["dice"], abs=1e-5)
    scored = []
    monkeypatch.setattr(folds, "evaluate", lambda workdir, *rest, **named: scored.append(workdir))
    assert train_folds(config, tmp_path) == both
    assert capsys.readouterr().out.count("is complete") == 3 and not scored
    figures = tmp_path / "fold1" / "evaluate" / "test" / "metrics.json"
    told = figures.read_text()
    figures.write_text(json.dumps(json.loads(told) | {"checkpoint_step": 1}))
    train_folds(config, tmp_path)
    assert scored == [tmp_path / "fold1"]
