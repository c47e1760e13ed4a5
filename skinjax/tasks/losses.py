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
