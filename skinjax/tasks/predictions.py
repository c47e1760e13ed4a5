"""What a prediction is to its user: one picture's lesion, or its diagnosis, with its figures."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.special import entr, softmax

# Regions touch at corners as well; what is not lesion then touches at sides alone, or a diagonal
# line would both be one region and let the background through.
_EIGHT_NEIGHBOURS = np.ones((3, 3), bool)


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentationPrediction:
    """The lesion of one picture, at the picture's own size.

    Attributes:
        probabilities: of lesion at each pixel, float32 [H, W] in [0, 1].
        mask: where the lesion is, bool [H, W]: a probability of at least one half, less the islands
            that `clean_mask` took away and with the holes that it filled.
    """

    probabilities: np.ndarray
    mask: np.ndarray

    @property
    def lesion_fraction(self) -> float:
        """The share of the picture that is lesion, in [0, 1]."""
        return float(np.count_nonzero(self.mask)) / self.mask.size

    @functools.cached_property
    def num_regions(self) -> int:
        """The number of separate regions of lesion; those that touch at a corner are one."""
        return int(ndimage.label(self.mask, _EIGHT_NEIGHBOURS)[1])

    @functools.cached_property
    def mean_confidence(self) -> float:
        """The mean over pixels of the probability of what each was taken for, in [0, 1].

        At least one half, but where `clean_mask` took many pixels for what they are less likely to
        be.
        """
        of_background = np.float32(1) - self.probabilities
        taken = np.where(self.mask, self.probabilities, of_background)
        return float(taken.mean(dtype=np.float64))


@dataclasses.dataclass(frozen=True, eq=False)
class ClassificationPrediction:
    """The diagnosis of one picture.

    Attributes:
        classes: the names of the K classes.
        probabilities: float64 [K], of sum 1, in the order of the classes.
    """

    classes: tuple[str, ...]
    probabilities: np.ndarray

    @property
    def predicted(self) -> str:
        """The most probable class."""
        return self.classes[int(self.probabilities.argmax())]

    @property
    def confidence(self) -> float:
        """Its probability, in [1 / K, 1]."""
        return float(self.probabilities.max())

    @property
    def entropy(self) -> float:
        """Of the probabilities, in nats: 0 where one class has all, log K where all are alike."""
        return float(entr(self.probabilities).sum())


def clean_mask(mask: np.ndarray, min_fraction: float) -> np.ndarray:
    """Takes small islands of lesion away, and then fills small holes.

    The largest island stays whatever its size, so that no lesion is lost altogether; background
    that reaches the picture's edge is no hole.

    Args:
        mask: bool [H, W].
        min_fraction: the share of the picture, in [0, 1], that an island or hole must have to
            stay; 0 changes nothing.

    Returns:
        bool [H, W].
    """
    if not min_fraction:
        return mask
    min_pixels = min_fraction * mask.size
    islands, num_islands = ndimage.label(mask, _EIGHT_NEIGHBOURS)
    if num_islands > 1:
        sizes = np.bincount(islands.ravel())
        sizes[0] = 0  # the background
        stays = sizes >= min_pixels
        stays[0], stays[sizes.argmax()] = False, True
        mask = stays[islands]
    holes, _ = ndimage.label(~mask)
    filled = np.bincount(holes.ravel()) < min_pixels
    for side in (holes[0], holes[-1], holes[:, 0], holes[:, -1]):
        filled[side] = False
    filled[0] = False  # the lesion
    return mask | filled[holes]


def average_calibrated(
    log_probabilities: np.ndarray, temperatures: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Averages the probabilities of several models, each at its own temperature.

    Guo 2017 (arXiv:1706.04599) divides a model's logits by its temperature; the mean of the models'
    probabilities is that of a deep ensemble (Lakshminarayanan 2017, arXiv:1612.01474).

    Args:
        log_probabilities: [..., M, K] of M models, before any temperature.
        temperatures: [M], above 0; of ones for the probabilities as the networks give them.

    Returns:
        float64 [..., K], each row of sum 1.
    """
    scaled = np.asarray(log_probabilities, np.float64) / np.asarray(temperatures)[:, np.newaxis]
    return softmax(scaled, axis=-1).mean(axis=-2)
