"""The figures of a run's page that tell of diagnoses."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from skinjax.report.classification_figures import (
    COLOURS,
    ReliabilityBin,
    draw_confusion,
    draw_reliability,
    draw_roc,
)
from skinjax.report.plot import Plot

_WIDTH = 4.8  # inches
_STYLES = ("-", "--")


def confusion_plot(labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> Plot:
    """How often each class was taken for which.

    Args:
      labels: int [N], in 0..K - 1.
      predicted: int [N], likewise.
      classes: the K names.
    """
    counts = confusion_matrix(labels, predicted, labels=range(len(classes)))
    mistakes = counts * (1 - np.eye(len(classes), dtype=int))
    truth, taken = np.unravel_index(mistakes.argmax(), mistakes.shape)
    words = "no class was taken for another"
    if mistakes.any():
        words = (
            f"the most frequent mistake is {classes[truth]} taken for {classes[taken]}, "
            f"{mistakes.max():,} images"
        )
    return Plot(
        "confusion",
        draw_confusion(labels, predicted, classes),
        ("truth", *classes),
        [(name, *row) for name, row in zip(classes, counts.tolist(), strict=True)],
        "What each class was taken for: number of images, and their share of the class.",
        f"Confusion matrix of {len(classes)} classes; {words}",
        wide=True,
    )


def roc_plot(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Plot:
    """Each class's ROC curve against the rest.

    Args:
      probabilities: [N, K].
      labels: int [N], in 0..K - 1.
      classes: the K names.
    """
    rows: list[tuple[str, float, float, float]] = []
    words = []
    for k, name in enumerate(classes):
        positive = labels == k
        if positive.all() or not positive.any():
            continue
        rates = roc_curve(positive, probabilities[:, k])
        rows += [(name, *point) for point in zip(*(r.tolist() for r in rates), strict=True)]
        words.append(f"{name} {roc_auc_score(positive, probabilities[:, k]):.2f}")
    return Plot(
        "roc",
        draw_roc(probabilities, labels, classes, inches=_WIDTH),
        ("class", "false_positive_rate", "sensitivity", "threshold"),
        rows,
        "ROC curve of each class against the rest.",
        f"ROC curves of each class against the rest. Areas: {', '.join(words)}",
    )


def precision_recall_plot(
    probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> Plot:
    """Each class's precision by recall.

    Args:
      probabilities: [N, K].
      labels: int [N], in 0..K - 1.
      classes: the K names.
    """
    figure = Figure(figsize=(_WIDTH, _WIDTH + 0.9), layout="constrained")
    axis = figure.add_subplot()
    rows: list[tuple[str, float, float, float | None]] = []
    words = []
    for k, name in enumerate(classes):
        positive = labels == k
        if not positive.any():
            continue
        precisions, recalls, thresholds = precision_recall_curve(positive, probabilities[:, k])
        value = average_precision_score(positive, probabilities[:, k])
        axis.step(
            recalls,
            precisions,
            _STYLES[k % len(_STYLES)],
            where="post",
            color=COLOURS[k % len(COLOURS)],
            linewidth=1.3,
            label=f"{name}: {value:.2f} ({positive.mean():.2f})",
        )
        # The last point, (0, 1), has no threshold.
        cut = [*thresholds.tolist(), None]
        points = zip(recalls.tolist(), precisions.tolist(), cut, strict=True)
        rows += [(name, *point) for point in points]
        words.append(f"{name} {value:.2f}")
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.01)
    axis.grid(color="0.9", linewidth=0.6)
    axis.set_xlabel("recall (sensitivity)")
    axis.set_ylabel("precision")
    # Below, since curves run everywhere within.
    figure.legend(
        title="average precision (share of images)",
        fontsize=8,
        title_fontsize=8,
        loc="outside lower center",
        ncols=3,
    )
    return Plot(
        "precision_recall",
        figure,
        ("class", "recall", "precision", "threshold"),
        rows,
        "Precision by recall of each class. In brackets the share of images that are of the class, "
        "which is what guessing has as average precision.",
        f"Precision-recall curves of each class. Average precision: {', '.join(words)}",
    )


def reliability_plot(bins: Sequence[ReliabilityBin], ece: float, before: float) -> Plot:
    """How often predictions of a given confidence are right.

    Args:
      bins: of `classification_figures.reliability_bins`.
      ece: expected calibration error with the temperature.
      before: without it.
    """
    words = f"expected calibration error {before:.3f} before the temperature, {ece:.3f} after"
    return Plot(
        "reliability",
        draw_reliability(bins, width=_WIDTH),
        ReliabilityBin._fields,
        bins,
        f"How often predictions of a given confidence are right: {words}.",
        f"Reliability diagram: {words}",
    )


def coverage_risk_plot(coverage: np.ndarray, risk: np.ndarray, area: float) -> Plot:
    """What share of the answers is wrong where only the most confident ones are given.

    Args:
      coverage: [M], ascending, in 0..1.
      risk: [M], in 0..1.
      area: the mean risk over all coverages.
    """
    figure = Figure(figsize=(_WIDTH, 3.2), layout="constrained")
    axis = figure.add_subplot()
    axis.step(coverage, risk, where="post", color=COLOURS[0], linewidth=1.4)
    axis.axhline(risk[-1], color="0.35", linestyle=":", linewidth=1)
    axis.set_xlim(0, 1)
    axis.set_ylim(bottom=0)
    axis.grid(color="0.9", linewidth=0.6)
    axis.set_xlabel("coverage: share of images that are answered")
    axis.set_ylabel("risk: share of those wrong")
    half = risk[np.searchsorted(coverage, 0.5)]
    words = (
        f"of all images {risk[-1]:.1%} are wrong, of the more confident half {half:.1%}; "
        f"mean risk {area:.3f}"
    )
    return Plot(
        "coverage_risk",
        figure,
        ("coverage", "risk"),
        list(zip(coverage.tolist(), risk.tolist(), strict=True)),
        f"The share of wrong answers where only the most confident ones are given: {words}. "
        "Dotted: the same with answers left out at random.",
        f"Rising curve of the share of wrong answers by coverage: {words}",
    )
