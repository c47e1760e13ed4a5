"""Pictures of a diagnosis's results: arrays in, a figure or a PNG out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

from skinjax.report.figures import create_sheet, save

# Okabe and Ito's set (Wong 2011, Nature Methods 8, 441), which every kind of colour vision tells
# apart; lines alternate their style as well, for more classes than colours and for grey prints.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
_STYLES = ("-", "--")
BEFORE, AFTER = "before the temperature", "after"
_NUM_BINS = 15
_NUM_COLUMNS = 5


@dataclass(frozen=True)
class Mistake:
    """One picture that was taken for another class.

    Attributes:
      image: uint8 [h, w, 3], RGB.
      image_id: its name.
      truth: its class.
      predicted: the class it was taken for.
      confidence: the probability given to that, in 0..1.
    """

    image: np.ndarray
    image_id: str
    truth: str
    predicted: str
    confidence: float


def confusion(
    path: str | Path, labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str], title: str
) -> None:
    """Draws how often each class was taken for which, as counts and as shares of the class.

    Args:
      path: the PNG to write, in a folder that exists.
      labels: int [N], in 0..K - 1.
      predicted: int [N], likewise.
      classes: the K names.
      title: what stands above it.
    """
    save(draw_confusion(labels, predicted, classes, title), path)


def draw_confusion(
    labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str], title: str = ""
) -> Figure:
    """The figure of `confusion`, which has its arguments."""
    counts = confusion_matrix(labels, predicted, labels=range(len(classes)))
    totals = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    side = 1.8 + 0.62 * len(classes)
    figure = Figure(figsize=(side + 0.6, side - 0.5), layout="constrained")
    axis = figure.add_subplot()
    # A square-root scale: most of what is to be seen is in the small shares.
    image = axis.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    for row, column in np.ndindex(*counts.shape):
        if counts[row, column]:
            axis.text(
                column,
                row,
                f"{counts[row, column]}\n{shares[row, column]:.0%}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if shares[row, column] > 0.35 else "black",
            )
    axis.set_xticks(range(len(classes)), classes)
    rows = [f"{name}\n({total})" for name, total in zip(classes, totals[:, 0], strict=True)]
    axis.set_yticks(range(len(classes)), rows)
    axis.set_xlabel("predicted")
    axis.set_ylabel("truth (number of images)")
    axis.set_title(title, fontsize=11)
    bar = figure.colorbar(image, ax=axis, shrink=0.8, ticks=[0, 0.05, 0.25, 0.5, 1])
    bar.ax.set_yticklabels(["0", "5%", "25%", "50%", "100%"])
    bar.set_label("share of the class")
    return figure


def roc(
    path: str | Path,
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    title: str,
) -> None:
    """Draws each class's ROC curve against the rest; a class without one is named as undefined.

    Args:
      path: the PNG to write, in a folder that exists.
      probabilities: [N, K].
      labels: int [N], in 0..K - 1.
      classes: the K names, in the columns' order.
      title: what stands above it.
    """
    save(draw_roc(probabilities, labels, classes, title), path)


def draw_roc(
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    title: str = "",
    inches: float = 6.4,
) -> Figure:
    """The figure of `roc`, which has its arguments; `inches` are its sides'."""
    figure = Figure(figsize=(inches, inches), layout="constrained")
    axis = figure.add_subplot()
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle=":")
    for k, name in enumerate(classes):
        positive = labels == k
        style = _STYLES[k % len(_STYLES)]
        colour = COLOURS[k % len(COLOURS)]
        if positive.all() or not positive.any():
            axis.plot([], [], style, color=colour, label=f"{name}: undefined, n = {positive.sum()}")
            continue
        false_positive_rates, sensitivities, _ = roc_curve(positive, probabilities[:, k])
        auroc = roc_auc_score(positive, probabilities[:, k])
        label = f"{name}: {auroc:.3f}, n = {positive.sum()}"
        axis.plot(false_positive_rates, sensitivities, style, color=colour, label=label)
    axis.set_aspect("equal")
    axis.set_xlim(-0.01, 1)
    axis.set_ylim(0, 1.01)
    axis.grid(color="0.9", linewidth=0.6)
    axis.set_xlabel("1 - specificity")
    axis.set_ylabel("sensitivity")
    axis.set_title(title, fontsize=11)
    axis.legend(title="AUROC, number of images", loc="lower right", fontsize=9)
    return figure


class ReliabilityBin(NamedTuple):
    """The predictions of one range of confidence.

    Attributes:
      model: 'before the temperature' or 'after'.
      low: the range's lower end, which is not in it.
      high: its upper end.
      num_images: in it.
      confidence: their mean confidence, the largest probability.
      share_right: of them.
      share_low: the lower end of Wilson's 95% interval of that.
      share_high: the upper end.
    """

    model: str
    low: float
    high: float
    num_images: int
    confidence: float
    share_right: float
    share_low: float
    share_high: float


