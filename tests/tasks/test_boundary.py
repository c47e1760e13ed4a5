"""Distances of outlines: against a reference that looks at every pair of pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from skinjax.tasks.boundary import score_boundary, summarise_boundaries


def outline(mask):
    """The pixels of a mask with a side on the background or on the frame, one by one."""
    height, width = mask.shape
    found = []
    for y, x in np.argwhere(mask):
        sides = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        if any(not (0 <= v < height and 0 <= u < width) or not mask[v, u] for v, u in sides):
            found.append((y, x))
    return np.array(found)


def reference(truth, prediction, tolerance):
    between = cdist(outline(truth), outline(prediction))
    there, back = between.min(1), between.min(0)
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    near = np.sum(there <= tolerance) + np.sum(back <= tolerance)
    return {"hd95": hd95, "surface_dice": near / (len(there) + len(back))}


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 14), st.integers(1, 14)),
    st.floats(0.05, 0.95),
    st.sampled_from([0.0, 1.0, 1.5, 5.0]),
)
def test_it_is_the_brute_force_reference(seed, shape, share, tolerance):
    generator = np.random.default_rng(seed)
    masks = [generator.random(shape) < share for _ in range(2)]
    for mask in masks:
        mask[generator.integers(shape[0]), generator.integers(shape[1])] = True
    expected = reference(*masks, tolerance)
    assert score_boundary(*masks, tolerance) == pytest.approx(expected)


def disc(size, row, column, radius):
    y, x = np.mgrid[: size[0], : size[1]]
    return (y - row) ** 2 + (x - column) ** 2 <= radius**2


def test_a_disc_moved_by_four_pixels():
    size = (90, 120)
    scores = score_boundary(disc(size, 40, 50, 20), disc(size, 40, 54, 20), tolerance=4)
    assert scores["surface_dice"] == 1
    assert 3.5 < scores["hd95"] <= 4
    assert score_boundary(disc(size, 40, 50, 20), disc(size, 40, 54, 20), 1)["surface_dice"] < 0.6


def test_the_rule_for_empty_masks():
    empty, lesion = np.zeros((30, 40), bool), disc((30, 40), 15, 20, 5)
    assert score_boundary(empty, empty) == {"hd95": 0, "surface_dice": 1}
    for pair in ((empty, lesion), (lesion, empty)):
        assert score_boundary(*pair) == {"hd95": 50, "surface_dice": 0}
    # A mask that fills the picture has the frame as its outline, and is not empty.
    full = np.ones((30, 40), bool)
    assert score_boundary(full, full) == {"hd95": 0, "surface_dice": 1}


def test_masks_that_do_not_fit_are_refused():
    mask = np.zeros((4, 5), bool)
    with pytest.raises(ValueError, match="share a shape"):
        score_boundary(mask, mask[:3])
    with pytest.raises(ValueError, match="boolean"):
        score_boundary(mask, mask.astype(np.uint8))


def test_a_split_has_means_a_median_and_intervals():
    scores = [{"hd95": float(i), "surface_dice": i / 10} for i in range(11)]
    figures = summarise_boundaries(scores, [str(i) for i in range(11)])
    assert figures["hd95"] == figures["hd95_median"] == 5
    assert figures["surface_dice"] == pytest.approx(0.5)
    assert figures["hd95_low"] < 5 < figures["hd95_high"]
    assert figures["surface_dice_low"] < 0.5 < figures["surface_dice_high"]
