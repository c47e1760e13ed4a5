import io
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from skinjax.data.sources.example import CLASSES
from skinjax.data.sources.phantom import PhantomSource, render
from skinjax.errors import UserError


@pytest.fixture(scope="module")
def pictures():
    return [render(5, index, 75, 100) for index in range(60)]


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), index=st.integers(0, 10**6))
def test_same_seed_and_index_give_the_same_picture(seed, index):
    image, mask, label = render(seed, index, 48, 64)
    again = render(seed, index, 48, 64)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(mask, again[1])
    assert label == again[2]


def test_order_of_calls_does_not_matter():
    forwards = [render(2, index, 48, 64)[0] for index in range(4)]
    backwards = [render(2, index, 48, 64)[0] for index in reversed(range(4))]
    np.testing.assert_array_equal(forwards, backwards[::-1])


def test_other_seed_or_index_gives_another_picture():
    images = [render(seed, index, 48, 64)[0] for seed in (0, 1) for index in (0, 1, 2)]
    for k, image in enumerate(images):
        for other in images[k + 1 :]:
            assert np.mean(image != other) > 0.5


@pytest.mark.parametrize(("height", "width"), [(32, 32), (60, 45), (75, 100), (225, 300)])
def test_size_is_honoured(height, width):
    image, mask, label = render(0, 3, height, width)
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8
    assert mask.shape == (height, width)
    assert mask.dtype == np.uint8
    assert label in CLASSES


def test_the_scene_is_the_same_at_any_size():
    """A picture drawn at twice the size and shrunk shows the same lesion in the same place."""
    overlaps = []
    for index in range(12):
        _, small, _ = render(0, index, 75, 100)
        _, large, _ = render(0, index, 150, 200)
        shrunk = large.reshape(75, 2, 100, 2).mean(axis=(1, 3)) >= 0.5
        union = np.sum(shrunk | (small > 0))
        overlaps.append(np.sum(shrunk & (small > 0)) / union)
    assert np.mean(overlaps) > 0.93
    assert min(overlaps) > 0.7


def test_masks_are_binary_and_never_empty(pictures):
    for _, mask, _ in pictures:
        assert set(np.unique(mask)) <= {0, 1}
        assert mask.any()


def test_lesion_sizes_are_as_varied_as_on_ham10000():
    """The real shares: 5% of lesions below 0.034 of the picture, a mean of 0.265, 5% above 0.64."""
    shares = np.array([render(11, index, 48, 64)[1].mean() for index in range(200)])
    assert 0.2 < shares.mean() < 0.33
    assert 0.01 < np.quantile(shares, 0.05) < 0.09
    assert 0.5 < np.quantile(shares, 0.95) < 0.8


def test_mask_is_where_the_colour_differs(pictures):
    """Inside the mask the picture is darker than outside, and not so for a mask moved elsewhere."""
    contrasts, shifted = [], []
    for image, mask, _ in pictures:
        light = image.mean(axis=2)
        if not 0.03 < mask.mean() < 0.6:
            continue
        inside = mask > 0
        contrasts.append(light[~inside].mean() - light[inside].mean())
        elsewhere = np.roll(inside, (38, 50), axis=(0, 1))
        shifted.append(light[~elsewhere].mean() - light[elsewhere].mean())
    assert len(contrasts) > 30
    assert np.mean(contrasts) > 20
    assert np.mean(np.array(contrasts) > 0) > 0.85
    assert np.mean(shifted) < np.mean(contrasts) - 20


def test_pictures_are_not_flat(pictures):
    """Skin has texture and the tones differ from picture to picture."""
    tones = []
    for image, mask, _ in pictures:
        skin = image[mask == 0].astype(float)
        if mask.mean() < 0.6:
            tones.append(np.median(skin, axis=0))
            assert np.std(skin, axis=0).min() > 1.0
    assert np.std(tones, axis=0).min() > 10


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_class_is_there_and_naevi_are_two_thirds(seed):
    counts = Counter(example.label for example in PhantomSource(300, seed).examples())
    assert set(counts) == set(CLASSES)
    assert min(counts.values()) >= 3
    assert 0.58 < counts["nv"] / 300 < 0.76
    assert max(counts, key=counts.__getitem__) == "nv"


def test_some_lesions_have_more_than_one_image():
    examples = PhantomSource(400).examples()
    views = Counter(example.lesion_id for example in examples)
    assert 0.15 < np.mean(np.array(list(views.values())) > 1) < 0.4
    labels = {}
    for example in examples:
        assert labels.setdefault(example.lesion_id, example.label) == example.label
    first = {example.lesion_id: example.metadata for example in reversed(examples)}
    assert all(first[example.lesion_id] == example.metadata for example in examples)


def test_views_of_a_lesion_are_different_pictures_of_like_colour():
    examples = PhantomSource(200).examples()
    own, strangers, means = [], [], {}
    for index, example in enumerate(examples[:80]):
        image, mask, _ = render(0, index, 48, 64)
        means.setdefault(example.lesion_id, []).append(image[mask > 0].mean(axis=0))
    groups = list(means.values())
    for k, group in enumerate(groups):
        own += [np.abs(a - group[0]).mean() for a in group[1:]]
        strangers.append(np.abs(groups[k - 1][0] - group[0]).mean())
    assert min(own) > 0
    assert np.median(own) < 0.6 * np.median(strangers)


def test_load_returns_the_rendered_picture():
    source = PhantomSource(8, seed=4, height=60, width=80)
    for index, example in enumerate(source.examples()):
        image_file, mask_file = example.load()
        image, mask, label = render(4, index, 60, 80)
        decoded = np.asarray(Image.open(io.BytesIO(image_file)))
        decoded_mask = np.asarray(Image.open(io.BytesIO(mask_file)))
        assert decoded.shape == image.shape
        assert np.abs(decoded.astype(float) - image).mean() < 6  # JPEG
        np.testing.assert_array_equal(decoded_mask, mask * 255)
        assert example.label == label


def test_source_is_a_whole_data_set():
    source = PhantomSource(30)
    examples = source.examples()
    assert (source.name, source.classes, source.has_lesion_ids) == ("phantom", CLASSES, True)
    assert [example.image_id for example in examples[:2]] == ["phantom_000000", "phantom_000001"]
    assert len({example.image_id for example in examples}) == len(examples) == 30
    for example in examples:
        assert set(example.metadata) == {"dx_type", "age", "sex", "localization"}
        assert 5 <= float(example.metadata["age"]) <= 85
    assert PhantomSource(10).examples()[7].lesion_id == examples[7].lesion_id


def test_fingerprint_follows_every_parameter():
    sources = [
        PhantomSource(10),
        PhantomSource(11),
        PhantomSource(10, seed=1),
        PhantomSource(10, height=96),
        PhantomSource(10, width=128),
    ]
    assert len({source.fingerprint() for source in sources}) == len(sources)
    assert PhantomSource(10).fingerprint() == sources[0].fingerprint()


def test_bad_parameters_are_refused():
    with pytest.raises(UserError, match="at least 32"):
        render(0, 0, 16, 200)
    with pytest.raises(UserError, match="at least 1 image"):
        PhantomSource(0)
    with pytest.raises(UserError, match="negative"):
        PhantomSource(1, seed=-1)
    with pytest.raises(UserError, match="at least 32"):
        PhantomSource(1, width=8)
