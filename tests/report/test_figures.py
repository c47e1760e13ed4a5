"""The sheet of samples: what stands in the file, not only that there is one."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from skinjax.report.figures import (
    PREDICTION_COLOUR,
    TRUTH_COLOUR,
    Sample,
    sample_sheet,
)


def make_sample(truth_rows=20, prediction_rows=20, size=(48, 64), image_size=(48, 64)):
    truth, prediction = np.zeros(size, bool), np.zeros(size, bool)
    truth[10 : 10 + truth_rows, 10:30] = True
    prediction[10 : 10 + prediction_rows, 15:40] = True
    return Sample(np.full((*image_size, 3), 150, np.uint8), truth, prediction, "an image")


def count_pixels(path, colour):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), float)
    return int(np.sum(np.abs(pixels - 255 * np.array(to_rgb(colour))).max(-1) < 12))


def test_a_sheet_shows_both_outlines(tmp_path):
    path = tmp_path / "samples.png"
    rows = [(name, [make_sample()] * 3) for name in ("worst", "median", "best")]
    sample_sheet(path, rows, "test: 9 images")
    with Image.open(path) as image:
        assert image.width > 900 and image.height > 600
    assert count_pixels(path, TRUTH_COLOUR) > 2000
    assert count_pixels(path, PREDICTION_COLOUR) > 1000


def test_an_empty_mask_draws_nothing_and_a_full_one_an_outline(tmp_path):
    """The legend alone is left of a colour; a full mask is closed along the picture's edge."""
    empty, full = tmp_path / "empty.png", tmp_path / "full.png"
    sample_sheet(empty, [("worst", [make_sample(0, 0)])], "empty")
    whole = make_sample()
    whole.truth[:] = True
    sample_sheet(full, [("worst", [whole])], "full")
    assert count_pixels(full, TRUTH_COLOUR) > 3 * count_pixels(empty, TRUTH_COLOUR) > 0


def test_images_of_other_sizes_than_their_masks_and_rows_of_uneven_length(tmp_path):
    small = make_sample(image_size=(12, 16))
    tall = make_sample(size=(90, 64))
    sample_sheet(tmp_path / "s.png", [("worst", [small, tall]), ("best", [small])], "uneven")
    assert count_pixels(tmp_path / "s.png", TRUTH_COLOUR) > 1000


def test_the_file_says_nothing_of_where_it_was_made(tmp_path):
    path = tmp_path / "samples.png"
    sample_sheet(path, [("worst", [make_sample()])], "title")
    with Image.open(path) as image:
        assert set(image.info) <= {"dpi"}
    assert str(tmp_path).encode() not in path.read_bytes()


def test_the_same_samples_make_the_same_file(tmp_path):
    for name in ("a.png", "b.png"):
        sample_sheet(tmp_path / name, [("worst", [make_sample()])], "title")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("rows", [[], [("worst", [])]])
def test_nothing_to_draw_is_an_error(tmp_path, rows):
    with pytest.raises(ValueError, match="no pictures"):
        sample_sheet(tmp_path / "samples.png", rows, "title")


def test_masks_that_differ_in_shape_are_an_error(tmp_path):
    sample = make_sample()
    wrong = Sample(sample.image, sample.truth, sample.prediction[:-1], "ISIC_1")
    with pytest.raises(ValueError, match="ISIC_1"):
        sample_sheet(tmp_path / "samples.png", [("worst", [wrong])], "title")
