"""Two models, or two recipes of several runs each, on the same images: by how much they differ.

The bootstrap is paired: each draw of the lesions gives both sides' figures, and their difference.
What makes an image hard for both cancels, so that the interval is narrower than those of the two
figures would suggest, and 'better' is a claim that the images bear out or do not.

A recipe's figure is the mean of its runs' (of several seeds), and each draw takes the runs with
replacement too, since another seed would have given another run. Of few runs that tells less than
what seeds do: a bootstrap of n values has (n - 1) / n of their variance (Efron and Tibshirani
1993).
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from skinjax.tasks.classification_metrics import figures_with_interval, weighted_figures
from skinjax.tasks.metrics import interval, resample_lesions


@dataclasses.dataclass(frozen=True)
class Difference:
    """One figure of two sides.

    Attributes:
      first: the first side's, the mean over its runs.
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
      first: float64 [R, N, F]: F scores an image, of each of the first side's R runs.
      second: float64 [S, N, F], likewise of the second.
      names: of the scores.
      lesion_ids: the lesion of each image.
      num_resamples: how often the lesions, and the runs of each side, are drawn anew.
      seed: of the drawing.

    Returns:
      The difference of each mean by its name.

    Raises:
      ValueError: there is no image, or the numbers of images differ.
    """

    def means(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return (weights @ scores) / weights.sum(1, keepdims=True)

    if not first.shape[1] == second.shape[1] == len(lesion_ids):
        raise ValueError(
            f"{first.shape[1]} and {second.shape[1]} images, {len(lesion_ids)} lesion ids"
        )
    return _compare(first, second, means, names, lesion_ids, num_resamples, seed)


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
      first: float64 [R, N, K], the probabilities of each of the first side's R runs.
      second: float64 [S, N, K], the second one's.
      labels: int [N], in 0..K - 1.
      lesion_ids: the lesion of each image.
      classes: the K names, in the columns' order.
      num_resamples: how often the lesions, and the runs of each side, are drawn anew.
      seed: of the drawing.

    Returns:
      The difference of each figure by its name.

    Raises:
      ValueError: there is no image, or the shapes differ.
    """
    if first.shape[1:] != second.shape[1:] or not first.shape[1] == len(labels) == len(lesion_ids):
        raise ValueError(
            f"probabilities {first.shape} and {second.shape}, {len(labels)} labels and "
            f"{len(lesion_ids)} lesion ids do not fit together"
        )

    def figures(probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return weighted_figures(probabilities, labels, classes, weights)

    names = figures_with_interval(classes)
    return _compare(first, second, figures, names, lesion_ids, num_resamples, seed)


def _compare(
    first: np.ndarray,
    second: np.ndarray,
    figures: Callable[[np.ndarray, np.ndarray], np.ndarray],
    names: Sequence[str],
    lesion_ids: Sequence[str],
    num_resamples: int,
    seed: int,
) -> dict[str, Difference]:
    """Compares two sides by `figures`: a run and the weights [D, N] of D draws to values [D, F]."""
    # Of the runs: another stream than that of the lesions, which stays what it is for one run.
    generator = np.random.default_rng([seed, 1])

    def drawn(runs: np.ndarray, weights: np.ndarray) -> np.ndarray:
        values = np.stack([figures(run, weights) for run in runs])
        chosen = generator.integers(len(runs), size=(len(runs), len(weights)))
        return np.take_along_axis(values, chosen[..., None], axis=0).mean(0)

    def whole(runs: np.ndarray) -> np.ndarray:
        ones = np.ones((1, len(lesion_ids)))
        return np.mean([figures(run, ones)[0] for run in runs], axis=0)

    blocks = [
        drawn(second, weights) - drawn(first, weights)
        for weights in resample_lesions(lesion_ids, num_resamples, seed)
    ]
    low, high = interval(np.concatenate(blocks))
    rows = zip(whole(first), whole(second), low, high, strict=True)
    return {name: Difference(*map(float, row)) for name, row in zip(names, rows, strict=True)}
