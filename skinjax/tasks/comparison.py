"""Two models on the same images: the difference of their figures, with its interval.

The bootstrap is paired: each draw of the lesions gives both models' figures, and their difference.
What makes an image hard for both cancels, so that the interval is narrower than those of the two
figures would suggest, and 'better' is a claim that the images bear out or do not.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from skinjax.tasks.classification_metrics import figures_with_interval, weighted_figures
from skinjax.tasks.metrics import interval, resample_lesions


@dataclasses.dataclass(frozen=True)
class Difference:
    """One figure of two models.

    Attributes:
      first: the first model's.
      second: the second one's.
      low: the lower end of the 95% interval of second - first; NaN where it is undefined.
      high: its upper end.
    """

    first: float
    second: float
    low: float
    high: float


def compare_scores(
    first: np.ndarray,
    second: np.ndarray,
    names: Sequence[str],
    lesion_ids: Sequence[str],
    num_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Difference]:
    """Compares means over images.

    Args:
      first: float64 [N, F]: F scores an image, of the first model.
      second: likewise of the second.
      names: of the scores.
      lesion_ids: the lesion of each image.
      num_resamples: how often the lesions are drawn anew.
      seed: of the drawing.

    Returns:
      The difference of each mean by its name.

    Raises:
      ValueError: there is no image, or the numbers of images differ.
    """

    def means(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return (weights @ scores) / weights.sum(1, keepdims=True)

    if not len(first) == len(second) == len(lesion_ids):
        raise ValueError(f"{len(first)} and {len(second)} images, {len(lesion_ids)} lesion ids")
    blocks = [
        means(second - first, weights)
        for weights in resample_lesions(lesion_ids, num_resamples, seed)
    ]
    low, high = interval(np.concatenate(blocks))
    return _differences(names, first.mean(0), second.mean(0), low, high)


def compare_classes(
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    lesion_ids: Sequence[str],
    classes: Sequence[str],
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Difference]:
    """Compares the figures of `classification_metrics.figures_with_interval`.

    Args:
      first: float64 [N, K], the first model's probabilities.
      second: the second one's.
      labels: int [N], in 0..K - 1.
      lesion_ids: the lesion of each image.
      classes: the K names, in the columns' order.
      num_resamples: how often the lesions are drawn anew.
      seed: of the drawing.

    Returns:
      The difference of each figure by its name.

    Raises:
      ValueError: there is no image, or the shapes differ.
    """
    if first.shape != second.shape or not len(first) == len(labels) == len(lesion_ids):
        raise ValueError(
            f"probabilities {first.shape} and {second.shape}, {len(labels)} labels and "
            f"{len(lesion_ids)} lesion ids do not fit together"
        )

    def weigh(probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return weighted_figures(probabilities, labels, classes, weights)

    blocks = [
        weigh(second, weights) - weigh(first, weights)
        for weights in resample_lesions(lesion_ids, num_resamples, seed)
    ]
    low, high = interval(np.concatenate(blocks))
    ones = np.ones((1, len(labels)))
    names = figures_with_interval(classes)
    return _differences(names, weigh(first, ones)[0], weigh(second, ones)[0], low, high)


def _differences(names: Sequence[str], *columns: np.ndarray) -> dict[str, Difference]:
    rows = zip(*columns, strict=True)
    return {name: Difference(*map(float, row)) for name, row in zip(names, rows, strict=True)}
