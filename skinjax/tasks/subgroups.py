"""Scores of groups of images, each with a 95% interval by a bootstrap over lesions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from skinjax.tasks.classification_metrics import weighted_auroc
from skinjax.tasks.metrics import MIN_LESIONS, bootstrap_means, interval, resample_lesions

NOT_TOLD = "not told"
# Bands of age in years, by their first year and the next band's.
_AGES = (
    ("under 30", 0, 30),
    ("30 to 44", 30, 45),
    ("45 to 59", 45, 60),
    ("60 to 74", 60, 75),
    ("75 and over", 75, 200),
)
AGE_BANDS = tuple(name for name, _, _ in _AGES)
_NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95% interval; None and None where there are too few lesions for one."""

    value: float
    low: float | None = None
    high: float | None = None


# A figure of a group: an estimate, a count, or None where it is undefined.
Figure = Estimate | int | None


@dataclass(frozen=True)
class Subgroup:
    """The figures of one group of images.

    Attributes:
      name: of the group.
      num_images: in it.
      num_lesions: that they show.
      figures: by name.
    """

    name: str
    num_images: int
    num_lesions: int
    figures: dict[str, Figure]


def age_band(age: str) -> str:
    """The band, one of AGE_BANDS, of an age in years as a table has it; NOT_TOLD for no number."""
    try:
        years = float(age)
    except ValueError:
        return NOT_TOLD
    return next((name for name, first, end in _AGES if first <= years < end), NOT_TOLD)


def subgroups(
    groups: Sequence[str],
    order: Sequence[str],
    lesion_ids: Sequence[str],
    score: Callable[[np.ndarray], dict[str, Figure]],
) -> list[Subgroup]:
    """Scores each group of images by itself.

    Args:
      groups: the group of each image; empty is NOT_TOLD.
      order: of the groups; those that it does not name follow by size, and NOT_TOLD is last.
      lesion_ids: the lesion of each image.
      score: the figures of the images at some positions, int [n].

    Returns:
      The groups that have an image.
    """
    names = np.array([group or NOT_TOLD for group in groups], dtype=object)
    lesions = np.asarray(lesion_ids, dtype=object)

    def rank(name: str) -> tuple[bool, int, int, str]:
        place = list(order).index(name) if name in order else len(order)
        return name == NOT_TOLD, place, -int(np.sum(names == name)), name

    found = []
    for name in sorted(set(names), key=rank):
        positions = np.flatnonzero(names == name)
        num_lesions = len(set(lesions[positions]))
        found.append(Subgroup(name, len(positions), num_lesions, score(positions)))
    return found


def mean_estimate(values: np.ndarray, lesion_ids: Sequence[str]) -> Estimate:
    """A mean over images with its interval.

    Args:
      values: float [N], at least one.
      lesion_ids: the lesion of each image.
    """
    value = float(np.mean(values))
    if len(set(lesion_ids)) < MIN_LESIONS:
        return Estimate(value)
    column = np.asarray(values, np.float64)[:, None]
    low, high = bootstrap_means(column, lesion_ids, _NUM_RESAMPLES)
    return Estimate(value, float(low[0]), float(high[0]))


def auroc_estimate(
    scores: np.ndarray, positive: np.ndarray, lesion_ids: Sequence[str]
) -> Estimate | None:
    """An area under the ROC curve with its interval; None where all or no images are positive.

    Args:
      scores: float [N].
      positive: bool [N].
      lesion_ids: the lesion of each image.
    """
    if positive.all() or not positive.any():
        return None
    value = float(weighted_auroc(scores, positive, np.ones((1, len(scores))))[0])
    lesions = np.asarray(lesion_ids, dtype=object)
    if min(len(set(lesions[positive])), len(set(lesions[~positive]))) < MIN_LESIONS:
        return Estimate(value)
    draws = [
        weighted_auroc(scores, positive, drawn.astype(np.float64))
        for drawn in resample_lesions(list(lesion_ids), _NUM_RESAMPLES, seed=0)
    ]
    low, high = interval(np.concatenate(draws))
    return Estimate(value, float(low), float(high))
