"""Calibration against bins filled one by one, scikit-learn, and temperatures that are known."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics

from skinjax.tasks.calibration import (
    apply_temperature,
    area_under_risk,
    calibration_figures,
    coverage_risk,
    expected_calibration_error,
    fit_temperature,
)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([0, 3, 10]))
def test_ece_against_bins_filled_one_by_one(seed, num, levels):
    rng = np.random.default_rng(seed)
    probabilities, labels = rng.dirichlet(np.ones(7), num), rng.integers(0, 7, num)
    if levels:
        probabilities = np.ceil(probabilities * levels)
        probabilities /= probabilities.sum(1, keepdims=True)
    expected = 0.0
    for b in range(15):
        inside = [
            (p.max(), p.argmax() == y)
            for p, y in zip(probabilities, labels, strict=True)
            if b / 15 < p.max() <= (b + 1) / 15
        ]
        # An edge that is a bin's to the last bit only may go either way.
        assume(all(abs(c * 15 - round(c * 15)) > 1e-9 or c == 1 for c, _ in inside))
        if inside:
            confidence, correct = np.mean(inside, axis=0)
            expected += len(inside) / len(labels) * abs(confidence - correct)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected, abs=1e-9)


def test_the_temperature_undoes_overconfidence():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 7)) * 2
    labels = np.array([rng.choice(7, p=p) for p in apply_temperature(logits, 1.0)])
    for factor in (0.25, 1.0, 4.0):
        temperature = fit_temperature(logits * factor, labels)
        assert temperature == pytest.approx(factor, rel=0.1)
        before = calibration_figures(apply_temperature(logits * factor, 1.0), labels)
        after = calibration_figures(apply_temperature(logits * factor, temperature), labels)
        assert all(after[name] <= before[name] + 0.002 for name in ("brier", "log_loss", "ece"))


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_no_temperature_has_a_smaller_log_loss(seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(20, 4)) * 3, rng.integers(0, 4, 20)
    temperature = fit_temperature(logits, labels)

    def loss(t):
        return -np.log(apply_temperature(logits, t)[np.arange(20), labels]).mean()

    assert loss(temperature) <= min(map(loss, np.geomspace(0.05, 50, 100))) + 1e-6


def test_temperatures_stay_within_bounds_where_the_loss_has_no_minimum():
    always_right, labels = np.eye(3) * 0.5, np.arange(3)
    assert 0.02 <= fit_temperature(always_right, labels) < 0.03
    assert 45 < fit_temperature(always_right, (labels + 1) % 3) <= 50


def test_brier_and_log_loss_take_float32_rows():
    rng = np.random.default_rng(0)
    probabilities, labels = rng.dirichlet(np.ones(7), 50), rng.integers(0, 7, 50)
    found = calibration_figures(probabilities.astype(np.float32), labels)
    brier = np.mean(np.sum((probabilities - np.eye(7)[labels]) ** 2, 1))
    assert found["brier"] == pytest.approx(brier, abs=1e-6)
    loss = metrics.log_loss(labels, probabilities, labels=range(7))
    assert found["log_loss"] == pytest.approx(loss, abs=1e-5)


def test_coverage_and_risk_of_five_answers():
    """The two most confident are right; the third and fourth share a confidence, one is wrong."""
    confidence = np.array([0.6, 0.9, 0.8, 0.6, 0.4])
    correct = np.array([True, True, True, False, False])
    coverage, risk = coverage_risk(confidence, correct)
    np.testing.assert_allclose(coverage, [0.2, 0.4, 0.8, 1])
    np.testing.assert_allclose(risk, [0, 0, 1 / 4, 2 / 5])
    assert area_under_risk(coverage, risk) == pytest.approx(0.4 / 4 + 0.2 * 2 / 5)


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_full_coverage_has_the_error_rate(seed, num):
    generator = np.random.default_rng(seed)
    confidence, correct = np.round(generator.random(num), 1), generator.random(num) < 0.5
    coverage, risk = coverage_risk(confidence, correct)
    assert coverage[-1] == 1 and np.all(np.diff(coverage) > 0)
    assert risk[-1] == pytest.approx(1 - correct.mean())
    for share, wrong in zip(coverage, risk, strict=True):
        lowest = np.sort(confidence)[::-1][round(share * num) - 1]
        assert wrong == pytest.approx(np.mean(~correct[confidence >= lowest]))
