"""Whether a classifier's probabilities can be believed, and the temperature that makes them so."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn import metrics

NUM_ECE_BINS = 15
# Far beyond what a network that trained at all needs; the search for a temperature stays within.
_TEMPERATURES = (0.02, 50.0)


def calibration_figures(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """'ece', see `expected_calibration_error`, and scikit-learn's 'brier' and 'log_loss'.

    The Brier score is summed over the classes and so in 0..2; the log loss is in nats.

    Args:
      probabilities: [N, K], each row of sum 1.
      labels: int [N], in 0..K - 1.
    """
    classes = np.arange(probabilities.shape[1])
    ece = expected_calibration_error(probabilities, labels)
    # Float32 rows do not sum to 1 as closely as scikit-learn wants. It is done here and not for all
    # figures because a division breaks ties between rows, which the ranks must keep.
    probabilities = probabilities / probabilities.sum(1, keepdims=True)
    return {
        "ece": ece,
        "brier": float(
            metrics.brier_score_loss(labels, probabilities, labels=classes, scale_by_half=False)
        ),
        "log_loss": float(metrics.log_loss(labels, probabilities, labels=classes)),
    }


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The mean distance of confidence and accuracy, over NUM_ECE_BINS bins of equal width.

    Naeini 2015 and Guo 2017 (arXiv:1706.04599, eq. 3): the confidence is the largest probability, a
    bin is open below and closed above, and each counts by its images.

    Args:
      probabilities: [N, K], each row of sum 1.
      labels: int [N], in 0..K - 1.
    """
    return float(np.abs(calibration_gaps(probabilities, labels).sum(0)).sum() / len(labels))


def calibration_gaps(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What `expected_calibration_error` adds up, image by image, so that they can be weighted.

    Args:
      probabilities: [N, K], each row of sum 1.
      labels: int [N], in 0..K - 1.

    Returns:
      float64 [N, NUM_ECE_BINS]: each image's correctness (0 or 1) less its confidence, in the
      column of its bin, and 0 in the others.
    """
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == labels
    bins = np.clip(np.ceil(confidence * NUM_ECE_BINS).astype(int) - 1, 0, NUM_ECE_BINS - 1)
    gaps = np.zeros((len(labels), NUM_ECE_BINS))
    gaps[np.arange(len(labels)), bins] = correct - confidence
    return gaps


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that minimises the log loss (Guo 2017, arXiv:1706.04599, section 4.2).

    Args:
      logits: [N, K]; computed with in float64.
      labels: int [N], in 0..K - 1.

    Returns:
      The temperature to divide logits by, between 0.02 and 50.
    """
    logits, rows = np.asarray(logits, np.float64), np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits * np.exp(-log_temperature), axis=1)
        return -float(scaled[rows, labels].mean())

    # The loss is convex in 1 / T, so that it has one minimum in log T as well.
    found = minimize_scalar(
        loss, bounds=np.log(_TEMPERATURES), method="bounded", options={"xatol": 1e-7}
    )
    return float(np.exp(found.x))


def apply_temperature(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities float64 [N, K] from logits [N, K] divided by a temperature."""
    return softmax(np.asarray(logits, np.float64) / temperature, axis=1)


def coverage_risk(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What share of the answers is wrong where only the most confident ones are given.

    El-Yaniv and Wiener 2010 (JMLR 11:1605), Geifman and El-Yaniv 2017 (arXiv:1705.08500). Images of
    one confidence are answered together, since no threshold divides them.

    Args:
      confidence: [N], at least one.
      correct: bool [N].

    Returns:
      The coverages, ascending, the last of them 1: the share of images that are answered; and the
      risk at each: the share of those that are wrong. Float64 [M], M at most N.
    """
    order = np.argsort(-confidence, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(confidence[order])), len(order) - 1)
    wrong = np.cumsum(~np.asarray(correct, bool)[order])[ends]
    return (ends + 1) / len(order), wrong / (ends + 1)


def area_under_risk(coverage: np.ndarray, risk: np.ndarray) -> float:
    """The mean risk over all coverages (AURC), each step of the curve counted by its width."""
    return float(np.sum(risk * np.diff(coverage, prepend=0.0)))
