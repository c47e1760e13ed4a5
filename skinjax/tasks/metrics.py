"""Figures of a segmentation: on the device as sums over a batch, on the host image by image.

The rules are those of the ISIC challenge (Codella 2018, arXiv:1902.03368, and its published
scorer): every image is scored by itself and the scores are averaged, a thresholded Jaccard below
0.65 counts 0, and a score whose denominator is empty is 1 (nothing was there, nothing was claimed).
"""

from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

JACCARD_THRESHOLD = 0.65
SCORES = (
    "jaccard",
    "dice",
    "thresholded_jaccard",
    "accuracy",
    "sensitivity",
    "specificity",
    "background_accuracy",
)
COUNTS = ("tp", "fp", "fn", "tn")
MASK_HEADLINES = ("jaccard", "dice", "thresholded_jaccard", "accuracy")  # those with an interval
# Of fewer lesions a bootstrap's interval is much too narrow: a group has none, two runs scored on
# so few have no verdict, and their evaluations say so.
MIN_LESIONS = 10


# On the device: a batch at the model's size, for validation during training.


def mask_sums(
    logits: jax.Array, masks: jax.Array, inside: jax.Array, valid: jax.Array
) -> dict[str, jax.Array]:
    """Sums the scores of a batch's images, so that a split's figures are divided once, at its end.

    A pixel is predicted lesion where its logit is at least 0, a probability of one half.

    Args:
      logits: [N, H, W, 1], any float type.
      masks: [N, H, W, 1] of {0, 1}.
      inside: [N, H, W, 1] of {0, 1}: the pixels that count.
      valid: [N] of {0, 1}: the examples that count; 0 for what fills up a last batch.

    Returns:
      float32 scalars: 'num_images'; each of SCORES summed over the valid images; and each of
      COUNTS, their pixels. Float32 holds a count exactly up to 2 ** 24 pixels a batch: add batches
      up on the host, in float64.
    """
    pixels = (1, 2, 3)
    counted = inside > 0
    truth, prediction = (masks > 0) & counted, (logits >= 0) & counted
    tp = jnp.sum(truth & prediction, pixels, dtype=jnp.float32)
    fp = jnp.sum(prediction, pixels, dtype=jnp.float32) - tp
    fn = jnp.sum(truth, pixels, dtype=jnp.float32) - tp
    tn = jnp.sum(counted, pixels, dtype=jnp.float32) - tp - fp - fn

    def ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
        return jnp.where(whole > 0, part / jnp.maximum(whole, 1), 1.0)

    jaccard = ratio(tp, tp + fp + fn)
    per_image = {
        "num_images": jnp.ones_like(tp),
        "jaccard": jaccard,
        "dice": ratio(2 * tp, 2 * tp + fp + fn),
        "thresholded_jaccard": jnp.where(jaccard >= JACCARD_THRESHOLD, jaccard, 0.0),
        "accuracy": ratio(tp + tn, tp + fp + fn + tn),
        "sensitivity": ratio(tp, tp + fn),
        "specificity": ratio(tn, tn + fp),
        "background_accuracy": ratio(fp + tn, tp + fp + fn + tn),
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "tn": tn,
    }
    weights = valid.astype(jnp.float32)
    return {name: jnp.sum(values * weights) for name, values in per_image.items()}


def divide_sums(sums: Mapping[str, float]) -> dict[str, float]:
    """The figures of a split from the sums of `mask_sums` over all its batches.

    Args:
      sums: 'num_images', SCORES and COUNTS, summed; at least one image.

    Returns:
      'num_images', each of SCORES as a mean over images, and 'jaccard_pooled' and 'dice_pooled',
      over the pixels of all images together.

    Raises:
      ValueError: there is no image.
    """
    num_images = float(sums["num_images"])
    if num_images < 1:
        raise ValueError("there are no images to divide by: the split is empty")
    figures = {"num_images": num_images}
    figures |= {name: float(sums[name]) / num_images for name in SCORES}
    return figures | _pooled(*(float(sums[name]) for name in ("tp", "fp", "fn")))


# On the host: an image at its mask's own size, for the scores that are reported.


