"""PH2 in its published layout, in miniature: nested folders, a text table, a spreadsheet."""

import io
import os
import re
import shutil
import zipfile

import numpy as np
import openpyxl
import pytest
from PIL import Image

from skinjax.data.images import decode_image, decode_mask
from skinjax.data.sources.ph2 import CLASSES, Ph2Source
from skinjax.errors import UserError

NUMBERS = (2, 3, 58, 211, 400, 437)
IDS = [f"IMD{number:03d}" for number in NUMBERS]
IMAGES = "PH2 Dataset images"
COLORS = ("White", "Red", "Light-Brown", "Dark-Brown", "Blue-Gray", "Black")
HEADER = (
    "||   Name ||   Histological Diagnosis  ||  Clinical Diagnosis  ||   Asymmetry  |   Pigment "
    "Network  |   Dots/Globules  |   Streaks  |   Regression Areas  |   Blue-Whitish Veil  ||   "
    "Colors  ||"
)
LEGEND = """

Legend
Clinical Diagnosis:
  0 - Common Nevus; 1 - Atypical Nevus; 2 - Melanoma.
Asymmetry:
  0 \N{EN DASH} Fully Symmetric
"""


def bmp(pixels):
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    image.save(buffer, "BMP")
    return buffer.getvalue()


def picture(index):
    return np.full((12 + index, 16, 3), 20 * index + 10, np.uint8)


def outline(index):
    mask = np.zeros((12 + index, 16), bool)
    mask[2:8, 3 : 6 + index] = True
    return mask


def mask_bytes(index):
    mask = outline(index)
    # One of the real masks is RGB, the others are 1-bit.
    return bmp(np.repeat(mask[:, :, None] * np.uint8(255), 3, 2) if index == 1 else mask)


def colors(index):
    return " ".join(str(number) for number in range(1, 2 + index % 3))


def text_row(index, bar="||"):
    diagnosis = "Melanoma" if index % 3 == 2 else " "
    middle = f"  {bar}  ".join((str(index % 2), "T" if index % 2 else "AT", "A", "A", "P", "A"))
    return f"|| {IDS[index]} || {diagnosis} ||   {index % 3} || {middle} ||  {colors(index)}  ||"


def write_text(path, rows=None, bar="||"):
    header = HEADER if bar == "|" else HEADER.replace("  |  ", "  ||  ")
    rows = [text_row(index, bar) for index in range(len(IDS))] if rows is None else rows
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + LEGEND, encoding="cp1252")


def sheet_rows():
    titles = [["PH² Dataset"], [], [None, "Legend", "X - present"]]
    header = ["Image Name", "Histological Diagnosis", "Common Nevus", "Atypical Nevus", "Melanoma"]
    header += ["Asymmetry\n(0/1/2)", "Pigment Network\n(AT/T)", "Dots/Globules\n(A/AT/T)"]
    header += ["Streaks\n(A/P)", "Regression Areas\n(A/P)", "Blue-Whitish Veil\n(A/P)", *COLORS]
    rows = []
    for index, image_id in enumerate(IDS):
        chosen = ["X" if position == index % 3 else None for position in range(3)]
        middle = [index % 2, "T" if index % 2 else "AT", "A", "A", "P", "A"]
        shown = ["X" if position <= index % 3 else None for position in range(6)]
        histology = "Melanoma" if index % 3 == 2 else None
        rows.append([image_id, histology, *chosen, *middle, *shown])
    return [*titles, header, *rows]


def write_sheet(path, rows=None):
    book = openpyxl.Workbook()
    for row in sheet_rows() if rows is None else rows:
        book.active.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)
    book.close()


def write_ph2(folder, table="txt", wrapper="PH2Dataset"):
    for index, image_id in enumerate(IDS):
        place = folder / wrapper / IMAGES / image_id
        for kind in ("Dermoscopic_Image", "lesion", "roi"):
            (place / f"{image_id}_{kind}").mkdir(parents=True)
        image = place / f"{image_id}_Dermoscopic_Image" / f"{image_id}.bmp"
        image.write_bytes(bmp(picture(index)))
        (place / f"{image_id}_lesion" / f"{image_id}_lesion.bmp").write_bytes(mask_bytes(index))
        for name in (f"{image_id}_R1_Label4.bmp", f"{image_id}_lesion.bmp", f"{image_id}.bmp"):
            (place / f"{image_id}_roi" / name).write_bytes(b"a region of one colour")
    if table == "txt":
        write_text(folder / wrapper / "PH2_dataset.txt")
    elif table == "xlsx":
        write_sheet(folder / wrapper / "PH2_dataset.xlsx")
    (folder / wrapper / "Readme.txt").write_text("|| IMD003 || not a table ||")
    return folder


