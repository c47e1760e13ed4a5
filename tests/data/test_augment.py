"""Augmentation against numpy and scipy: geometry, colour, content, and the same on any devices."""

import colorsys
import itertools
import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy import ndimage

from skinjax.data.augment import (
    MEAN,
    STD,
    Augmentation,
    augment,
    content_mask,
    draw,
    make_matrices,
    normalise,
)

WARP = Augmentation(flip=True, rotate_degrees=30, scale=0.2, translate=0.1)
EVERYTHING = Augmentation(
    flip=True,
    rotate_degrees=30,
    scale=0.2,
    translate=0.1,
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
    hue=0.05,
)

run = partial(jax.jit, static_argnames="settings")(augment)


def make_batch(num=6, height=20, width=28, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num, height, width, 3), dtype=np.uint8)
    masks = rng.integers(0, 2, (num, height, width, 1), dtype=np.uint8)
    boxes = np.tile(np.array([[0, 0, height, width]], np.int32), (num, 1))
    return images, masks, boxes


def denormalise(images):
    """Back to 0..255, in float64."""
    return (np.asarray(images, np.float64) * STD + MEAN) * 255


def matrices_of(key, num, chosen, height, width):
    return np.asarray(make_matrices(draw(key, num), chosen, height, width), np.float64)


def test_normalise_against_float64():
    images, _, _ = make_batch()
    expected = (images / 255.0 - np.float64(MEAN)) / np.float64(STD)
    result = normalise(images)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_nothing_asked_for_is_exactly_normalise():
    images, masks, boxes = make_batch()
    result, result_masks, inside = run(jax.random.key(0), images, masks, boxes, Augmentation())
    np.testing.assert_array_equal(result, jax.jit(normalise)(images))
    np.testing.assert_array_equal(result_masks, masks)
    np.testing.assert_array_equal(inside, np.ones_like(masks))


def test_every_result_is_float32_and_masks_may_be_missing():
    images, masks, boxes = make_batch()
    for chosen in (Augmentation(), Augmentation(flip=True), WARP, EVERYTHING):
        results = run(jax.random.key(0), images, masks, boxes, chosen)
        assert [r.dtype for r in results] == [jnp.float32] * 3
        without, none, inside = run(jax.random.key(0), images, None, boxes, chosen)
        assert none is None
        np.testing.assert_array_equal(without, results[0])
        np.testing.assert_array_equal(inside, results[2])


@pytest.mark.parametrize("chosen", [Augmentation(flip=True), WARP, EVERYTHING])
def test_strict_promotion_and_no_float64(chosen):
    batch = jax.tree.map(jnp.asarray, make_batch())
    with jax.numpy_dtype_promotion("strict"), jax.enable_x64(True):
        jaxpr = str(jax.make_jaxpr(partial(augment, settings=chosen))(jax.random.key(0), *batch))
    # With 64 bits allowed, a forgotten cast would show; literals (f64[]) are cast in place.
    assert re.search(r"f32\[\d", jaxpr) and not re.search(r"f64\[\d", jaxpr)


@pytest.mark.parametrize("height, width, quarter_turns", [(7, 10, False), (8, 8, True)])
def test_flips_and_turns_are_exactly_numpys(height, width, quarter_turns):
    """Each result is one of the square's eight symmetries (or four), and each of them occurs."""
    images, masks, boxes = make_batch(64, height, width)
    boxes[:] = (1, 2, height - 3, width - 4)
    chosen = Augmentation(flip=True, quarter_turns=quarter_turns)
    result, result_masks, inside = run(jax.random.key(3), images, masks, boxes, chosen)
    full = np.concatenate([images, masks, np.asarray(content_mask(boxes, height, width))], -1)
    turns = range(4) if quarter_turns else (0, 2)
    seen = set()
    for i in range(len(images)):
        (which,) = [
            (turn, flip)
            for turn, flip in itertools.product(turns, (False, True))
            if np.array_equal(
                result[i],
                normalise((view := turned(full[i], turn, flip))[..., :3].astype(np.uint8)),
            )
            and np.array_equal(np.concatenate([result_masks[i], inside[i]], -1), view[..., 3:])
        ]
        seen.add(which)
    assert len(seen) == 2 * len(turns)


def turned(picture, turn, flip):
    picture = np.rot90(picture, turn)
    return picture[:, ::-1] if flip else picture


