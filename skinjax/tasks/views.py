"""Test-time augmentation: the views of a picture, whose predictions are averaged or compared."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from skinjax.errors import UserError

# What predictions may be averaged over, and in words.
TTA = {"": "nothing", "flips": "flips", "zooms": "flips and five magnifications"}
ZOOMS = (0.8, 0.9, 1.0, 1.1, 1.2)  # of 'zooms'; chosen on val (benchmarks/SCORES.md)

Predict = Callable[[jax.Array], jax.Array]


def check_tta(tta: str) -> None:
    """Refuses what predictions cannot be averaged over.

    Raises:
        UserError: naming what they can.
    """
    if tta not in TTA:
        named = " or ".join(f"--tta={name}" for name in TTA if name)
        raise UserError(f"--tta={tta} is not known: take {named}.")


def average_views(
    predict: Predict, images: jax.Array, spatial: bool = False, tta: str = "flips"
) -> jax.Array:
    """Averages a prediction over views of the images.

    Args:
        predict: [N, H, W, 3] to probabilities: [N, K], or [N, H, W] where `spatial`.
        images: float32 [N, H, W, 3].
        spatial: whether a prediction has the picture's geometry and is to be turned back.
        tta: 'flips', the images' four flips, or a square's eight flips and turns; or 'zooms', each
            of these also reduced and enlarged about the centre (`ZOOMS`). A pixel that an enlarged
            view does not show is averaged over those that show it.

    Returns:
        float32, of the prediction's shape.
    """
    if tta == "flips":
        return jnp.mean(predict_views(predict, images, spatial), axis=0)
    height, width = images.shape[1:3]
    there, back = (
        [np.stack([resampling(size, zoom**sign) for zoom in ZOOMS]) for size in (height, width)]
        for sign in (1, -1)
    )
    seen = np.stack([_seen(height, zoom)[:, None] & _seen(width, zoom) for zoom in ZOOMS])

    def at_zoom(zoom: tuple[list[jax.Array], list[jax.Array], jax.Array]) -> jax.Array:
        towards, away, shown = zoom
        output = jnp.mean(predict_views(predict, _resample(images, *towards), spatial), axis=0)
        if spatial:
            output = _resample(output[..., None], *away)[..., 0] * shown
        return output

    # A loop, so that the model is compiled as often as for the flips, not five times that.
    outputs = jax.lax.map(at_zoom, (there, back, seen.astype(np.float32)))
    number = seen.sum(axis=0, dtype=np.float32) if spatial else np.float32(len(ZOOMS))
    return jnp.sum(outputs, axis=0) / number


def predict_views(predict: Predict, images: jax.Array, spatial: bool = False) -> jax.Array:
    """Predicts each of a picture's flips, and of a square's turns.

    Args:
        predict: as of `average_views`.
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


def resampling(size: int, zoom: float) -> np.ndarray:
    """The matrix that magnifies a row of pixels about its centre.

    Linear interpolation, over a wider triangle where it reduces, so that nothing is skipped; beyond
    its ends the row goes on with its last pixel.

    Args:
        size: of the row, in pixels.
        zoom: the magnification, above 1/3.

    Returns:
        float32 [size, size]: each pixel's weights of the row's pixels, which sum to 1.
    """
    sources = np.arange(-size, 2 * size)
    distances = (_sources(size, zoom)[:, None] - sources) / max(1.0, 1.0 / zoom)
    weights = np.maximum(0.0, 1.0 - np.abs(distances))
    weights /= weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((size, size))
    np.add.at(matrix.T, np.clip(sources, 0, size - 1), weights.T)
    return matrix.astype(np.float32)


def _sources(size: int, zoom: float) -> np.ndarray:
    """Where in a row each pixel of the magnified row comes from, float64 [size], in pixels."""
    return (np.arange(size) - (size - 1) / 2) / zoom + (size - 1) / 2


def _seen(size: int, zoom: float) -> np.ndarray:
    """Which pixels of a row are still in it when it is magnified, bool [size]."""
    places = _sources(size, 1 / zoom)
    return (places >= -0.5) & (places <= size - 0.5)


def _resample(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """[N, H, W, C] by the matrices of `resampling` for rows and columns."""
    # Where matrix products are of fewer bits unless told (TPUs, GPUs): pictures need theirs.
    precision = jax.lax.Precision.HIGHEST
    return jnp.einsum("ip,npqc,jq->nijc", rows, images, columns, precision=precision)
