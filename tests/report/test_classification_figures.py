"""The figures of a diagnosis: what is drawn is what was asked, for odd cases too."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import confusion_matrix, roc_auc_score

from skinjax.report import classification_figures
from skinjax.report.classification_figures import (
    Mistake,
    confusion,
    mistake_sheet,
    most_confident_mistakes,
    reliability,
    roc,
)

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")


def make_case(num=80, num_present=7, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_present, num)
    probabilities = rng.dirichlet(np.ones(7), num) + np.eye(7)[labels] * rng.random((num, 1))
    return probabilities / probabilities.sum(1, keepdims=True), labels


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, to be asked what is on them."""
    figures: list[Figure] = []

    def keep(figure, path, save=classification_figures.save):
        save(figure, path)
        figures.append(figure)

    monkeypatch.setattr(classification_figures, "save", keep)
    return figures


def draw_all(folder, probabilities, labels):
    sharper = probabilities**2 / (probabilities**2).sum(1, keepdims=True)
    confusion(folder / "confusion.png", labels, probabilities.argmax(1), CLASSES, "title")
    roc(folder / "roc.png", probabilities, labels, CLASSES, "title")
    reliability(folder / "reliability.png", sharper, probabilities, labels, "title")


@pytest.mark.parametrize("num, num_present", [(80, 7), (80, 3), (20, 1), (1, 1)])
def test_every_case_can_be_drawn_and_tells_nothing_of_where(tmp_path, num, num_present):
    draw_all(tmp_path, *make_case(num, num_present))
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == ["confusion.png", "reliability.png", "roc.png"]
    for path in paths:
        with Image.open(path) as image:
            assert min(image.size) > 500
            assert set(image.info) <= {"dpi"}
        assert str(tmp_path).encode() not in path.read_bytes()


def axes_of(figure) -> list[Axes]:
    return [axes for axes in figure.axes if isinstance(axes, Axes)]


def test_the_confusion_matrix_has_scikit_learns_counts(tmp_path, drawn):
    probabilities, labels = make_case(num_present=5)
    confusion(tmp_path / "c.png", labels, probabilities.argmax(1), CLASSES, "title")
    expected = confusion_matrix(labels, probabilities.argmax(1), labels=range(7))
    texts = {
        (int(text.get_position()[1]), int(text.get_position()[0])): text.get_text()
        for text in axes_of(drawn[0])[0].texts
    }
    assert texts.keys() == set(zip(*np.nonzero(expected), strict=True))
    for (row, column), text in texts.items():
        share = expected[row, column] / expected[row].sum()
        assert text == f"{expected[row, column]}\n{share:.0%}"


def test_the_roc_legend_has_each_classes_auroc_or_says_that_there_is_none(tmp_path, drawn):
    probabilities, labels = make_case(num_present=6)
    roc(tmp_path / "r.png", probabilities, labels, CLASSES, "title")
    texts = [text.get_text() for text in axes_of(drawn[0])[0].get_legend().get_texts()]
    for k, (name, text) in enumerate(zip(CLASSES, texts, strict=True)):
        if k == 6:
            assert text == f"{name}: undefined, n = 0"
            continue
        auroc = roc_auc_score(labels == k, probabilities[:, k])
        assert text == f"{name}: {auroc:.3f}, n = {np.sum(labels == k)}"


def test_reliability_of_predictions_of_one_confidence(tmp_path, drawn):
    """Of ten predictions at 0.7 six are right: one point, at (0.7, 0.6)."""
    probabilities = np.tile([0.7, 0.3], (10, 1))
    labels = np.array([0] * 6 + [1] * 4)
    reliability(tmp_path / "r.png", probabilities, probabilities, labels, "title")
    lines = axes_of(drawn[0])[0].get_lines()[1:]
    for line in lines:
        np.testing.assert_allclose(line.get_xydata(), [[0.7, 0.6]])


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 12))
def test_most_confident_mistakes(seed, num_images, num):
    probabilities, labels = make_case(num_images, seed=seed)
    chosen = most_confident_mistakes(probabilities, labels, num)
    wrong = probabilities.argmax(1) != labels
    confidence = probabilities.max(1)
    assert len(set(chosen)) == len(chosen) == min(num, wrong.sum())
    assert wrong[chosen].all()
    assert np.all(np.diff(confidence[chosen]) <= 0)
    left = np.setdiff1d(np.flatnonzero(wrong), chosen)
    assert not len(left) or confidence[left].max() <= confidence[chosen].min()


@pytest.mark.parametrize("num", [0, 1, 5, 7])
def test_a_sheet_of_mistakes_has_a_caption_a_picture(tmp_path, drawn, num):
    image = np.full((15, 20, 3), 128, np.uint8)
    mistakes = [Mistake(image, f"ISIC_{i}", "mel", "nv", 0.9) for i in range(num)]
    mistake_sheet(tmp_path / "m.png", mistakes, "title")
    captions = [axes.get_xlabel() for axes in axes_of(drawn[0]) if axes.get_xlabel()]
    assert captions == [f"mel, taken for nv (90%)\nISIC_{i}" for i in range(num)]
    if not num:
        assert [t.get_text() for t in axes_of(drawn[0])[0].texts] == ["no mistakes"]
