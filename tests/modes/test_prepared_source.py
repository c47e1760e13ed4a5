"""Prepared data, copied to a machine that has nothing else of the data set."""

import shutil

import pytest

from skinjax.errors import UserError
from skinjax.modes import datasets
from skinjax.modes.config import segmentation_config


@pytest.fixture
def config(cache_dir, tmp_path):
    """A configuration whose source is a copy of what was prepared elsewhere."""
    config = segmentation_config()
    config.data.dataset = "phantom"
    config.data.num_images = 20
    config.data.size = 32
    config.data.cache_dir = str(cache_dir)
    prepared = datasets.prepare_data(config)
    shutil.copytree(prepared.directory, tmp_path / "copied")
    config.data.source = str(tmp_path / "copied")
    config.data.cache_dir = str(tmp_path / "empty")
    return config


def test_it_is_a_source_by_itself(config, cache_dir, tmp_path):
    copied = datasets.prepare_data(config)
    config.data.source, config.data.cache_dir = "", str(cache_dir)
    original = datasets.prepare_data(config)
    assert copied.directory != original.directory
    assert not (tmp_path / "empty").exists()
    assert copied.table == original.table
    assert copied.read(3) == original.read(3)
    assert datasets.split_data(config, copied) == datasets.split_data(config, original)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("dataset", "ph2", "holds phantom, prepared, and not ph2"),
        ("size", 64, "config.data.size=32"),
    ],
)
def test_another_data_set_or_size_is_refused(config, key, value, words):
    config.data[key] = value
    with pytest.raises(UserError, match=words):
        datasets.prepare_data(config)
