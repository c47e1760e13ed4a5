"""A lesion's outline drawn on its picture: arrays in, an array out."""

import numpy as np
from PIL import Image, ImageFilter

from skinjax.report.figures import PREDICTION_COLOUR

_RIM_COLOUR = "#202020"
# A blur of more pixels than 8 bits have levels would lose the line's outer pixels.
_MAX_RADIUS = 6


def draw_outline(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draws the outline of a mask on a copy of its picture: a bright line with a dark rim.

    The line's width grows with the picture, to be seen at any size.

    Args:
        image: uint8 [H, W, 3], RGB.
        mask: bool [H, W].

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: the two differ in size.
    """
    if image.shape[:2] != mask.shape:
        raise ValueError(f"a picture of {image.shape[:2]} and a mask of {mask.shape}: not a pair")
    drawn = image.copy()
    # Beyond the edge lies no lesion, so that an outline that reaches it is closed along it.
    radius = int(np.clip(min(mask.shape) // 250, 1, _MAX_RADIUS))
    framed = np.pad(mask.astype(np.uint8) * np.uint8(255), 1)
    for width, colour in ((radius + 1, _RIM_COLOUR), (radius, PREDICTION_COLOUR)):
        # Where a box of the line's width holds both lesion and background, there is the line.
        blurred = np.asarray(Image.fromarray(framed).filter(ImageFilter.BoxBlur(width)))
        line = (blurred > 0) & (blurred < 255)
        drawn[line[1:-1, 1:-1]] = np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)
    return drawn
