"""Figures of a diagnosis over a whole split, on the host.

Each is scikit-learn's wherever it has one. Inside the bootstrap, which needs a thousand of each,
the same figures are computed from weights, all draws at once. What a training looks at meanwhile is
in class_sums.py: it neither needs scikit-learn nor waits a second for its import.
"""

from collections.abc import Sequence

import numpy as np
from sklearn import metrics

from skinjax.tasks.calibration import calibration_figures, calibration_gaps
from skinjax.tasks.metrics import interval, resample_lesions

# What data sets call it; 'malignant' may be more than that in somebody's own folders.
_MELANOMA = ("mel", "melanoma")
SENSITIVITY = 0.95

Figures = dict[str, float | int | None]


def figures(
    probabilities: np.ndarray,
    labels: np.ndarray,
    lesion_ids: Sequence[str],
    classes: Sequence[str],
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[Figures, dict[str, str]]:
    """The figures of a split.

    A picture's prediction is its most probable class, the first of them where several tie.

    Args:
      probabilities: [N, K], each row of sum 1; float64 for full precision.
      labels: int [N], in 0..K - 1.
      lesion_ids: the lesion of each image.
      classes: the K names, in the columns' order.
      num_resamples: how often the lesions are drawn anew for the intervals.
      seed: of the drawing.

    Returns:
      The figures by name. 'num_images' and 'num_lesions'; 'accuracy'; 'balanced_accuracy' over the
      classes that there are; 'auroc', the mean of each class's against the rest; 'f1_macro' over
      the classes that there are or were predicted; 'log_loss', 'brier' and 'ece', see
      `calibration`; 'melanoma_specificity_at_95_sensitivity', the best that a threshold chosen on
      these very images gives; 'majority_accuracy' and 'majority_balanced_accuracy', what always
      saying their most frequent class scores; 'lesion_accuracy' and 'lesion_balanced_accuracy', the
      probabilities of a lesion's pictures averaged, and 'lesion_majority_accuracy'; for each class
      auroc/CLASS, recall/CLASS, precision/CLASS and average_precision/CLASS. And 95% intervals by a
      bootstrap over lesions, as NAME_low and NAME_high, for accuracy, balanced_accuracy, auroc,
      the melanoma's auroc and ece. That of ece lies high, and above the figure itself where a model
      is well calibrated: a draw has its own noise, which the ECE takes for more miscalibration.
      What is undefined is None.

      Beside it, the reason for each figure that is None.

    Raises:
      ValueError: there is no image, the shapes do not fit, a label is no class, or the rows are no
        probabilities.
    """
    probabilities = _checked(probabilities, labels, lesion_ids, classes)
    predicted = probabilities.argmax(1)
    values: Figures = {
        "num_images": len(labels),
        "num_lesions": len(set(lesion_ids)),
        "accuracy": float(metrics.accuracy_score(labels, predicted)),
        "balanced_accuracy": _balanced_accuracy(labels, predicted),
        "f1_macro": float(metrics.f1_score(labels, predicted, average="macro", zero_division=0)),
        "majority_accuracy": float(np.bincount(labels).max() / len(labels)),
        "majority_balanced_accuracy": 1 / len(np.unique(labels)),
    }
    values |= calibration_figures(probabilities, labels)
    undefined: dict[str, str] = {}
    for k, name in enumerate(classes):
        _class_figures(values, undefined, name, probabilities[:, k], labels == k, predicted == k)
    missing = [name for name in classes if values[f"auroc/{name}"] is None]
    if missing:
        values["auroc"] = None
        undefined["auroc"] = f"auroc is undefined for {', '.join(missing)}, so its mean is"
    else:
        values["auroc"] = float(np.mean([values[f"auroc/{name}"] for name in classes]))
    _melanoma_figure(values, undefined, probabilities, labels, classes)
    _lesion_figures(values, undefined, probabilities, labels, lesion_ids)
    _intervals(values, undefined, probabilities, labels, lesion_ids, classes, num_resamples, seed)
    return values, undefined


def find_melanoma(classes: Sequence[str]) -> str | None:
    """The class that is melanoma; None where there is none."""
    return next((name for name in _MELANOMA if name in classes), None)


def threshold_for_sensitivity(
    scores: np.ndarray, positive: np.ndarray, sensitivity: float = SENSITIVITY
) -> float | None:
    """The highest threshold that finds at least this share of the positives.

    Args:
      scores: [N]; an image is called positive where its score reaches the threshold.
      positive: bool [N].
      sensitivity: in 0..1, above 0.

    Returns:
      The threshold, one of the positives' scores; None where there is no positive.
    """
    found = np.sort(np.asarray(scores)[positive])[::-1]
    if len(found) == 0:
        return None
    shares = np.arange(1, len(found) + 1) / len(found)
    return float(found[np.searchsorted(shares, sensitivity)])


def sensitivity_and_specificity(
    scores: np.ndarray, positive: np.ndarray, threshold: float
) -> tuple[float | None, float | None]:
    """The share of the positives that reach a threshold, and of the others that do not.

    Args:
      scores: [N].
      positive: bool [N].
      threshold: to be reached.

    Returns:
      Sensitivity and specificity; None where there is no positive, or none that is not.
    """
    reached = np.asarray(scores) >= threshold
    sensitivity = float(reached[positive].mean()) if positive.any() else None
    specificity = float(1 - reached[~positive].mean()) if not positive.all() else None
    return sensitivity, specificity


def weighted_auroc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The area under the ROC curve under many weightings of the same images.

    It is the probability that a positive scores above a negative, a tie counting one half (the
    Mann-Whitney statistic). The images are ranked once, for all weightings.

    Args:
      scores: [N].
      positive: bool [N].
      weights: [R, N], 0 or more.

    Returns:
      float64 [R]; NaN where positives or negatives weigh nothing.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)
    ranked = weights[:, order].astype(np.float64)
    all_weights = np.add.reduceat(ranked, starts, axis=1)
    positives = np.add.reduceat(ranked * positive[order], starts, axis=1)
    negatives = all_weights - positives
    below = np.cumsum(negatives, axis=1) - negatives / 2
    pairs = positives.sum(1) * negatives.sum(1)
    won = (positives * below).sum(1)
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def figures_with_interval(classes: Sequence[str]) -> list[str]:
    """The names of the figures that come with an interval, in the order of `weighted_figures`."""
    melanoma = find_melanoma(classes)
    names = ["accuracy", "balanced_accuracy", "ece", "auroc"]
    return names if melanoma is None else [*names, f"auroc/{melanoma}"]


