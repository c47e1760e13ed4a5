"""Pictures of a segmentation's results: arrays in, a PNG out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# Two colours of Okabe and Ito's set (Wong 2011, Nature Methods 8, 441), which every kind of colour
# vision tells apart, and neither of them a colour of skin. The prediction is dashed as well.
TRUTH_COLOUR = "#56B4E9"
PREDICTION_COLOUR = "#F0E442"

_WIDTH_INCHES = 2.2
_DPI = 150


@dataclass(frozen=True)
class Sample:
    """One scored picture.

    Attributes:
      image: uint8 [h, w, 3], RGB.
      truth: bool [h, w].
      prediction: bool [h, w].
      caption: what stands below it, as the image's id and its score.
    """

    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    caption: str

    def __post_init__(self) -> None:
        if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3:
            raise ValueError(f"the image of {self.caption!r} is not uint8 [h, w, 3]")
        for mask in (self.truth, self.prediction):
            if mask.dtype != np.bool_ or mask.shape != self.image.shape[:2]:
                raise ValueError(f"a mask of {self.caption!r} is not bool of its image's size")


def sample_sheet(path: str | Path, samples: Mapping[str, Sequence[Sample]], title: str) -> None:
    """Draws pictures with the outlines of truth and prediction, and writes the sheet as a PNG.

    Args:
      path: the file to write, in a folder that exists.
      samples: the rows from above to below: a label (worst, median, best) and the samples of it.
      title: what stands above the sheet.

    Raises:
      ValueError: there is no sample.
    """
    num_columns = max((len(row) for row in samples.values()), default=0)
    if num_columns == 0:
        raise ValueError("there are no samples to draw")
    aspect = np.median([s.image.shape[0] / s.image.shape[1] for row in samples.values() for s in row])
    figure, axes = new_sheet(len(samples), num_columns, float(aspect), title)
    for row_axes, (label, row) in zip(axes, samples.items(), strict=True):
        # Words that stand upright beside a row need no more width than those that are turned.
        row_axes[0].set_ylabel(label, fontsize=10, fontweight="bold", labelpad=8)
        for axis, sample in zip(row_axes, row, strict=False):
            axis.imshow(sample.image, interpolation="lanczos")
            _outline(axis, sample.truth, TRUTH_COLOUR, "solid")
            _outline(axis, sample.prediction, PREDICTION_COLOUR, (0, (3, 1.5)))
            axis.set_xlabel(sample.caption, fontsize=7, labelpad=3)
    figure.legend(
        handles=[
            Line2D([], [], color=TRUTH_COLOUR, linewidth=2, label="truth"),
            Line2D([], [], color=PREDICTION_COLOUR, linewidth=2, linestyle="--", label="prediction"),
        ],
        loc="outside lower center",
        ncols=2,
        frameon=True,
        facecolor="#505050",
        edgecolor="none",
        labelcolor="white",
        fontsize=8,
    )
    save(figure, path)
