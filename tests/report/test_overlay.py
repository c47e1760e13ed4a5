"""The outline lies on the border, and nothing else of the picture is touched."""

import numpy as np
import pytest

from skinjax.report.figures import PREDICTION_COLOUR
from skinjax.report.overlay import draw_outline

YELLOW = np.frombuffer(bytes.fromhex(PREDICTION_COLOUR[1:]), np.uint8)


@pytest.mark.parametrize("height", [100, 2400])
def test_a_line_along_the_border_as_wide_as_the_picture_wants_it(height):
    image = np.full((height, height, 3), 90, np.uint8)
    mask = np.zeros((height, height), bool)
    mask[height // 4 : height // 2, height // 4 :] = True  # reaches the right edge
    before = image.copy()
    drawn = draw_outline(image, mask)
    np.testing.assert_array_equal(image, before)

    yellow = (drawn == YELLOW).all(axis=2)
    changed = (drawn != image).any(axis=2)
    assert yellow[height // 4, height // 2] and yellow[height // 3, height // 4]
    assert yellow[height // 3, -1]  # closed along the edge
    width = yellow[: height // 3, height // 2].sum()
    assert width == (2 if height == 100 else 12)
    # A rim on both sides, and beyond it the picture as it was.
    assert changed[: height // 3, height // 2].sum() == width + 2
    assert not changed[: height // 8].any() and not changed[height * 3 // 8, height // 2]


def test_nothing_is_drawn_for_no_lesion_and_sizes_must_agree():
    image = np.zeros((20, 30, 3), np.uint8)
    np.testing.assert_array_equal(draw_outline(image, np.zeros((20, 30), bool)), image)
    with pytest.raises(ValueError, match="not a pair"):
        draw_outline(image, np.zeros((30, 20), bool))
