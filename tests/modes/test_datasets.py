"""What a training is told of its labels before it begins."""

import dataclasses

import numpy as np
import pytest
from runs import tiny_config

from skinjax.data.pipeline import Order
from skinjax.errors import UserError
from skinjax.modes import datasets


@pytest.fixture
def config(cache_dir):
    config = tiny_config(cache_dir)
    config.data.sampling = 0.5
    return config


@pytest.fixture
def prepared(config):
    return datasets.prepare_data(config)


def test_shares_are_those_of_what_is_drawn(config, prepared):
    positions = list(range(0, len(prepared), 2))
    shares = datasets.class_shares(config, prepared, positions)
    labels = np.array([prepared.classes.index(prepared.table[p].label) for p in positions])
    drawn = labels[Order(labels, 0.5, config.seed).draws(0, len(labels))]
    np.testing.assert_allclose(shares, np.bincount(drawn) / len(labels))
    assert max(shares) < np.bincount(labels).max() / len(labels)
    config.data.sampling = 0.0
    plain = datasets.class_shares(config, prepared, positions)
    np.testing.assert_allclose(plain, np.bincount(labels) / len(labels))


def test_an_image_without_a_label_is_named(config, prepared):
    prepared.table[3] = dataclasses.replace(prepared.table[3], label=None)
    with pytest.raises(UserError, match=f"{prepared.table[3].image_id} of phantom has no label"):
        datasets.class_shares(config, prepared, [2, 3])


def test_classes_without_an_image_and_a_class_alone_are_refused(config, prepared):
    of_mel = [p for p, row in enumerate(prepared.table) if row.label == "mel"]
    with pytest.raises(UserError, match="has no image of akiec, bcc, bkl, df, nv, vasc"):
        datasets.class_shares(config, prepared, of_mel)
    prepared.classes = ("mel",)
    with pytest.raises(UserError, match="has one class, mel: there is nothing to tell apart"):
        datasets.class_shares(config, prepared, of_mel)
