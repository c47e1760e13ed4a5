"""A prediction's figures against plain Python, and what is taken out of a mask."""

import math

import numpy as np
import pytest

from skinjax.tasks.calibration import apply_temperature
from skinjax.tasks.predictions import (
    ClassificationPrediction,
    SegmentationPrediction,
    average_calibrated,
    clean_mask,
)


def mask_of(*lines):
    return np.array([[character == "#" for character in line] for line in lines])


def test_the_figures_of_a_mask():
    mask = mask_of("##...", "##...", "..#..", "....#")
    probabilities = np.where(mask, 0.9, 0.2).astype(np.float32)
    prediction = SegmentationPrediction(probabilities, mask)
    assert prediction.lesion_fraction == pytest.approx(6 / 20)
    # The first two touch at a corner.
    assert prediction.num_regions == 2
    assert prediction.mean_confidence == pytest.approx((6 * 0.9 + 14 * 0.8) / 20)


def test_the_confidence_in_a_cleaned_mask_is_that_in_what_it_holds():
    mask = mask_of("##...", "##...", ".....", "....#")
    probabilities = np.where(mask, 0.9, 0.2).astype(np.float32)
    prediction = SegmentationPrediction(probabilities, clean_mask(mask, 0.1))
    assert prediction.mean_confidence == pytest.approx((4 * 0.9 + 15 * 0.8 + 0.1) / 20)


def test_the_figures_of_an_empty_and_of_a_full_mask():
    for value in (0.0, 1.0):
        probabilities = np.full((3, 4), value, np.float32)
        prediction = SegmentationPrediction(probabilities, probabilities >= 0.5)
        assert prediction.lesion_fraction == value
        assert prediction.num_regions == value
        assert prediction.mean_confidence == 1.0
        np.testing.assert_array_equal(clean_mask(prediction.mask, 0.9), prediction.mask)


def test_the_figures_of_a_diagnosis():
    prediction = ClassificationPrediction(("a", "b", "c"), np.array([0.5, 0.5 - 1e-9, 1e-9]))
    assert prediction.predicted == "a" and prediction.confidence == 0.5
    assert prediction.entropy == pytest.approx(math.log(2), abs=1e-6)
    assert ClassificationPrediction(("a", "b"), np.array([0.0, 1.0])).entropy == 0.0


def test_small_islands_and_holes_go_and_what_reaches_the_edge_stays():
    mask = mask_of(
        "..........",
        ".#####..#.",
        ".#.###....",
        ".##.##....",
        ".#####..##",
        "........##",
    )
    # Of 60 pixels: an island of 1, one of 4, a hole of 1 beside a hole of 1 at its corner.
    cleaned = mask_of(
        "..........",
        ".#####....",
        ".#####....",
        ".#####....",
        ".#####..##",
        "........##",
    )
    np.testing.assert_array_equal(clean_mask(mask, 0), mask)
    np.testing.assert_array_equal(clean_mask(mask, 2 / 60), cleaned)
    cleaned[:, 8:] = False
    np.testing.assert_array_equal(clean_mask(mask, 5 / 60), cleaned)
    # The largest stays however large it would have to be.
    np.testing.assert_array_equal(clean_mask(mask, 0.99), cleaned)
    # Not a hole: it reaches the edge.
    bay = mask_of("#.#", "###")
    np.testing.assert_array_equal(clean_mask(bay, 0.9), bay)


def test_probabilities_are_averaged_each_at_its_own_temperature():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 2, 3)).astype(np.float32)
    temperatures = (0.7, 2.0)
    averaged = average_calibrated(logits, temperatures)
    expected = [apply_temperature(logits[:, m], t) for m, t in enumerate(temperatures)]
    np.testing.assert_allclose(averaged, np.mean(expected, axis=0), rtol=1e-12)
    np.testing.assert_array_equal(
        average_calibrated(logits[:, :1], [0.7]), apply_temperature(logits[:, 0], 0.7)
    )
