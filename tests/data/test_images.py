"""Decoding, checking, fitting and unfitting pictures and masks."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from skinjax.data import images
from skinjax.errors import UserError

SIDES = st.integers(1, 90)
SIZES = st.tuples(SIDES, SIDES)


def encode(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def picture(height=6, width=9, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def deep_png(levels):
    """A PNG with 16 bits a channel, which Pillow does not write for RGB."""
    height, width = levels.shape[:2]
    colour = 2 if levels.ndim == 3 else 0
    rows = b"".join(b"\0" + levels[row].astype(">u2").tobytes() for row in range(height))

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
def test_lossless_rgb_is_read_exactly(format):
    pixels = picture()
    decoded = images.decode_image(encode(Image.fromarray(pixels), format), "a")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, pixels)


def test_every_colour_mode_is_read():
    grey = picture()[:, :, 0]
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    opaque = np.full(grey.shape, 255, np.uint8)
    for image in (
        Image.fromarray(grey),
        Image.merge("LA", [Image.fromarray(grey), Image.fromarray(opaque)]),
        Image.merge("RGBA", [Image.fromarray(grey)] * 3 + [Image.fromarray(opaque)]),
        Image.fromarray(expected).quantize(256),
    ):
        np.testing.assert_array_equal(images.decode_image(encode(image), image.mode), expected)
    bits = grey > 127
    np.testing.assert_array_equal(
        images.decode_image(encode(Image.fromarray(bits)), "1-bit"),
        np.repeat(bits[:, :, None] * np.uint8(255), 3, axis=2),
    )


def test_palette_colours_are_read_and_not_its_numbers():
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:2] = (200, 30, 90)
    data = encode(Image.fromarray(pixels).quantize(2))
    assert Image.open(io.BytesIO(data)).mode == "P"
    np.testing.assert_array_equal(images.decode_image(data, "a"), pixels)


def test_cmyk_jpeg_has_the_colours_of_its_rgb():
    pixels = np.full((32, 32, 3), (200, 120, 90), np.uint8)
    data = encode(Image.fromarray(pixels).convert("CMYK"), "JPEG", quality=100)
    decoded = images.decode_image(data, "a")
    assert np.abs(decoded.astype(int) - pixels).max() <= 3


def test_sixteen_bits_are_scaled_to_eight():
    levels = np.array([[0, 257, 65535], [128, 129, 257 * 77]], np.uint16)
    expected = np.array([[0, 1, 255], [0, 1, 77]], np.uint8)
    for data in (deep_png(levels), encode(Image.fromarray(levels), "TIFF")):
        decoded = images.decode_image(data, "a")
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, np.repeat(expected[:, :, None], 3, axis=2))
    deep_rgb = np.repeat(levels[:, :, None], 3, axis=2)
    decoded = images.decode_image(deep_png(deep_rgb), "a")
    assert np.abs(decoded[:, :, 0].astype(int) - expected).max() <= 1


def test_values_of_unknown_range_are_refused():
    data = encode(Image.fromarray(np.full((3, 3), 0.5, np.float32)), "TIFF")
    with pytest.raises(UserError, match=r"float\.tif has values"):
        images.decode_image(data, "float.tif")


def test_transparent_parts_show_white():
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0] = (10, 20, 30, 255)
    decoded = images.decode_image(encode(Image.fromarray(pixels)), "a")
    np.testing.assert_array_equal(decoded[0, 0], (10, 20, 30))
    np.testing.assert_array_equal(decoded[1, 0], (255, 255, 255))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = 255  # bright corner: top left
    # What the camera stored, so that the tag's turn brings it upright.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    np.testing.assert_array_equal(images.decode_image(data, "a"), upright)
    assert images.is_plain(data) == (orientation == 1)


def test_damaged_exif_does_not_lose_the_picture():
    pixels = picture(16, 16)
    data = encode(Image.fromarray(pixels), "JPEG", exif=b"Exif\0\0" + b"\xff" * 40)
    assert images.decode_image(data, "a").shape == (16, 16, 3)
    assert images.is_plain(data)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("decode", [images.decode_image, images.decode_mask])
def test_truncated_files_are_named(format, decode):
    data = encode(Image.fromarray(picture(64, 64)), format)
    for kept in (0, 2, 20, len(data) // 2):
        with pytest.raises(UserError, match=r"folder/cut\.png"):
            decode(data[:kept], "folder/cut.png")


@given(st.data())
def test_damage_raises_nothing_but_a_user_error(data):
    format = data.draw(st.sampled_from(["PNG", "JPEG", "BMP", "GIF", "TIFF"]))
    encoded = bytearray(encode(Image.fromarray(picture(12, 12)), format))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = images.decode_image(bytes(encoded), "a", max_pixels=10**6)
    except UserError:
        return
    assert decoded.ndim == 3
    assert decoded.dtype == np.uint8


def test_large_pictures_are_refused_before_they_are_decoded():
    data = encode(Image.new("RGB", (300, 200)))
    assert images.decode_image(data, "big.png", max_pixels=60_000).shape == (200, 300, 3)
    with pytest.raises(UserError, match=r"big\.png has 300 x 200 pixels"):
        images.decode_image(data, "big.png", max_pixels=59_999)
    bomb = deep_png(np.zeros((1, 1), np.uint16)).replace(
        struct.pack(">II", 1, 1), struct.pack(">II", 60_000, 60_000)
    )
    header = bomb[12:29]
    bomb = bomb.replace(bomb[29:33], struct.pack(">I", zlib.crc32(header)), 1)
    with pytest.raises(UserError, match=r"bomb\.png is too large"):
        images.decode_image(bomb, "bomb.png")


def test_a_picture_of_a_whole_camera_is_read_within_the_limit():
    data = encode(Image.new("L", (6700, 4400), 77), "JPEG")
    image = images.decode_image(data, "large.jpg", max_pixels=2**26)
    assert image.shape == (4400, 6700, 3) and image[4000, 6000, 0] == 77
    assert images.shrink(image, 220).shape == (220, 335, 3)


def test_twenty_bytes_and_nothing_are_no_picture():
    for data, kind in ((b"\xff\xd8\xff\xe0" + bytes(16), "does not decode"), (b"", "empty file")):
        with pytest.raises(images.BrokenPicture, match=r"small\.jpg") as caught:
            images.decode_image(data, "small.jpg")
        assert caught.value.kind == kind
        assert images.describe(data)[1] == ""


def test_the_content_says_what_a_file_is_and_not_its_name():
    pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    data = encode(Image.fromarray(pixels))
    np.testing.assert_array_equal(images.decode_image(data, "png.jpg"), pixels)
    assert images.describe(data) == ("PNG", "RGB")


def test_progressive_jpegs_are_read_as_others():
    pixels = np.repeat(np.arange(0, 240, 5, dtype=np.uint8).reshape(6, 8, 1), 3, axis=2)
    plain, progressive = (
        images.decode_image(encode(Image.fromarray(pixels), "JPEG", progressive=p), "x.jpg")
        for p in (False, True)
    )
    np.testing.assert_array_equal(plain, progressive)


def test_colour_profiles_are_ignored():
    pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    data = encode(Image.fromarray(pixels), "PNG", icc_profile=profile)
    np.testing.assert_array_equal(images.decode_image(data, "x.png"), pixels)


MASK = np.array([[0, 0, 1], [0, 1, 1]], np.uint8)


@pytest.mark.parametrize("levels", [(0, 1), (0, 255), (1, 2), (30, 90), (128, 129)])
def test_mask_of_two_levels(levels):
    data = encode(Image.fromarray(np.array(levels, np.uint8)[MASK]))
    decoded = images.decode_mask(data, "m")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, MASK)


def test_mask_of_every_mode():
    rgb = np.repeat(MASK[:, :, None] * np.uint8(255), 3, axis=2)
    opaque = Image.fromarray(rgb)
    opaque.putalpha(255)
    palette = Image.fromarray(1 - MASK)  # the palette turns the numbers round
    palette = palette.convert("P")
    palette.putpalette([255, 255, 255, 0, 0, 0])
    for image in (
        Image.fromarray(MASK.astype(bool)),
        Image.fromarray(rgb),
        opaque,
        palette,
        Image.fromarray(rgb).quantize(2),
        Image.fromarray(MASK * np.uint16(65535)),
    ):
        np.testing.assert_array_equal(images.decode_mask(encode(image), image.mode), MASK)


def test_grey_times_its_opacity_is_read():
    """TIFF's associated alpha (ExtraSamples 1), which Pillow writes not at all."""
    mask = Image.fromarray(MASK * np.uint8(255))
    mask.putalpha(255)
    buffer = io.BytesIO()
    mask.save(buffer, "TIFF")
    entry = struct.pack("<HHIH", 338, 3, 1, 2)
    assert buffer.getvalue().count(entry) == 1
    data = buffer.getvalue().replace(entry, struct.pack("<HHIH", 338, 3, 1, 1))
    assert Image.open(io.BytesIO(data)).mode == "La"
    np.testing.assert_array_equal(images.decode_mask(data, "m"), MASK)
    np.testing.assert_array_equal(images.decode_image(data, "p")[..., 0], MASK * 255)
    converted = images.convert_image(Image.open(io.BytesIO(data)), "p")
    np.testing.assert_array_equal(converted, images.decode_image(data, "p"))


