"""How far a predicted outline lies from the true one: HD95 and surface Dice, in pixels.

The outline of a mask is those of its pixels that share a side with the background; what lies beyond
the picture is background, so that a lesion cut by the frame has an outline there as well.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from skinjax.tasks.metrics import estimate_means

# Outlines this near count as one, in pixels of the mask: 0.7% of the diagonal of 600 x 450.
TOLERANCE = 5.0
BOUNDARY_SCORES = ("hd95", "surface_dice")


def score_boundary(
    truth: np.ndarray, prediction: np.ndarray, tolerance: float = TOLERANCE
) -> dict[str, float]:
    """Scores the outline of one predicted mask.

    Two empty masks agree: HD95 is 0 and surface Dice 1. Where one alone is empty, there is no
    distance to measure and the worst is taken: HD95 is the picture's diagonal, surface Dice 0.

    Args:
      truth: bool [h, w].
      prediction: bool [h, w].
      tolerance: distance in pixels up to which two outlines count as the same.

    Returns:
      'hd95', in pixels: the larger of the two 95th percentiles of the distances from one outline's
      pixels to the other outline (Maier-Hein et al. 2024, arXiv:2206.01653); and 'surface_dice' in
      0..1: the share of both outlines' pixels that lie within the tolerance of the other (Nikolov
      et al. 2021, arXiv:1809.04430).

    Raises:
      ValueError: the shapes differ, or a mask is not boolean.
    """
    if truth.shape != prediction.shape or truth.ndim != 2:
        raise ValueError(f"masks must share a shape [h, w]: {truth.shape}, {prediction.shape}")
    if truth.dtype != np.bool_ or prediction.dtype != np.bool_:
        raise ValueError(f"masks must be boolean, not {truth.dtype} and {prediction.dtype}")
    if not truth.any() and not prediction.any():
        return {"hd95": 0.0, "surface_dice": 1.0}
    if not truth.any() or not prediction.any():
        return {"hd95": float(np.hypot(*truth.shape)), "surface_dice": 0.0}
    to_prediction, to_truth = _distances(truth, prediction)
    near = np.count_nonzero(to_prediction <= tolerance) + np.count_nonzero(to_truth <= tolerance)
    return {
        "hd95": float(max(np.percentile(to_prediction, 95), np.percentile(to_truth, 95))),
        "surface_dice": near / (len(to_prediction) + len(to_truth)),
    }


def summarise_boundaries(
    scores: Sequence[Mapping[str, float]], lesion_ids: Sequence[str]
) -> dict[str, float]:
    """The figures of a split from its images' scores.

    Args:
      scores: what `score_boundary` gave for each image.
      lesion_ids: the lesion that each image shows.

    Returns:
      'hd95' and 'surface_dice' as means over images, each with '_low' and '_high', a 95% interval
      by a bootstrap over lesions; and 'hd95_median'.
    """
    table = np.array([[score[name] for name in BOUNDARY_SCORES] for score in scores])
    median = {"hd95_median": float(np.median(table[:, 0]))}
    return median | estimate_means(table, BOUNDARY_SCORES, lesion_ids)


def _distances(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distance of each outline pixel of one mask to the other's outline, both ways."""
    # Both outlines lie in the box around both masks, and so does the way between them: cutting it
    # out changes no distance and leaves a fraction of the pixels.
    either = truth | prediction
    rows, columns = np.flatnonzero(either.any(1)), np.flatnonzero(either.any(0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    outlines = [mask[box] & ~ndimage.binary_erosion(mask[box]) for mask in (truth, prediction)]
    fields = [ndimage.distance_transform_edt(~outline) for outline in outlines]
    return fields[1][outlines[0]], fields[0][outlines[1]]
