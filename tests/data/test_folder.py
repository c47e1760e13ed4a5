"""A user's own folder in each shape: masks by name, a folder for each class, a table."""

import os
import shutil
import time
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest

from skinjax.data.images import decode_image, decode_mask
from skinjax.data.sources.folder import FolderSource
from skinjax.data.sources.folder_layout import Paths, find_masks, image_ids
from skinjax.data.sources.folder_table import read_header
from skinjax.errors import UserError


def write(folder, *paths):
    """Writes files that hold their own paths, so that each can be told."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(path.encode())
    return folder


def write_table(path, *rows, delimiter=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [delimiter.join(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")


def zip_folder(folder, archive, prefix=""):
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                opened.write(path, f"{prefix}{path.relative_to(folder)}")
    return archive


def told(source):
    """Image id -> the contents of image and mask."""
    found = {}
    for example in source.examples():
        image, mask = example.load()
        found[example.image_id] = image.decode(), mask.decode() if mask is not None else None
        assert example.image_name.endswith(Path(image.decode()).name)
        assert (example.mask_name is None) == (mask is None)
    assert list(found) == sorted(found)
    return found


def facts(source, *names):
    """Image id -> attributes of the example."""
    return {e.image_id: tuple(getattr(e, name) for name in names) for e in source.examples()}


def open_both(folder, tmp_path, **options):
    """Opens a folder, and the same as a zip; checks that they are the same."""
    plain = FolderSource(folder, tmp_path / "cache", **options)
    assert not (tmp_path / "cache").exists()
    archive = zip_folder(folder, tmp_path / "set.zip")
    zipped = FolderSource(archive, tmp_path / "cache", **options)
    wrapped = zip_folder(folder, tmp_path / "wrapped.zip", "some set/")
    for other in (zipped, FolderSource(wrapped, tmp_path / "cache", **options)):
        assert told(other) == told(plain)
        names = ("label", "part", "lesion_id", "metadata")
        assert facts(other, *names) == facts(plain, *names)
        assert (other.classes, other.has_lesion_ids) == (plain.classes, plain.has_lesion_ids)
        assert [what for _, what in other.missing] == [what for _, what in plain.missing]
    return plain


# Masks by name


MASK_FOLDERS = (
    ("images", "masks"),
    ("Images", "Mask"),
    ("img", "segmentation"),
    ("photos", "Segmentations"),
    ("images", "GroundTruth"),
    ("images", "ground_truth"),
    ("images", "annotations"),
    ("images", "LABELS"),
    ("images", "gt"),
    ("whatever", "masks"),
    ("ISBI_Data", "ISBI_GroundTruth"),
    ("my images", "my masks"),
    ("set/images", "set/masks"),
    ("my labels/images", "my labels/masks"),
)


@pytest.mark.parametrize(("images", "masks"), MASK_FOLDERS)
@pytest.mark.parametrize("suffix", ["", "_segmentation", "_MASK"])
def test_masks_in_a_folder(tmp_path, images, masks, suffix):
    names = ("a/1", "a/2", "b/1", "3")
    folder = write(tmp_path / "set", *(f"{images}/{name}.jpg" for name in names))
    write(folder, *(f"{masks}/{name}{suffix}.png" for name in names))
    source = open_both(folder, tmp_path)
    assert source.name == "folder"
    assert source.classes == ()
    assert source.has_lesion_ids is False
    assert "config.data.table.group" in source.lesion_ids_mend
    assert "add a table" in source.lesion_ids_mend
    assert source.notes == source.missing == []
    assert told(source) == {
        name: (f"{images}/{name}.jpg", f"{masks}/{name}{suffix}.png") for name in names
    }
    assert set(facts(source, "label", "part", "lesion_id").values()) == {(None, None, None)}


def test_a_sub_folder_that_is_alone_is_kept_in_the_name(tmp_path):
    folder = write(tmp_path / "set", "images/left/1.jpg", "masks/left/1.png")
    assert list(told(FolderSource(folder, tmp_path / "cache"))) == ["left/1"]
    beside = write(tmp_path / "beside", "images/left/1.jpg", "images/left/1_mask.png")
    assert list(told(FolderSource(beside, tmp_path / "cache"))) == ["left/1"]


def test_other_pictures_do_not_take_the_masks(tmp_path):
    folder = write(tmp_path / "set", "1.jpg", "images/1.jpg", "images/2.jpg")
    write(folder, "masks/1.png", "masks/2.png", "views/1.jpg", "views/2.jpg")
    source = FolderSource(folder, tmp_path / "cache", strict=False)
    assert told(source) == {
        "1": ("1.jpg", None),
        "images/1": ("images/1.jpg", "masks/1.png"),
        "images/2": ("images/2.jpg", "masks/2.png"),
        "views/1": ("views/1.jpg", None),
        "views/2": ("views/2.jpg", None),
    }


def test_images_outside_of_a_folder_of_images(tmp_path):
    folder = write(tmp_path / "set", "1.jpg", "a/1.jpg", "a/2.jpg")
    write(folder, "masks/1.png", "masks/a/1.png", "masks/a/2.png")
    assert told(open_both(folder, tmp_path)) == {
        "1": ("1.jpg", "masks/1.png"),
        "a/1": ("a/1.jpg", "masks/a/1.png"),
        "a/2": ("a/2.jpg", "masks/a/2.png"),
    }


@pytest.mark.parametrize(
    "layout",
    [
        ("{part}/images", "{part}/masks"),
        ("images/{part}", "masks/{part}"),
        ("{part}_images", "{part}_masks"),
        ("{part}", "{part}_masks"),
    ],
)
def test_parts_of_images_with_masks_are_kept(tmp_path, layout):
    images, masks = layout
    expected = {}
    for part, meant in (("Train", "train"), ("valid", "val"), ("test", "test")):
        image = f"{images.format(part=part)}/1.jpg"
        mask = f"{masks.format(part=part)}/1.png"
        write(tmp_path / "set", image, mask)
        expected[image] = mask, meant
    source = open_both(tmp_path / "set", tmp_path)
    parts = facts(source, "part")
    assert {image: (mask, *parts[key]) for key, (image, mask) in told(source).items()} == expected


@pytest.mark.parametrize("suffix", ["_mask", "_segmentation", "_Seg", "_lesion", "_GT"])
def test_masks_beside_the_images(tmp_path, suffix):
    names = ("a/1", "a/2", "b/1")
    folder = write(tmp_path / "set", *(f"{name}.jpg" for name in names))
    write(folder, *(f"{name}{suffix}.png" for name in names))
    source = open_both(folder, tmp_path)
    assert told(source) == {name: (f"{name}.jpg", f"{name}{suffix}.png") for name in names}
    assert source.missing == []


def test_a_mask_of_another_sub_folder_is_never_taken(tmp_path):
    folder = write(tmp_path / "set", "images/a/1.jpg", "images/b/2.jpg")
    write(folder, "masks/a/1.png", "masks/c/2.png", "masks/1.png")
    with pytest.raises(UserError, match=r"1 of 2 images have no mask .*images/b/2\.jpg"):
        FolderSource(folder, tmp_path / "cache")
    source = FolderSource(folder, tmp_path / "cache", strict=False)
    assert told(source) == {
        "a/1": ("images/a/1.jpg", "masks/a/1.png"),
        "b/2": ("images/b/2.jpg", None),
    }
    assert source.missing == [
        ("masks/1.png", "masks have no image"),
        ("masks/c/2.png", "masks have no image"),
        ("images/b/2.jpg", "images have no mask"),
    ]


def test_a_mask_of_another_part_is_never_taken(tmp_path):
    folder = write(tmp_path / "set", "train_images/1.jpg", "test_images/2.jpg")
    write(folder, "train_masks/1.png", "test_masks/1.png")
    source = FolderSource(folder, tmp_path / "cache", strict=False)
    assert sorted(told(source).values(), key=str) == [
        ("test_images/2.jpg", None),
        ("train_images/1.jpg", "train_masks/1.png"),
    ]


def test_up_to_a_hundredth_may_lack_its_mask(tmp_path):
    folder = write(tmp_path / "set", *(f"images/{index}.jpg" for index in range(100)))
    write(folder, *(f"masks/{index}.png" for index in range(99)), "masks/200.png")
    source = FolderSource(folder, tmp_path / "cache")
    assert len(source.examples()) == 99
    assert "1 of 100 images have no mask" in source.notes[0]
    assert "images/99.jpg" in source.notes[0]
    assert source.missing == [
        ("masks/200.png", "masks have no image"),
        ("images/99.jpg", "images have no mask"),
    ]
    (folder / "masks" / "98.png").unlink()
    with pytest.raises(UserError, match=r"2 of 100 images have no mask.*folder masks"):
        FolderSource(folder, tmp_path / "cache")


def test_names_of_all_kinds(tmp_path):
    composed = unicodedata.normalize("NFC", "Nävus Ärztin 1")
    decomposed = unicodedata.normalize("NFD", composed)
    assert composed != decomposed
    images = ("пациент 1.JPG", "患者.2.Jpeg", f"{decomposed}.TIFF", "a b (c).PnG", "D.webp")
    masks = ("пациент 1.PNG", "患者.2.png", f"{composed}.bmp", "A B (C).png", "d_Mask.GIF")
    folder = write(tmp_path / "mein Set", *(f"images/{name}" for name in images))
    write(folder, *(f"masks/{name}" for name in masks))
    found = told(FolderSource(folder, tmp_path / "cache"))
    assert found == {
        os.path.splitext(image)[0]: (f"images/{image}", f"masks/{mask}")
        for image, mask in zip(images, masks, strict=True)
    }


def test_names_that_differ_in_case_alone(tmp_path):
    folder = write(tmp_path / "set", "images/A.jpg", "images/a.jpg", "masks/A.png", "masks/a.png")
    assert told(FolderSource(folder, tmp_path / "cache")) == {
        "A": ("images/A.jpg", "masks/A.png"),
        "a": ("images/a.jpg", "masks/a.png"),
    }


def test_two_masks_of_an_image(tmp_path):
    folder = write(tmp_path / "set", "images/1.jpg", "masks/1.png", "masks/1_seg.png")
    with pytest.raises(UserError, match=r"images/1\.jpg has two masks, masks/1.*masks/1.*leave"):
        FolderSource(folder, tmp_path / "cache")


def test_two_files_of_one_name(tmp_path):
    folder = write(tmp_path / "set", "a/1.jpg", "a/1.png", "b/1.jpg", "b/1_mask.png")
    with pytest.raises(UserError, match=r"a/1\.jpg and a/1\.png .*the image a/1:.*1_mask"):
        FolderSource(folder, tmp_path / "cache")


def test_zips_of_images_and_of_masks(tmp_path):
    write(tmp_path / "work" / "images", "1.png", "2.png")
    write(tmp_path / "work" / "masks", "1.png", "2.png")
    expected = {"1": ("1.png", "1.png"), "2": ("2.png", "2.png")}
    for prefix in (True, False):
        folder = tmp_path / f"zips {prefix}"
        folder.mkdir()
        for name in ("images", "masks"):
            inside = f"{name}/" if prefix else ""
            zip_folder(tmp_path / "work" / name, folder / f"my_{name}.zip", inside)
        source = FolderSource(folder, tmp_path / "cache")
        assert told(source) == expected
        assert all(
            "my_images" in example.image_name and "my_masks" in example.mask_name
            for example in source.examples()
        )
        assert (
            told(FolderSource(zip_folder(folder, tmp_path / "all.zip"), tmp_path / "c")) == expected
        )
        (tmp_path / "all.zip").unlink()


def test_a_zip_of_masks_that_have_their_images_names(tmp_path):
    folder = write(tmp_path / "set", "1.png", "2.png")
    zip_folder(write(tmp_path / "work", "1.png", "2.png"), folder / "masks.zip")
    source = FolderSource(folder, tmp_path / "cache")
    assert told(source) == {"1": ("1.png", "1.png"), "2": ("2.png", "2.png")}
    assert all("masks" in example.mask_name for example in source.examples())


def test_zips_that_bring_nothing_new_are_not_unpacked(tmp_path):
    folder = write(tmp_path / "set", "images/1.jpg", "masks/1.png")
    zip_folder(folder, tmp_path / "set.zip").rename(folder / "set.zip")
    with zipfile.ZipFile(folder / "code.zip", "w") as opened:
        opened.writestr("code.py", "not ours")
    assert told(FolderSource(folder, tmp_path / "cache")) == {"1": ("images/1.jpg", "masks/1.png")}
    assert not (tmp_path / "cache").exists()


def test_zips_without_end_are_refused(tmp_path):
    archive = zip_folder(write(tmp_path / "set", "1.jpg"), tmp_path / "0.zip")
    for depth in range(1, 6):
        outer = tmp_path / f"{depth}.zip"
        with zipfile.ZipFile(outer, "w") as opened:
            opened.write(archive, archive.name)
        archive = outer
    with pytest.raises(UserError, match="zip in a zip in a zip"):
        FolderSource(archive, tmp_path / "cache")


def test_sources_that_hold_nothing(tmp_path):
    with pytest.raises(UserError, match=r"config\.data\.source is empty"):
        FolderSource(None, tmp_path / "cache")
    with pytest.raises(UserError, match="nowhere does not exist"):
        FolderSource(tmp_path / "nowhere", tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"There are no pictures .*empty"):
        FolderSource(tmp_path / "empty", tmp_path / "cache")
    with pytest.raises(UserError, match=r"look like masks"):
        FolderSource(write(tmp_path / "set", "masks/1.png"), tmp_path / "cache")
    (tmp_path / "set.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"set\.tar is neither a folder nor a zip"):
        FolderSource(tmp_path / "set.tar", tmp_path / "cache")


def test_no_masks_or_no_labels_at_all(tmp_path):
    folder = write(tmp_path / "set", "images/1.jpg", "images/2.jpg")
    with pytest.raises(UserError, match=r"There are no masks in .*set: put each mask into"):
        FolderSource(folder, tmp_path / "cache")
    with pytest.raises(UserError, match=r"There are no labels in .*set: sort the images into"):
        FolderSource(folder, tmp_path / "cache", masks=False)
    for masks in (True, False):
        source = FolderSource(folder, tmp_path / "cache", masks=masks, strict=False)
        assert told(source) == {"1": ("images/1.jpg", None), "2": ("images/2.jpg", None)}
        assert len(source.notes) == 1
        assert source.missing == []


# A folder for each class


def test_class_folders(tmp_path):
    folder = write(tmp_path / "set", "nevus/1.jpg", "Melanom Ä/1.JPG", "nevus/deep/2.png")
    source = open_both(folder, tmp_path, masks=False)
    assert source.classes == ("Melanom Ä", "nevus")
    assert source.has_lesion_ids is False
    assert facts(source, "label", "part", "lesion_id") == {
        "Melanom Ä/1": ("Melanom Ä", None, None),
        "nevus/1": ("nevus", None, None),
        "nevus/deep/2": ("nevus", None, None),
    }
    assert told(source)["nevus/1"] == ("nevus/1.jpg", None)
    assert source.notes == source.missing == []


def test_a_picture_called_lesion_is_a_picture(tmp_path):
    folder = write(tmp_path / "set", "nevus/big_lesion.jpg", "melanoma/2_lesion.jpg")
    source = FolderSource(folder, tmp_path / "cache", masks=False)
    assert facts(source, "label") == {
        "melanoma/2_lesion": ("melanoma",),
        "nevus/big_lesion": ("nevus",),
    }


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "Test"), ("Training", "valid", "Testing"), ("train", "VALIDATION", "test")],
)
@pytest.mark.parametrize("layout", ["{}/{}/1", "images/{}/{}/1", "{}/images/{}/1"])
def test_class_folders_in_parts(tmp_path, train, val, test, layout):
    folder = tmp_path / "set"
    for part in (train, val, test):
        write(folder, *(f"{layout.format(part, name)}.jpg" for name in ("nevus", "melanoma")))
    source = open_both(folder, tmp_path, masks=False)
    assert source.classes == ("melanoma", "nevus")
    assert facts(source, "label", "part") == {
        layout.format(part, label).removeprefix("images/"): (label, meant)
        for part, meant in ((train, "train"), (val, "val"), (test, "test"))
        for label in ("melanoma", "nevus")
    }


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_part_alone_is_divided_like_any_folder(tmp_path, part):
    folder = write(tmp_path / "set", f"{part}/nevus/1.jpg", f"{part}/melanoma/1.jpg")
    source = FolderSource(folder, tmp_path / "cache", masks=False)
    assert facts(source, "label", "part") == {
        "melanoma/1": ("melanoma", None),
        "nevus/1": ("nevus", None),
    }
    folder = write(tmp_path / "other", "images/train/nevus/1.jpg", "images/train/melanoma/1.jpg")
    source = FolderSource(folder, tmp_path / "cache", masks=False)
    assert set(facts(source, "part").values()) == {(None,)}


def test_parts_without_train(tmp_path):
    folder = write(tmp_path / "set", "val/nevus/1.jpg", "test/melanoma/1.jpg")
    with pytest.raises(UserError, match="folders test, val and no train"):
        FolderSource(folder, tmp_path / "cache", masks=False)


def test_parts_and_other_folders(tmp_path):
    folder = write(tmp_path / "set", "train/nevus/1.jpg", "test/nevus/1.jpg", "melanoma/1.jpg")
    with pytest.raises(UserError, match=r"folders test, train and others, as melanoma/1\.jpg"):
        FolderSource(folder, tmp_path / "cache", masks=False)


def test_images_in_no_class_folder(tmp_path):
    folder = write(tmp_path / "set", "nevus/1.jpg", "melanoma/1.jpg", "3.jpg")
    with pytest.raises(UserError, match=r"1 of 3 images have no label .*3\.jpg"):
        FolderSource(folder, tmp_path / "cache", masks=False)
    source = FolderSource(folder, tmp_path / "cache", masks=False, strict=False)
    assert facts(source, "label")["3"] == (None,)
    assert source.missing == [("3.jpg", "images have no label")]
    single = write(tmp_path / "single", "nevus/1.jpg", "nevus/2.jpg")
    with pytest.raises(UserError, match="There are no labels"):
        FolderSource(single, tmp_path / "cache", masks=False)


# A table


ROWS = (
    ("image", "label", "patient", "outline", "split", "age", "note"),
    ("1.jpg", "nevus", "P1", "m1.png", "train", "40", ""),
    ("2", "melanoma", "P1", "m2.png", "Val", "", "left"),
    ("pictures/b/1.jpg", "nevus", "P2", "outlines/m3.png", "validation", "7", ""),
    (" 4.PNG ", "akiec", "P3", "m4", "test", "7", "a, b"),
)
COLUMNS = dict(group_column="patient", mask_column="outline", part_column="split")


def write_tabled(folder, rows=ROWS, name="table.csv"):
    write(folder, "pictures/a/1.jpg", "pictures/2.jpg", "pictures/b/1.jpg", "pictures/4.PNG")
    write(folder, *(f"outlines/m{index}.png" for index in range(1, 5)))
    rows = [[f'"{cell}"' if "," in cell else cell for cell in row] for row in rows]
    write_table(folder / name, *rows, delimiter="\t" if name.endswith("TSV") else ",")
    return folder


def altered(line, column, value):
    rows = [list(row) for row in ROWS]
    rows[1][0] = "a/1.jpg"
    if value is None:
        for row in rows:
            del row[ROWS[0].index(column)]
    else:
        rows[line - 1][ROWS[0].index(column)] = value
    return rows


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("name", ["table.csv", "table.TSV", "tables/mine.csv"])
def test_tables(tmp_path, masks, name):
    rows = altered(1, "image", "image")
    folder = write_tabled(tmp_path / "set", rows, name)
    source = open_both(folder, tmp_path, masks=masks, **COLUMNS)
    assert source.classes == ("akiec", "melanoma", "nevus")
    assert source.has_lesion_ids is True
    assert source.notes == source.missing == []
    assert told(source) == {
        "2": ("pictures/2.jpg", "outlines/m2.png"),
        "4": ("pictures/4.PNG", "outlines/m4.png"),
        "a/1": ("pictures/a/1.jpg", "outlines/m1.png"),
        "b/1": ("pictures/b/1.jpg", "outlines/m3.png"),
    }
    assert facts(source, "label", "lesion_id", "part", "metadata") == {
        "2": ("melanoma", "P1", "val", {"note": "left"}),
        "4": ("akiec", "P3", "test", {"age": "7", "note": "a, b"}),
        "a/1": ("nevus", "P1", "train", {"age": "40"}),
        "b/1": ("nevus", "P2", "val", {"age": "7"}),
    }


def test_a_name_that_two_images_have(tmp_path):
    folder = write_tabled(tmp_path / "set")
    message = r"Line 2 of .*table\.csv has '1\.jpg', .*pictures/a/1\.jpg or pictures/b/1\.jpg"
    with pytest.raises(UserError, match=message):
        FolderSource(folder, tmp_path / "cache", **COLUMNS)


def test_names_in_a_table_that_differ_in_case(tmp_path):
    folder = write(tmp_path / "set", "x/A.jpg", "y/a.jpg", "y/B.jpg")
    rows = (("A.jpg", "p"), ("a", "q"), ("b.JPG", "r"))
    write_table(folder / "table.csv", ("image", "label"), *rows)
    source = FolderSource(folder, tmp_path / "cache", masks=False)
    assert facts(source, "label") == {"x/A": ("p",), "y/a": ("q",), "y/B": ("r",)}


def test_paths_in_a_table_are_relative_to_it_or_to_the_source(tmp_path):
    folder = write(tmp_path / "set", "1.jpg", "a/1.jpg", "b/1.jpg", "t/x/1.jpg")
    rows = (("1.jpg", "p"), ("./a/1", "q"), ("..\\b\\1.jpg", "r"), ("x/1", "s"))
    write_table(folder / "t" / "table.csv", ("image", "label"), *rows)
    source = open_both(folder, tmp_path, masks=False)
    expected = {"1": ("p",), "a/1": ("q",), "b/1": ("r",), "t/x/1": ("s",)}
    assert facts(source, "label") == expected


def test_a_table_with_masks_by_name(tmp_path):
    folder = write(tmp_path / "set", "images/1.png", "images/2.png", "masks/1.png", "masks/2.png")
    write_table(folder / "table.csv", ("image", "lesion"), ("1.png", "L1"), ("2", "L1"))
    source = open_both(folder, tmp_path, group_column="lesion")
    assert told(source) == {
        "1": ("images/1.png", "masks/1.png"),
        "2": ("images/2.png", "masks/2.png"),
    }
    assert facts(source, "label", "lesion_id") == {"1": (None, "L1"), "2": (None, "L1")}
    assert source.classes == ()
    assert source.has_lesion_ids is True
    with pytest.raises(
        UserError, match=r"no such column: config\.data\.table\.label_column='label'"
    ):
        FolderSource(folder, tmp_path / "cache", masks=False)
    without = FolderSource(folder, tmp_path / "cache")
    assert without.has_lesion_ids is False
    assert without.lesion_ids_mend.startswith("name the column")
    assert facts(without, "metadata")["1"] == ({"lesion": "L1"},)


def test_masks_that_a_table_names_may_lie_and_be_called_anyhow(tmp_path):
    folder = write(tmp_path / "set", "1.jpg", "1_a.png", "2.jpg", "2_mask.jpg", "masks/1.jpg")
    write_table(folder / "t.csv", ("image", "mask"), ("1.jpg", "1_a.png"), ("2.jpg", "1.jpg"))
    source = FolderSource(folder, tmp_path / "cache", mask_column="mask", strict=False)
    assert told(source) == {
        "1": ("1.jpg", "1_a.png"),
        "2": ("2.jpg", "masks/1.jpg"),
        # What looks like a mask by its own name is an image, where a column tells the masks.
        "2_mask": ("2_mask.jpg", None),
    }


def test_a_mask_that_is_not_there(tmp_path):
    folder = write_tabled(tmp_path / "set", altered(3, "outline", "m9.png"))
    with pytest.raises(
        UserError, match=r"1 of 4 images have no mask.*table are not there: m9\.png"
    ):
        FolderSource(folder, tmp_path / "cache", **COLUMNS)
    source = FolderSource(folder, tmp_path / "cache", masks=False, **COLUMNS)
    assert told(source)["2"] == ("pictures/2.jpg", None)
    assert ("m9.png", "masks of the table are not there") in source.missing
    assert any("m9.png" in note for note in source.notes)
    blank = write_tabled(tmp_path / "blank", altered(3, "outline", ""))
    source = FolderSource(blank, tmp_path / "cache", masks=False, **COLUMNS)
    assert told(source)["2"] == ("pictures/2.jpg", None)


def test_the_table_may_be_named(tmp_path):
    folder = write(tmp_path / "set", "1.jpg", "2.jpg")
    header = ("image", "label")
    write_table(folder / "one.csv", header, ("1", "a"), ("2", "b"))
    write_table(folder / "sub" / "two.csv", header, ("1", "c"), ("2", "d"))
    write_table(tmp_path / "far.txt", header, ("1", "e"), ("2", "f"))
    with pytest.raises(UserError, match=r"Several tables .*one\.csv, sub/two\.csv.*name the right"):
        FolderSource(folder, tmp_path / "cache", masks=False)
    archive = zip_folder(folder, tmp_path / "set.zip")
    wrapped = zip_folder(folder, tmp_path / "wrapped.zip", "set/")
    for root, table, labels in (
        (folder, "one.csv", ("a", "b")),
        (folder, "sub/two.csv", ("c", "d")),
        (folder, "two.csv", ("c", "d")),
        (archive, "one.csv", ("a", "b")),
        (wrapped, "sub/two.csv", ("c", "d")),
        (folder, str(tmp_path / "far.txt"), ("e", "f")),
        (archive, str(tmp_path / "far.txt"), ("e", "f")),
    ):
        source = FolderSource(root, tmp_path / "cache", masks=False, table=table)
        assert source.classes == labels
    for table in ("three.csv", str(tmp_path / "three.csv")):
        with pytest.raises(UserError, match=rf"{table} is no file .*one\.csv, sub/two\.csv"):
            FolderSource(folder, tmp_path / "cache", masks=False, table=table)


def test_a_table_without_the_column_of_images_is_told_and_not_read(tmp_path):
    folder = write(tmp_path / "set", "nevus/1.jpg", "melanoma/2.jpg")
    write_table(folder / "list.csv", ("file", "diagnosis"), ("1.jpg", "x"), ("2.jpg", "y"))
    source = FolderSource(folder, tmp_path / "cache", masks=False)
    assert source.classes == ("melanoma", "nevus")
    assert len(source.notes) == 1
    assert "no column 'image' (it has file, diagnosis)" in source.notes[0]
    flat = write(tmp_path / "flat", "1.jpg", "2.jpg")
    shutil.copy(folder / "list.csv", flat)
    with pytest.raises(UserError, match=r"no labels .*list\.csv was not read"):
        FolderSource(flat, tmp_path / "cache", masks=False)
    names = dict(image_column="file", label_column="diagnosis")
    source = FolderSource(folder, tmp_path / "cache", masks=False, **names)
    assert source.classes == ("x", "y")


@pytest.mark.parametrize(
    ("line", "column", "value", "message"),
    [
        (3, "image", "", r"Line 3 .*nothing in the column 'image'"),
        (3, "patient", "", r"Line 3 .*nothing in the column 'patient'"),
        (4, "split", "holdout", r"Line 4 .*part 'holdout'.*train, val or test"),
        (4, "split", "", r"Line 4 .*part ''"),
        (3, "image", "9", r"1 of 4 rows of the table have no image .*9"),
        (3, "image", "a/1.jpg", r"Line 3 .*contradicts an earlier line on pictures/a/1\.jpg"),
        (0, "patient", None, r"no such column: .*group_column='patient' \(it has image, label, o"),
        (0, "outline", None, r"no such column: .*mask_column='outline'"),
        (0, "split", None, r"no such column: .*part_column='split'"),
        (3, "label", "", r"1 of 4 images have no label .*pictures/2\.jpg"),
    ],
)
def test_bad_rows(tmp_path, line, column, value, message):
    folder = write_tabled(tmp_path / "set", altered(line, column, value))
    with pytest.raises(UserError, match=message):
        FolderSource(folder, tmp_path / "cache", masks=False, **COLUMNS)


def test_all_columns_that_are_missing_are_named(tmp_path):
    folder = write_tabled(tmp_path / "set", [["image", "x"], ["2", "y"]])
    with pytest.raises(UserError) as caught:
        FolderSource(folder, tmp_path / "cache", masks=False, **COLUMNS)
    for column in ("label", "patient", "outline", "split"):
        assert f"='{column}'" in str(caught.value)
    with pytest.raises(UserError, match="label_column='dx'"):
        FolderSource(folder, tmp_path / "cache", label_column="dx")
    with pytest.raises(UserError, match=r"image_column is empty"):
        FolderSource(folder, tmp_path / "cache", table="table.csv", image_column="")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"image,label\n", "has no rows"),
        (b"image,label\n1\n", "Line 2 .*2 columns"),
        (b"image,label\n\x80\x81,x\n", "is no table"),
    ],
)
def test_bad_tables(tmp_path, content, message):
    folder = write(tmp_path / "set", "1.jpg")
    (folder / "table.csv").write_bytes(content)
    with pytest.raises(UserError, match=rf"table\.csv.* {message}|{message}"):
        FolderSource(folder, tmp_path / "cache", masks=False)


def test_parts_of_a_table_without_train(tmp_path):
    rows = [
        row if row[4] != "train" else [*row[:4], "val", *row[5:]]
        for row in altered(1, "image", "image")
    ]
    folder = write_tabled(tmp_path / "set", rows)
    with pytest.raises(UserError, match=r"parts in .*table\.csv test, val and no train"):
        FolderSource(folder, tmp_path / "cache", **COLUMNS)


def test_images_without_a_row(tmp_path):
    folder = write_tabled(tmp_path / "set", altered(1, "image", "image")[:-1])
    with pytest.raises(UserError, match=r"1 of 4 images have no row .*pictures/4\.PNG"):
        FolderSource(folder, tmp_path / "cache", **COLUMNS)


def test_an_audit_is_told_all_and_refused_nothing(tmp_path):
    rows = altered(3, "label", "")
    rows[4][0] = "gone.jpg"
    rows[3][2] = ""
    folder = write_tabled(tmp_path / "set", rows)
    source = FolderSource(folder, tmp_path / "cache", masks=False, strict=False, **COLUMNS)
    assert facts(source, "label", "lesion_id") == {
        "2": (None, "P1"),
        "4": (None, None),
        "a/1": ("nevus", "P1"),
        "b/1": ("nevus", None),
    }
    assert source.classes == ("nevus",)
    assert source.has_lesion_ids is False
    assert source.missing == [
        ("outlines/m4.png", "masks have no image"),
        ("gone.jpg", "rows of the table have no image"),
        ("pictures/4.PNG", "images have no row in the table"),
        ("pictures/2.jpg", "images have no label"),
    ]


def test_a_row_that_comes_twice_is_taken_once(tmp_path):
    rows = altered(1, "image", "image")
    folder = write_tabled(tmp_path / "set", [*rows, rows[1]])
    assert len(FolderSource(folder, tmp_path / "cache", **COLUMNS).examples()) == 4


def test_a_row_that_comes_twice_may_spell_the_files_otherwise(tmp_path):
    folder = write(tmp_path / "set", "images/1.jpg", "images/2.jpg", "masks/1.png", "masks/2.png")
    lines = ["image,mask,label", "1.jpg,masks/1.png,nv", "images/1.jpg,1.png,nv", "2.jpg,2.png,mel"]
    (folder / "table.csv").write_text("\n".join(lines))
    source = FolderSource(folder, tmp_path / "cache", mask_column="mask")
    assert told(source) == {
        "1": ("images/1.jpg", "masks/1.png"),
        "2": ("images/2.jpg", "masks/2.png"),
    }
    (folder / "table.csv").write_text("\n".join([*lines, "2,1.png,mel"]))
    with pytest.raises(UserError, match=r"Line 5 .*contradicts an earlier line on images/2\.jpg"):
        FolderSource(folder, tmp_path / "cache", mask_column="mask")


def test_a_table_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=rf"Cannot read {tmp_path}"):
        read_header(str(tmp_path))  # a folder, since nothing is hidden from a superuser


# All shapes


def test_fingerprint_follows_the_content(tmp_path):
    folder = write_tabled(tmp_path / "set", altered(1, "image", "image"))

    def fingerprint(**options):
        options = COLUMNS | {"masks": False} | options
        return FolderSource(folder, tmp_path / "cache", **options).fingerprint()

    seen = [fingerprint()]
    assert len(seen[0]) == 64
    assert fingerprint() == seen[0]
    (folder / "notes.txt").write_text("not used")
    assert fingerprint() == seen[0]
    seen.append(fingerprint(part_column=""))
    os.utime(folder / "outlines" / "m2.png", (1, 1))
    seen.append(fingerprint())
    os.utime(folder / "pictures" / "2.jpg", (1, 1))
    seen.append(fingerprint())
    write_tabled(folder, altered(2, "label", "melanoma"))
    seen.append(fingerprint())
    assert len(set(seen)) == len(seen)


def test_fingerprint_follows_what_a_file_that_is_not_used_makes_of_the_rows(tmp_path):
    numbers = [f"data/{'mel' if i % 2 else 'nevus'}/{i}.jpg" for i in range(120)]
    folder = write(tmp_path / "set", *numbers, "logo.png")

    def opened():
        source = FolderSource(folder, tmp_path / "cache", masks=False)
        return source.classes, source.fingerprint()

    before, first = opened()
    (folder / "logo.png").unlink()
    after, second = opened()
    assert before != after == ("mel", "nevus")
    assert first != second


def test_a_folder_for_each_of_many_cases_is_no_quadratic_work():
    """A second here; two minutes where each mask looks at each image."""
    images = [f"case_{case:05}/images/x.png" for case in range(20_000)]
    pictures = images + [path.replace("images", "masks") for path in images]
    begin = time.process_time()
    masks = find_masks(pictures)
    ids = image_ids(images, masks.folders)
    paths = Paths(images)
    assert all(paths.find(path) == [path] for path in images)
    assert time.process_time() - begin < 20
    assert masks.by_image == dict(zip(images, pictures[20_000:], strict=True))
    assert ids == {path: path.removesuffix(".png") for path in images}


def test_junk_is_left_alone(tmp_path):
    folder = write(tmp_path / "set", "images/1.jpg", "masks/1.png")
    write(folder, "images/._1.jpg", "__MACOSX/images/1.jpg", "masks/Thumbs.db", "readme.md")
    assert told(FolderSource(folder, tmp_path / "cache")) == {"1": ("images/1.jpg", "masks/1.png")}


def test_real_images(real_data: Path, tmp_path):
    root = real_data / "isic_native"
    source = FolderSource(root, tmp_path)
    examples = source.examples()
    assert source.notes == source.missing == []
    assert len(examples) == 24
    for example in examples:
        assert Path(example.image_name).name == f"{example.image_id}.jpg"
        assert Path(example.mask_name).name == f"{example.image_id}_segmentation.png"
    image, mask = examples[0].load()
    pixels = decode_image(image, examples[0].image_name)
    assert decode_mask(mask, examples[0].mask_name).shape == pixels.shape[:2]
    assert np.ptp(pixels) > 0
