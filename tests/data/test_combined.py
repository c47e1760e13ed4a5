"""Several data sets as one: whose pictures are whose, and which of them are the same."""

import io

import numpy as np
import pytest
from PIL import Image

from skinjax.data.combined import Combined, shared_lesions, shared_pictures
from skinjax.data.records import prepare
from skinjax.data.sources.example import CLASSES, Example
from skinjax.data.sources.phantom import render
from skinjax.data.table import Row

PICTURES = [render(3, index, 60, 80)[0] for index in range(12)]


class Pictures:
    """A source of pictures in memory."""

    has_lesion_ids = True
    lesion_ids_mend = None
    notes = ()
    missing = ()

    def __init__(self, name, pictures, labels, classes=CLASSES):
        self.name, self.classes = name, classes
        self._pictures, self._labels = pictures, labels

    def fingerprint(self):
        return f"{self.name} {list(self._pictures)} {self._labels}"

    def examples(self):
        return [
            Example(key, lambda p=p: (encode(p), encode(p[..., 0] // 255 * 255)), key, key, key, c)
            for (key, p), c in zip(self._pictures.items(), self._labels, strict=True)
        ]


def encode(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def make(tmp_path):
    def make(name, pictures, labels=None, classes=CLASSES):
        labels = labels or [classes[i % len(classes)] for i in range(len(pictures))]
        return prepare(Pictures(name, pictures, labels, classes), tmp_path, 60, 1)

    return make


def test_pictures_and_rows_of_each_are_found_in_it(make):
    first = make("one", {f"ISIC_{i}": PICTURES[i] for i in range(3)})
    second = make(
        "two",
        {f"IMD{i}": PICTURES[i] for i in range(3, 7)},
        ["malignant"] * 4,
        ("benign", "malignant"),
    )
    third = make("three", {"x": PICTURES[7], "y": PICTURES[8]}, ["sk", "wart"], ("sk", "wart"))
    both = Combined([first, second, third])
    assert len(both) == 9 and both.set_names == ("one", "two", "three") and both.classes == CLASSES
    assert [both.set_index(p) for p in range(9)] == [0] * 3 + [1] * 4 + [2] * 2
    assert [list(both.positions(s)) for s in range(3)] == [[0, 1, 2], [3, 4, 5, 6], [7, 8]]
    assert both.table[:3] == first.table
    assert [row.image_id for row in both.table[3:]] == [
        *[f"two/IMD{i}" for i in range(3, 7)],
        "three/x",
        "three/y",
    ]
    assert both.table[7].lesion_id == "three/x"
    # malignant is melanoma, sk is bkl, and nobody knows what a wart is here.
    assert [row.label for row in both.table[3:]] == ["mel"] * 4 + ["bkl", None]
    for position, member, own in ((0, first, 0), (3, second, 0), (6, second, 3), (8, third, 1)):
        assert both.read(position) == member.read(own)
    assert both.thumbnails().shape == (9, 32, 32)
    np.testing.assert_array_equal(both.thumbnails()[7:], third.thumbnails())


def test_a_class_that_stands_for_several_teaches_none(make):
    first = make("one", {"a": PICTURES[0]})
    second = make("two", {"b": PICTURES[1]}, ["benign"], ("benign", "malignant"))
    assert Combined([first, second]).table[1].label is None


def test_shared_lesions_are_told_by_their_names_in_the_archive_alone():
    def rows(**lesions):
        return [Row(image_id, lesion_id, None, None, {}) for image_id, lesion_id in lesions.items()]

    first = rows(a="HAM_0000118", b="7", c="BCN_0000001", d="d")
    second = rows(e="isic2019/HAM_0000118", f="isic2019/ham_0000118", g="two/7", h="BCN_0000002")
    assert shared_lesions(first, second) == [("a", "e"), ("a", "f")]
    assert shared_lesions(second, first) == [("e", "a"), ("f", "a")]


def test_shared_pictures_are_told_by_number_and_by_content(make):
    first = make("one", {f"ISIC_000000{i}": PICTURES[i] for i in range(5)})
    flipped = np.ascontiguousarray(PICTURES[2][:, ::-1])
    second = make(
        "two",
        {
            "ISIC_0000001_downsampled": PICTURES[9],  # another picture, and yet the same number
            "photo": flipped,
            "1": PICTURES[10],
        },
    )
    shared = shared_pictures(first, range(5), second, range(3))
    assert shared == [("ISIC_0000001", "ISIC_0000001_downsampled"), ("ISIC_0000002", "photo")]
    assert shared_pictures(first, [0, 3, 4], second, range(3)) == []
    assert shared_pictures(first, range(5), second, [2]) == []
    both = Combined([first, second])
    assert shared_pictures(both, range(5), both, [5, 6, 7]) == [
        ("ISIC_0000001", "two/ISIC_0000001_downsampled"),
        ("ISIC_0000002", "two/photo"),
    ]