def weighted_figures(
    probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str], weights: np.ndarray
) -> np.ndarray:
    """The headline figures under many weightings of the same images, as a bootstrap asks for.

    Args:
      probabilities: float64 [N, K], each row of sum 1.
      labels: int [N], in 0..K - 1.
      classes: the K names, in the columns' order.
      weights: [R, N], 0 or more.

    Returns:
      float64 [R, F], a column for each of `figures_with_interval`; NaN where undefined.
    """
    weights = weights.astype(np.float64)
    one_hot = np.eye(len(classes))[labels]
    correct = (probabilities.argmax(1) == labels).astype(np.float64)
    gaps = calibration_gaps(probabilities, labels)
    total, counts = weights.sum(1), weights @ one_hot
    present = counts > 0
    recalls = (weights @ (one_hot * correct[:, None])) / np.where(present, counts, 1)
    aurocs = np.stack(
        [weighted_auroc(probabilities[:, k], labels == k, weights) for k in range(len(classes))]
    )
    # A draw without a class that there is would be another figure, of fewer classes.
    is_whole = present[:, one_hot.any(0)].all(1)
    columns = [
        weights @ correct / total,
        np.where(is_whole, recalls.sum(1) / present.sum(1), np.nan),
        np.abs(weights @ gaps).sum(1) / total,
        aurocs.mean(0),
    ]
    melanoma = find_melanoma(classes)
    columns += [] if melanoma is None else [aurocs[classes.index(melanoma)]]
    return np.stack(columns, axis=1)


def _checked(
    probabilities: np.ndarray,
    labels: np.ndarray,
    lesion_ids: Sequence[str],
    classes: Sequence[str],
) -> np.ndarray:
    """The probabilities as float64."""
    if len(labels) == 0:
        raise ValueError("there are no images to score: the split is empty")
    if probabilities.shape != (len(labels), len(classes)) or len(lesion_ids) != len(labels):
        raise ValueError(
            f"probabilities {probabilities.shape}, {len(labels)} labels, {len(lesion_ids)} lesion "
            f"ids and {len(classes)} classes do not fit together"
        )
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(f"a label is not in 0..{len(classes) - 1}")
    probabilities = np.asarray(probabilities, np.float64)
    if not (np.all(probabilities >= 0) and np.allclose(probabilities.sum(1), 1, atol=1e-3)):
        raise ValueError("probabilities must not be negative and must sum to 1 in each row")
    return probabilities


