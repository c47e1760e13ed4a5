"""What an evaluation chooses and keeps, and probabilities in the classes that a data set has."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from skinjax.data.classes import match_classes
from skinjax.data.sources.example import CLASSES
from skinjax.modes import evaluate_classes
from skinjax.modes.evaluate_classes import (
    _at_threshold,
    _calibration,
    _common,
    _write,
)
from skinjax.modes.workdir import calibration_path
from skinjax.tasks.calibration import apply_temperature, fit_temperature
from skinjax.tasks.classification_metrics import threshold_for_sensitivity

CHANCES = np.random.default_rng(0).dirichlet(np.ones(7), 20)


def chance(name):
    return CHANCES[:, CLASSES.index(name)]


def test_all_but_melanoma_are_benign():
    match = match_classes(CLASSES, ("benign", "malignant"))
    found = dict(zip(match.names, _common(CHANCES, match).T, strict=True))
    np.testing.assert_allclose(found["mel"], chance("mel"))
    np.testing.assert_allclose(found["benign"], 1 - chance("mel"))


def test_what_the_data_set_lacks_is_divided_among_the_others():
    match = match_classes(CLASSES, ("mel", "nv", "sk"))
    known = chance("bkl") + chance("mel") + chance("nv")
    found = dict(zip(match.names, _common(CHANCES, match).T, strict=True))
    assert found.keys() == {"bkl", "mel", "nv"}
    for name, values in found.items():
        np.testing.assert_allclose(values, chance(name) / known)


@pytest.mark.parametrize("classes", [CLASSES, tuple(reversed(CLASSES))])
def test_the_same_classes_stay_as_they_are(classes):
    np.testing.assert_allclose(_common(CHANCES, match_classes(CLASSES, classes)), CHANCES)


@pytest.fixture
def run_whose_data_lost_a_class(tmp_path):
    """A run of four classes; the first has no picture any more where its data lies now."""
    rng = np.random.default_rng(0)
    labels = rng.integers(1, 4, 40)
    logits = rng.normal(size=(40, 4)) + 2 * np.eye(4)[labels]
    log_probabilities = np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    classes = ("akiec", "bcc", "mel", "nv")
    prepared = SimpleNamespace(
        classes=classes[1:], table=[SimpleNamespace(label=classes[label]) for label in labels]
    )
    member = SimpleNamespace(workdir=tmp_path, step=7)
    run = SimpleNamespace(
        members=[member],
        classes=classes,
        prepared=prepared,
        tta="",
        is_own=True,
        positions=lambda split: list(range(40)),
        predict=lambda positions: ((log_probabilities[[p]], None, p) for p in positions),
    )
    return run, log_probabilities, labels


def test_what_is_chosen_on_val_is_of_the_models_own_classes(run_whose_data_lost_a_class, tmp_path):
    run, log_probabilities, labels = run_whose_data_lost_a_class
    chosen = _calibration(run, run.members[0], ([], log_probabilities))
    temperature = fit_temperature(log_probabilities, labels)
    chances = apply_temperature(log_probabilities, temperature)
    assert chosen["temperature"] == pytest.approx(temperature)
    assert chosen["melanoma_threshold"] == threshold_for_sensitivity(chances[:, 2], labels == 2)
    assert json.loads(calibration_path(tmp_path, 7, "").read_text()) == chosen


def test_a_val_without_a_mistake_has_no_temperature(run_whose_data_lost_a_class, tmp_path, caplog):
    """The loss falls with it without end: the search's bound would make all answers certain."""
    run, predicted, labels = run_whose_data_lost_a_class
    predicted[np.arange(40), labels] += 10
    chosen = _calibration(run, run.members[0], ([], predicted))
    assert chosen["temperature"] == 1 and chosen["fitted_on"] == "nothing"
    assert chosen["melanoma_threshold"] is not None
    assert f"All of {tmp_path}'s val was told rightly" in caplog.text
    caplog.clear()
    assert _calibration(run, run.members[0], None) == chosen
    assert "all of val was told rightly" in caplog.text


def test_a_threshold_found_on_val_has_intervals_of_each_sides_lesions():
    positive = np.arange(60) < 12
    scores = np.where(positive, np.arange(60) > 0, np.arange(60) < 40).astype(float)
    lesions = [f"l{i}" for i in range(60)]
    found, undefined = _at_threshold(scores, positive, 0.5, lesions)
    for name, value in (("sensitivity", 11 / 12), ("specificity", 20 / 48)):
        key = f"melanoma_{name}_at_val_threshold"
        assert found[key] == pytest.approx(value)
        assert found[f"{key}_low"] < value < found[f"{key}_high"]
    assert undefined == {}
    few, undefined = _at_threshold(scores[5:], positive[5:], 0.5, lesions[5:])  # seven melanomas
    assert few["melanoma_sensitivity_at_val_threshold"] == 1
    assert few["melanoma_sensitivity_at_val_threshold_low"] is None
    assert few.keys() == found.keys()
    assert undefined.keys() == {name for name, value in few.items() if value is None}
    none, undefined = _at_threshold(scores, np.zeros(60, bool), 0.5, lesions)
    assert undefined["melanoma_sensitivity_at_val_threshold"] == "sensitivity is of no image"
    assert undefined.keys() == {name for name, value in none.items() if value is None}


def test_a_class_that_the_data_calls_otherwise_now_is_the_models(run_whose_data_lost_a_class):
    run, predicted, _ = run_whose_data_lost_a_class
    chosen = _calibration(run, run.members[0], ([], predicted))
    for row in run.prepared.table:
        row.label = {"mel": "melanoma"}.get(row.label, row.label)
    run.prepared.classes = ("bcc", "melanoma", "nv")
    run.tta = "flips"  # for which nothing is kept yet
    assert _calibration(run, run.members[0], ([], predicted)) == chosen


def test_what_cannot_be_kept_in_anothers_folder_is_used_all_the_same(
    run_whose_data_lost_a_class, tmp_path, monkeypatch, caplog
):
    def refuse(path, text):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(evaluate_classes, "write_text", refuse)
    run, predicted, _ = run_whose_data_lost_a_class
    assert _calibration(run, run.members[0], ([], predicted))["fitted_on"] == "val"
    assert f"{calibration_path(tmp_path, 7, '')} is not kept (Permission denied)" in caplog.text


def test_an_evaluation_that_is_stopped_leaves_no_figures_of_the_one_before(tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate_classes, "_predictions_csv", stop)
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(KeyboardInterrupt):
        _write(SimpleNamespace(), (), [], np.zeros(0), np.zeros((0, 2)), np.zeros((0, 2)), tmp_path)
    assert list(tmp_path.iterdir()) == []
