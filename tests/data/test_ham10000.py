"""HAM10000 in each shape in which people have it, in miniature."""

import csv
import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skinjax.data.records import prepare
from skinjax.data.sources.example import CLASSES
from skinjax.data.sources.ham10000 import Ham10000Source
from skinjax.errors import UserError

NUM_IMAGES = 8
MASKS = "HAM10000_segmentations_lesion_tschandl"
PARTS = ("HAM10000_images_part_1", "HAM10000_images_part_2")
IDS = [f"ISIC_{24306 + index:07d}" for index in range(NUM_IMAGES)]
COLUMNS = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]


def jpeg(index):
    pixels = np.full((12, 16, 3), (index * 20) % 256, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def png(index):
    mask = np.zeros((12, 16), np.uint8)
    mask[2:8, 3 : 6 + index % 8] = 255
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()


def table_rows():
    return [
        {
            "lesion_id": f"HAM_{index // 2:07d}",
            "image_id": image_id,
            "dx": CLASSES[index % 7],
            "dx_type": "histo",
            "age": "45.0" if index else "",
            "sex": "female",
            "localization": "back",
        }
        for index, image_id in enumerate(IDS)
    ]


def write_table(path, rows, columns=COLUMNS, delimiter=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_images(folder, indices=range(NUM_IMAGES)):
    folder.mkdir(parents=True, exist_ok=True)
    for index in indices:
        (folder / f"{IDS[index]}.jpg").write_bytes(jpeg(index))


def write_masks(folder, indices=range(NUM_IMAGES), suffix="_segmentation.png"):
    folder.mkdir(parents=True, exist_ok=True)
    for index in indices:
        (folder / f"{IDS[index]}{suffix}").write_bytes(png(index))


def write_kaggle(folder, parts=PARTS, masks=True):
    write_images(folder / parts[0], range(5))
    write_images(folder / parts[1], range(5, NUM_IMAGES))
    write_table(folder / "HAM10000_metadata.csv", table_rows())
    if masks:
        write_masks(folder / MASKS)
    return folder


def write_one_hot(path, image_ids=tuple(IDS)):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["image,MEL,NV,BCC,AKIEC,BKL,DF,VASC"]
    order = ("mel", "nv", "bcc", "akiec", "bkl", "df", "vasc")
    for index, image_id in enumerate(image_ids):
        flags = ["1.0" if name == CLASSES[index % 7] else "0.0" for name in order]
        lines.append(",".join([image_id, *flags]))
    path.write_text("\n".join(lines) + "\n")


def zip_folder(folder, archive, prefix=""):
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                opened.write(path, f"{prefix}{path.relative_to(folder)}")


def check(source, lesion_ids=True, masks=True):
    """Every image with its own label, lesion, mask and metadata, whatever the layout."""
    assert source.name == "ham10000"
    assert source.classes == CLASSES
    assert source.has_lesion_ids == lesion_ids
    assert source.notes == []
    examples = source.examples()
    assert [example.image_id for example in examples] == IDS
    for index, example in enumerate(examples):
        assert example.load() == (jpeg(index), png(index) if masks else None)
        assert example.label == CLASSES[index % 7]
        assert example.lesion_id == (f"HAM_{index // 2:07d}" if lesion_ids else None)
        assert example.part is None
        assert IDS[index] in example.image_name.upper()
        assert (example.mask_name is not None) == masks
    if lesion_ids:
        assert "age" not in examples[0].metadata
        assert examples[1].metadata["age"] == "45.0"
        assert examples[1].metadata["localization"] == "back"


@pytest.mark.parametrize(
    "parts",
    [
        PARTS,
        tuple(part.lower() for part in PARTS),
        tuple(f"{part}/{part}" for part in PARTS),
        tuple(f"{part.lower()}/{part.lower()}" for part in PARTS),
    ],
    ids=["plain", "lower", "nested", "nested-lower"],
)
def test_kaggle_folders(tmp_path, parts):
    check(Ham10000Source(write_kaggle(tmp_path / "ham", parts), tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_relative_paths_and_home_are_understood(tmp_path, monkeypatch):
    write_kaggle(tmp_path / "ham", masks=False)
    write_masks(tmp_path / MASKS)
    monkeypatch.chdir(tmp_path)
    check(Ham10000Source("ham", "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    check(Ham10000Source("~/ham", "~/cache"))


def test_kaggle_zip_that_holds_everything_twice(tmp_path):
    write_kaggle(tmp_path / "both")
    shutil.copytree(tmp_path / "both" / PARTS[0], tmp_path / "both" / "x" / PARTS[0].lower())
    shutil.copytree(tmp_path / "both" / PARTS[1], tmp_path / "both" / "x" / PARTS[1].lower())
    zip_folder(tmp_path / "both", tmp_path / "archive.zip")
    check(Ham10000Source(tmp_path / "archive.zip", tmp_path / "cache"))


def test_copies_that_differ_are_refused(tmp_path):
    folder = write_kaggle(tmp_path / "ham")
    (folder / "other").mkdir()
    (folder / "other" / f"{IDS[0]}.jpg").write_bytes(jpeg(0) + b"x")
    with pytest.raises(UserError, match=f"{IDS[0]}.jpg .*different content"):
        Ham10000Source(folder, tmp_path / "cache")


@pytest.mark.parametrize("name", ["HAM10000_metadata", "HAM10000_metadata.csv"])
@pytest.mark.parametrize("nested", ["", f"{MASKS}/"])
def test_dataverse_zips(tmp_path, name, nested):
    write_kaggle(tmp_path / "work")
    folder = tmp_path / "dataverse"
    folder.mkdir()
    for part in PARTS:
        zip_folder(tmp_path / "work" / part, folder / f"{part}.zip")
    zip_folder(tmp_path / "work" / MASKS, folder / f"{MASKS}.zip", nested)
    rows = [row | {"dataset": "vidir_modern"} for row in table_rows()]
    write_table(folder / name, rows, [*COLUMNS, "dataset"])
    source = Ham10000Source(folder, tmp_path / "cache")
    check(source)
    assert source.examples()[0].metadata["dataset"] == "vidir_modern"
    unpacked = tmp_path / "cache" / "unpacked"
    before = {path: path.stat().st_ino for path in unpacked.iterdir()}
    assert len(before) == 3
    check(Ham10000Source(folder, tmp_path / "cache"))
    assert {path: path.stat().st_ino for path in unpacked.iterdir()} == before


def test_dataverse_zip_of_zips_with_the_tables_tab_form(tmp_path):
    write_kaggle(tmp_path / "work")
    folder = tmp_path / "inner"
    folder.mkdir()
    for part in (*PARTS, MASKS):
        zip_folder(tmp_path / "work" / part, folder / f"{part}.zip")
    write_table(folder / "HAM10000_metadata.tab", table_rows(), delimiter="\t")
    zip_folder(folder, tmp_path / "dataverse_files.zip")
    check(Ham10000Source(tmp_path / "dataverse_files.zip", tmp_path / "cache"))


def test_the_challenges_test_set_is_left_alone(tmp_path):
    folder = write_kaggle(tmp_path / "ham")
    write_images(folder / "ISIC2018_Task3_Test_Images")
    for path in (folder / "ISIC2018_Task3_Test_Images").iterdir():
        path.rename(path.with_name(f"ISIC_9{path.name[6:]}"))
    zip_folder(folder / "ISIC2018_Task3_Test_Images", folder / "ISIC2018_Task3_Test_Images.zip")
    check(Ham10000Source(folder, tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_zips_that_bring_nothing_new_are_not_unpacked(tmp_path):
    folder = write_kaggle(tmp_path / "ham")
    zip_folder(folder, tmp_path / "archive.zip")
    (tmp_path / "archive.zip").rename(folder / "archive.zip")
    with zipfile.ZipFile(folder / "holiday.zip", "w") as opened:
        opened.writestr("beach.jpg", b"not ours")
    check(Ham10000Source(folder, tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_kaggle_with_masks_has_no_lesion_ids(tmp_path):
    folder = tmp_path / "ham"
    write_images(folder / "images")
    write_masks(folder / "masks")
    write_one_hot(folder / "GroundTruth.csv")
    check(Ham10000Source(folder, tmp_path / "cache"), lesion_ids=False)
    zip_folder(folder, tmp_path / "archive.zip")
    check(Ham10000Source(tmp_path / "archive.zip", tmp_path / "cache"), lesion_ids=False)


@pytest.mark.parametrize("where", ["ham/HAM10000_metadata.csv", "HAM10000_metadata.csv"])
def test_kaggle_with_masks_takes_the_table_beside_it(tmp_path, where):
    folder = tmp_path / "ham"
    write_images(folder / "images")
    write_masks(folder / "masks", suffix=".png")
    write_one_hot(folder / "GroundTruth.csv")
    write_table(tmp_path / where, table_rows())
    check(Ham10000Source(folder, tmp_path / "cache"))


@pytest.mark.parametrize("form", ["folder", "nested folder", "zip"])
@pytest.mark.parametrize("inside", [True, False])
def test_masks_beside_the_images(tmp_path, form, inside):
    folder = write_kaggle(tmp_path / "ham", masks=False)
    place = (folder if inside else tmp_path) / MASKS
    write_masks(place / MASKS if form == "nested folder" else place)
    if form == "zip":
        zip_folder(place, place.with_suffix(".zip"))
        shutil.rmtree(place)
    check(Ham10000Source(folder, tmp_path / "cache"))


def test_without_masks_it_says_where_to_get_them(tmp_path):
    folder = write_kaggle(tmp_path / "ham", masks=False)
    with pytest.raises(UserError, match=rf"{MASKS}\.zip .*10\.7910/DVN/DBW86T"):
        Ham10000Source(folder, tmp_path / "cache")
    check(Ham10000Source(folder, tmp_path / "cache", masks=False), masks=False)


def test_names_in_any_case_and_junk(tmp_path):
    folder = write_kaggle(tmp_path / "ham", masks=False)
    write_masks(folder / MASKS, suffix="_Segmentation.PNG")
    for place in (folder, folder / PARTS[0], folder / MASKS):
        for junk in (".DS_Store", "Thumbs.db", f"._{IDS[0]}.jpg", f"._{IDS[0]}_segmentation.png"):
            (place / junk).write_bytes(b"junk")
    write_images(folder / "__MACOSX" / PARTS[0])
    (folder / "__MACOSX" / PARTS[0] / f"{IDS[0]}.jpg").write_bytes(b"junk")
    (folder / PARTS[0] / f"{IDS[1]}.jpg").rename(folder / PARTS[0] / f"{IDS[1].lower()}.JPG")
    check(Ham10000Source(folder, tmp_path / "cache"))


def test_links_to_what_is_not_there(tmp_path):
    folder = tmp_path / "ham10000"
    write_kaggle(folder)
    (folder / "notes.txt").symlink_to(tmp_path / "store" / "notes.txt")  # nobody asks for it
    with_link = len(Ham10000Source(folder, tmp_path / "cache").examples())
    picture = next(folder.rglob("*.jpg"))
    picture.unlink()
    picture.symlink_to(tmp_path / "store" / picture.name)
    source = Ham10000Source(folder, tmp_path / "cache")
    assert len(source.examples()) == with_link
    with pytest.raises(UserError, match=rf"Cannot read .*{picture.name}"):
        prepare(source, tmp_path / "cache", 100)
    table = folder / "HAM10000_metadata.csv"
    table.unlink()
    table.symlink_to(tmp_path / "store" / "table")
    with pytest.raises(
        UserError, match=r"HAM10000_metadata\.csv is a link to .*table, which is not"
    ):
        Ham10000Source(folder, tmp_path / "cache")


def test_linked_folders_are_followed_but_not_in_circles(tmp_path):
    store = write_kaggle(tmp_path / "store")
    folder = tmp_path / "ham"
    folder.mkdir()
    for name in os.listdir(store):
        (folder / name).symlink_to(store / name)
    (folder / "circle").symlink_to(folder)
    check(Ham10000Source(folder, tmp_path / "cache"))


@pytest.mark.parametrize("source", [None, "", "  "])
def test_no_source(tmp_path, source):
    with pytest.raises(UserError, match=r"config\.data\.source is empty"):
        Ham10000Source(source, tmp_path)


def test_sources_that_hold_nothing(tmp_path):
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        Ham10000Source(tmp_path / "nowhere", tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no HAM10000 images .*empty"):
        Ham10000Source(tmp_path / "empty", tmp_path / "cache")
    (tmp_path / "set.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"set\.tar is neither a folder nor a zip"):
        Ham10000Source(tmp_path / "set.tar", tmp_path / "cache")
    (tmp_path / "set.zip").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"set\.zip cannot be unpacked"):
        Ham10000Source(tmp_path / "set.zip", tmp_path / "cache")


def test_no_table(tmp_path):
    folder = write_kaggle(tmp_path / "ham")
    (folder / "HAM10000_metadata.csv").unlink()
    with pytest.raises(UserError, match=r"no HAM10000_metadata\.csv"):
        Ham10000Source(folder, tmp_path / "cache")


def rewrite(folder, change):
    rows = table_rows()
    change(rows)
    write_table(folder / "HAM10000_metadata.csv", rows)


def test_unknown_diagnosis_names_the_line_and_the_nearest(tmp_path):
    folder = write_kaggle(tmp_path / "ham")
    rewrite(folder, lambda rows: rows[2].update(dx="nevus"))
    with pytest.raises(UserError, match=rf"Line 4 .*\({IDS[2]}\).*'nevus'.*akiec.*nearest is nv"):
        Ham10000Source(folder, tmp_path / "cache")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1].update(lesion_id=""), "Line 3 .*lacks its image_id or lesion_id"),
        (lambda rows: rows.append(rows[0] | {"dx": "nv"}), f"Line 10 .*contradicts.*{IDS[0]}"),
        (lambda rows: rows.clear(), "has no rows"),
    ],
    ids=["blank", "contradiction", "no rows"],
)
def test_bad_rows(tmp_path, change, message):
    folder = write_kaggle(tmp_path / "ham")
    rewrite(folder, change)
    with pytest.raises(UserError, match=message):
        Ham10000Source(folder, tmp_path / "cache")


def test_a_row_that_comes_twice_is_taken_once(tmp_path):
    folder = write_kaggle(tmp_path / "ham")
    rewrite(folder, lambda rows: rows.append(rows[0]))
    check(Ham10000Source(folder, tmp_path / "cache"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"image_id,dx\nISIC_0024306,nv\n", "lacks the column lesion_id"),
        (b"lesion_id,image_id,dx\nHAM_1,ISIC_0024306\n", "Line 2 .*3 columns"),
        (b"lesion_id,image_id,dx\nHAM_1,ISIC_0024306,nv,9\n", "Line 2 .*3 columns"),
        (b"\xff\xfe\x00\x01\n\x80\x81", "is no table"),
        (b"", "has no rows"),
    ],
    ids=["column", "short", "long", "binary", "empty"],
)
def test_bad_tables(tmp_path, content, message):
    folder = write_kaggle(tmp_path / "ham")
    (folder / "HAM10000_metadata.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        Ham10000Source(folder, tmp_path / "cache")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("1,1,0,0,0,0,0", "Line 2 .*1 in 2 columns"),
        ("0,0,0,0,0,0,0", "Line 2 .*1 in 0 columns"),
        ("0,0,x,0,0,0,1", "Line 2 .*'x' where 0 or 1"),
        ("0,0,0.5,0,0,0,1", "Line 2 .*'0.5' where 0 or 1"),
    ],
)
def test_bad_one_hot_tables(tmp_path, flags, message):
    write_images(tmp_path / "ham" / "images", [0])
    write_masks(tmp_path / "ham" / "masks", [0])
    table = f"image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\n{IDS[0]},{flags}\n"
    (tmp_path / "ham" / "GroundTruth.csv").write_text(table)
    with pytest.raises(UserError, match=message):
        Ham10000Source(tmp_path / "ham", tmp_path / "cache")


def test_tables_that_differ_are_refused(tmp_path):
    folder = write_kaggle(tmp_path / "ham")
    write_table(folder / "old" / "HAM10000_metadata.csv", table_rows()[:-1])
    with pytest.raises(UserError, match=r"tables .* differ"):
        Ham10000Source(folder, tmp_path / "cache")


def test_what_is_missing_is_listed_and_refused_above_a_hundredth(tmp_path):
    folder = write_kaggle(tmp_path / "ham")
    (folder / PARTS[0] / f"{IDS[3]}.jpg").unlink()
    with pytest.raises(UserError, match=f"1 of 8 rows of the table have no image .*{IDS[3]}"):
        Ham10000Source(folder, tmp_path / "cache")
    write_images(folder / PARTS[0], [3])
    (folder / MASKS / f"{IDS[4]}_segmentation.png").unlink()
    with pytest.raises(UserError, match=f"1 of 8 images have no mask .*{IDS[4]}.*DBW86T"):
        Ham10000Source(folder, tmp_path / "cache")
    source = Ham10000Source(folder, tmp_path / "cache", masks=False)
    assert [e.mask_name is None for e in source.examples()].count(True) == 1
    write_masks(folder / MASKS, [4])
    rewrite(folder, lambda rows: rows.pop())
    with pytest.raises(UserError, match=f"1 of 8 images have no row .*{IDS[7]}"):
        Ham10000Source(folder, tmp_path / "cache")


def test_up_to_a_hundredth_may_be_missing(tmp_path, caplog):
    folder = tmp_path / "ham"
    images, masks = folder / "images", folder / "masks"
    images.mkdir(parents=True)
    masks.mkdir()
    rows = []
    for index in range(200):
        image_id = f"ISIC_{index:07d}"
        (images / f"{image_id}.jpg").write_bytes(b"i")
        (masks / f"{image_id}_segmentation.png").write_bytes(b"m")
        rows.append({"lesion_id": f"HAM_{index}", "image_id": image_id, "dx": "nv"})
    (images / "ISIC_0000005.jpg").unlink()
    (masks / "ISIC_0000006_segmentation.png").unlink()
    del rows[7]
    write_table(folder / "HAM10000_metadata.csv", rows, COLUMNS)
    source = Ham10000Source(folder, tmp_path / "cache")
    assert len(source.examples()) == 197
    assert [note.split(" in ")[0] for note in source.notes] == [
        "1 of 199 rows of the table have no image",
        "1 of 199 images have no row",
        "1 of 198 images have no mask",
    ]
    for note, name in zip(source.notes, ("0000005", "0000007", "0000006"), strict=True):
        assert f"ISIC_{name}" in note
        assert note in caplog.text
    kept = {example.image_id for example in source.examples()}
    assert kept.isdisjoint({"ISIC_0000005", "ISIC_0000006", "ISIC_0000007"})


def test_fingerprint_follows_the_content(tmp_path):
    folder = write_kaggle(tmp_path / "ham")

    def fingerprint():
        return Ham10000Source(folder, tmp_path / "cache").fingerprint()

    first = fingerprint()
    assert len(first) == 64
    assert fingerprint() == first
    (folder / "notes.txt").write_text("not used")
    assert fingerprint() == first
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert Ham10000Source(moved, tmp_path / "cache").fingerprint() == first
    mask = folder / MASKS / f"{IDS[0]}_segmentation.png"
    os.utime(mask, (1, 1))
    touched = fingerprint()
    assert touched != first
    rewrite(folder, lambda rows: rows[0].update(sex="male"))
    assert fingerprint() not in (first, touched)


def test_real_images(real_data: Path, tmp_path):
    source = Ham10000Source(real_data / "ham10000", tmp_path)
    examples = source.examples()
    assert source.notes == []
    assert len(examples) == 8553
    assert len({example.lesion_id for example in examples}) == 6350
    counts = {name: sum(example.label == name for example in examples) for name in CLASSES}
    assert counts == {
        "nv": 5713,
        "mel": 954,
        "bkl": 943,
        "bcc": 440,
        "akiec": 284,
        "vasc": 118,
        "df": 101,
    }