def _balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    # balanced_accuracy_score is this, and warns of classes that are predicted and not there.
    present = np.unique(labels)
    return float(metrics.recall_score(labels, predicted, labels=present, average="macro"))


def _class_figures(
    values: Figures,
    undefined: dict[str, str],
    name: str,
    scores: np.ndarray,
    positive: np.ndarray,
    predicted: np.ndarray,
) -> None:
    no_positive = None if positive.any() else f"there is no image of {name}"
    no_negative = f"all images are of {name}" if positive.all() else None
    never = None if predicted.any() else f"no image was predicted to be {name}"
    for figure, function, argument, reason in (
        ("auroc", metrics.roc_auc_score, scores, no_positive or no_negative),
        ("average_precision", metrics.average_precision_score, scores, no_positive),
        ("recall", metrics.recall_score, predicted, no_positive),
        ("precision", metrics.precision_score, predicted, never),
    ):
        key = f"{figure}/{name}"
        values[key] = None if reason else float(function(positive, argument))
        if reason:
            undefined[key] = reason


def _melanoma_figure(
    values: Figures,
    undefined: dict[str, str],
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
) -> None:
    name = "melanoma_specificity_at_95_sensitivity"
    values[name] = None
    melanoma = find_melanoma(classes)
    if melanoma is None:
        undefined[name] = f"there is no class {' or '.join(_MELANOMA)}"
    elif values[f"auroc/{melanoma}"] is None:
        undefined[name] = undefined[f"auroc/{melanoma}"]
    else:
        k = classes.index(melanoma)
        # All points of the curve: among those that would be dropped may be the one sought.
        false_positive_rates, sensitivities, _ = metrics.roc_curve(
            labels == k, probabilities[:, k], drop_intermediate=False
        )
        values[name] = float(1 - false_positive_rates[np.argmax(sensitivities >= SENSITIVITY)])


def _lesion_figures(
    values: Figures,
    undefined: dict[str, str],
    probabilities: np.ndarray,
    labels: np.ndarray,
    lesion_ids: Sequence[str],
) -> None:
    names, first, lesions = np.unique(
        np.asarray(lesion_ids, dtype=str), return_index=True, return_inverse=True
    )
    lesion_labels = labels[first]
    torn = np.flatnonzero(lesion_labels[lesions] != labels)
    if len(torn):
        reason = f"lesion {names[lesions[torn[0]]]} has images of more than one class"
        for name in ("lesion_accuracy", "lesion_balanced_accuracy", "lesion_majority_accuracy"):
            values[name], undefined[name] = None, reason
        return
    # A lesion's sum ranks the classes as its mean does.
    sums = np.zeros((len(names), probabilities.shape[1]))
    np.add.at(sums, lesions, probabilities)
    predicted = sums.argmax(1)
    values["lesion_accuracy"] = float(metrics.accuracy_score(lesion_labels, predicted))
    values["lesion_balanced_accuracy"] = _balanced_accuracy(lesion_labels, predicted)
    values["lesion_majority_accuracy"] = float(np.bincount(lesion_labels).max() / len(names))


def _intervals(
    values: Figures,
    undefined: dict[str, str],
    probabilities: np.ndarray,
    labels: np.ndarray,
    lesion_ids: Sequence[str],
    classes: Sequence[str],
    num_resamples: int,
    seed: int,
) -> None:
    draws = resample_lesions(lesion_ids, num_resamples, seed)
    blocks = [weighted_figures(probabilities, labels, classes, drawn) for drawn in draws]
    low, high = interval(np.concatenate(blocks))
    for i, name in enumerate(figures_with_interval(classes)):
        for end, bound in (("low", low[i]), ("high", high[i])):
            key = f"{name}_{end}"
            values[key] = None if np.isnan(bound) else float(bound)
            if np.isnan(bound):
                undefined[key] = undefined.get(name) or (
                    "more than one draw of the bootstrap in twenty leaves out a class"
                )
