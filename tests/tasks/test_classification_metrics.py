"""Figures of a diagnosis against scikit-learn, and against a brute force where it has none."""

import itertools
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from references import bootstrap_over_lesions
from sklearn import metrics

from skinjax.tasks.calibration import apply_temperature, expected_calibration_error
from skinjax.tasks.class_sums import class_sums, divide_class_sums
from skinjax.tasks.classification_metrics import (
    figures,
    find_melanoma,
    sensitivity_and_specificity,
    threshold_for_sensitivity,
    weighted_auroc,
)

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
INTERVALS = ("accuracy", "balanced_accuracy", "auroc", "auroc/mel", "ece")


def make_case(seed, num=60, num_present=7, levels=0):
    """Probabilities with some skill, and lesions of one class each; with levels, many ties."""
    rng = np.random.default_rng(seed)
    present = rng.permutation(7)[:num_present]
    lesions = rng.integers(0, max(1, num // 2), num)
    labels = present[rng.integers(0, num_present, lesions.max() + 1)][lesions]
    probabilities = rng.dirichlet(np.ones(7), num) + 0.4 * rng.random((num, 1)) * np.eye(7)[labels]
    if levels:
        probabilities = np.ceil(probabilities * levels)
    probabilities /= probabilities.sum(1, keepdims=True)
    return probabilities, labels, [f"lesion{i}" for i in lesions]


def quiet(function, *args, **kwargs):
    """Calls scikit-learn where it warns that a figure is undefined or a class is absent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


cases = st.builds(
    make_case,
    st.integers(0, 2**32 - 1),
    num=st.integers(1, 40),
    num_present=st.integers(1, 7),
    levels=st.sampled_from([0, 3, 10]),
)


@settings(max_examples=60)
@given(cases)
def test_every_figure_is_scikit_learns(case):
    probabilities, labels, lesion_ids = case
    found, undefined = figures(probabilities, labels, lesion_ids, CLASSES, num_resamples=2)
    predicted, every = probabilities.argmax(1), range(7)
    always = np.full(len(labels), np.bincount(labels).argmax())
    expected = {
        "num_images": len(labels),
        "accuracy": metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": quiet(metrics.balanced_accuracy_score, labels, predicted),
        "f1_macro": quiet(metrics.f1_score, labels, predicted, average="macro"),
        "log_loss": metrics.log_loss(labels, probabilities, labels=every),
        "brier": np.mean(np.sum((probabilities - np.eye(7)[labels]) ** 2, 1)),
        "majority_accuracy": metrics.accuracy_score(labels, always),
        "majority_balanced_accuracy": quiet(metrics.balanced_accuracy_score, labels, always),
        "auroc": quiet(
            metrics.roc_auc_score, labels, probabilities, multi_class="ovr", labels=every
        ),
    }
    options = {"labels": every, "average": None, "zero_division": np.nan}
    recall = metrics.recall_score(labels, predicted, **options)
    precision = metrics.precision_score(labels, predicted, **options)
    for k, name in enumerate(CLASSES):
        truth = labels == k
        expected[f"recall/{name}"], expected[f"precision/{name}"] = recall[k], precision[k]
        expected[f"auroc/{name}"] = quiet(metrics.roc_auc_score, truth, probabilities[:, k])
        expected[f"average_precision/{name}"] = (
            metrics.average_precision_score(truth, probabilities[:, k]) if truth.any() else np.nan
        )
    for name, value in expected.items():
        if np.isnan(value):
            assert found[name] is None and undefined[name], name
        else:
            assert found[name] == pytest.approx(value, abs=1e-9), name
    others = {"ece", "melanoma_specificity_at_95_sensitivity", "lesion_accuracy"}
    others |= {"lesion_balanced_accuracy", "lesion_majority_accuracy", "num_lesions"}
    ends = {f"{name}_{end}" for name in INTERVALS for end in ("low", "high")}
    assert set(found) == set(expected) | others | ends
    assert undefined.keys() == {name for name, value in found.items() if value is None}
    assert all(isinstance(value, int | float | None) for value in found.values())


@settings(max_examples=50)
@given(cases)
def test_melanoma_specificity_is_the_best_of_all_thresholds_that_are_sensitive_enough(case):
    probabilities, labels, lesion_ids = case
    found, _ = figures(probabilities, labels, lesion_ids, CLASSES, num_resamples=2)
    scores, positive = probabilities[:, 4], labels == 4
    value = found["melanoma_specificity_at_95_sensitivity"]
    if positive.all() or not positive.any():
        assert value is None
        return
    best = max(
        np.mean(scores[~positive] < threshold)
        for threshold in scores
        if np.mean(scores[positive] >= threshold) >= 0.95
    )
    assert value == pytest.approx(best, abs=1e-12)
    threshold = threshold_for_sensitivity(scores, positive)
    sensitivity, specificity = sensitivity_and_specificity(scores, positive, threshold)
    assert sensitivity >= 0.95 and specificity == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("num", [20, 40, 60, 100, 180, 460])
def test_a_sensitivity_that_is_met_exactly_is_met(num):
    """19 of 20 is 95%: rounding must not ask for the twentieth."""
    scores = np.arange(num, dtype=float)
    threshold = threshold_for_sensitivity(scores, np.ones(num, bool))
    assert threshold == num // 20


def test_thresholds_without_positives_or_negatives():
    scores, none, both = np.array([0.1, 0.9]), np.zeros(2, bool), np.array([False, True])
    assert threshold_for_sensitivity(scores, none) is None
    assert sensitivity_and_specificity(scores, none, 0.5) == (None, 0.5)
    assert sensitivity_and_specificity(scores, ~none, 0.5) == (0.5, None)
    assert sensitivity_and_specificity(scores, both, 0.9) == (1.0, 1.0)


def test_melanoma_is_found_by_what_data_sets_call_it():
    probabilities, labels = np.eye(3)[np.arange(30) % 3], np.arange(30) % 3
    names = ("common_nevus", "atypical_nevus", "melanoma")
    found, _ = figures(probabilities, labels, [f"l{i}" for i in range(30)], names, num_resamples=9)
    assert found["melanoma_specificity_at_95_sensitivity"] == found["auroc/melanoma_low"] == 1
    assert find_melanoma(CLASSES) == "mel"
    assert find_melanoma(("benign", "malignant")) is None  # of which more than melanomas may be


def test_one_image():
    found, undefined = figures(np.eye(7)[[4]], np.array([4]), ["a"], CLASSES, num_resamples=20)
    assert found["accuracy"] == found["accuracy_low"] == found["lesion_accuracy"] == 1
    assert found["auroc"] is None and found["auroc_low"] is None
    assert undefined["auroc/nv"] == "there is no image of nv"
    assert undefined["auroc/mel"] == "all images are of mel"
    assert undefined["precision/nv"] == "no image was predicted to be nv"
    assert found["majority_accuracy"] == 1


def test_lesions_are_scored_by_their_mean_probability():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6], [0.2, 0.8]])
    labels = np.array([0, 0, 0, 1])
    found, _ = figures(probabilities, labels, list("aaab"), ("nv", "mel"), num_resamples=2)
    assert found["accuracy"] == 0.5
    assert found["lesion_accuracy"] == found["lesion_balanced_accuracy"] == 1
    found, _ = figures(probabilities, labels, list("abbc"), ("nv", "mel"), num_resamples=2)
    assert found["lesion_accuracy"] == pytest.approx(2 / 3)
    assert found["lesion_balanced_accuracy"] == pytest.approx(0.75)
    assert found["lesion_majority_accuracy"] == pytest.approx(2 / 3) and found["num_lesions"] == 3


def test_a_draw_that_leaves_out_a_class_is_none_for_the_balanced_accuracy():
    """Of fewer classes it would be another figure, and the interval would reach up to that."""
    labels = np.array([0] * 100 + [1] * 4 + [2] * 4)  # one draw in 28 has but two of them
    probabilities = np.tile([0.8, 0.1, 0.1], (108, 1))
    probabilities[:10] = 0.1, 0.8, 0.1
    lesions = [f"l{i}" for i in range(108)]
    classes = ("nv", "mel", "df")
    found, _ = figures(probabilities, labels, lesions, classes)
    assert found["balanced_accuracy"] == pytest.approx(0.3)
    assert found["balanced_accuracy_high"] < 0.35
    found, undefined = figures(probabilities[:105], labels[:105], lesions[:105], classes)
    assert found["balanced_accuracy_high"] is None
    assert "leaves out a class" in undefined["balanced_accuracy_high"]


def test_a_lesion_of_two_classes_has_no_score():
    probabilities, labels, _ = make_case(0, num=10)
    found, undefined = figures(probabilities, labels, ["x"] * 10, CLASSES, num_resamples=2)
    assert found["lesion_accuracy"] is None
    assert "lesion x" in undefined["lesion_balanced_accuracy"]


def test_other_classes_than_ham10000s():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]])
    labels = np.array([0, 1, 1, 0])
    found, undefined = figures(probabilities, labels, list("abcd"), ("benign", "malignant"))
    assert found["majority_accuracy"] == 0.5
    assert found["melanoma_specificity_at_95_sensitivity"] is None
    assert "no class mel" in undefined["melanoma_specificity_at_95_sensitivity"]
    assert "auroc/mel_low" not in found
    binary = metrics.roc_auc_score(labels, probabilities[:, 1])
    assert found["auroc"] == pytest.approx(binary)
    assert found["brier"] == pytest.approx(
        2 * metrics.brier_score_loss(labels, probabilities[:, 1])
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda p, y, ids: (p[:0], y[:0], []), "empty"),
        (lambda p, y, ids: (p[:, :6], y, ids), "fit together"),
        (lambda p, y, ids: (p, y, ids[1:]), "fit together"),
        (lambda p, y, ids: (p, y + 7, ids), "label"),
        (lambda p, y, ids: (p, y - 7, ids), "label"),
        (lambda p, y, ids: (p * 2, y, ids), "sum to 1"),
        (lambda p, y, ids: (p * np.nan, y, ids), "sum to 1"),
        (lambda p, y, ids: (p - np.eye(7)[y], y, ids), "negative"),
    ],
)
def test_what_is_no_prediction_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        figures(*change(*make_case(0)), CLASSES)


def test_float32_probabilities_are_taken_for_what_they_mean():
    probabilities, labels, lesion_ids = make_case(0)
    narrow = probabilities.astype(np.float32)
    a, _ = figures(probabilities, labels, lesion_ids, CLASSES, num_resamples=50)
    b, _ = figures(narrow, labels, lesion_ids, CLASSES, num_resamples=50)
    assert b == pytest.approx(a, abs=1e-5)


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.sampled_from([2, 5, 1000]))
def test_weighted_auroc_is_scikit_learns(seed, num, levels):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, num) / levels
    positive, weights = rng.random(num) < 0.4, rng.integers(0, 4, (5, num))
    found = weighted_auroc(scores, positive, weights)
    for value, w in zip(found, weights, strict=True):
        drawn = np.repeat(np.arange(num), w)
        if len(set(positive[drawn])) < 2:
            assert np.isnan(value)
            continue
        assert value == pytest.approx(metrics.roc_auc_score(positive[drawn], scores[drawn]))
        assert value == pytest.approx(metrics.roc_auc_score(positive, scores, sample_weight=w))


@pytest.mark.parametrize("levels", [0, 5])
def test_intervals_are_those_of_scikit_learns_figures_of_each_draw(levels):
    probabilities, labels, lesion_ids = make_case(3, num=200, levels=levels)
    predicted = probabilities.argmax(1)
    statistics = {
        "accuracy": lambda i: metrics.accuracy_score(labels[i], predicted[i]),
        "balanced_accuracy": lambda i: quiet(
            metrics.balanced_accuracy_score, labels[i], predicted[i]
        ),
        "auroc": lambda i: metrics.roc_auc_score(labels[i], probabilities[i], multi_class="ovr"),
        "auroc/mel": lambda i: metrics.roc_auc_score(labels[i] == 4, probabilities[i, 4]),
        "ece": lambda i: expected_calibration_error(probabilities[i], labels[i]),
    }
    found, undefined = figures(probabilities, labels, lesion_ids, CLASSES, 40, seed=5)
    assert not undefined
    for name, statistic in statistics.items():
        low, high = bootstrap_over_lesions(statistic, lesion_ids, 40, seed=5)
        assert found[f"{name}_low"] == pytest.approx(low, abs=1e-9), name
        assert found[f"{name}_high"] == pytest.approx(high, abs=1e-9), name
        assert low < found[name] < high or name == "ece"


def test_an_interval_that_too_few_draws_define_is_none():
    """With one image of df, a third of the draws have none."""
    probabilities, labels, _ = make_case(0, num=80, num_present=7)
    labels[labels == 3] = 5
    labels[0] = 3
    lesion_ids = [str(i) for i in range(80)]
    found, undefined = figures(probabilities, labels, lesion_ids, CLASSES, 200)
    assert found["auroc"] is not None and found["auroc_low"] is None
    assert "leaves out a class" in undefined["auroc_low"]
    assert found["auroc/mel_low"] is not None and found["balanced_accuracy_low"] is None


def test_the_bootstrap_is_quick_enough_for_a_test_split():
    probabilities, labels, lesion_ids = make_case(0, num=855)
    start = time.process_time()
    figures(probabilities, labels, lesion_ids, CLASSES, num_resamples=1000)
    assert time.process_time() - start < 20


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_class_sums_make_scikit_learns_figures(seed, num_present):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(10, 7)).astype(np.float32)
    labels, valid = rng.integers(0, num_present, 10), rng.integers(0, 2, 10).astype(np.float32)
    valid[0] = 1
    logits[valid == 0] = np.nan
    sums = {name: float(value) for name, value in class_sums(logits, labels, valid).items()}
    found = divide_class_sums(sums)
    counted = valid > 0
    truth, predicted = labels[counted], logits[counted].argmax(1)
    assert found["num_images"] == counted.sum()
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert found["balanced_accuracy"] == pytest.approx(
        quiet(metrics.balanced_accuracy_score, truth, predicted)
    )
    probabilities = apply_temperature(logits[counted], 1.0)
    loss = metrics.log_loss(truth, probabilities, labels=range(7))
    assert found["loss"] == pytest.approx(loss, rel=1e-5)


def test_class_sums_of_batches_add_up():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(12, 7)).astype(np.float32), rng.integers(0, 7, 12)
    whole = class_sums(logits, labels, np.ones(12))
    parts = [class_sums(logits[i : i + 4], labels[i : i + 4], np.ones(4)) for i in (0, 4, 8)]
    for name, value in whole.items():
        assert value.dtype == jnp.float32 and value.shape == ()
        assert float(value) == pytest.approx(sum(float(part[name]) for part in parts), rel=1e-6)
    assert len(list(itertools.filterfalse(whole.__contains__, ["loss", "count/6"]))) == 0


def test_dividing_nothing_is_an_error():
    sums = class_sums(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32), jnp.zeros(2))
    with pytest.raises(ValueError, match="empty"):
        divide_class_sums({name: float(value) for name, value in sums.items()})


def test_strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        class_sums(jnp.zeros((2, 3), jnp.bfloat16), jnp.zeros(2, jnp.int32), jnp.ones(2))
