"""Overlays and sheets of explanations: what is drawn is what was given."""

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from skinjax.report import explanations
from skinjax.report.explanations import class_sheet, outline_sheet, overlay

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")


def make_gates(num=9):
    rng = np.random.default_rng(0)
    return [(f"encoder {i}", rng.random(4 * 2**i)) for i in range(num)]


def test_an_overlay_has_the_maps_colours_over_the_pictures_grey():
    image = np.zeros((2, 3, 3), np.uint8)
    image[1] = 200
    heat = np.array([[0.0, 0.5, 1.0], [0.0, 0.5, 7.0]])
    drawn = overlay(image, heat)
    colours = np.array([colormaps["viridis"](x)[:3] for x in (0.0, 0.5, 1.0)]) * 255
    strength = np.array([[0], [0.5], [1]]) * 0.75
    np.testing.assert_allclose(drawn[0], strength * colours, atol=1)
    np.testing.assert_allclose(drawn[1], strength * colours + (1 - strength) * 200, atol=1)
    assert drawn.dtype == np.uint8
    with pytest.raises(ValueError, match="does not fit"):
        overlay(image, heat[:1])


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, to be asked what is on them."""
    figures = []

    def keep(figure, path, save=explanations.save):
        save(figure, path)
        figures.append(figure)

    monkeypatch.setattr(explanations, "save", keep)
    return figures


@pytest.mark.parametrize("with_gates", [True, False])
@pytest.mark.parametrize("shape", [(60, 80), (90, 60)])
def test_a_diagnosis_is_drawn_with_and_without_gates(tmp_path, drawn, shape, with_gates):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    probabilities = np.array([0.05, 0.1, 0.05, 0.0, 0.7, 0.1, 0.0])
    spatial = [
        ("stage 1", np.full(shape, 0.5)),
        ("stage 2", 0.2 + 0.1 * np.linspace(0, 1, shape[0] * shape[1]).reshape(shape)),
    ]
    class_sheet(
        tmp_path / "sheet.png",
        image,
        "lesion.jpg",
        CLASSES,
        probabilities,
        rng.random(shape),
        spatial if with_gates else (),
        make_gates() if with_gates else (),
    )
    captions = [axis.get_title() for axis in drawn[0].axes]
    assert "Grad-CAM of mel, mean over flips" in captions and "probability" in captions
    bars = next(axis for axis in drawn[0].axes if axis.get_title() == "probability")
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(probabilities)
    assert ("channel gates" in captions) == with_gates
    told = [[text.get_text() for text in axis.texts] for axis in drawn[0].axes]
    assert (["0.50", "0.50"] in told) == (["0.20", "0.30"] in told) == with_gates
    with Image.open(tmp_path / "sheet.png") as picture:
        assert min(picture.size) > 400 and set(picture.info) <= {"dpi"}


def test_an_outline_is_drawn_with_its_share_and_its_gates_sorted(tmp_path, drawn):
    image = np.full((60, 80, 3), 128, np.uint8)
    probabilities = np.zeros((60, 80))
    probabilities[:30, :40] = 0.9
    gates = make_gates()
    outline_sheet(tmp_path / "a.png", image, "a.jpg", probabilities, probabilities / 2, gates)
    captions = [axis.get_title() for axis in drawn[0].axes]
    assert any("25% of the picture" in caption for caption in captions)
    strips = next(axis for axis in drawn[0].axes if axis.get_title() == "channel gates")
    rows = strips.images[0].get_array()
    assert [label.get_text() for label in strips.get_yticklabels()] == [name for name, _ in gates]
    assert (np.diff(rows, axis=1) <= 0).all()
    np.testing.assert_allclose(rows[:, 0], [values.max() for _, values in gates])
    np.testing.assert_allclose(rows[:, -1], [values.min() for _, values in gates])


def test_many_blocks_are_labelled_in_steps(tmp_path, drawn):
    image = np.full((60, 80, 3), 128, np.uint8)
    many = [(f"stage {i}", np.linspace(0, 1, 8)) for i in range(33)]
    outline_sheet(tmp_path / "a.png", image, "a", np.zeros((60, 80)), np.zeros((60, 80)), many)
    strips = next(axis for axis in drawn[0].axes if axis.get_title() == "channel gates")
    assert strips.images[0].get_array().shape[0] == 33
    assert len(strips.get_yticklabels()) == 17
