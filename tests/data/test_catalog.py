"""The names a config may use."""

import subprocess
import sys

import pytest

from skinjax.data.catalog import DATASETS, create_source
from skinjax.errors import UserError


def test_names():
    assert {"phantom", "ham10000"} <= set(DATASETS)


def test_a_source_has_its_name(tmp_path):
    source = create_source("phantom", None, tmp_path, num_images=3)
    assert source.name == "phantom"
    assert len(source.examples()) == 3


def test_a_source_gets_its_path(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        create_source("ham10000", str(tmp_path / "nowhere"), tmp_path)
    with pytest.raises(UserError, match=r"config\.data\.source is empty"):
        create_source("ham10000", None, tmp_path)


def test_the_phantom_reads_no_files(tmp_path):
    with pytest.raises(UserError, match=r"'/data/ham', but the data set 'phantom' is generated"):
        create_source("phantom", "/data/ham", tmp_path)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("HAM1000", "ham10000"), ("Phantom", "phantom"), ("ham_10000", "ham10000")],
)
def test_an_unknown_name_gets_the_nearest(tmp_path, name, nearest):
    with pytest.raises(UserError, match=f"did you mean '{nearest}'.*Known are .*phantom"):
        create_source(name, None, tmp_path)


def test_a_name_like_none_gets_the_list(tmp_path):
    with pytest.raises(UserError, match="is no data set: Known are") as caught:
        create_source("xyz", None, tmp_path)
    assert "did you mean" not in str(caught.value)


def test_only_the_source_in_use_is_imported():
    code = (
        "import sys\n"
        "import skinjax.data.catalog\n"
        "loaded = [name for name in sys.modules if name.startswith('skinjax.data.sources.')]\n"
        "assert loaded == ['skinjax.data.sources.example'], loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
