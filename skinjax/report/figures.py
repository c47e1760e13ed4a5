"""Pictures of a segmentation's results: arrays in, a PNG out."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke

# Two colours of Okabe and Ito's set (Wong 2011, Nature Methods 8, 441), which every kind of colour
# vision tells apart, and neither of them a colour of skin. The prediction is dashed as well, and
# both have a dark rim, to be seen on any ground.
TRUTH_COLOUR = "#56B4E9"
PREDICTION_COLOUR = "#F0E442"
_DASHES = (0.0, (3.0, 1.2))
_TRUTH = {"colors": TRUTH_COLOUR, "linewidths": 1.6, "linestyles": "solid"}
PREDICTION_STYLE = {"colors": PREDICTION_COLOUR, "linewidths": 1.6, "linestyles": [_DASHES]}
_RIM = [Stroke(linewidth=2.8, foreground="#202020"), Normal()]

_COLUMN_INCHES = 2.2
_DPI = 150


@dataclass(frozen=True)
class Sample:
    """One scored picture.

    Attributes:
      image: uint8 [H, W, 3], RGB; it may be smaller or larger than the masks and is drawn over all
        of their frame.
      truth: bool [h, w].
      prediction: bool [h, w].
      caption: what stands below it, such as the image's id and its score.
    """

    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    caption: str


def sample_sheet(
    path: str | Path, samples: Sequence[tuple[str, Sequence[Sample]]], title: str
) -> None:
    """Draws pictures with the outlines of truth and prediction, and writes the sheet as a PNG.

    Args:
      path: the file to write, in a folder that exists.
      samples: the rows from above to below, each a label (worst, median, best) and its samples.
      title: what stands above the sheet.

    Raises:
      ValueError: there is no sample, or a sample's two masks differ in shape.
    """
    shapes = [sample.truth.shape for _, row in samples for sample in row]
    figure, axes = create_sheet(
        num_rows=len(samples),
        num_columns=max((len(row) for _, row in samples), default=0),
        aspect=float(np.median([height / width for height, width in shapes] or [1.0])),
        title=title,
    )
    for row_axes, (label, row) in zip(axes, samples, strict=True):
        row_axes[0].set_ylabel(label, fontsize=11, fontweight="bold", labelpad=8)
        for axis, sample in zip(row_axes, row, strict=False):
            if sample.prediction.shape != sample.truth.shape:
                raise ValueError(f"truth and prediction of {sample.caption!r} differ in shape")
            height, width = sample.truth.shape
            axis.imshow(sample.image, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
            outline(axis, sample.truth, _TRUTH)
            outline(axis, sample.prediction, PREDICTION_STYLE)
            axis.set_xlim(-0.5, width - 0.5)
            axis.set_ylim(height - 0.5, -0.5)
            axis.set_xlabel(sample.caption, fontsize=8, labelpad=3)
    line: dict[str, Any] = {"linewidth": 2, "path_effects": _RIM}
    figure.legend(
        handles=[
            Line2D([], [], color=TRUTH_COLOUR, label="truth", **line),
            Line2D([], [], color=PREDICTION_COLOUR, label="prediction", linestyle=_DASHES, **line),
        ],
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=10,
    )
    save(figure, path)


def create_sheet(
    num_rows: int, num_columns: int, aspect: float, title: str
) -> tuple[Figure, np.ndarray]:
    """An empty sheet of pictures; axes that are not drawn on stay blank.

    Args:
      num_rows: of pictures.
      num_columns: of pictures.
      aspect: a picture's height over its width.
      title: what stands above the sheet.

    Returns:
      The figure and its axes, object [num_rows, num_columns].

    Raises:
      ValueError: there is nothing to draw.
    """
    if num_rows * num_columns == 0:
        raise ValueError(f"there are no pictures to draw on the sheet {title!r}")
    # No pyplot: it keeps a list of figures for the whole process, and asks for a display.
    width = max(_COLUMN_INCHES * num_columns + 0.5, 4.5)
    figure = Figure(
        figsize=(width, (_COLUMN_INCHES * aspect + 0.35) * num_rows + 0.9),
        layout="constrained",
    )
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(num_rows, num_columns, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    return figure, axes


def save(figure: Figure, path: str | Path) -> None:
    """Writes a figure as a PNG, whole or not at all; no line in it says what wrote it or where."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})
    temporary.replace(path)


def outline(axis: Axes, mask: np.ndarray, style: dict[str, Any]) -> None:
    """Draws the outline of a mask, bool [h, w], over a picture of the same frame."""
    # A frame of zeros closes the outline of a lesion that reaches the picture's edge; half-way
    # between pixel centres is where one region ends and the other begins.
    if mask.any():
        rows, columns = (np.arange(-1, size + 1) for size in mask.shape)
        contours = axis.contour(columns, rows, np.pad(mask, 1).astype(float), [0.5], **style)
        contours.set_path_effects(_RIM)
