"""Pictures of what predictions rest on: arrays in, a PNG out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from skinjax.report.figures import PREDICTION_STYLE, outline, save

# Even in lightness, told apart by every kind of colour vision, and no colour of skin among its own.
_COLOURS = colormaps["viridis"]
_STRENGTH = 0.75  # of the colours over the grey picture, where a map is highest
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
# A standard deviation that few pixels exceed, of the 0.5 that there could be; the same for each
# picture, so that sheets can be compared.
_MOST_SPREAD = 0.25
_RAMP_GREY = 170  # of the picture that a colour bar is laid over
_NUM_STRIP_COLUMNS = 256
_MAX_STRIP_LABELS = 18
# In inches: a picture's width, what is between and around pictures, captions and colour bars.
_WIDTH, _GAP, _CAPTION, _BAR, _TITLE = 2.9, 0.2, 0.26, 0.36, 0.4

Named = tuple[str, np.ndarray]


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lays a map over a picture: the picture in grey, the map in colours where it is high.

    Args:
      image: uint8 [h, w, 3], RGB.
      heat: float [h, w] in [0, 1]; what is outside is cut off.

    Returns:
      uint8 [h, w, 3], RGB.

    Raises:
      ValueError: the two differ in size.
    """
    if heat.shape != image.shape[:2]:
        raise ValueError(f"a map of {heat.shape} does not fit a picture of {image.shape[:2]}")
    heat = np.clip(heat, 0, 1)
    strength = _STRENGTH * heat[..., None]
    grey = (image @ np.array(_LUMA))[..., None]
    colours = _COLOURS(heat)[..., :3] * 255
    return np.rint((1 - strength) * grey + strength * colours).astype(np.uint8)


def class_sheet(
    path: str | Path,
    image: np.ndarray,
    title: str,
    classes: Sequence[str],
    probabilities: np.ndarray,
    grad_cam: np.ndarray,
    spatial_gates: Sequence[Named] = (),
    channel_gates: Sequence[Named] = (),
) -> None:
    """Draws what a diagnosis rests on, and writes the sheet as a PNG.

    Args:
      path: the file to write, in a folder that exists.
      image: uint8 [h, w, 3], RGB.
      title: what stands above the sheet, such as the picture's name.
      classes: the K names.
      probabilities: [K]; that of the class that Grad-CAM is of is the largest.
      grad_cam: float [h, w] in [0, 1].
      spatial_gates: names and maps [h, w]; each is drawn from its own lowest to its own highest
        value, which its colour bar tells.
      channel_gates: names and gates [C] in [0, 1], in the order in which a picture passes them.
    """
    num_columns = max(3 + bool(channel_gates), len(spatial_gates))
    sheet = _Sheet(1 + bool(spatial_gates), num_columns, image.shape, title)
    predicted = classes[int(probabilities.argmax())]
    sheet.draw_picture(0, 0, image, "picture")
    sheet.draw_heat(
        0, 1, image, grad_cam, f"Grad-CAM of {predicted}, mean over flips", 0, 1, ("0", "highest")
    )
    sheet.draw_bars(0, 2, classes, probabilities)
    if channel_gates:
        sheet.draw_strips(0, 3, channel_gates)
    for column, (name, gate) in enumerate(spatial_gates):
        low, high = float(gate.min()), float(gate.max())
        ends = (f"{low:.2f}", f"{high:.2f}")
        sheet.draw_heat(1, column, image, gate, f"spatial gate, {name}", low, high, ends)
    save(sheet.figure, path)


def outline_sheet(
    path: str | Path,
    image: np.ndarray,
    title: str,
    probabilities: np.ndarray,
    spread: np.ndarray,
    channel_gates: Sequence[Named] = (),
) -> None:
    """Draws how sure an outline is, and writes the sheet as a PNG.

    Args:
      path: the file to write, in a folder that exists.
      image: uint8 [h, w, 3], RGB.
      title: what stands above the sheet, such as the picture's name.
      probabilities: float [h, w], of lesion.
      spread: float [h, w] in [0, 0.5], the standard deviation of the probability.
      channel_gates: names and gates [C] in [0, 1], in the order in which a picture passes them.
    """
    sheet = _Sheet(1, 3 + bool(channel_gates), image.shape, title)
    lesion = probabilities >= 0.5
    axis = sheet.draw_picture(0, 0, image, f"outline: {lesion.mean():.0%} of the picture")
    outline(axis, lesion, PREDICTION_STYLE)
    sheet.draw_heat(0, 1, image, probabilities, "probability of lesion", 0, 1, ("0", "1"))
    caption = "uncertainty: spread over flips"
    sheet.draw_heat(0, 2, image, spread, caption, 0, _MOST_SPREAD, ("0", f"≥ {_MOST_SPREAD}"))
    if channel_gates:
        sheet.draw_strips(0, 3, channel_gates)
    save(sheet.figure, path)