def score_mask(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """Scores one predicted mask as the ISIC challenge does.

    Args:
      truth: bool [h, w].
      prediction: bool [h, w].

    Returns:
      SCORES as floats in 0..1 and COUNTS as ints. An empty truth with an empty prediction has
      Jaccard and Dice 1; sensitivity is 1 where the truth is empty, specificity where it is full;
      'background_accuracy' is the accuracy of a mask without any lesion.

    Raises:
      ValueError: the shapes differ, or a mask is not boolean, or has no pixels.
    """
    if truth.shape != prediction.shape or truth.ndim != 2 or truth.size == 0:
        raise ValueError(f"masks must share a shape [h, w]: {truth.shape}, {prediction.shape}")
    if truth.dtype != np.bool_ or prediction.dtype != np.bool_:
        raise ValueError(f"masks must be boolean, not {truth.dtype} and {prediction.dtype}")
    tp = int(np.count_nonzero(truth & prediction))
    fp = int(np.count_nonzero(prediction)) - tp
    fn = int(np.count_nonzero(truth)) - tp
    tn = truth.size - tp - fp - fn
    jaccard = _ratio(tp, tp + fp + fn)
    return {
        "jaccard": jaccard,
        "dice": _ratio(2 * tp, 2 * tp + fp + fn),
        "thresholded_jaccard": jaccard if jaccard >= JACCARD_THRESHOLD else 0.0,
        "accuracy": (tp + tn) / truth.size,
        "sensitivity": _ratio(tp, tp + fn),
        "specificity": _ratio(tn, tn + fp),
        "background_accuracy": (fp + tn) / truth.size,
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "tn": tn,
    }


def summarise_masks(
    scores: Sequence[Mapping[str, float]],
    lesion_ids: Sequence[str],
    num_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, float]:
    """The figures of a split from its images' scores.

    Args:
      scores: what `score_mask` gave for each image.
      lesion_ids: the lesion each image shows; images of one lesion are not independent.
      num_resamples: how often the lesions are drawn anew for the intervals.
      seed: of the drawing.

    Returns:
      'num_images' and 'num_lesions' (ints); SCORES, each a mean over images; 'jaccard_pooled' and
      'dice_pooled', over all pixels; and MASK_HEADLINES also with '_low' and '_high', as
      `estimate_means` has it.

    Raises:
      ValueError: there is no image, or the two sequences differ in length.
    """
    if not scores:
        raise ValueError("there are no scores to summarise: the split is empty")
    table = {name: np.array([score[name] for score in scores], np.float64) for name in SCORES}
    figures: dict[str, float] = {"num_images": len(scores), "num_lesions": len(set(lesion_ids))}
    figures |= {name: float(values.mean()) for name, values in table.items()}
    figures |= _pooled(*(sum(int(score[name]) for score in scores) for name in ("tp", "fp", "fn")))
    headlines = np.stack([table[name] for name in MASK_HEADLINES], axis=1)
    return figures | estimate_means(headlines, MASK_HEADLINES, lesion_ids, num_resamples, seed)


# The bootstrap over lesions, for both tasks.


def resample_lesions(
    lesion_ids: Sequence[str], num_resamples: int, seed: int
) -> Iterator[np.ndarray]:
    """Draws the lesions with replacement, as many as there are, and says how often each image came.

    The cluster bootstrap (Davison and Hinkley 1997, section 3.8): all images of a lesion come
    together, so that an interval is not narrower for showing a lesion twice.

    Args:
      lesion_ids: the lesion of each of N images.
      num_resamples: how many draws in all.
      seed: of the drawing.

    Yields:
      int64 [R, N]: a block of draws; R is such that a block stays small, and sums to num_resamples.

    Raises:
      ValueError: there is no image.
    """
    if len(lesion_ids) == 0:
        raise ValueError("there are no images to draw from")
    _, lesion_of_image = np.unique(np.asarray(lesion_ids, dtype=str), return_inverse=True)
    num_lesions = int(lesion_of_image.max()) + 1
    generator = np.random.default_rng(seed)
    # The block's size is no part of the result: one draw after the other comes from the generator.
    block = max(1, 2**21 // len(lesion_of_image))
    for start in range(0, num_resamples, block):
        rows = min(block, num_resamples - start)
        drawn = generator.integers(num_lesions, size=(rows, num_lesions))
        drawn += num_lesions * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * num_lesions)
        yield counts.reshape(rows, num_lesions)[:, lesion_of_image]


def bootstrap_means(
    values: np.ndarray, lesion_ids: Sequence[str], num_resamples: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """95% percentile intervals of means over images, by a bootstrap over lesions.

    Args:
      values: float64 [N, K]: K quantities an image.
      lesion_ids: the lesion of each of the N images.
      num_resamples: how often the lesions are drawn anew.
      seed: of the drawing.

    Returns:
      The lower and the upper ends, float64 [K] each.

    Raises:
      ValueError: N differs from the number of lesion ids.
    """
    if len(values) != len(lesion_ids):
        raise ValueError(f"{len(values)} images but {len(lesion_ids)} lesion ids")
    blocks = [
        (weights @ values) / weights.sum(1, keepdims=True)
        for weights in resample_lesions(lesion_ids, num_resamples, seed)
    ]
    low, high = np.percentile(np.concatenate(blocks), [2.5, 97.5], axis=0)
    return low, high


def estimate_means(
    values: np.ndarray,
    names: Sequence[str],
    lesion_ids: Sequence[str],
    num_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, float]:
    """Means over images by name, each also with '_low' and '_high' of `bootstrap_means`.

    Args:
      values: as there.
      names: of the K quantities.
      lesion_ids: as there.
      num_resamples: as there.
      seed: as there.

    Raises:
      ValueError: N differs from the number of lesion ids.
    """
    low, high = bootstrap_means(values, lesion_ids, num_resamples, seed)
    figures: dict[str, float] = {}
    for name, *estimate in zip(names, values.mean(axis=0), low, high, strict=True):
        keys = (name, f"{name}_low", f"{name}_high")
        figures |= {key: float(value) for key, value in zip(keys, estimate, strict=True)}
    return figures


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95% percentile interval of bootstrap draws.

    Args:
      values: float64 [R] or [R, K], a row a draw; NaN where undefined.

    Returns:
      The lower and the upper ends, of shape [] or [K]; NaN where more than one draw of twenty is.
    """
    undefined = np.isnan(values).mean(0) > 0.05
    # Zeros stand in for what is dropped below, so that no column is all NaN, which would warn.
    low, high = np.nanpercentile(np.where(undefined, 0.0, values), [2.5, 97.5], axis=0)
    return np.where(undefined, np.nan, low), np.where(undefined, np.nan, high)


def _ratio(part: int | float, whole: int | float) -> float:
    return part / whole if whole else 1.0


def _pooled(tp: float, fp: float, fn: float) -> dict[str, float]:
    return {
        "jaccard_pooled": _ratio(tp, tp + fp + fn),
        "dice_pooled": _ratio(2 * tp, 2 * tp + fp + fn),
    }
