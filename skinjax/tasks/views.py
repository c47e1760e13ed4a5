"""Test-time augmentation: the views of a picture, whose predictions are averaged or compared."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def average_views(
    predict: Callable[[jax.Array], jax.Array], images: jax.Array, spatial: bool = False
) -> jax.Array:
    """Averages a prediction over the images' four flips, or a square's eight flips and turns.

    Args:
        predict: [N, H, W, 3] to probabilities: [N, K], or [N, H, W] where `spatial`.
        images: float32 [N, H, W, 3].
        spatial: whether a prediction has the picture's geometry and is to be turned back.

    Returns:
        float32, of the prediction's shape.
    """
    return jnp.mean(predict_views(predict, images, spatial), axis=0)


def predict_views(
    predict: Callable[[jax.Array], jax.Array], images: jax.Array, spatial: bool = False
) -> jax.Array:
    """Predicts each of the views that `average_views` averages.

    Args:
        predict: as there.
        images: as there.
        spatial: as there.

    Returns:
        float32 [V, ...]: the prediction of each view; the first is that of the images as they are.
    """
    square = images.shape[1] == images.shape[2]
    # Half a turn and a mirror make all four flips.
    views = [(turn, flip) for turn in (range(4) if square else (0, 2)) for flip in (False, True)]
    outputs = []
    for turn, flip in views:
        view = jnp.rot90(images, turn, axes=(1, 2))
        output = predict(jnp.flip(view, 2) if flip else view)
        if spatial:
            output = jnp.rot90(jnp.flip(output, 2) if flip else output, -turn, axes=(1, 2))
        outputs.append(output)
    return jnp.stack(outputs)