@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_mask_of_one_level(level):
    data = encode(Image.fromarray(np.full((3, 4), level, np.uint8)))
    np.testing.assert_array_equal(images.decode_mask(data, "m"), np.full((3, 4), level > 0))


def test_mask_of_three_levels_is_refused():
    data = encode(Image.fromarray(np.array([[0, 128, 255]], np.uint8)))
    with pytest.raises(UserError, match=r"soft\.png has 3 grey levels"):
        images.decode_mask(data, "soft.png")


def test_mask_with_transparent_parts_is_refused():
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, :, 3] = 255
    with pytest.raises(UserError, match=r"clear\.png has transparent parts"):
        images.decode_mask(encode(Image.fromarray(pixels)), "clear.png")


def test_what_is_plain():
    pixels = Image.fromarray(picture())
    assert images.is_plain(encode(pixels, "JPEG"))
    assert images.is_plain(encode(pixels, "PNG"))
    assert not images.is_plain(encode(pixels, "BMP"))
    assert not images.is_plain(encode(pixels.convert("L"), "JPEG"))
    assert not images.is_plain(encode(pixels.convert("RGBA"), "PNG"))
    assert not images.is_plain(encode(pixels.convert("CMYK"), "JPEG"))
    assert not images.is_plain(encode(pixels, "PNG", transparency=(1, 2, 3)))


