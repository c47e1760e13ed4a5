"""Pictures and masks: decoded, turned upright, checked, and fitted to a model's input and back.

Every resize here maps whole frame to whole frame with half-pixel centres: pixel i of n covers the
interval [i/n, (i+1)/n] of its side. So a picture and a mask of different sizes stay registered, and
`unfit` undoes the geometry of `fit_image` exactly, up to the resolution that was lost.
"""

import io

import numpy as np
from PIL import ExifTags, Image

from skinjax.errors import UserError

FITS = ("squash", "letterbox")

# Where Pillow itself refuses: twice what it warns of.
MAX_PIXELS = 178_956_970

_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP", "PPM", "JPEG2000")

# Plugins register themselves on first use, which is not safe when worker threads race for it.
Image.init()

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BrokenPicture(UserError):
    """A picture or mask that cannot be used.

    Attributes:
      kind: What is wrong with it, in few words: 'empty file', 'does not decode', 'too large',
        'unusual values', 'transparent mask' or 'mask is not binary'.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def describe(data: bytes) -> tuple[str, str]:
    """The format and the colour mode of an encoded picture, as Pillow names them.

    Reads the header only; ('', '') where it has none that can be read.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return image.format or "", image.mode
    except MemoryError:
        raise
    except Exception:
        # Pillow's readers raise a dozen kinds of exception; decode_image says which it was.
        return "", ""