def zip_folder(folder, archive):
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                opened.write(path, path.relative_to(folder))


def place_of(folder, image_id):
    return folder / "PH2Dataset" / IMAGES / image_id


def remove_mask(folder, image_id):
    (place_of(folder, image_id) / f"{image_id}_lesion" / f"{image_id}_lesion.bmp").unlink()


def remove_image(folder, image_id):
    (place_of(folder, image_id) / f"{image_id}_Dermoscopic_Image" / f"{image_id}.bmp").unlink()


def check(source, labels=True):
    """Every image with its own mask, label and metadata, whatever the layout."""
    assert source.name == "ph2"
    assert source.classes == CLASSES == ("common_nevus", "atypical_nevus", "melanoma")
    assert source.has_lesion_ids is True
    assert source.lesion_ids_mend is None
    assert source.notes == []
    assert source.missing == []
    examples = source.examples()
    assert [example.image_id for example in examples] == IDS
    for index, example in enumerate(examples):
        image, mask = example.load()
        np.testing.assert_array_equal(decode_image(image, "image"), picture(index))
        np.testing.assert_array_equal(decode_mask(mask, "mask"), outline(index))
        assert example.lesion_id == IDS[index]
        assert example.part is None
        assert example.image_name.endswith(f"{IDS[index]}.bmp")
        assert example.mask_name.endswith(f"{IDS[index]}_lesion.bmp")
        assert example.label == (CLASSES[index % 3] if labels else None)
        expected = {
            "asymmetry": str(index % 2),
            "pigment_network": "T" if index % 2 else "AT",
            "dots_globules": "A",
            "streaks": "A",
            "regression_areas": "P",
            "blue_whitish_veil": "A",
            "colors": colors(index),
        }
        if index % 3 == 2:
            expected["histological_diagnosis"] = "Melanoma"
        assert example.metadata == (expected if labels else {})


@pytest.mark.parametrize("table", ["txt", "xlsx"])
@pytest.mark.parametrize("masks", [True, False])
def test_published_folders(tmp_path, table, masks):
    folder = write_ph2(tmp_path / "ph2", table)
    check(Ph2Source(folder, tmp_path / "cache", masks=masks))
    check(Ph2Source(folder, tmp_path / "cache", masks=masks, strict=False))
    check(Ph2Source(folder / "PH2Dataset" / IMAGES, tmp_path / "cache", masks=masks))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("table", ["txt", "xlsx"])
def test_zips(tmp_path, table):
    folder = write_ph2(tmp_path / "ph2", table)
    (tmp_path / "zips").mkdir()
    zip_folder(folder, tmp_path / "zips" / "PH2Dataset.zip")
    check(Ph2Source(tmp_path / "zips" / "PH2Dataset.zip", tmp_path / "cache", masks=False))
    check(Ph2Source(tmp_path / "zips", tmp_path / "cache", masks=False))


def test_the_text_table_with_single_bars_between_the_criteria(tmp_path):
    folder = write_ph2(tmp_path / "ph2")
    write_text(folder / "PH2Dataset" / "PH2_dataset.txt", bar="|")
    assert " | " in (folder / "PH2Dataset" / "PH2_dataset.txt").read_text(encoding="cp1252")
    check(Ph2Source(folder, tmp_path / "cache"))


def test_the_text_table_is_taken_before_the_spreadsheet(tmp_path):
    folder = write_ph2(tmp_path / "ph2")
    (folder / "PH2Dataset" / "PH2_dataset.xlsx").write_bytes(b"never opened")
    check(Ph2Source(folder, tmp_path / "cache"))


def test_a_spreadsheet_that_is_wrong_about_its_size(tmp_path):
    folder = write_ph2(tmp_path / "ph2", table="xlsx")
    path = folder / "PH2Dataset" / "PH2_dataset.xlsx"
    with zipfile.ZipFile(path) as opened:
        files = {name: opened.read(name) for name in opened.namelist()}
    sheet = files["xl/worksheets/sheet1.xml"]
    files["xl/worksheets/sheet1.xml"] = re.sub(rb'ref="A1:Q\d+"', b'ref="A1"', sheet)
    assert files["xl/worksheets/sheet1.xml"] != sheet
    with zipfile.ZipFile(path, "w") as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    check(Ph2Source(folder, tmp_path / "cache"))