def test_turns_without_flips_mirror_nothing():
    images, masks, boxes = make_batch(32, 8, 8)
    chosen = Augmentation(quarter_turns=True)
    result, _, _ = run(jax.random.key(0), images, masks, boxes, chosen)
    counts = [0, 0, 0, 0]
    for i in range(len(images)):
        matches = [np.array_equal(result[i], normalise(np.rot90(images[i], k))) for k in range(4)]
        assert sum(matches) == 1
        counts[matches.index(True)] += 1
    assert min(counts) >= 2


def test_a_warp_that_moves_nothing_is_the_flips_and_turns_alone():
    """The gather and the copies agree, so that one convention holds for both."""
    images, masks, boxes = make_batch(16, 12, 12)
    boxes[:] = (1, 2, 8, 9)
    exact = Augmentation(flip=True, quarter_turns=True)
    tiny = Augmentation(flip=True, quarter_turns=True, rotate_degrees=1e-6)
    for a, b in zip(
        run(jax.random.key(1), images, masks, boxes, exact),
        run(jax.random.key(1), images, masks, boxes, tiny),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_quarter_turns_need_a_square():
    images, masks, boxes = make_batch()
    with pytest.raises(ValueError, match="square"):
        augment(jax.random.key(0), images, masks, boxes, Augmentation(quarter_turns=True))


@pytest.mark.parametrize(
    "field, value",
    [("rotate_degrees", -1), ("scale", -0.1), ("translate", -1), ("contrast", 1.5), ("hue", -1)],
)
def test_ranges_without_a_meaning_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        Augmentation(**{field: value})


def smooth_pictures(num, height, width):
    rng = np.random.default_rng(5)
    noise = rng.normal(size=(num, height, width, 3))
    smooth = ndimage.gaussian_filter(noise, (0, 3, 3, 0))
    low, high = smooth.min(), smooth.max()
    return np.round((smooth - low) / (high - low) * 255).astype(np.uint8)


@pytest.mark.parametrize("height, width, quarter_turns", [(24, 33, False), (27, 27, True)])
def test_warp_against_scipy(height, width, quarter_turns):
    """Image, mask and content of a random warp, each against scipy's affine_transform."""
    num = 8
    images = smooth_pictures(num, height, width)
    masks = (images[..., :1] > 128).astype(np.uint8)
    boxes = np.tile(np.array([[3, 0, height - 7, width]], np.int32), (num, 1))
    chosen = Augmentation(
        flip=True, quarter_turns=quarter_turns, rotate_degrees=40, scale=0.3, translate=0.2
    )
    key = jax.random.key(11)
    result, result_masks, inside = run(key, images, masks, boxes, chosen)
    matrices = matrices_of(key, num, chosen, height, width)
    content = np.asarray(content_mask(boxes, height, width))
    middle = np.array([height - 1, width - 1]) / 2
    for i in range(num):
        matrix, shift = matrices[i, :, :2], matrices[i, :, 2]
        warp = partial(
            ndimage.affine_transform, matrix=matrix, offset=middle - matrix @ middle + shift
        )
        for channel in range(3):
            expected = warp(images[i, ..., channel].astype(np.float64), order=1, mode="nearest")
            found = denormalise(result[i])[..., channel]
            np.testing.assert_allclose(found, expected, atol=0.05)
        # A coordinate within rounding of a pixel's edge may fall on either side of it.
        for found, source in ((result_masks, masks), (inside, content)):
            expected = warp(
                source[i, ..., 0].astype(np.float64), order=0, mode="grid-constant", cval=0
            )
            assert np.mean(found[i, ..., 0] != expected) < 0.005


def test_a_known_rotation():
    """A white bar to the right of the centre is found where the drawn angle says."""
    size, angle_limit = 65, 45
    image = np.zeros((size, size, 3), np.uint8)
    image[31:34, 34:60] = 255
    images = np.tile(image[None], (12, 1, 1, 1))
    boxes = np.tile(np.array([[0, 0, size, size]], np.int32), (12, 1))
    chosen = Augmentation(rotate_degrees=angle_limit)
    key = jax.random.key(2)
    result, _, _ = run(key, images, None, boxes, chosen)
    angles = []
    for i, matrix in enumerate(matrices_of(key, 12, chosen, size, size)):
        brightness = denormalise(result[i])[..., 0]
        y, x = (np.average(c - 32.0, weights=brightness) for c in np.indices((size, size)))
        # The inverse map takes the output's centre of mass to the bar's, which lies on row 0.
        np.testing.assert_allclose(matrix @ (y, x, 1), (0, 14.5), atol=0.1)
        angles.append(math.degrees(math.atan2(y, x)))
    assert max(map(abs, angles)) <= angle_limit
    assert min(angles) < -5 and max(angles) > 5


def test_scale_and_translation_keep_to_their_ranges():
    height, width = 40, 60
    chosen = Augmentation(scale=0.25, translate=0.1)
    matrices = matrices_of(jax.random.key(0), 500, chosen, height, width)
    factors = np.linalg.det(matrices[..., :2]) ** -0.5
    assert 1 / 1.25 <= factors.min() < 0.85 and 1.2 < factors.max() <= 1.25 + 1e-6
    reach = np.abs(matrices[..., 2]).max(0)
    assert np.all(reach <= (4 + 1e-5, 6 + 1e-5)) and np.all(reach > (3.8, 5.7))


def test_an_image_and_its_mask_go_through_the_same_geometry():
    """The mask is drawn into the picture: after any warp both still say the same."""
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.normal(size=(16, 48, 64)), (0, 5, 5))
    masks = (noise > 0).astype(np.uint8)[..., None]
    images = np.repeat(masks * 255, 3, axis=-1)
    boxes = np.tile(np.array([[0, 0, 48, 64]], np.int32), (16, 1))
    result, result_masks, inside = run(jax.random.key(7), images, masks, boxes, WARP)
    drawn = denormalise(result)[..., :1]
    counted = np.asarray(inside) == 1
    # Half-way between two pixels, bilinear and nearest may disagree; elsewhere they must not.
    clear = counted & ((drawn < 60) | (drawn > 195))
    assert clear.sum() > 0.9 * counted.sum()
    np.testing.assert_array_equal(np.asarray(result_masks)[clear] == 1, drawn[clear] > 127)
    assert not np.any(np.asarray(result_masks)[~counted])


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 19), st.integers(0, 27), st.integers(0, 20), st.integers(0, 28), st.integers(0)
)
def test_content_follows_the_mask(top, left, height, width, seed):
    """A mask that marks the content box stays the content box, whatever the warp."""
    images, _, boxes = make_batch()
    boxes[:] = (top, left, min(height, 20 - top), min(width, 28 - left))
    content = np.asarray(content_mask(boxes, 20, 28))
    expected = np.zeros((20, 28))
    expected[top : top + height, left : left + width] = 1
    np.testing.assert_array_equal(content[0, ..., 0], expected)
    key = jax.random.key(seed % 2**32)
    _, masks, inside = run(key, images, content.astype(np.uint8), boxes, WARP)
    np.testing.assert_array_equal(masks, inside)


