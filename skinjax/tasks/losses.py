"""Losses, one value an example, in float32 whatever the type of the logits."""

import jax
import jax.numpy as jnp

# Pixels added above and below the fraction of the soft Dice score; see `dice_loss`.
DICE_SMOOTH = 1.0

_PIXELS = (1, 2, 3)


def binary_cross_entropy(logits: jax.Array, masks: jax.Array, inside: jax.Array) -> jax.Array:
    """Mean binary cross-entropy over the pixels inside the picture.

    Args:
      logits: [N, H, W, 1], any float type.
      masks: [N, H, W, 1] of {0, 1}.
      inside: [N, H, W, 1] of {0, 1}: the pixels that count.

    Returns:
      float32 [N], in nats; 0 for an example without a pixel inside.
    """
    logits, masks, inside = _float32(logits, masks, inside)
    # log(1 + exp(l)) - t * l, in the form that overflows for no logit.
    losses = jnp.maximum(logits, 0) - masks * logits + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return jnp.sum(losses * inside, _PIXELS) / jnp.maximum(jnp.sum(inside, _PIXELS), 1)


def dice_loss(logits: jax.Array, masks: jax.Array, inside: jax.Array) -> jax.Array:
    """One minus the soft Dice score over the pixels inside the picture.

    The score is (2 sum(p t) + s) / (sum(p) + sum(t) + s), as in Milletari 2016 (V-Net) but with
    plain sums below and s = DICE_SMOOTH. So the rule for an empty truth is this: the score is
    s / (sum(p) + s), which is 1 for an empty prediction and falls with every pixel claimed; without
    s it would be 0 for any prediction and teach nothing.

    Args:
      logits: [N, H, W, 1], any float type.
      masks: [N, H, W, 1] of {0, 1}.
      inside: [N, H, W, 1] of {0, 1}: the pixels that count.

    Returns:
      float32 [N] in 0..1; 0 for an example without a pixel inside.
    """
    logits, masks, inside = _float32(logits, masks, inside)
    probabilities = jax.nn.sigmoid(logits) * inside
    masks = masks * inside
    overlap = jnp.sum(probabilities * masks, _PIXELS)
    total = jnp.sum(probabilities, _PIXELS) + jnp.sum(masks, _PIXELS)
    return 1 - (2 * overlap + DICE_SMOOTH) / (total + DICE_SMOOTH)


def _float32(*arrays: jax.Array) -> list[jax.Array]:
    return [array.astype(jnp.float32) for array in arrays]


def cross_entropy(logits: jax.Array, targets: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy of a distribution over classes.

    Args:
      logits: [N, K], any float type.
      targets: [N, K], non-negative, each row of sum 1: one-hot, or mixed.
      label_smoothing: the share of each target that is spread evenly over all K classes (Szegedy
        2016, arXiv:1512.00567), in 0..1.

    Returns:
      float32 [N], in nats.
    """
    logits, targets = _float32(logits, targets)
    targets = targets * (1 - label_smoothing) + label_smoothing / logits.shape[1]
    return -jnp.sum(targets * jax.nn.log_softmax(logits), 1)


def focal_loss(logits: jax.Array, targets: jax.Array, gamma: float) -> jax.Array:
    """Cross-entropy with each class's term scaled by (1 - p) ** gamma (Lin 2017, arXiv:1708.02002).

    Args:
      logits: [N, K], any float type.
      targets: [N, K], non-negative, each row of sum 1: one-hot, or mixed.
      gamma: 0 gives cross-entropy; the larger, the less an example counts that is already right.

    Returns:
      float32 [N], in nats.
    """
    logits, targets = _float32(logits, targets)
    log_probabilities = jax.nn.log_softmax(logits)
    # The floor, float32's rounding of 1 - p near 1, keeps the gradient finite for gamma below 1.
    rest = jnp.maximum(-jnp.expm1(log_probabilities), 1e-7)
    return -jnp.sum(targets * rest**gamma * log_probabilities, 1)


def adjust_logits(logits: jax.Array, priors: jax.Array, tau: float = 1.0) -> jax.Array:
    """Adds tau * log(prior) to the logits before the loss (Menon 2021, arXiv:2007.07314, eq. 10).

    A model that is trained so, and used without it, minimises the balanced error: what is common
    must be right by a margin.

    Args:
      logits: [N, K], any float type.
      priors: [K], the share of each class among the images that are drawn in training; each
        above 0.
      tau: 1 for the balanced error; 0 changes nothing.

    Returns:
      float32 [N, K].
    """
    logits, priors = _float32(logits, priors)
    return logits + tau * jnp.log(priors)


def weigh_targets(targets: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Weighs the classes of each target; each class of a mixed one by its own weight.

    Args:
      targets: [N, K], non-negative, each row of sum 1.
      weights: [K], above 0; a mean of 1 over what is drawn keeps the loss's scale.

    Returns:
      The targets to learn, float32 [N, K], each row of sum 1; and what to multiply each example's
      loss by, float32 [N].
    """
    targets, weights = _float32(targets, weights)
    weighed = targets * weights
    sums = jnp.sum(weighed, 1)
    return weighed / sums[:, None], sums
