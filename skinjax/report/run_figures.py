"""The figures of a run's page that both tasks have, and those of outlines."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from skinjax.report.classification_figures import COLOURS
from skinjax.report.plot import Plot

_WIDTH = 4.8  # inches: what is eight points high is then still legible on a telephone
_BLUE, _ORANGE = COLOURS[0], "#a65e00"
_GRID: dict[str, Any] = {"color": "0.9", "linewidth": 0.6}
JACCARD_BINS = 20

Event = Mapping[str, Any]
# Name, images, value, low and high of a group; low and high may be None.
Point = tuple[str, int, float, float | None, float | None]


def curves(events: Sequence[Event], best_metric: str, best_step: int | None) -> Plot:
    """The loss, the score that chose the checkpoint, and the learning rate, by epoch.

    Args:
      events: the lines of metrics.jsonl.
      best_metric: the score's name, as 'val/jaccard'.
      best_step: of the checkpoint that the page is about; None where it is not known.
    """
    figure = Figure(figsize=(_WIDTH, 5.6), layout="constrained")
    loss, score, rate = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 2])
    rows: list[tuple[int, float, str, float]] = []

    def draw(axis: Axes, name: str, label: str, colour: str, style: str) -> list[float]:
        points = [(e["step"], e["epoch"], name, e[name]) for e in events if name in e]
        if points:
            rows.extend(points)
            _, epochs, _, values = zip(*points, strict=True)
            axis.plot(epochs, values, style, color=colour, label=label, linewidth=1.4, markersize=4)
            return list(values)
        return []

    draw(loss, "train/loss", "train", _BLUE, "-")
    if draw(loss, "val/loss", "val", _ORANGE, "o--"):
        loss.legend(fontsize=8)
    loss.set_ylabel("loss")
    scores = draw(score, best_metric, "val", _ORANGE, "o--")
    score.set_ylabel(best_metric.replace("_", " "))
    draw(rate, "learning_rate", "learning rate", _BLUE, "-")
    rate.set_ylabel("learning rate")
    rate.set_xlabel("epoch")
    chosen = [e["epoch"] for e in events if best_step and e["step"] == best_step]
    for axis in (loss, score, rate):
        axis.grid(**_GRID)
        for epoch in chosen[:1]:
            axis.axvline(epoch, color="0.35", linestyle=":", linewidth=1)
    words = f"; it ends at {scores[-1]:.3f}, its best is {max(scores):.3f}" if scores else ""
    line = " The dotted line is the checkpoint that is reported." if chosen else ""
    return Plot(
        "curves",
        figure,
        ("step", "epoch", "figure", "value"),
        rows,
        f"Loss, {best_metric} and learning rate by epoch.{line}",
        f"Three curves by epoch: the loss, {best_metric} and the learning rate{words}",
    )


def jaccard_histogram(jaccard: np.ndarray, threshold: float) -> Plot:
    """How the Jaccard indices of the images are distributed.

    Args:
      jaccard: [N], in 0..1.
      threshold: of the thresholded Jaccard, drawn as a line.
    """
    counts, edges = np.histogram(jaccard, JACCARD_BINS, (0, 1))
    figure, axis = _one(2.7)
    axis.stairs(counts, edges, fill=True, color=_BLUE)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.axvline(threshold, color="0.35", linestyle=":", linewidth=1)
    axis.set_xlim(0, 1)
    axis.set_xlabel("Jaccard index")
    axis.set_ylabel("images")
    low, middle, high = np.percentile(jaccard, [5, 50, 95])
    below = int(np.sum(jaccard < threshold))
    words = f"{below:,} of {len(jaccard):,} images are below {threshold}"
    return Plot(
        "jaccard",
        figure,
        ("from", "to", "images"),
        list(zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)),
        f"Jaccard index of each image. Dotted: {threshold}; {words}.",
        f"Histogram of the Jaccard index: median {middle:.2f}, nine in ten images between "
        f"{low:.2f} and {high:.2f}; {words}",
    )


def distances(hd95: np.ndarray) -> Plot:
    """The share of images whose HD95 is within a distance.

    Args:
      hd95: [N], in pixels.
    """
    figure, axis = _one(2.7)
    ordered = np.sort(hd95)
    shares = np.arange(1, len(ordered) + 1) / len(ordered)
    axis.step(ordered, shares, where="post", color=_BLUE)
    axis.set_xlim(0, max(1.0, float(np.percentile(ordered, 99))))
    axis.set_ylim(0, 1)
    axis.grid(**_GRID)
    axis.set_xlabel("HD95 (pixels)")
    axis.set_ylabel("share of images within it")
    middle, high = np.percentile(ordered, [50, 90])
    words = f"half of the images are within {middle:.1f} pixels, nine in ten within {high:.1f}"
    return Plot(
        "hd95",
        figure,
        ("hd95", "share"),
        list(zip(ordered.tolist(), shares.tolist(), strict=True)),
        f"Share of images by HD95: {words}. The last hundredth is not drawn.",
        f"Rising curve of the share of images by HD95: {words}",
    )


def surface_dice(values: np.ndarray, tolerance: float) -> Plot:
    """How the surface Dice of the images is distributed.

    Args:
      values: [N], in 0..1.
      tolerance: in pixels.
    """
    counts, edges = np.histogram(values, 20, (0, 1))
    figure, axis = _one(2.7)
    axis.stairs(counts, edges, fill=True, color=_BLUE)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlim(0, 1)
    axis.set_xlabel(f"surface Dice at {tolerance:g} pixels")
    axis.set_ylabel("images")
    words = f"median {np.median(values):.2f}"
    return Plot(
        "surface_dice",
        figure,
        ("from", "to", "images"),
        list(zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)),
        f"Surface Dice of each image at {tolerance:g} pixels: {words}.",
        f"Histogram of the surface Dice at {tolerance:g} pixels: {words}",
    )


def forest(
    groups: Sequence[tuple[str, Sequence[Point]]], overall: float, what: str, name: str
) -> Plot:
    """One figure of each group of images with its interval, the groups of a factor together.

    Args:
      groups: a factor (age, sex) and its groups.
      overall: the figure of all images, drawn as a line.
      what: the figure's name.
      name: of the plot's files.
    """
    points = [(factor, *point) for factor, members in groups for point in members]
    num_rows = len(points) + len(groups)
    figure = Figure(figsize=(_WIDTH + 0.4, 0.7 + 0.2 * num_rows), layout="constrained")
    axis = figure.add_subplot()
    axis.axvline(overall, color="0.35", linestyle=":", linewidth=1)
    ticks: list[int] = []
    labels: list[str] = []
    headings = set()
    place = 0
    for factor, members in groups:
        headings.add(place)
        ticks.append(place)
        labels.append(factor)
        place += 1
        for label, num_images, value, low, high in members:
            if low is not None and high is not None:
                axis.hlines(place, low, high, color=_BLUE, linewidth=1.5)
            axis.plot(value, place, "o" if low is not None else "x", color=_BLUE, markersize=4)
            ticks.append(place)
            labels.append(f"{label} ({num_images:,})")
            place += 1
    axis.set_yticks(ticks, labels, fontsize=8)
    for tick, text in zip(ticks, axis.get_yticklabels(), strict=True):
        if tick in headings:
            text.set_fontweight("bold")
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(place - 0.3, -0.7)
    axis.grid(axis="x", **_GRID)
    axis.set_xlabel(what)
    axis.spines[["top", "right", "left"]].set_visible(False)
    words = "; ".join(f"{f}, {label}: {value:.2f}" for f, label, _, value, _, _ in points)
    return Plot(
        name,
        figure,
        ("factor", "group", "images", what, "low", "high"),
        points,
        f"By group: {what}, with 95% intervals by a bootstrap over lesions; in brackets the number "
        "of images; dotted, all images; a cross has too few lesions for an interval.",
        f"{what} of each group. {words}",
    )


def _one(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axis = figure.add_subplot()
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis
