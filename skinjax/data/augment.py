"""Augmentation on the device, inside the jitted step: uint8 batches in, float batches out.

Flips, quarter turns, rotation, scale and translation are one inverse warp, so that a picture is
interpolated once, and its mask and its content box follow the same geometry. The colour changes are
one affine map of RGB an image. Each example has its own random key, split from the step's, so that
what happens to an example depends on the key and on its place in the batch, not on the number of
devices.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

# A batch has masks or it has none, and what comes out is as what goes in.
MaybeMasks = TypeVar("MaybeMasks", jax.Array, None)

# Random numbers an image: two flips, a turn, angle, scale, two shifts, and the four of colour.
NUM_DRAWS = 11

# The statistics of ImageNet's training images, in RGB order and of pixels in 0..1, as torchvision
# and the weights trained there have them.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)

# NTSC's YIQ: the first row is luma (ITU-R BT.601), the other two span chroma. Turning and
# stretching chroma changes hue and saturation and leaves luma as it is.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_LUMA = _YIQ[0].astype(np.float32)
_KEEP_LUMA = (np.linalg.inv(_YIQ) @ np.diag([1.0, 0.0, 0.0]) @ _YIQ).astype(np.float32)
_KEEP_CHROMA = (np.linalg.inv(_YIQ) @ np.diag([0.0, 1.0, 1.0]) @ _YIQ).astype(np.float32)
_TURN_CHROMA = (
    np.linalg.inv(_YIQ) @ np.array([[0.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]]) @ _YIQ
).astype(np.float32)


@dataclass(frozen=True)
class Augmentation:
    """What may be done to a picture, and how far; a default of everything leaves it alone.

    Attributes:
      flip: mirror left to right and top to bottom, each with probability one half.
      quarter_turns: turn by 0, 90, 180 or 270 degrees, equally likely; square input only.
      rotate_degrees: rotate by up to this many degrees either way, about the centre.
      scale: enlarge or shrink by a factor between 1 / (1 + scale) and 1 + scale, log-uniform.
      translate: shift by up to this fraction of the height and of the width.
      brightness: multiply by a factor between 1 - brightness and 1 + brightness.
      contrast: likewise the distance from the picture's mean luma.
      saturation: likewise the distance from each pixel's own luma.
      hue: turn the hue by up to this fraction of the full circle either way.
    """

    flip: bool = False
    quarter_turns: bool = False
    rotate_degrees: float = 0.0
    scale: float = 0.0
    translate: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rotate_degrees", "scale", "translate", "hue"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")

    @property
    def warps(self) -> bool:
        """Whether a pixel may land between pixels, so that the picture has to be interpolated."""
        return bool(self.rotate_degrees or self.scale or self.translate)

    @property
    def recolours(self) -> bool:
        """Whether any colour may change."""
        return bool(self.brightness or self.contrast or self.saturation or self.hue)


def normalise(images: jax.Array) -> jax.Array:
    """Subtracts ImageNet's mean and divides by its standard deviation.

    Args:
      images: uint8 (or floats in 0..255) [N, H, W, 3], RGB.

    Returns:
      float32 [N, H, W, 3].
    """
    # Subtracted first: a product and then a sum may be fused into one rounding or not, so that the
    # same pixel would differ in its last bit from one compiled program to the next.
    return (images.astype(jnp.float32) - 255 * MEAN) * (1 / (255 * STD))


def content_mask(boxes: jax.Array, height: int, width: int) -> jax.Array:
    """Marks the pixels that belong to the picture, not to the padding around it.

    Args:
      boxes: int32 [N, 4]: top, left, height and width of the content, in pixels.
      height: rows of the frame.
      width: columns of the frame.

    Returns:
      float32 [N, height, width, 1]: 1 within the box, 0 outside.
    """
    shape = (boxes.shape[0], height, width)
    rows = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    columns = jax.lax.broadcasted_iota(jnp.int32, shape, 2)
    return _within(rows, columns, boxes).astype(jnp.float32)[..., None]


def augment(
    key: jax.Array,
    images: jax.Array,
    masks: MaybeMasks,
    boxes: jax.Array,
    settings: Augmentation,
) -> tuple[jax.Array, MaybeMasks, jax.Array]:
    """Changes each picture at random, its mask with it, and normalises.

    Images are interpolated bilinearly, masks and content by nearest neighbour. What a warp brings
    in from outside repeats the frame's border in the image and is 0 in mask and content. Colours
    change on the range 0..255 and are clipped to it. With everything off, the images are exactly
    `normalise(images)`.

    Args:
      key: one random key for the batch.
      images: uint8 [N, H, W, 3], RGB.
      masks: uint8 [N, H, W, 1] of {0, 1}, or None.
      boxes: int32 [N, 4]: top, left, height, width of the content in the frame.
      settings: what may be done; static under jit.

    Returns:
      The images, float32 [N, H, W, 3], normalised; the masks, float32 [N, H, W, 1] of {0, 1}, or
      None; and inside, float32 [N, H, W, 1]: 1 where the pixel is of the picture's content, 0 where
      it is padding or comes from outside the frame.

    Raises:
      ValueError: quarter turns are asked for and the images are not square.
    """
    num_images, height, width, _ = images.shape
    if settings.quarter_turns and height != width:
        raise ValueError(
            f"quarter_turns needs square images, these are {height} x {width}: "
            "set quarter_turns to False or choose a square image_size"
        )
    draws = draw(key, num_images)
    if settings.warps:
        matrices = make_matrices(draws, settings, height, width)
        planes, masks, inside = _warp(images, masks, boxes, matrices)
    else:
        inside = content_mask(boxes, height, width)
        if settings.flip or settings.quarter_turns:
            turns = make_turns(draws, settings)
            images, inside = (_turn(arrays, turns, settings) for arrays in (images, inside))
            masks = None if masks is None else _turn(masks, turns, settings)
        if not settings.recolours:
            return normalise(images), _to_float(masks), inside
        planes = [images[..., channel].astype(jnp.float32) for channel in range(3)]
    if settings.recolours:
        planes = _recolour(draws[:, 7:], planes, inside[..., 0], settings)
    return normalise(jnp.stack(planes, axis=-1)), _to_float(masks), inside


def draw(key: jax.Array, num_images: int) -> jax.Array:
    """Draws all that is random about a batch at once; one call compiles faster than several.

    Args:
      key: one random key for the batch.
      num_images: N.

    Returns:
      float32 [N, NUM_DRAWS], uniform in -1..1. A row depends on the key and its own index alone.
    """
    keys = jax.random.split(key, num_images)
    return jax.vmap(lambda k: jax.random.uniform(k, (NUM_DRAWS,), jnp.float32, -1.0, 1.0))(keys)


def make_turns(draws: jax.Array, settings: Augmentation) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which pictures are transposed, which have then their rows flipped, and which their columns.

    Args:
      draws: float32 [N, NUM_DRAWS], from `draw`.
      settings: what may be done.

    Returns:
      Three bool [N].
    """
    flip_rows = (draws[:, 0] < 0) & settings.flip
    flip_columns = (draws[:, 1] < 0) & settings.flip
    # A turn to the left is a transposition, then a flip of the rows; two are both flips.
    turns = jnp.floor((draws[:, 2] + 1) * (2 if settings.quarter_turns else 0))
    flip_rows ^= (turns == 1) | (turns == 2)
    flip_columns ^= (turns == 2) | (turns == 3)
    return (turns == 1) | (turns == 3), flip_rows, flip_columns


def make_matrices(draws: jax.Array, settings: Augmentation, height: int, width: int) -> jax.Array:
    """Where the pixels of each output picture come from, turns and warp in one.

    Args:
      draws: float32 [N, NUM_DRAWS], from `draw`.
      settings: the ranges.
      height: rows of the frame.
      width: columns of the frame.

    Returns:
      float32 [N, 2, 3]: the output pixel at (y, x), in pixels from the frame's centre, is read at
      `matrix @ (y, x, 1)`.
    """
    angle = math.radians(settings.rotate_degrees) * draws[:, 3]
    shrink = jnp.exp(-math.log1p(settings.scale) * draws[:, 4])
    cos, sin = jnp.cos(angle) * shrink, jnp.sin(angle) * shrink
    down, right = (draws[:, 5 + i] * (settings.translate * n) for i, n in ((0, height), (1, width)))
    rows = jnp.stack([cos, -sin, down], axis=1), jnp.stack([sin, cos, right], axis=1)
    transpose, flip_rows, flip_columns = (flag[:, None] for flag in make_turns(draws, settings))
    y, x = jnp.where(flip_rows, -rows[0], rows[0]), jnp.where(flip_columns, -rows[1], rows[1])
    return jnp.stack([jnp.where(transpose, x, y), jnp.where(transpose, y, x)], axis=1)


def _within(rows: jax.Array, columns: jax.Array, boxes: jax.Array) -> jax.Array:
    top, left, height, width = (boxes[:, i, None, None] for i in range(4))
    vertically = (rows >= top) & (rows < top + height)
    return vertically & (columns >= left) & (columns < left + width)


def _to_float(masks: MaybeMasks) -> MaybeMasks:
    return None if masks is None else masks.astype(jnp.float32)


def _turn(arrays: jax.Array, turns: tuple[jax.Array, ...], settings: Augmentation) -> jax.Array:
    """Flips and quarter turns, exactly and without a gather; arrays [N, H, W, C]."""
    transpose, flip_rows, flip_columns = (flag[:, None, None, None] for flag in turns)
    if settings.quarter_turns:
        arrays = jnp.where(transpose, jnp.swapaxes(arrays, 1, 2), arrays)
    arrays = jnp.where(flip_rows, arrays[:, ::-1], arrays)
    return jnp.where(flip_columns, arrays[:, :, ::-1], arrays)


