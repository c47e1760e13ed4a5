"""What is told of the data sets: each has its licence, and its limits read as sentences."""

import pytest

from skinjax.data.about import ABOUT
from skinjax.data.catalog import DATASETS


def test_every_data_set_is_told_of():
    assert tuple(ABOUT) == DATASETS


@pytest.mark.parametrize("name", DATASETS)
def test_what_is_told_is_whole(name):
    about = ABOUT[name]
    assert about.name and about.title and about.licence and about.cite
    assert all(limit[0].islower() and limit.endswith(".") for limit in about.limits)
    assert about.limits or name == "folder"
