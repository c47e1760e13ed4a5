"""Figures of a diagnosis during training: sums over a batch on the device, divided on the host."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from skinjax.tasks.losses import cross_entropy


def class_sums(logits: jax.Array, labels: jax.Array, valid: jax.Array) -> dict[str, jax.Array]:
    """Sums over a batch's valid images, of which `divide_class_sums` makes a split's figures.

    Args:
      logits: [N, K], any float type.
      labels: int32 [N], in 0..K - 1.
      valid: [N] of {0, 1}: the examples that count; 0 for what fills up a last batch.

    Returns:
      float32 scalars: 'num_images'; 'loss', cross-entropy in nats; for each class of index k
      'count/k', its images, and 'correct/k', those of them that were recognised.
    """
    weights = valid.astype(jnp.float32)
    one_hot = jax.nn.one_hot(labels, logits.shape[1], dtype=jnp.float32)
    correct = weights * (jnp.argmax(logits, 1) == labels).astype(jnp.float32)
    losses = jnp.where(weights > 0, cross_entropy(logits, one_hot), 0.0)
    counts, corrects = (
        jnp.sum(one_hot * weights[:, None], 0),
        jnp.sum(one_hot * correct[:, None], 0),
    )
    sums = {"num_images": jnp.sum(weights), "loss": jnp.sum(losses)}
    for k in range(logits.shape[1]):
        sums |= {f"count/{k}": counts[k], f"correct/{k}": corrects[k]}
    return sums


def divide_class_sums(sums: Mapping[str, float]) -> dict[str, float]:
    """The figures of a split from the sums of `class_sums` over all its batches.

    Args:
      sums: as `class_sums` has them, added up; at least one image.

    Returns:
      'num_images', 'loss' and 'accuracy' as means over images, and 'balanced_accuracy', the mean
      recall over the classes that the split has.

    Raises:
      ValueError: there is no image.
    """
    num_images = float(sums["num_images"])
    if num_images < 1:
        raise ValueError("there are no images to divide by: the split is empty")
    counts = {name.removeprefix("count/"): n for name, n in sums.items() if "count/" in name}
    recalls = [sums[f"correct/{k}"] / count for k, count in counts.items() if count]
    return {
        "num_images": num_images,
        "loss": float(sums["loss"]) / num_images,
        "accuracy": sum(float(sums[f"correct/{k}"]) for k in counts) / num_images,
        "balanced_accuracy": float(np.mean(recalls)),
    }