def reliability(
    path: str | Path,
    before: np.ndarray,
    after: np.ndarray,
    labels: np.ndarray,
    title: str,
) -> None:
    """Draws how often predictions of a given confidence are right, with Wilson's 95% intervals.

    Args:
      path: the PNG to write, in a folder that exists.
      before: probabilities [N, K] as the model gives them.
      after: probabilities [N, K] with the temperature applied.
      labels: int [N], in 0..K - 1.
      title: what stands above it.
    """
    save(draw_reliability(reliability_bins(before, after, labels), title), path)


def reliability_bins(
    before: np.ndarray, after: np.ndarray, labels: np.ndarray
) -> list[ReliabilityBin]:
    """How often predictions of a given confidence are right.

    Args:
      before: probabilities [N, K] as the model gives them.
      after: probabilities [N, K] with the temperature applied.
      labels: int [N], in 0..K - 1.

    Returns:
      The ranges that have an image, those of `before` first.
    """
    found = []
    for model, probabilities in ((BEFORE, before), (AFTER, after)):
        confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
        places = np.clip(np.ceil(confidence * _NUM_BINS).astype(int) - 1, 0, _NUM_BINS - 1)
        for place in np.unique(places):
            inside = places == place
            count, share = int(inside.sum()), float(correct[inside].mean())
            # Wilson's 95% interval, which stays within 0..1 and has a width for a share of 0 or 1.
            z = 1.96
            middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
            half = float(np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2))
            half *= z / (1 + z**2 / count)
            found.append(
                ReliabilityBin(
                    model,
                    int(place) / _NUM_BINS,
                    (int(place) + 1) / _NUM_BINS,
                    count,
                    float(confidence[inside].mean()),
                    share,
                    middle - half,
                    middle + half,
                )
            )
    return found


def draw_reliability(bins: Sequence[ReliabilityBin], title: str = "", width: float = 5.6) -> Figure:
    """The figure of `reliability` from its bins; `width` is in inches."""
    figure = Figure(figsize=(width, 1.2 * width), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle=":", label="perfect")
    edges = np.linspace(0, 1, _NUM_BINS + 1)
    for model, colour, marker in ((BEFORE, COLOURS[1], "s"), (AFTER, COLOURS[0], "o")):
        own = [one for one in bins if one.model == model]
        means = [one.confidence for one in own]
        lows, highs = [one.share_low for one in own], [one.share_high for one in own]
        shares = [one.share_right for one in own]
        upper.vlines(means, lows, highs, color=colour, linewidth=1, alpha=0.6)
        upper.plot(
            means, shares, color=colour, marker=marker, markersize=5, linewidth=1.5, label=model
        )
        counts = np.zeros(_NUM_BINS)
        counts[[round(one.low * _NUM_BINS) for one in own]] = [one.num_images for one in own]
        lower.stairs(counts, edges, color=colour, fill=False, linewidth=1.5)
    upper.set_xlim(0, 1)
    upper.set_ylim(0, 1)
    upper.set_ylabel("share of predictions that are right")
    upper.set_title(title, fontsize=11)
    upper.legend(title="bars: 95% interval", loc="upper left", fontsize=9)
    upper.grid(color="0.9", linewidth=0.6)
    lower.set_ylabel("images")
    lower.set_xlabel("confidence (largest probability)")
    return figure


def most_confident_mistakes(probabilities: np.ndarray, labels: np.ndarray, num: int) -> list[int]:
    """The images that were taken for another class with the largest probability, most so first.

    Args:
      probabilities: [N, K].
      labels: int [N], in 0..K - 1.
      num: how many at most.

    Returns:
      Their positions; fewer than `num` where there are fewer mistakes.
    """
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    order = np.argsort(-probabilities[wrong].max(1), kind="stable")
    return wrong[order[:num]].tolist()


def mistake_sheet(path: str | Path, mistakes: Sequence[Mistake], title: str) -> None:
    """Draws pictures that were taken for another class, in the order given.

    Args:
      path: the PNG to write, in a folder that exists.
      mistakes: what to draw; where there are none, the sheet says so.
      title: what stands above it.
    """
    num_columns = min(_NUM_COLUMNS, max(len(mistakes), 1))
    figure, axes = create_sheet(
        num_rows=max(-(-len(mistakes) // num_columns), 1),
        num_columns=num_columns,
        aspect=float(np.median([m.image.shape[0] / m.image.shape[1] for m in mistakes] or [0.75])),
        title=title,
    )
    if not mistakes:
        axes[0, 0].text(0.5, 0.5, "no mistakes", ha="center", va="center", fontsize=12)
    for axis, mistake in zip(axes.flat, mistakes, strict=False):
        axis.imshow(mistake.image)
        axis.set_xlabel(
            f"{mistake.truth}, taken for {mistake.predicted} ({mistake.confidence:.0%})\n"
            f"{mistake.image_id}",
            fontsize=8,
            labelpad=3,
        )
    save(figure, path)
