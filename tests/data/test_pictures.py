"""What a user names is found, under the name that its prediction gets."""

import os
import zipfile

import pytest

from skinjax.data.pictures import find_pictures
from skinjax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Pictures in a folder and below it, and what lies among them."""
    root = tmp_path / "pictures"
    for name in ("b.jpg", "a/c.PNG", "a/b.jpg", "notes.txt", ".hidden.jpg", "__MACOSX/x.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def names(inputs, tmp_path, **options):
    found = find_pictures([str(given) for given in inputs], tmp_path / "cache", **options)
    for file in found:
        assert os.path.getsize(file.path) == file.num_bytes
    return [file.relative for file in found]


def test_folders_keep_their_sub_folders_and_what_is_no_picture_is_left(folder, tmp_path):
    assert names([folder], tmp_path) == ["a/b.jpg", "a/c.PNG", "b.jpg"]


def test_a_zip_is_as_the_folder_in_it(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(folder))
    assert names([tmp_path / "pictures.zip"], tmp_path) == ["a/b.jpg", "a/c.PNG", "b.jpg"]


def test_patterns_are_named_from_their_first_wildcard_on(folder, tmp_path):
    assert names([folder / "*.jpg"], tmp_path) == ["b.jpg"]
    assert names([folder / "*" / "*.jpg"], tmp_path) == ["a/b.jpg"]
    assert names([folder / "**" / "*"], tmp_path) == ["a/b.jpg", "a/c.PNG", "b.jpg"]


def test_single_files_have_their_own_name_whatever_their_extension(folder, tmp_path):
    assert names([folder / "a" / "b.jpg", folder / "notes.txt"], tmp_path) == ["b.jpg", "notes.txt"]
    odd = tmp_path / "a[1].jpg"  # no pattern, where there is such a file
    odd.touch()
    assert names([odd], tmp_path) == ["a[1].jpg"]


def test_what_is_named_twice_comes_once_and_two_of_one_name_are_refused(folder, tmp_path):
    assert names([folder, folder / "b.jpg", folder / "*.jpg"], tmp_path) == [
        "a/b.jpg",
        "a/c.PNG",
        "b.jpg",
    ]
    with pytest.raises(UserError, match=r"both be b\.jpg"):
        names([folder / "b.jpg", folder / "a"], tmp_path)


def test_folders_that_are_left_out_are_so_also_through_a_link(folder, tmp_path):
    output = folder / "out" / "masks"
    output.mkdir(parents=True)
    (output / "b.png").touch()
    assert "out/masks/b.png" in names([folder], tmp_path)
    assert "out/masks/b.png" not in names([folder], tmp_path, left_out=[output])
    (tmp_path / "link").symlink_to(folder)
    link = tmp_path / "link" / "out" / "masks"
    assert "out/masks/b.png" not in names([folder], tmp_path, left_out=[link])


@pytest.mark.parametrize("given", ["nowhere", "empty", "*.jpg"])
def test_an_input_without_a_picture_is_refused(tmp_path, given):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"--input=.*(does not exist|holds no picture)"):
        names([tmp_path / given], tmp_path)