def test_an_examples_augmentation_depends_on_its_key_and_place_alone():
    images, masks, boxes = make_batch(num=8)
    first = run(jax.random.key(0), images, masks, boxes, EVERYTHING)
    again = run(jax.random.key(0), images, masks, boxes, EVERYTHING)
    other = run(jax.random.key(1), images, masks, boxes, EVERYTHING)
    part = run(jax.random.key(0), images[:3], masks[:3], boxes[:3], EVERYTHING)
    for a, b, c, d in zip(first, again, other, part, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a[:3], d, atol=1e-5)
        assert not np.array_equal(a, c)
    twins, _, _ = run(jax.random.key(0), images[[0] * 8], masks, boxes, EVERYTHING)
    assert not np.array_equal(twins[0], twins[1])


@pytest.mark.skipif(jax.device_count() < 4, reason="needs four devices (XLA_FLAGS fakes them)")
@pytest.mark.parametrize("chosen", [Augmentation(flip=True), EVERYTHING])
def test_four_devices_do_what_one_does_without_talking(chosen):
    images, masks, boxes = make_batch(num=8, height=16, width=16)
    alone = run(jax.random.key(0), images, masks, boxes, chosen)
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:4]), ("data",)), PartitionSpec("data"))
    batch = jax.device_put((images, masks, boxes), sharding)
    compiled = (
        jax.jit(partial(augment, settings=chosen), out_shardings=sharding)
        .lower(jax.random.key(0), *batch)
        .compile()
    )
    for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert word not in compiled.as_text()
    for a, b in zip(alone, compiled(jax.random.key(0), *batch), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_brightness_multiplies():
    images, _, boxes = make_batch(num=64)
    images //= 2
    result, _, _ = run(jax.random.key(0), images, None, boxes, Augmentation(brightness=0.3))
    factors = denormalise(result).sum((1, 2, 3)) / images.sum((1, 2, 3), dtype=np.float64)
    expected = images * factors[:, None, None, None]
    np.testing.assert_allclose(denormalise(result), expected, atol=0.01)
    assert 0.7 <= factors.min() < 0.75 and 1.25 < factors.max() <= 1.3


def test_contrast_keeps_the_mean_of_the_content_and_ignores_padding():
    num = 64
    rng = np.random.default_rng(0)
    grey = rng.integers(90, 160, (num, 20, 28, 1)).astype(np.uint8)
    images = np.repeat(grey, 3, -1)
    boxes = np.tile(np.array([[4, 0, 12, 28]], np.int32), (num, 1))
    images[:, :4] = images[:, 16:] = 0
    result, _, _ = run(jax.random.key(0), images, None, boxes, Augmentation(contrast=0.3))
    before = images[:, 4:16].astype(np.float64)
    after = denormalise(result)[:, 4:16]
    np.testing.assert_allclose(after.mean((1, 2, 3)), before.mean((1, 2, 3)), atol=0.01)
    ratio = after.std((1, 2, 3)) / before.std((1, 2, 3))
    assert 0.7 <= ratio.min() < 0.75 and 1.25 < ratio.max() <= 1.3 + 1e-3


LUMA = np.array([0.299, 0.587, 0.114])


def test_saturation_keeps_luma_and_direction():
    rng = np.random.default_rng(0)
    images = rng.integers(100, 150, (64, 20, 28, 3)).astype(np.uint8)
    _, _, boxes = make_batch(num=64)
    result, _, _ = run(jax.random.key(0), images, None, boxes, Augmentation(saturation=0.5))
    before, after = images.astype(np.float64), denormalise(result)
    np.testing.assert_allclose(after @ LUMA, before @ LUMA, atol=0.02)
    chroma_before = before - (before @ LUMA)[..., None]
    chroma_after = after - (after @ LUMA)[..., None]
    factors = (chroma_after * chroma_before).sum((1, 2, 3)) / (chroma_before**2).sum((1, 2, 3))
    expected = chroma_before * factors[:, None, None, None]
    np.testing.assert_allclose(chroma_after, expected, atol=0.05)
    assert 0.5 <= factors.min() < 0.55 and 1.45 < factors.max() <= 1.5 + 1e-3


def test_hue_turns_colours_both_ways_and_leaves_grey():
    num = 64
    colour, grey = np.array([150, 120, 100], np.uint8), np.array([90, 90, 90], np.uint8)
    images = np.empty((num, 4, 8, 3), np.uint8)
    images[:, :, :4], images[:, :, 4:] = colour, grey
    boxes = np.tile(np.array([[0, 0, 4, 8]], np.int32), (num, 1))
    result, _, _ = run(jax.random.key(0), images, None, boxes, Augmentation(hue=0.1))
    after = denormalise(result)
    np.testing.assert_allclose(after[:, 0, 7], np.tile(grey, (num, 1)), atol=0.02)
    np.testing.assert_allclose(after[:, 0, 0] @ LUMA, colour @ LUMA, atol=0.02)
    start = colorsys.rgb_to_hsv(*(colour / 255))[0]
    turns = [(colorsys.rgb_to_hsv(*(c / 255))[0] - start + 0.5) % 1 - 0.5 for c in after[:, 0, 0]]
    # HSV's hue is piecewise linear where YIQ's is an angle: the two agree only roughly.
    assert -0.15 < min(turns) < -0.07 and 0.07 < max(turns) < 0.15


def test_colours_stay_in_range():
    images, masks, boxes = make_batch()
    images[:3], images[3:] = 255, 0
    strong = Augmentation(brightness=1, contrast=1, saturation=1, hue=0.5)
    result, _, _ = run(jax.random.key(0), images, masks, boxes, strong)
    assert denormalise(result).min() >= -1e-3 and denormalise(result).max() <= 255 + 1e-3