@given(SIZES, SIDES)
def test_shrink_bounds_the_shorter_side_and_never_enlarges(size, limit):
    image = picture(*size)
    reduced = images.shrink(image, limit)
    assert min(reduced.shape[:2]) == min(limit, *size)
    if min(size) <= limit:
        assert reduced is image
    else:
        longer = max(size) * limit / min(size)
        assert abs(max(reduced.shape[:2]) - longer) <= 0.5


def test_encode_image_keeps_colours():
    smooth = np.asarray(Image.fromarray(picture(4, 4)).resize((64, 48), Image.Resampling.BICUBIC))
    decoded = images.decode_image(images.encode_image(smooth), "a")
    assert np.abs(decoded.astype(int) - smooth).mean() < 2


@given(SIZES, SIZES, st.sampled_from(images.FITS))
def test_fit_keeps_to_its_box(size, frame, fit):
    image = np.maximum(picture(*size), 1)
    fitted, box = images.fit_image(image, frame, fit)
    assert fitted.shape == (*frame, 3)
    assert fitted.dtype == np.uint8
    assert box.dtype == np.int32
    top, left, height, width = box
    assert top >= 0
    assert left >= 0
    inside = np.zeros(frame, bool)
    inside[top : top + height, left : left + width] = True
    assert inside.sum() == height * width
    np.testing.assert_array_equal((fitted > 0).all(axis=2), inside)
    if fit == "squash":
        assert inside.all()
    else:
        assert height == frame[0] or width == frame[1]
        # The aspect ratio is kept up to the rounding of the side that is not filled.
        scale = min(frame[0] / size[0], frame[1] / size[1])
        assert abs(height - max(1, size[0] * scale)) <= 0.5
        assert abs(width - max(1, size[1] * scale)) <= 0.5