def _warp(
    images: jax.Array, masks: MaybeMasks, boxes: jax.Array, matrices: jax.Array
) -> tuple[list[jax.Array], MaybeMasks, jax.Array]:
    """Reads each output pixel from its place in the input, as `make_matrices` says.

    Returns three float32 planes [N, H, W] in 0..255, the masks uint8 [N, H, W, 1] and inside
    float32 [N, H, W, 1].
    """
    num_images, height, width, _ = images.shape
    # One 32-bit word holds a pixel's RGB and mask: four gathers, one a corner, fetch everything.
    # The concatenation is there for XLA's CPU, which would otherwise pack each word anew for each
    # gather: 15 ms against 40 for the warp of 16 x 256 x 256.
    fourth = jnp.zeros_like(images[..., :1]) if masks is None else masks
    words = jax.lax.bitcast_convert_type(jnp.concatenate([images, fourth], axis=-1), jnp.uint32)
    words = words.reshape(num_images, height * width)

    shape = (num_images, height, width)
    middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
    y = jax.lax.broadcasted_iota(jnp.float32, shape, 1) - middle_row
    x = jax.lax.broadcasted_iota(jnp.float32, shape, 2) - middle_column
    # Written out, not as a matrix product, which a TPU would do in bfloat16.
    (yy, yx, y1), (xy, xx, x1) = matrices.transpose(1, 2, 0)[..., None, None]
    source_y = yy * y + yx * x + (y1 + middle_row)
    source_x = xy * y + xx * x + (x1 + middle_column)

    floor_y, floor_x = jnp.floor(source_y), jnp.floor(source_x)
    weight_y, weight_x = source_y - floor_y, source_x - floor_x
    row, column = floor_y.astype(jnp.int32), floor_x.astype(jnp.int32)
    rows = [jnp.clip(row + i, 0, height - 1) for i in (0, 1)]
    columns = [jnp.clip(column + i, 0, width - 1) for i in (0, 1)]
    corners = [[_gather(words, y * width + x) for x in columns] for y in rows]

    def blend(shift: int) -> jax.Array:
        values = [[((c >> shift) & 255).astype(jnp.float32) for c in pair] for pair in corners]
        upper, lower = (left + weight_x * (right - left) for left, right in values)
        return upper + weight_y * (lower - upper)

    down, right = weight_y >= 0.5, weight_x >= 0.5
    nearest_row, nearest_column = row + down.astype(jnp.int32), column + right.astype(jnp.int32)
    frame = jnp.array([[0, 0, height, width]], jnp.int32)
    in_frame = _within(nearest_row, nearest_column, frame)
    inside = in_frame & _within(nearest_row, nearest_column, boxes)
    if masks is not None:
        upper, lower = (jnp.where(right, pair[1], pair[0]) for pair in corners)
        nearest = jnp.where(down, lower, upper) >> 24
        masks = jnp.where(in_frame, nearest, jnp.uint32(0)).astype(jnp.uint8)[..., None]
    planes = [blend(8 * channel) for channel in range(3)]
    return planes, masks, inside.astype(jnp.float32)[..., None]


def _gather(words: jax.Array, indices: jax.Array) -> jax.Array:
    """Reads words [N, H * W] at indices int32 [N, H, W], which must be in range."""
    return jax.vmap(lambda w, i: w.at[i].get(mode="promise_in_bounds"))(words, indices)


def _recolour(
    draws: jax.Array, planes: list[jax.Array], inside: jax.Array, settings: Augmentation
) -> list[jax.Array]:
    """Changes saturation and hue, then contrast, then brightness, of planes [N, H, W] in 0..255."""
    brightness = 1 + settings.brightness * draws[:, 0]
    contrast = 1 + settings.contrast * draws[:, 1]
    saturation = 1 + settings.saturation * draws[:, 2]
    hue = (2 * math.pi * settings.hue) * draws[:, 3]
    along, across = saturation * jnp.cos(hue), saturation * jnp.sin(hue)
    matrices = (
        _KEEP_LUMA + along[:, None, None] * _KEEP_CHROMA + across[:, None, None] * _TURN_CHROMA
    )
    matrices *= (contrast * brightness)[:, None, None]
    # The mean is of the content alone: padding must not decide how a picture's contrast changes.
    luma = sum(weight * plane for weight, plane in zip(_LUMA, planes, strict=True))
    mean = jnp.sum(luma * inside, (1, 2)) / jnp.maximum(jnp.sum(inside, (1, 2)), 1)
    lift = ((1 - contrast) * brightness * mean)[:, None, None]
    weights = matrices[..., None, None]
    return [
        jnp.clip(sum(weights[:, i, j] * planes[j] for j in range(3)) + lift, 0, 255)
        for i in range(3)
    ]