def decode_image(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes a picture of any common format and colour mode, turned upright by its EXIF tag.

    Transparent parts show white, as viewers show them; 16-bit grey is scaled to 8 bits. Colour
    profiles are ignored: hardly a picture of the public sets has one, dermatoscopes are not
    calibrated to any, and weights trained elsewhere saw pixels as they are.

    Args:
      data: The encoded file.
      name: The file's name, for messages.
      max_pixels: The largest height times width that is read.

    Returns:
      The picture, uint8 [H, W, 3] in sRGB, 0 to 255.

    Raises:
      BrokenPicture: The file is no picture, is cut off, or is larger than `max_pixels`.
    """
    return _to_rgb(_open(data, name, max_pixels), name)


def convert_image(image: Image.Image, name: str) -> np.ndarray:
    """Converts a picture that Pillow has opened to what `decode_image` makes of its file.

    Args:
      image: Of any colour mode; it is turned upright by its EXIF tag.
      name: What it is called, for messages.

    Returns:
      The picture, uint8 [H, W, 3] in sRGB, 0 to 255.

    Raises:
      BrokenPicture: It has values that are neither 8-bit nor 16-bit.
    """
    return _to_rgb(_upright(image), name)


def _upright(image: Image.Image) -> Image.Image:
    """A picture turned by its EXIF tag, in a mode that Pillow converts to others."""
    turn = _TRANSPOSITIONS.get(_orientation(image))
    image = image if turn is None else image.transpose(turn)
    # Grey times its own opacity becomes grey with opacity and nothing else.
    return image.convert("LA") if image.mode == "La" else image


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    """An upright picture of any colour mode as uint8 [H, W, 3]."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = _wide_grey(image, name)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode != "RGB" or "transparency" in image.info:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(paper, image)
        image = image.convert("RGB")
    return np.asarray(image)


def decode_mask(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes a mask: grey, palette, 1-bit, 16-bit or RGB, with at most two grey levels.

    The brighter of two levels is the lesion, whatever the numbers are; of a mask with a single
    level, black is all background and anything else all lesion.

    Args:
      data: The encoded file.
      name: The file's name, for messages.
      max_pixels: The largest height times width that is read.

    Returns:
      The mask, uint8 [H, W] of 0 (background) and 1 (lesion).

    Raises:
      BrokenPicture: The file is no picture, is cut off, has transparent parts or more than two
        levels.
    """
    image = _open(data, name, max_pixels)
    is_wide = image.mode in ("I", "F") or image.mode.startswith("I;16")
    if not is_wide and image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            raise BrokenPicture(
                "transparent mask",
                f"The mask {name} has transparent parts, so that what is lesion is not clear: "
                "save it as a grey PNG with 0 for background and 255 for lesion.",
            )
    if is_wide or image.mode in ("L", "1"):
        levels = np.asarray(image)
    else:
        # A palette's numbers mean nothing, its colours do; and straight to grey, Pillow would
        # give a palette with transparency another mode.
        levels = np.asarray(image.convert("RGB").convert("L"))
    low, high = levels.min(), levels.max()
    if low == high:
        return np.full(levels.shape, np.uint8(high > 0))
    lesion = levels == high
    if not np.all(lesion | (levels == low)):
        raise BrokenPicture(
            "mask is not binary",
            f"The mask {name} has {len(np.unique(levels))} grey levels where a mask has two: "
            "save it as a PNG with 0 for background and 255 for lesion.",
        )
    return lesion.astype(np.uint8)


def is_plain(data: bytes) -> bool:
    """Whether the encoded picture is an upright JPEG or PNG in plain RGB; reads the header only.

    Such a file can be passed on as it is: every reader sees the same pixels in it.
    """
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        return (
            image.format in ("JPEG", "PNG")
            and image.mode == "RGB"
            and "transparency" not in image.info
            and _orientation(image) == 1
        )


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """Reduces a picture so that its shorter side has at most `size` pixels; never enlarges.

    Args:
      image: uint8 [h, w, 3].
      size: Pixels, at least 1.

    Returns:
      uint8 [h', w', 3], with the aspect ratio kept up to rounding; `image` itself where it fits.
    """
    height, width = image.shape[:2]
    shorter = min(height, width)
    if shorter <= size:
        return image
    # Integers throughout, so that 600x450 at 150 is 200x150 on every machine.
    reduced = tuple((2 * side * size + shorter) // (2 * shorter) for side in (height, width))
    return _resize(image, reduced, Image.Resampling.BICUBIC)


def encode_image(image: np.ndarray) -> bytes:
    """Encodes a picture, uint8 [H, W, 3], as a JPEG of quality 95 with full colour resolution."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def fit_image(
    image: np.ndarray, image_size: tuple[int, int], fit: str
) -> tuple[np.ndarray, np.ndarray]:
    """Fits a picture to a model's input size, enlarging where it must.

    Args:
      image: uint8 [h, w, 3].
      image_size: Height and width of the result.
      fit: `squash` fills the frame and gives up the aspect ratio; `letterbox` keeps it, centred,
        with black bars.

    Returns:
      The fitted picture, uint8 [H, W, 3], and the box of its content, int32 [4]: top, left, height
      and width in pixels.

    Raises:
      UserError: `fit` is neither of the two.
    """
    box = content_box(image.shape[:2], image_size, fit)
    return _place(_resize(image, box[2:], Image.Resampling.BILINEAR), box, image_size), np.array(
        box, np.int32
    )


def fit_mask(
    mask: np.ndarray,
    image_size: tuple[int, int],
    fit: str,
    box: np.ndarray | None = None,
) -> np.ndarray:
    """Fits a mask to a model's input size, as `fit_image` does its picture.

    A pixel is lesion where at least half of the area it covers is.

    Args:
      mask: uint8 [h, w] of 0 and 1.
      image_size: Height and width of the result.
      fit: `squash` or `letterbox`, as for the picture.
      box: The picture's box, int32 [4]. The mask may have another size than its picture, and then
        its own letterbox could differ from the picture's by a rounded pixel. Without it the mask's
        own box is taken.

    Returns:
      The fitted mask, uint8 [H, W] of 0 and 1; 0 outside the box.

    Raises:
      UserError: `fit` is neither of the two.
    """
    if box is None:
        place = content_box(mask.shape, image_size, fit)
    else:
        top, left, height, width = (int(value) for value in box)
        place = (top, left, height, width)
    fitted = _resize(mask * np.uint8(255), place[2:], Image.Resampling.BOX) >= 128
    return _place(fitted.astype(np.uint8), place, image_size)


def unfit(probabilities: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Brings a prediction at a model's input size back to a picture's own size.

    Args:
      probabilities: float32 [H, W].
      box: int32 [4], where the picture lies in the frame: top, left, height and width.
      size: Height and width of the result.

    Returns:
      float32 [h, w]: the box alone, resized bilinearly with half-pixel centres.
    """
    top, left, height, width = (int(value) for value in box)
    content = np.ascontiguousarray(
        probabilities[top : top + height, left : left + width], dtype=np.float32
    )
    return _resize(content, size, Image.Resampling.BILINEAR)


def content_box(
    size: tuple[int, ...], image_size: tuple[int, int], fit: str
) -> tuple[int, int, int, int]:
    """Where a picture of `size` (height, width) lies in a frame: top, left, height and width."""
    if fit not in FITS:
        raise UserError(f"config.fit is {fit!r}: set it to 'squash' or 'letterbox'.")
    frame_height, frame_width = image_size
    if fit == "squash":
        return 0, 0, frame_height, frame_width
    height, width = size
    scale = min(frame_height / height, frame_width / width)
    new_height = min(frame_height, max(1, round(height * scale)))
    new_width = min(frame_width, max(1, round(width * scale)))
    return (frame_height - new_height) // 2, (frame_width - new_width) // 2, new_height, new_width


def same_aspect(size: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two sizes (height, width) differ by a scale alone, up to a pixel of the smaller."""
    (height, width), (other_height, other_width) = sorted((size, other))
    by_width = abs(height - other_height * width / other_width)
    by_height = abs(width - other_width * height / other_height)
    return min(by_width, by_height) <= 1


def _open(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """Opens, checks, decodes and turns a picture."""
    if not data:
        raise BrokenPicture(
            "empty file", f"The picture {name} is empty: download or copy it again."
        )
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
        width, height = image.size
        if width * height <= max_pixels:
            image.load()
            return _upright(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenPicture(
            "too large",
            f"The picture {name} is too large to be read safely ({error}): reduce it first.",
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's decoders raise a dozen kinds of exception on damaged files, SyntaxError too.
        raise BrokenPicture(
            "does not decode",
            f"The picture {name} cannot be decoded ({error}): download or copy it again.",
        ) from error
    raise BrokenPicture(
        "too large",
        f"The picture {name} has {width} x {height} pixels, above the limit of {max_pixels:,}: "
        "reduce it first, or raise config.data.max_pixels.",
    )


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, KeyError, IndexError, TypeError, OSError):
        # A damaged EXIF block says nothing about the pixels, and viewers show such files upright.
        return 1


def _wide_grey(image: Image.Image, name: str) -> np.ndarray:
    """A grey picture of more than 8 bits as uint8 [H, W]."""
    levels = np.asarray(image)
    if image.mode == "F" or levels.min() < 0 or levels.max() > 65535:
        raise BrokenPicture(
            "unusual values",
            f"The picture {name} has values that are neither 8-bit nor 16-bit: save it as an "
            "8-bit JPEG or PNG.",
        )
    return ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _resize(array: np.ndarray, size: tuple[int, ...], how: Image.Resampling) -> np.ndarray:
    """Resizes [h, w] or [h, w, 3] to `size` (height, width), antialiased where it reduces."""
    height, width = size
    if array.shape[:2] == (height, width):
        return array
    return np.asarray(Image.fromarray(array).resize((width, height), how))


def _place(
    content: np.ndarray, box: tuple[int, int, int, int], frame: tuple[int, int]
) -> np.ndarray:
    """Puts content, uint8 [height, width, ...], into its box of an else black frame."""
    top, left, height, width = box
    if (height, width) == tuple(frame):
        return content
    result = np.zeros((*frame, *content.shape[2:]), np.uint8)
    result[top : top + height, left : left + width] = content
    return result
