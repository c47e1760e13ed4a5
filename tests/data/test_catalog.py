"""The names a config may use."""

import shutil
import subprocess
import sys

import pytest
from layouts import LAYOUTS

from skinjax.data.catalog import DATASETS, create_source, detect_sources
from skinjax.errors import UserError


def test_names():
    assert DATASETS == (
        "phantom",
        "ham10000",
        "isic2016",
        "isic2017",
        "isic2018",
        "isic2019",
        "isic2020",
        "ph2",
        "dermamnist",
        "folder",
    )


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


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_data_set_is_told_by_its_files(name, tmp_path):
    make, tasks = LAYOUTS[name]
    make(tmp_path / "data")
    found = detect_sources(tmp_path / "data", tmp_path / "cache")
    assert {source.name for source in found} == {name}
    # The outlines and the diagnoses of ISIC 2018 are of different pictures.
    assert len(found) == (2 if name == "isic2018" else 1)
    assert all(example.load()[0] for source in found for example in source.examples())
    for task in tasks:
        source = create_source(
            name, tmp_path / "data", tmp_path / "cache", masks=task == "segmentation"
        )
        examples = source.examples()
        assert len(examples) >= 59  # ISIC 2020's known duplicate is left out
        if task == "segmentation":
            assert all(example.load()[1] for example in examples)
        else:
            assert all(example.label in source.classes for example in examples)


def test_what_zips_hold_tells_a_data_set(tmp_path):
    LAYOUTS["isic2016"][0](tmp_path / "data")
    (tmp_path / "zips").mkdir()
    shutil.make_archive(str(tmp_path / "zips" / "all"), "zip", tmp_path / "data")
    (source,) = detect_sources(tmp_path / "zips", tmp_path / "cache")
    assert source.name == "isic2016" and len(source.examples()) == 60


def test_only_the_source_in_use_is_imported():
    code = (
        "import sys\n"
        "import skinjax.data.catalog\n"
        "loaded = [name for name in sys.modules if name.startswith('skinjax.data.sources.')]\n"
        "assert loaded == ['skinjax.data.sources.example'], loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