def test_names_in_any_case_other_formats_and_flat_folders(tmp_path):
    folder = write_ph2(tmp_path / "ph2")
    flat = tmp_path / "flat"
    (flat / "images").mkdir(parents=True)
    (flat / "Masks").mkdir()
    for path in sorted(folder.rglob("*.bmp")):
        if path.parent.name.endswith("_Dermoscopic_Image"):
            shutil.copy(path, flat / "images" / path.name.lower())
        elif path.parent.name.endswith("_lesion"):
            shutil.copy(path, flat / "Masks" / f"{path.name[:6]}.BMP")
    write_text(flat / "ph2_dataset.TXT")
    source = Ph2Source(flat, tmp_path / "cache")
    assert [example.image_id for example in source.examples()] == IDS
    for index, example in enumerate(source.examples()):
        assert example.load() == (bmp(picture(index)), mask_bytes(index))
        assert example.label == CLASSES[index % 3]


def test_without_a_table_there_are_masks_but_no_labels(tmp_path):
    folder = write_ph2(tmp_path / "ph2", table="")
    check(Ph2Source(folder, tmp_path / "cache"), labels=False)
    check(Ph2Source(folder, tmp_path / "cache", strict=False), labels=False)
    with pytest.raises(UserError, match=r"no PH2_dataset\.txt or PH2_dataset\.xlsx in .*ph2"):
        Ph2Source(folder, tmp_path / "cache", masks=False)
    source = Ph2Source(folder, tmp_path / "cache", masks=False, strict=False)
    assert [example.label for example in source.examples()] == [None] * len(IDS)
    assert len(source.notes) == 1
    assert source.missing == []


def test_missing_masks_and_images_are_refused_above_a_hundredth(tmp_path):
    folder = write_ph2(tmp_path / "ph2")
    remove_mask(folder, IDS[2])
    with pytest.raises(UserError, match=f"1 of 6 images have no mask .*{IDS[2]}.bmp.*whole set"):
        Ph2Source(folder, tmp_path / "cache")
    source = Ph2Source(folder, tmp_path / "cache", masks=False)
    assert [e.image_id for e in source.examples() if e.mask_name is None] == [IDS[2]]
    assert source.examples()[2].load() == (bmp(picture(2)), None)
    assert source.notes == []
    remove_image(folder, IDS[4])
    with pytest.raises(
        UserError, match=f"1 of 6 rows of the table have no image .*{IDS[4].lower()}"
    ):
        Ph2Source(folder, tmp_path / "cache", masks=False)


def test_an_audit_is_told_all_and_refused_nothing(tmp_path):
    folder = write_ph2(tmp_path / "ph2")
    remove_mask(folder, IDS[2])
    remove_image(folder, IDS[4])
    write_text(folder / "PH2Dataset" / "PH2_dataset.txt", [text_row(i) for i in range(5)])
    for masks, lacking, what in (
        (True, IDS[2], "images have no mask"),
        (False, IDS[5], "images have no row in the table"),
    ):
        source = Ph2Source(folder, tmp_path / "cache", masks=masks, strict=False)
        examples = {example.image_id: example for example in source.examples()}
        assert list(examples) == [IDS[0], IDS[1], IDS[2], IDS[3], IDS[5]]
        assert examples[IDS[2]].mask_name is None
        assert examples[IDS[5]].label is None
        orphan, row, other = source.missing
        assert orphan[0].endswith(f"{IDS[4]}_lesion.bmp")
        assert orphan[1] == "masks have no image"
        assert row == (IDS[4].lower(), "rows of the table have no image")
        assert other[0].endswith(f"{lacking}.bmp")
        assert other[1] == what


def test_up_to_a_hundredth_may_be_missing(tmp_path):
    folder = tmp_path / "ph2"
    folder.mkdir()
    ids = [f"IMD{number:03d}" for number in range(1, 201)]
    for image_id in ids:
        (folder / f"{image_id}.bmp").write_bytes(b"i")
        (folder / f"{image_id}_lesion.bmp").write_bytes(b"m")
    (folder / "IMD007_lesion.bmp").unlink()
    source = Ph2Source(folder, tmp_path / "cache")
    assert len(source.examples()) == 199
    assert "IMD007" not in [example.image_id for example in source.examples()]
    assert "1 of 200 images have no mask" in source.notes[0]
    (folder / "IMD008_lesion.bmp").unlink()
    (folder / "IMD009_lesion.bmp").unlink()
    with pytest.raises(UserError, match="3 of 200 images have no mask"):
        Ph2Source(folder, tmp_path / "cache")


