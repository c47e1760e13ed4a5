"""The same photograph is found again, and no other is taken for it."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from skinjax.data import near_duplicates
from skinjax.data.near_duplicates import ORIENTATIONS, find_pairs, make_hashes, make_thumbnail
from skinjax.data.sources.phantom import render

PICTURES = [render(0, index, 120, 160)[0] for index in range(40)]


def jpeg(image, quality):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def resized(image, width, height):
    return np.asarray(Image.fromarray(image).resize((width, height)))


def turned(image, how):
    return image if how is None else np.asarray(Image.fromarray(image).transpose(how))


def pairs_of(pictures):
    thumbnails = np.stack([make_thumbnail(picture) for picture in pictures])
    return list(find_pairs(thumbnails, np.stack([make_hashes(t) for t in thumbnails])))


def test_different_pictures_are_no_pair():
    assert pairs_of(PICTURES) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda image: jpeg(image, 30),
        lambda image: resized(image, 80, 60),
        lambda image: resized(image, 128, 128),
        lambda image: np.clip(image * 1.15, 0, 255).astype(np.uint8),
        *[lambda image, how=how: jpeg(turned(image, how), 60) for how in ORIENTATIONS],
    ],
    ids=["quality", "half", "squashed", "brighter", *[str(how) for how in ORIENTATIONS]],
)
def test_a_copy_is_found(change):
    copies = [change(picture) for picture in PICTURES[:10]]
    found = {(pair.first, pair.second) for pair in pairs_of([*PICTURES, *copies])}
    assert found == {(index, len(PICTURES) + index) for index in range(10)}


@pytest.mark.parametrize("orientation", range(8))
def test_the_orientation_lays_one_on_the_other(orientation):
    how = ORIENTATIONS[orientation]
    first = turned(PICTURES[3], how)
    (pair,) = pairs_of([first, PICTURES[3]])
    assert (pair.first, pair.second, pair.orientation) == (0, 1, orientation)
    assert pair.correlation > 0.999


def test_a_large_crop_is_beyond_it():
    height, width = PICTURES[0].shape[:2]
    copies = [p[height // 8 : -height // 8, width // 8 : -width // 8] for p in PICTURES[:10]]
    assert pairs_of([*PICTURES, *copies]) == []


def test_each_pair_comes_once_whatever_is_compared_at_once(monkeypatch):
    pictures = [*PICTURES[:6], *PICTURES[:4], *PICTURES[:2]]
    whole = pairs_of(pictures)
    assert len({(p.first, p.second) for p in whole}) == len(whole) == 2 * 3 + 2 * 1
    monkeypatch.setattr(near_duplicates, "_HASHES_AT_ONCE", 1)
    again = pairs_of(pictures)
    assert [replace(p, correlation=0) for p in again] == [replace(p, correlation=0) for p in whole]
    # How many are normalised at once decides the order of their float32 sums.
    assert [p.correlation for p in again] == pytest.approx([p.correlation for p in whole], abs=1e-5)


def test_blank_pictures_are_no_evidence():
    assert pairs_of([np.full((20, 30, 3), level, np.uint8) for level in (0, 0, 255)]) == []


@given(st.integers(0, 2**32 - 1))
def test_turning_a_thumbnail_permutes_its_hashes(seed):
    thumbnail = np.random.default_rng(seed).integers(0, 256, (32, 32), np.uint8)
    hashes = make_hashes(thumbnail)
    for how in ORIENTATIONS:
        assert set(make_hashes(turned(thumbnail, how)).tolist()) == set(hashes.tolist())