class _Sheet:
    """Cells for pictures of one shape, each with a caption above and a colour bar below."""

    def __init__(self, num_rows: int, num_columns: int, shape: tuple[int, ...], title: str):
        self.height = _WIDTH * min(max(shape[0] / shape[1], 0.5), 1.5)
        self.row_height = _CAPTION + self.height + _BAR
        self.size = (
            _GAP + (_WIDTH + _GAP) * num_columns + 0.3,
            _TITLE + self.row_height * num_rows + _GAP / 2,
        )
        self.figure = Figure(figsize=self.size)
        self.figure.text(_GAP / self.size[0], 1 - 0.27 / self.size[1], title, fontsize=12)

    def draw_picture(self, row: int, column: int, image: np.ndarray, caption: str) -> Axes:
        axis = self._add(row, column, caption)
        axis.imshow(image)
        axis.set_anchor("N")
        axis.set_axis_off()
        return axis

    def draw_heat(
        self,
        row: int,
        column: int,
        image: np.ndarray,
        heat: np.ndarray,
        caption: str,
        low: float,
        high: float,
        ends: tuple[str, str],
    ) -> None:
        """A map over a picture, coloured from `low` to `high`, which the bar's `ends` name."""
        scaled = (heat - low) / (high - low) if high > low else np.zeros_like(heat)
        self.draw_picture(row, column, overlay(image, scaled), caption)
        bar = self._add(row, column, "", top=self.height + 0.06, height=0.08, left=0.5, right=0.5)
        ramp = np.linspace(0, 1, 256)[None]
        bar.imshow(overlay(np.full((1, 256, 3), _RAMP_GREY, np.uint8), ramp), aspect="auto")
        bar.set_axis_off()
        for place, text, side in ((-0.02, ends[0], "right"), (1.02, ends[1], "left")):
            bar.text(place, 0.5, text, transform=bar.transAxes, fontsize=8, va="center", ha=side)

    def draw_bars(
        self, row: int, column: int, classes: Sequence[str], probabilities: np.ndarray
    ) -> None:
        """The probability of each class, the first on top."""
        axis = self._add(row, column, "probability", left=0.55, right=0.3)
        places = np.arange(len(classes))
        best = int(probabilities.argmax())
        colours = ["#0072B2" if place == best else "#BBBBBB" for place in places]
        axis.barh(places, probabilities, color=colours, height=0.7)
        for place, probability in enumerate(probabilities):
            axis.text(probability + 0.02, place, f"{probability:.2f}", va="center", fontsize=8)
        axis.set_yticks(places, classes, fontsize=9)
        axis.set_xticks([])
        axis.invert_yaxis()
        axis.set_xlim(0, 1.1)

    def draw_strips(self, row: int, column: int, gates: Sequence[Named]) -> None:
        """A row a block: its channels' gates, the most open first."""
        axis = self._add(row, column, "channel gates", left=0.75)
        places = np.linspace(0, 1, _NUM_STRIP_COLUMNS)
        rows = [
            np.interp(places, np.linspace(0, 1, len(values)), np.sort(values)[::-1])
            for _, values in gates
        ]
        drawn = axis.imshow(
            rows, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest"
        )
        step = -(-len(gates) // _MAX_STRIP_LABELS)
        labelled = range(0, len(gates), step)
        axis.set_yticks(labelled, [gates[i][0] for i in labelled], fontsize=7)
        axis.set_xticks([])
        axis.set_xlabel("channels, the most open first", fontsize=8, labelpad=3)
        right = self._add(row, column, "", left=_WIDTH + 0.07, right=-0.15)
        bar = self.figure.colorbar(drawn, cax=right, ticks=[0, 0.5, 1])
        right.tick_params(labelsize=7, length=2)
        bar.outline.set_visible(False)

    def _add(
        self,
        row: int,
        column: int,
        caption: str,
        top: float = 0.0,
        height: float = 0.0,
        left: float = 0.0,
        right: float = 0.0,
    ) -> Axes:
        """Axes in a cell, so many inches from its picture's edges, as high as it unless told."""
        width, height = _WIDTH - left - right, height or self.height
        x = _GAP + (_WIDTH + _GAP) * column + left
        y = self.size[1] - _TITLE - self.row_height * row - _CAPTION - top - height
        across, up = self.size
        axis = self.figure.add_axes((x / across, y / up, width / across, height / up))
        axis.set_title(caption, fontsize=9, pad=4)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        return axis