def test_sources_that_hold_nothing(tmp_path):
    with pytest.raises(UserError, match=r"config\.data\.source is empty"):
        Ph2Source("", tmp_path / "cache")
    with pytest.raises(UserError, match="nowhere does not exist"):
        Ph2Source(tmp_path / "nowhere", tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no PH2 images .*empty"):
        Ph2Source(tmp_path / "empty", tmp_path / "cache")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (text_row(0).replace("   0 ||", " 3 ||", 1), r"Line 2 .*IMD002.*clinical diagnosis '3'"),
        (
            text_row(0).replace("||  A  ", "", 1),
            "Line 2 .*IMD002.*10 columns",
        ),
        (
            text_row(0) + "\n" + text_row(0).replace("   0 ||", " 1 ||", 1),
            "Line 3 .*contradicts.*IMD002",
        ),
        ("|| ISIC_1 || || 0 ||", r"PH2_dataset\.txt has no rows"),
    ],
    ids=["diagnosis", "columns", "contradiction", "no rows"],
)
def test_bad_text_rows(tmp_path, row, message):
    folder = write_ph2(tmp_path / "ph2")
    write_text(folder / "PH2Dataset" / "PH2_dataset.txt", [row])
    with pytest.raises(UserError, match=message):
        Ph2Source(folder, tmp_path / "cache")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"|| Name || Asymmetry ||\n", "lacks the column clinical_diagnosis"),
        (b"prose alone", "has no rows"),
        (b"\xff\xfe\x00\x01", "has no rows"),
    ],
)
def test_bad_text_tables(tmp_path, content, message):
    folder = write_ph2(tmp_path / "ph2")
    (folder / "PH2Dataset" / "PH2_dataset.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"PH2_dataset\.txt {message}"):
        Ph2Source(folder, tmp_path / "cache")


def change_cell(row, column, value):
    rows = sheet_rows()
    rows[row][column] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (change_cell(4, 3, "X"), "Line 5 .*IMD002.*an X in 2 of the columns common_nevus"),
        (change_cell(4, 2, None), "Line 5 .*IMD002.*an X in 0 of the columns"),
        (change_cell(3, 4, "Other"), "lacks the column melanoma"),
        (change_cell(3, 0, "Picture"), "no row with the cell 'Image Name'"),
        (sheet_rows()[:4], "has no rows"),
    ],
    ids=["two", "none", "column", "header", "no rows"],
)
def test_bad_spreadsheets(tmp_path, rows, message):
    folder = write_ph2(tmp_path / "ph2", table="")
    write_sheet(folder / "PH2Dataset" / "PH2_dataset.xlsx", rows)
    with pytest.raises(UserError, match=message):
        Ph2Source(folder, tmp_path / "cache")


@pytest.mark.parametrize("form", ["text", "zip", "cut"])
def test_what_is_no_spreadsheet(tmp_path, form):
    folder = write_ph2(tmp_path / "ph2", table="xlsx")
    path = folder / "PH2Dataset" / "PH2_dataset.xlsx"
    if form == "text":
        path.write_text("<html>")
    elif form == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        with zipfile.ZipFile(path, "w") as opened:
            opened.writestr("something", "else")
    with pytest.raises(UserError, match=r"PH2_dataset\.xlsx cannot be read as a spreadsheet"):
        Ph2Source(folder, tmp_path / "cache")


def test_pictures_of_one_size_that_differ_are_refused(tmp_path):
    """All bitmaps of equal rows and columns have as many bytes."""
    folder = write_ph2(tmp_path / "ph2")
    first = next(folder.rglob(f"{IDS[0]}_Dermoscopic_Image/{IDS[0]}.bmp"))
    copy = folder / "copies" / first.name
    copy.parent.mkdir()
    shutil.copyfile(first, copy)
    Ph2Source(folder, tmp_path / "cache")
    copy.write_bytes(bmp(255 - picture(0)))
    assert copy.stat().st_size == first.stat().st_size
    with pytest.raises(UserError, match=rf"{first.name} and .*{first.name} have the same name"):
        Ph2Source(folder, tmp_path / "cache")


def test_tables_that_differ_are_refused(tmp_path):
    folder = write_ph2(tmp_path / "ph2")
    write_text(folder / "old" / "PH2_dataset.txt", [text_row(0)])
    with pytest.raises(UserError, match=r"tables .* differ"):
        Ph2Source(folder, tmp_path / "cache")


def test_fingerprint_follows_the_content(tmp_path):
    folder = write_ph2(tmp_path / "ph2")

    def fingerprint():
        return Ph2Source(folder, tmp_path / "cache").fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    (folder / "notes.txt").write_text("not used")
    assert fingerprint() == first
    path = place_of(folder, IDS[0]) / f"{IDS[0]}_lesion" / f"{IDS[0]}_lesion.bmp"
    os.utime(path, (1, 1))
    touched = fingerprint()
    assert touched != first
    table = folder / "PH2Dataset" / "PH2_dataset.txt"
    table.write_bytes(table.read_bytes().replace(b"||  1  ||", b"||  2  ||"))
    assert fingerprint() not in (first, touched)