def ramp(height, width, axis):
    """Where each pixel's centre lies along an axis, in shares of the side."""
    places = (np.arange((height, width)[axis]) + 0.5) / (height, width)[axis]
    return np.broadcast_to(places[:, None] if axis == 0 else places, (height, width))


@given(SIZES, SIZES, st.sampled_from(images.FITS), st.integers(0, 1))
def test_unfit_puts_a_ramp_back_where_it_was(size, frame, fit, axis):
    box = images.content_box(size, frame, fit)
    top, left, height, width = box
    prediction = np.full(frame, -7.0, np.float32)  # padding must not leak in
    prediction[top : top + height, left : left + width] = ramp(height, width, axis)
    restored = images.unfit(prediction, np.array(box, np.int32), size)
    assert restored.shape == size
    assert restored.dtype == np.float32
    expected = ramp(*size, axis)
    # Between the outermost centres a linear ramp is resized exactly; outside it is held constant.
    side = (height, width)[axis]
    edge = 0.5 / side + 0.5 / size[axis]
    interior = (expected > edge) & (expected < 1 - edge)
    if size[axis] >= side:
        np.testing.assert_allclose(restored[interior], expected[interior], atol=1e-5)
    np.testing.assert_allclose(restored, expected, atol=edge + 1e-5)


@given(
    st.tuples(st.integers(8, 120), st.integers(8, 120)),
    st.tuples(st.integers(8, 120), st.integers(8, 120)),
    st.sampled_from(images.FITS),
    st.integers(0, 1),
    st.floats(0, 1),
)
def test_a_half_plane_comes_back_within_a_pixel(size, frame, fit, axis, share):
    position = round(share * size[axis])
    mask = np.broadcast_to(
        (np.arange(size[axis]) < position)[(slice(None), None) if axis == 0 else None], size
    )
    fitted = images.fit_mask(mask.astype(np.uint8), frame, fit)
    assert fitted.shape == frame
    assert set(np.unique(fitted)) <= {0, 1}
    box = np.array(images.content_box(size, frame, fit), np.int32)
    restored = images.unfit(fitted.astype(np.float32), box, size) >= 0.5
    borders = restored.sum(axis=axis)
    # Half a pixel of the frame is lost by the threshold, and half a native one on the way back.
    assert np.abs(borders - position).max() <= 0.5 * size[axis] / box[2 + axis] + 0.5 + 1e-6


@given(SIZES, st.sampled_from(images.FITS))
def test_a_frame_of_its_own_size_changes_nothing(size, fit):
    image = picture(*size)
    fitted, box = images.fit_image(image, size, fit)
    np.testing.assert_array_equal(fitted, image)
    mask = image[:, :, 0] % 2
    np.testing.assert_array_equal(images.fit_mask(mask, size, fit), mask)
    probabilities = (image[:, :, 1] / 255).astype(np.float32)
    np.testing.assert_array_equal(images.unfit(probabilities, box, size), probabilities)


def test_fit_mask_averages_areas():
    mask = np.zeros((4, 8), np.uint8)
    mask[0, 0] = 1  # a quarter of its block
    mask[:2, 2] = 1  # half
    mask[:2, 4:6] = 1  # all
    np.testing.assert_array_equal(
        images.fit_mask(mask, (2, 4), "squash"), [[0, 1, 1, 0], [0, 0, 0, 0]]
    )


def test_fit_mask_takes_the_pictures_box():
    mask = np.ones((767, 1022), np.uint8)
    _, box = images.fit_image(picture(150, 200), (96, 192), "letterbox")
    fitted = images.fit_mask(mask, (96, 192), "letterbox", box)
    top, left, height, width = box
    assert fitted.sum() == height * width
    assert fitted[top : top + height, left : left + width].all()


def test_unknown_fit_is_refused():
    with pytest.raises(UserError, match="'squash' or 'letterbox'"):
        images.fit_image(picture(), (4, 4), "crop")
