"""Photographs of a run's page: which ones, and with outlines drawn on them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image
from scipy import ndimage

from skinjax.report.figures import PREDICTION_COLOUR, TRUTH_COLOUR

_WIDTH = 220  # pixels of an outlined picture
_RIM = (32, 32, 32)


def extremes(scores: np.ndarray, num: int) -> dict[str, list[int]]:
    """The worst, the median and the best of some scores.

    Args:
      scores: [N], higher is better; of equal ones the first comes first.
      num: how many of each; fewer where N is less than three times as many, so that none is twice.

    Returns:
      Positions by 'worst', 'median' and 'best', each from low to high; 'all' alone where there are
      fewer than three.
    """
    order = np.argsort(scores, kind="stable").tolist()
    num = min(num, len(order) // 3)
    if num == 0:
        return {"all": order}
    middle = (len(order) - num) // 2
    return {
        "worst": order[:num],
        "median": order[middle : middle + num],
        "best": order[len(order) - num :],
    }


def outlined(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """A small picture with two outlines, the predicted one dashed and above the true one.

    Args:
      image: uint8 [H, W, 3]; of the same frame as the masks, and of any size.
      truth: bool [h, w].
      prediction: bool [h, w].

    Returns:
      uint8 [H', W', 3], `_WIDTH` pixels wide.
    """
    height = max(1, round(_WIDTH * truth.shape[0] / truth.shape[1]))
    size = (_WIDTH, height)
    small = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    y, x = np.mgrid[0:height, 0:_WIDTH]
    # Dashes of six pixels: along a diagonal as well as along a side.
    dashed = (x + y) % 12 < 8
    for mask, colour, shown in (
        (truth, TRUTH_COLOUR, np.ones_like(dashed)),
        (prediction, PREDICTION_COLOUR, dashed),
    ):
        reduced = np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        edge = reduced & ~ndimage.binary_erosion(reduced)
        line = ndimage.binary_dilation(edge)
        rim = ndimage.binary_dilation(line) & ~line
        small[rim & shown] = _RIM
        small[line & shown] = np.round(255 * np.array(to_rgb(colour))).astype(np.uint8)
    return small


def spread(positions: Sequence[int], num: int) -> list[int]:
    """At most `num` of some positions, evenly from the first to the last."""
    if len(positions) <= num:
        return list(positions)
    places = np.linspace(0, len(positions) - 1, num).round().astype(int)
    return [positions[place] for place in places]
