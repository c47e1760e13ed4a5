"""The sets of the ISIC challenges with their official names, in miniature."""

import collections
import io
import shutil
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skinjax.data.sources.example import CLASSES
from skinjax.data.sources.isic import IsicSource
from skinjax.errors import UserError

ALL_CLASSES = {
    2016: ("benign", "malignant"),
    2017: ("mel", "nv", "sk"),
    2018: CLASSES,
    2019: ("ak", "bcc", "bkl", "df", "mel", "nv", "scc", "vasc"),
    2020: ("benign", "malignant"),
}
ONE_HOT_2018 = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
ONE_HOT_2019 = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
WORDS = {"train": "Training", "val": "Validation", "test": "Test"}
PARTS_2016 = {"train": (0, 1, 2), "test": (3, 4)}
PARTS_2017 = {"train": (0, 1, 2), "val": (3, 4), "test": (5, 6)}
OUTLINED_2018 = {"train": (0, 1, 2), "val": (3,), "test": (4, 5)}
LABELLED_2018 = {"train": (24306, 24307, 24308, 24309), "val": (34524,), "test": (34525, 34526)}
PARTS_2019 = {"train": (0, 1, 2, 3), "test": (34321, 34322, 34325)}


def jpeg(index):
    pixels = np.full((12, 16, 3), (index * 7) % 251, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue() + index.to_bytes(4, "big")


def png(index):
    mask = np.zeros((12, 16), np.uint8)
    mask[2:8, 3 : 6 + index % 8] = 255
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue() + index.to_bytes(4, "big")


def name(index):
    return f"ISIC_{index:07d}"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_lines(path, *lines):
    write(path, ("\n".join(lines) + "\n").encode())


def write_images(folder, indices, suffix=".jpg", offset=0):
    for index in indices:
        write(folder / f"{name(index)}{suffix}", jpeg(index + offset))


def write_masks(folder, indices, suffix="_segmentation.png"):
    for index in indices:
        write(folder / f"{name(index)}{suffix}", png(index))


def one_hot(columns, index, suffix="", more=""):
    flags = ["1.0" if column == index % len(columns) else "0.0" for column in range(len(columns))]
    return ",".join([f"{name(index)}{suffix}", *flags]) + more


@dataclass
class Expected:
    """What an example must be."""

    image_id: str
    image: bytes
    mask: bytes | None = None
    label: str | None = None
    part: str | None = None
    lesion: str | None = None
    metadata: dict = field(default_factory=dict)


def label_2016(index):
    return "malignant" if index % 2 else "benign"


def write_2016(folder):
    for part, indices in PARTS_2016.items():
        word = WORDS[part]
        write_images(folder / f"ISBI2016_ISIC_Part1_{word}_Data", indices)
        outlines = folder / f"ISBI2016_ISIC_Part1_{word}_GroundTruth"
        write_masks(outlines, indices, "_Segmentation.png")
        write_masks(folder / f"ISBI2016_ISIC_Part2B_{word}_GroundTruth", indices, "_globules.png")
        # The same images again; here they differ, so that it shows which one was taken.
        write_images(folder / f"ISBI2016_ISIC_Part3_{word}_Data", indices, offset=100)
        write_images(folder / f"ISBI2016_ISIC_Part3B_{word}_Data", indices, offset=200)
        write_masks(folder / f"ISBI2016_ISIC_Part3B_{word}_Data", indices, "_Segmentation.png")
        texts = ("0.0", "1.0") if part == "test" else ("benign", "malignant")
        rows = [f"{name(index)},{texts[index % 2]}" for index in indices]
        write_lines(folder / f"ISBI2016_ISIC_Part3_{word}_GroundTruth.csv", *rows)
        write_lines(folder / f"ISBI2016_ISIC_Part3B_{word}_GroundTruth.csv", *rows)
    return folder


def expected_2016(masks):
    return [
        Expected(
            name(index), jpeg(index + (0 if masks else 100)), png(index), label_2016(index), part
        )
        for part, indices in PARTS_2016.items()
        for index in indices
    ]


def write_2017(folder, parts=("train", "val", "test")):
    for part in parts:
        indices = PARTS_2017[part]
        word = "Test_v2" if part == "test" else WORDS[part]
        images = folder / f"ISIC-2017_{word}_Data"
        write_images(images, indices)
        write_masks(images, indices, "_superpixels.png")
        write_masks(
            folder / f"ISIC-2017_{word}_Part1_GroundTruth",
            indices,
            "_Segmentation.png" if part == "val" else "_segmentation.png",
        )
        write(folder / f"ISIC-2017_{word}_Part2_GroundTruth" / f"{name(0)}_features.json", b"{}")
        write_lines(
            folder / f"ISIC-2017_{word}_Part3_GroundTruth.csv",
            "image_id,melanoma,seborrheic_keratosis",
            *(f"{name(i)},{float(i % 3 == 0)},{float(i % 3 == 2)}" for i in indices),
        )
    write_lines(
        folder / "ISIC-2017_Training_Data" / "ISIC-2017_Training_Data_metadata.csv",
        "image_id,age_approximate,sex",
        "ISIC_0000000,55,female",
        "ISIC_0000001,unknown,",
    )
    return folder


def expected_2017(masks):
    metadata = {0: {"age_approximate": "55", "sex": "female"}, 1: {"age_approximate": "unknown"}}
    return [
        Expected(
            name(index),
            jpeg(index),
            png(index),
            ("mel", "nv", "sk")[index % 3],
            part,
            metadata=metadata.get(index, {}),
        )
        for part, indices in PARTS_2017.items()
        for index in indices
    ]


def write_2018(folder):
    for part, word in WORDS.items():
        outlined, labelled = OUTLINED_2018[part], LABELLED_2018[part]
        write_images(folder / f"ISIC2018_Task1-2_{word}_Input", outlined)
        write(folder / f"ISIC2018_Task1-2_{word}_Input" / "LICENSE.txt", b"CC0")
        write_masks(folder / f"ISIC2018_Task1_{word}_GroundTruth", outlined)
        write_masks(
            folder / f"ISIC2018_Task2_{word}_GroundTruth_v3", outlined, "_attribute_globules.png"
        )
        write_images(folder / f"ISIC2018_Task3_{word}_Input", labelled)
        truth = f"ISIC2018_Task3_{word}_GroundTruth"
        more = (34529,) if part == "test" else ()
        write_lines(
            folder / truth / f"{truth}.csv",
            ",".join(("image", *ONE_HOT_2018)),
            *(one_hot(ONE_HOT_2018, index) for index in (*labelled, *more)),
        )
    write_lines(
        folder / "ISIC2018_Task3_Training_LesionGroupings.csv",
        "image,lesion_id,diagnosis_confirm_type",
        *(f"{name(i)},HAM_{i // 2},histopathology" for i in LABELLED_2018["train"]),
    )
    return folder


def expected_2018(masks):
    if masks:
        return [
            Expected(name(index), jpeg(index), png(index), part=part)
            for part, indices in OUTLINED_2018.items()
            for index in indices
        ]
    return [
        Expected(
            name(index),
            jpeg(index),
            label=ONE_HOT_2018[index % 7].lower(),
            part=part,
            lesion=f"HAM_{index // 2}" if part == "train" else None,
            metadata={"diagnosis_confirm_type": "histopathology"} if part == "train" else {},
        )
        for part, indices in LABELLED_2018.items()
        for index in indices
    ]


def suffix_2019(part):
    return "_downsampled" if part == "train" else ""


def write_2019(folder):
    for part, indices in PARTS_2019.items():
        word, suffix = WORDS[part], suffix_2019(part)
        write_images(folder / f"ISIC_2019_{word}_Input", indices, f"{suffix}.jpg")
        header = ",".join(("image", *ONE_HOT_2019)) + (",score_weight" if part == "test" else "")
        more = ",0.5" if part == "test" else ""
        write_lines(
            folder / f"ISIC_2019_{word}_GroundTruth.csv",
            header,
            *(one_hot(ONE_HOT_2019, index, suffix, more) for index in indices),
        )
    write_lines(
        folder / "ISIC_2019_Training_Metadata.csv",
        "image,age_approx,anatom_site_general,lesion_id,sex",
        *(
            f"{name(i)}_downsampled,{50 + i}.0,,{f'BCN_{i // 2}' if i else ''},male"
            for i in PARTS_2019["train"]
        ),
    )
    write_lines(
        folder / "ISIC_2019_Test_Metadata.csv",
        "image,age_approx,anatom_site_general,sex",
        *(f"{name(i)},30.0,palms/soles,female" for i in PARTS_2019["test"]),
    )
    return folder


def expected_2019(masks):
    everything = []
    for part, indices in PARTS_2019.items():
        for index in indices:
            if index % 9 == 8:  # UNK
                continue
            train = part == "train"
            metadata = {"age_approx": f"{50 + index}.0", "sex": "male"}
            if not train:
                metadata = {"age_approx": "30.0", "anatom_site_general": "palms/soles"}
                metadata |= {"sex": "female", "score_weight": "0.5"}
            everything.append(
                Expected(
                    name(index) + suffix_2019(part),
                    jpeg(index),
                    label=ONE_HOT_2019[index % 9].lower(),
                    part=part,
                    lesion=f"BCN_{index // 2}" if train and index else None,
                    metadata=metadata,
                )
            )
    return everything


COLUMNS_2020 = (
    "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,"
    "benign_malignant,target"
)
INDICES_2020 = (15719, 52212, 68279, 74268, 74311)


def rows_2020(lesion=False):
    return [
        f"{name(i)},IP_{i % 2},{f'IL_{i},' if lesion else ''}female,45.0,,nevus,"
        f"{'malignant' if i == 68279 else 'benign'},{int(i == 68279)}"
        for i in INDICES_2020
    ]


def write_2020(folder):
    write_images(folder / "ISIC_2020_Training_JPEG" / "train", INDICES_2020)
    write_images(folder / "ISIC_2020_Test_Input", (52,))
    write_lines(
        folder / "ISIC_2020_Test_Metadata.csv", "image,patient,age_approx", "ISIC_0000052,IP_9,50"
    )
    write_lines(folder / "ISIC_2020_Training_GroundTruth.csv", COLUMNS_2020, *rows_2020())
    write_lines(
        folder / "ISIC_2020_Training_GroundTruth_v2.csv",
        COLUMNS_2020.replace("patient_id,", "patient_id,lesion_id,"),
        *rows_2020(lesion=True),
    )
    write_lines(
        folder / "ISIC_2020_Training_Duplicates.csv",
        "image_name_1,image_name_2",
        f"{name(52212)},{name(74311)}",
    )
    return folder


def expected_2020(masks, lesions=True, duplicates=True):
    return [
        Expected(
            name(index),
            jpeg(index),
            label="malignant" if index == 68279 else "benign",
            lesion=f"IP_{index % 2}",
            metadata={"sex": "female", "age_approx": "45.0", "diagnosis": "nevus"}
            | ({"lesion_id": f"IL_{index}"} if lesions else {}),
        )
        for index in INDICES_2020
        if not (duplicates and index == 74311)
    ]


WRITE = {2016: write_2016, 2017: write_2017, 2018: write_2018, 2019: write_2019, 2020: write_2020}
EXPECTED = {
    2016: expected_2016,
    2017: expected_2017,
    2018: expected_2018,
    2019: expected_2019,
    2020: expected_2020,
}


def zip_folder(folder, archive, prefix=""):
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                opened.write(path, f"{prefix}{path.relative_to(folder)}")


def in_form(folder, form):
    """Puts the folders of a layout into another form; what to give as the source."""
    folders = [path for path in folder.iterdir() if path.is_dir()]
    if form == "one zip":
        zip_folder(folder, folder.parent / "challenge.zip")
        shutil.rmtree(folder)
        return folder.parent / "challenge.zip"
    for path in folders:
        if form == "nested":
            shutil.move(path, folder / "x")
            path.mkdir()
            shutil.move(folder / "x", path / path.name)
        elif form in ("zips", "flat zips"):
            zip_folder(path, Path(f"{path}.zip"), f"{path.name}/" if form == "zips" else "")
            shutil.rmtree(path)
        elif form == "shouted":
            shutil.move(path, folder / "x")
            shutil.move(folder / "x", folder / path.name.upper())
    if form == "shouted":
        for path in [path for path in folder.rglob("*") if path.is_file()]:
            path.rename(path.with_name(path.name.upper()))
    return folder


def check(source, expected):
    """Every image with its own label, part, mask, lesion and metadata."""
    examples = source.examples()
    assert [example.image_id for example in examples] == [one.image_id for one in expected]
    for example, one in zip(examples, expected, strict=True):
        assert example.load() == (one.image, one.mask), one.image_id
        assert example.label == one.label, one.image_id
        assert example.part == one.part, one.image_id
        assert example.lesion_id == one.lesion, one.image_id
        assert example.metadata == one.metadata, one.image_id
        assert one.image_id.lower() in example.image_name.lower()
        assert (example.mask_name is None) == (one.mask is None)
    assert source.has_lesion_ids == any(one.lesion for one in expected)


def starts(source):
    """The notes up to the name of the folder."""
    return [note.split(" in /")[0] for note in source.notes]


NOTES = {
    (2018, False): [
        "1 of 3 rows of the tables have no image",
        "3 of 7 images",
    ],
    (2019, False): [
        "1 of 7 images are UNK, none of ak, bcc, bkl, df, mel, nv, scc, vasc,",
        "3 of 6 images",
    ],
    (2020, False): [
        "1 of 5 images are there under another name too, as the table of duplicates says,",
        "A split of ISIC 2020 by lesion keeps patients together: all images of a patient are on "
        "one side.",
    ],
}


@pytest.mark.parametrize("form", ["plain", "nested", "zips", "flat zips", "one zip", "shouted"])
@pytest.mark.parametrize(
    ("year", "masks"),
    [
        (2016, True),
        (2016, False),
        (2017, True),
        (2017, False),
        (2018, True),
        (2018, False),
        (2019, False),
        (2020, False),
    ],
)
def test_each_set_in_each_form(tmp_path, year, masks, form):
    folder = in_form(WRITE[year](tmp_path / "set"), form)
    source = IsicSource(year, folder, tmp_path / "cache", masks=masks)
    assert source.name == f"isic{year}"
    assert source.classes == ALL_CLASSES[year]
    # Zips without a folder in them look alike to 2016's parts, whose images are the same.
    same = year == 2016 and form == "flat zips"
    check(source, EXPECTED[year](masks or same))
    assert starts(source) == NOTES.get((year, masks), [])
    if form in ("plain", "nested", "shouted"):
        assert not (tmp_path / "cache").exists()


def test_all_years_side_by_side(tmp_path):
    for write_one in WRITE.values():
        write_one(tmp_path / "isic")
    for year in WRITE:
        check(IsicSource(year, tmp_path / "isic", tmp_path, masks=False), EXPECTED[year](False))
    in_form(tmp_path / "isic", "zips")
    check(IsicSource(2018, tmp_path / "isic", tmp_path / "cache"), expected_2018(True))
    unpacked = {path.name[:-13] for path in (tmp_path / "cache" / "unpacked").iterdir()}
    # Neither other years nor other tasks are worth the disk.
    assert unpacked == {
        *(f"ISIC2018_Task1-2_{word}_Input" for word in WORDS.values()),
        *(f"ISIC2018_Task1_{word}_GroundTruth" for word in WORDS.values()),
    }


@pytest.mark.parametrize("year", [2018, 2020])
def test_all_years_side_by_side_in_zips_without_folders(tmp_path, year):
    for write_one in WRITE.values():
        write_one(tmp_path / "isic")
    source = in_form(tmp_path / "isic", "flat zips")
    check(IsicSource(year, source, tmp_path / "cache", masks=False), EXPECTED[year](False))
    unpacked = [path.name for path in (tmp_path / "cache" / "unpacked").iterdir()]
    assert not [name for name in unpacked if str(year) not in name[:-13] or "2020_Test" in name]


@pytest.mark.parametrize("year", [2019, 2020])
def test_sets_without_masks_say_which_have_some(tmp_path, year):
    WRITE[year](tmp_path / "set")
    message = rf"ISIC {year} has no masks.*isic2016, isic2017, isic2018 or ham10000"
    with pytest.raises(UserError, match=message):
        IsicSource(year, tmp_path / "set", tmp_path)


def test_a_training_part_alone_is_left_to_be_divided(tmp_path):
    write_2017(tmp_path / "set", ["train"])
    for masks in (True, False):
        source = IsicSource(2017, tmp_path / "set", tmp_path, masks=masks)
        assert [example.part for example in source.examples()] == [None] * 3
        assert source.notes == []
        assert source.lesion_ids_mend is None


def test_parts_without_truth_are_left_out(tmp_path):
    folder = write_2017(tmp_path / "set")
    shutil.rmtree(folder / "ISIC-2017_Test_v2_Part1_GroundTruth")
    shutil.rmtree(folder / "ISIC-2017_Validation_Part1_GroundTruth")
    source = IsicSource(2017, folder, tmp_path)
    assert [example.part for example in source.examples()] == [None] * 3
    assert source.notes == [
        "2 images of the part 'val' have no mask, because ISIC-2017_Validation_Part1_GroundTruth "
        f"is not in {folder}. They are left out.",
        "2 images of the part 'test' have no mask, because ISIC-2017_Test_v2_Part1_GroundTruth "
        f"is not in {folder}. They are left out.",
    ]
    (folder / "ISIC-2017_Test_v2_Part3_GroundTruth.csv").unlink()
    source = IsicSource(2017, folder, tmp_path, masks=False)
    parts = collections.Counter(example.part for example in source.examples())
    assert parts == {"train": 3, "val": 2}
    assert [example.load()[1] is None for example in source.examples()] == [False] * 3 + [True] * 2
    assert starts(source) == [
        "2 images of the part 'test' have no label, because "
        "ISIC-2017_Test_v2_Part3_GroundTruth.csv is not"
    ]


def test_parts_without_images_are_noted(tmp_path):
    folder = write_2017(tmp_path / "set")
    shutil.rmtree(folder / "ISIC-2017_Validation_Data")
    source = IsicSource(2017, folder, tmp_path)
    assert starts(source) == [
        "2 of 7 masks are of the part 'val', of which there is no image,",
    ]
    masks = [f"{name(index)}_Segmentation.png" for index in PARTS_2017["val"]]
    assert [Path(path).name for path, _ in source.missing] == masks
    source = IsicSource(2017, folder, tmp_path, masks=False)
    # Nothing is wrong with the rows of a part that was not fetched.
    assert [Path(path).name for path, _ in source.missing] == masks
    assert starts(source) == [
        "2 of 7 rows of the tables are of the part 'val', of which there is no image,",
    ]


def test_missing_pairs_are_refused_within_a_part(tmp_path):
    folder = write_2017(tmp_path / "set")
    mask = folder / "ISIC-2017_Training_Part1_GroundTruth" / f"{name(1)}_segmentation.png"
    mask.rename(tmp_path / "mask")
    with pytest.raises(UserError, match=f"1 of 3 images have no mask .*{name(1)}.jpg.*whole ISIC-"):
        IsicSource(2017, folder, tmp_path)
    (tmp_path / "mask").rename(mask)
    (folder / "ISIC-2017_Test_v2_Data" / f"{name(5)}.jpg").unlink()
    with pytest.raises(UserError, match=f"1 of 2 masks have no image .*{name(5)}_segm"):
        IsicSource(2017, folder, tmp_path)
    with pytest.raises(UserError, match=f"1 of 2 rows of the tables have no image .*{name(5)}"):
        IsicSource(2017, folder, tmp_path, masks=False)
    write_images(folder / "ISIC-2017_Test_v2_Data", [5, 900])
    with pytest.raises(UserError, match=f"1 of 3 images have no label .*{name(900)}.jpg"):
        IsicSource(2017, folder, tmp_path, masks=False)


def test_images_in_a_folder_that_tells_no_part_are_not_left_out_unsaid(tmp_path):
    folder = write_2017(tmp_path / "set")
    for path in list(folder.glob("*_Data")):
        shutil.copytree(path, folder / "train and test", dirs_exist_ok=True)
        shutil.rmtree(path)
    # Then the parts come from the masks' folders, or the tables.
    expected = expected_2017(True)
    check(IsicSource(2017, folder, tmp_path), expected)
    tables = list(folder.glob("*Part3*.csv"))
    for table in tables:
        table.rename(tmp_path / table.name)
    examples = IsicSource(2017, folder, tmp_path).examples()
    assert [example.part for example in examples] == [one.part for one in expected]
    assert {example.label for example in examples} == {None}
    (folder / "train and test" / f"{name(3)}.jpg").unlink()
    with pytest.raises(UserError, match=f"1 of 2 masks have no image .*{name(3)}"):
        IsicSource(2017, folder, tmp_path)
    write_images(folder / "train and test", [3])
    for table in tables:
        (tmp_path / table.name).rename(table)
    for path in list(folder.glob("*_Part1_*")):
        shutil.copytree(path, folder / "masks", dirs_exist_ok=True)
        shutil.rmtree(path)
    check(IsicSource(2017, folder, tmp_path), expected)
    (folder / "masks" / f"{name(0)}_segmentation.png").unlink()
    with pytest.raises(UserError, match="1 of 7 images have no mask"):
        IsicSource(2017, folder, tmp_path)


def test_masks_named_like_images(tmp_path):
    write_images(tmp_path / "set" / "images", range(3))
    write_masks(tmp_path / "set" / "masks", range(3), ".png")
    source = IsicSource(2017, tmp_path / "set", tmp_path)
    check(source, [Expected(name(index), jpeg(index), png(index)) for index in range(3)])


def test_up_to_a_hundredth_may_be_missing(tmp_path, caplog):
    folder = tmp_path / "set"
    for index in range(200):
        write(folder / "ISIC-2017_Training_Data" / f"{name(index)}.jpg", b"i")
        truth = folder / "ISIC-2017_Training_Part1_GroundTruth"
        write(truth / f"{name(index)}_segmentation.png", b"m")
    (folder / "ISIC-2017_Training_Data" / f"{name(5)}.jpg").unlink()
    (truth / f"{name(6)}_segmentation.png").unlink()
    source = IsicSource(2017, folder, tmp_path)
    assert len(source.examples()) == 198
    assert starts(source) == ["1 of 199 masks have no image", "1 of 199 images have no mask"]
    assert [Path(path).name[:12] for path, _ in source.missing] == [name(5), name(6)]
    for note in source.notes:
        assert note in caplog.text
    (truth / f"{name(7)}_segmentation.png").unlink()
    with pytest.raises(UserError, match="2 of 199 images have no mask"):
        IsicSource(2017, folder, tmp_path)


def test_an_audit_refuses_nothing_that_is_missing(tmp_path):
    folder = write_2017(tmp_path / "set")
    truth = folder / "ISIC-2017_Training_Part1_GroundTruth"
    (truth / f"{name(1)}_segmentation.png").unlink()
    write_masks(truth, [800])
    shutil.rmtree(folder / "ISIC-2017_Test_v2_Part1_GroundTruth")
    (folder / "ISIC-2017_Test_v2_Part3_GroundTruth.csv").unlink()
    write_images(folder / "ISIC-2017_Validation_Data", [900])
    table = folder / "ISIC-2017_Validation_Part3_GroundTruth.csv"
    table.write_text(table.read_text() + f"{name(801)},0,0\n")
    for masks in (True, False):
        source = IsicSource(2017, folder, tmp_path, masks=masks, strict=False)
        examples = {example.image_id: example for example in source.examples()}
        assert list(examples) == [*map(name, range(7)), name(900)]
        assert [key for key, one in examples.items() if one.mask_name is None] == [
            *map(name, (1, 5, 6, 900))
        ]
        assert [key for key, one in examples.items() if one.label is None] == [
            *map(name, (5, 6, 900))
        ]
        assert {example.part for example in examples.values()} == {"train", "val", "test"}
        # The audit itself sees which image has no mask.
        assert [(Path(path).name, what) for path, what in source.missing] == [
            (f"{name(800)}_segmentation.png", "masks have no image"),
            (name(801), "rows of the tables have no image"),
            (f"{name(900)}.jpg", "images have no label"),
        ]
        assert starts(source) == [
            "1 of 3 masks have no image",
            "1 of 3 rows of the tables have no image",
            "1 of 3 images of the part 'train' have no mask",
            "1 of 3 images of the part 'val' have no mask",
            *(["2 of 2 images of the part 'test' have no mask"] if masks else []),
            "1 of 3 images of the part 'val' have no label",
            *([] if masks else ["2 of 2 images of the part 'test' have no label"]),
        ]


def test_an_audit_needs_no_truth_at_all(tmp_path):
    for year in (2017, 2019, 2020):
        write_images(tmp_path / str(year), range(3))
        for masks in (True, False):
            source = IsicSource(year, tmp_path / str(year), tmp_path, masks=masks, strict=False)
            check(source, [Expected(name(index), jpeg(index)) for index in range(3)])
            assert len(source.notes) == (year == 2017 or not masks)


def test_an_audit_lists_images_of_no_known_class(tmp_path):
    folder = write_2019(tmp_path / "set")
    source = IsicSource(2019, folder, tmp_path, strict=False)
    assert len(source.examples()) == 7
    assert [one.image_id for one in source.examples() if one.label is None] == [name(34325)]
    assert starts(source)[0].startswith("1 of 7 images are UNK")
    assert not source.notes[0].endswith("left out.")
    assert source.missing == []


@pytest.mark.parametrize("part", ["Training", "Validation", "Test_v2"])
def test_a_source_that_names_the_part_itself(tmp_path, part):
    folder = write_2017(tmp_path / "set")
    images = folder / f"ISIC-2017_{part}_Data"
    with pytest.raises(UserError) as error:
        IsicSource(2017, images, tmp_path)
    assert str(error.value).endswith(
        f"_Part1_GroundTruth lies beside it, so set config.data.source={folder}, which holds both."
    )
    with pytest.raises(UserError, match=r"no labels.*GroundTruth.csv lies beside it, so set"):
        IsicSource(2017, images, tmp_path, masks=False)
    shutil.move(folder / f"ISIC-2017_{part}_Part1_GroundTruth", images)
    parts = {example.part for example in IsicSource(2017, images, tmp_path).examples()}
    assert parts == {None if part == "Training" else "val" if part == "Validation" else "test"}


def test_a_zip_that_names_the_part_itself(tmp_path):
    write_images(tmp_path / "work", range(2))
    write_masks(tmp_path / "work", range(2))
    zip_folder(tmp_path / "work", tmp_path / "ISIC-2017_Validation_Data.zip")
    source = IsicSource(2017, tmp_path / "ISIC-2017_Validation_Data.zip", tmp_path / "cache")
    assert [example.part for example in source.examples()] == ["val", "val"]


def test_a_source_of_the_other_task(tmp_path):
    folder = write_2018(tmp_path / "set")
    with pytest.raises(UserError, match=r"no images of ISIC 2018.*Task1-2_Test_Input lies beside"):
        IsicSource(2018, folder / "ISIC2018_Task3_Training_Input", tmp_path)
    with pytest.raises(UserError, match=r"no images of ISIC 2018.*Task3_Test_Input lies beside"):
        IsicSource(2018, folder / "ISIC2018_Task1_Training_GroundTruth", tmp_path, masks=False)


def test_no_truth_beside_it_either(tmp_path):
    write_images(tmp_path / "alone" / "ISIC-2017_Validation_Data", range(2))
    with pytest.raises(UserError, match=r"no masks .*get ISIC-2017_Validation_Part1_GroundTruth,"):
        IsicSource(2017, tmp_path / "alone", tmp_path)
    with pytest.raises(UserError, match=r"no labels .*get ISIC-2017_Validation_Part3_Gr\w+\.csv,"):
        IsicSource(2017, tmp_path / "alone", tmp_path, masks=False)


def test_sources_that_hold_nothing(tmp_path):
    with pytest.raises(UserError, match=r"config\.data\.source is empty.*ISIC 2017"):
        IsicSource(2017, None, tmp_path)
    with pytest.raises(UserError, match=r"nowhere does not exist.*ISIC 2017"):
        IsicSource(2017, tmp_path / "nowhere", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no images of ISIC 2017 .*empty: set config"):
        IsicSource(2017, tmp_path / "empty", tmp_path)


def test_2016_without_part_1_takes_the_masks_beside_the_images(tmp_path):
    folder = write_2016(tmp_path / "set")
    for path in list(folder.glob("*_Part1_*")):
        shutil.rmtree(path)
    expected = expected_2016(True)
    for one, index in zip(expected, range(5), strict=True):
        one.image = jpeg(index + 200)
    check(IsicSource(2016, folder, tmp_path), expected)


def test_2018_takes_its_lesions_from_beside_it(tmp_path):
    folder = write_2018(tmp_path / "set")
    table = "ISIC2018_Task3_Training_LesionGroupings.csv"
    (folder / table).rename(tmp_path / "kept")
    source = IsicSource(2018, folder, tmp_path, masks=False)
    assert not source.has_lesion_ids
    assert source.lesion_ids_mend == f"put {table} beside it"
    assert IsicSource(2018, folder, tmp_path).lesion_ids_mend is None
    (tmp_path / "kept").rename(tmp_path / table)
    check(IsicSource(2018, folder, tmp_path, masks=False), expected_2018(False))


def test_2018_reads_no_table_for_its_outlines(tmp_path):
    folder = write_2018(tmp_path / "set")
    (folder / TABLES[2018]).rename(folder / Path(TABLES[2018]).name)
    for table in folder.glob("*.csv"):
        table.write_text("broken\nbroken\n")
    check(IsicSource(2018, folder, tmp_path), expected_2018(True))


def test_2018_attaches_the_masks_of_ham10000(tmp_path):
    folder = write_2018(tmp_path / "set")
    write_masks(folder / "HAM10000_segmentations_lesion_tschandl", LABELLED_2018["train"])
    expected = expected_2018(False)
    for one, index in zip(expected[:4], LABELLED_2018["train"], strict=True):
        one.mask = png(index)
    source = IsicSource(2018, folder, tmp_path, masks=False)
    check(source, expected)
    assert source.missing == [(name(34529), "rows of the tables have no image")]


def test_2018_in_the_folders_of_ham10000(tmp_path):
    folder = write_2018(tmp_path / "set")
    images = folder / "ISIC2018_Task3_Training_Input"
    write_images(folder / "HAM10000_images_part_1", LABELLED_2018["train"])
    shutil.rmtree(images)
    check(IsicSource(2018, folder, tmp_path, masks=False), expected_2018(False))


def test_2019_without_its_metadata_has_no_lesions(tmp_path):
    folder = write_2019(tmp_path / "set")
    (folder / "ISIC_2019_Training_Metadata.csv").unlink()
    source = IsicSource(2019, folder, tmp_path, masks=False)
    assert not source.has_lesion_ids
    assert source.lesion_ids_mend == "put ISIC_2019_Training_Metadata.csv beside it"
    assert len(source.notes) == 1


def test_2019_counts_images_without_a_lesion(tmp_path):
    folder = write_2019(tmp_path / "set")
    shutil.rmtree(folder / "ISIC_2019_Test_Input")
    source = IsicSource(2019, folder, tmp_path, masks=False)
    assert source.notes[-1] == (
        f"1 of 4 images in {folder} have no lesion id. Each counts as a lesion of its own."
    )
    assert [example.lesion_id for example in source.examples()] == [
        None,
        "BCN_0",
        "BCN_1",
        "BCN_1",
    ]


def test_2020_as_kaggle_has_it(tmp_path):
    folder = tmp_path / "siim-isic-melanoma-classification"
    write_images(folder / "jpeg" / "train", INDICES_2020)
    write_images(folder / "jpeg" / "test", (52,))
    write(folder / "train" / f"{name(15719)}.dcm", b"DICM")
    write_lines(folder / "train.csv", COLUMNS_2020, *rows_2020())
    write_lines(folder / "test.csv", "image_name,patient_id", f"{name(52)},IP_9")
    expected = expected_2020(False, lesions=False, duplicates=False)
    check(IsicSource(2020, folder, tmp_path, masks=False), expected)
    source = in_form(folder, "one zip")
    check(IsicSource(2020, source, tmp_path / "cache", masks=False), expected)


def test_2020_unpacked_without_the_zips_name(tmp_path):
    write_images(tmp_path / "set" / "train", INDICES_2020)
    write_lines(tmp_path / "set" / "ISIC_2020_Training_GroundTruth.csv", COLUMNS_2020, *rows_2020())
    expected = expected_2020(False, lesions=False, duplicates=False)
    check(IsicSource(2020, tmp_path / "set", tmp_path, masks=False), expected)


@pytest.mark.parametrize(
    ("pairs", "left"),
    [
        ([(0, 1), (1, 0)], {0, 2, 3, 4}),
        ([(1, 2), (0, 1)], {0, 3, 4}),
        ([(0, 2), (1, 2)], {1, 3, 4}),
        ([(9, 2)], {0, 1, 2, 3, 4}),
        ([(3, 3)], {0, 1, 2, 3, 4}),
    ],
    ids=["both ways", "chain", "two firsts", "the first is not there", "itself"],
)
def test_2020_keeps_one_of_each_image(tmp_path, pairs, left):
    folder = write_2020(tmp_path / "set")
    ids = [name(index) for index in INDICES_2020] + ["ISIC_9999999"] * 5
    lines = [f"{ids[first]},{ids[second]}" for first, second in pairs]
    table = folder / "ISIC_2020_Training_Duplicates.csv"
    write_lines(table, "image_name_1,image_name_2", *lines)
    source = IsicSource(2020, folder, tmp_path, masks=False)
    assert [one.image_id for one in source.examples()] == [ids[index] for index in sorted(left)]
    assert len(source.notes) == (1 if len(left) == 5 else 2)
    assert source.missing == []


HEADER_2017 = "image_id,melanoma,seborrheic_keratosis\n"
HEADER_2018 = ",".join(("image", *ONE_HOT_2018)) + "\n"
HEADER_2020 = COLUMNS_2020 + "\n"
TABLES = {
    2016: "ISBI2016_ISIC_Part3_Training_GroundTruth.csv",
    2017: "ISIC-2017_Training_Part3_GroundTruth.csv",
    2018: "ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv",
    2019: "ISIC_2019_Training_GroundTruth.csv",
    2020: "ISIC_2020_Training_GroundTruth.csv",
}


@pytest.mark.parametrize(
    ("year", "content", "message"),
    [
        (2016, "ISIC_0000000,nevus\n", "Line 1 of .*'nevus': known are benign and malignant"),
        (2016, "ISIC_0000000,0.5\n", "Line 1 of .*'0.5'"),
        (2016, "ISIC_0000000,benign,1\n", "Line 1 of .*3 columns"),
        (2016, "ISIC_0000000,benign\nimage,benign\n", "Line 2 of .*image id 'image'"),
        (2016, "ISIC_0000000,benign\nISIC_0000000,malignant\n", "Line 2 .*contradicts line 1 of"),
        (2016, "", "has no rows"),
        (2017, f"{HEADER_2017}ISIC_0000000,1.0,1.0\n", "Line 2 .*1 in 2 columns"),
        (2017, f"{HEADER_2017}ISIC_0000000,2,0\n", "Line 2 .*'2' where 0 or 1"),
        (2017, "image_id,melanoma\nISIC_0000000,1\n", "lacks the column seborrheic_keratosis"),
        (2017, "picture,melanoma\nISIC_0000000,1\n", "lacks the column image "),
        (2018, f"{HEADER_2018}ISIC_0024306,1,1,0,0,0,0,0\n", "Line 2 .*1 in 2 columns"),
        (2018, f"{HEADER_2018}ISIC_0024306,0,0,0,0,0,0,0\n", "Line 2 .*1 in 0 columns"),
        (2019, f"{HEADER_2018}ISIC_0024306,1,0,0,0,0,0,0\n", "lacks the column ak, scc, unk"),
        (2020, f"{HEADER_2020}ISIC_0015719,IP_1,,,,,benign,1\n", "Line 2 .*'benign' and its targ"),
        (2020, f"{HEADER_2020}ISIC_0015719,IP_1,,,,,maybe,1\n", "Line 2 .*'maybe': known"),
        (2020, f"{HEADER_2020}ISIC_0015719,IP_1,,,,,benign,2\n", "Line 2 .*'2': known"),
        (2020, "image_name,target\nISIC_0015719,0\n", "lacks the column patient_id"),
    ],
)
def test_bad_tables(tmp_path, year, content, message):
    folder = WRITE[year](tmp_path / "set")
    (folder / TABLES[year]).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        IsicSource(year, folder, tmp_path, masks=False)
    assert TABLES[year] in str(error.value)


def test_tables_that_are_none(tmp_path):
    folder = write_2016(tmp_path / "set")
    (folder / TABLES[2016]).write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UserError, match=r"Part3_Training_GroundTruth\.csv is no table"):
        IsicSource(2016, folder, tmp_path, masks=False)


def test_tables_that_contradict_each_other(tmp_path):
    folder = write_2020(tmp_path / "set")
    rows = rows_2020()
    rows[1] = rows[1].replace("IP_0", "IP_7")
    write_lines(folder / "train.csv", COLUMNS_2020, *rows)
    message = rf"Line 3 of .*train\.csv contradicts line 3 of .*_GroundTruth\.csv on {name(52212)}"
    with pytest.raises(UserError, match=message):
        IsicSource(2020, folder, tmp_path, masks=False)
    folder = write_2018(tmp_path / "other")
    table = folder / "ISIC2018_Task3_Training_LesionGroupings.csv"
    table.write_text(table.read_text() + f"{name(24306)},HAM_0,\n")
    with pytest.raises(UserError, match=f"Line 6 of .*contradicts line 2 .*{name(24306)}"):
        IsicSource(2018, folder, tmp_path, masks=False)


def test_copies_of_a_table_must_agree(tmp_path):
    folder = write_2017(tmp_path / "set")
    table = folder / TABLES[2017]
    (folder / "copy").mkdir()
    shutil.copy(table, folder / "copy")
    check(IsicSource(2017, folder, tmp_path, masks=False), expected_2017(False))
    copy = folder / "copy" / table.name
    # The same size, so that only the content tells.
    copy.write_text(table.read_text().replace(f"{name(0)},1.0", f"{name(0)},0.0"))
    with pytest.raises(UserError, match=f"contradicts .*{name(0)}"):
        IsicSource(2017, folder, tmp_path, masks=False)


def test_an_image_in_two_parts_is_refused(tmp_path):
    folder = write_2017(tmp_path / "set")
    write_images(folder / "ISIC-2017_Test_v2_Data", [0])
    with pytest.raises(UserError, match=rf"{name(0)}\.jpg are the same image in two parts"):
        IsicSource(2017, folder, tmp_path)


def test_fingerprint_follows_the_content(tmp_path):
    folder = write_2018(tmp_path / "set")

    def fingerprint(path=folder, masks=False):
        return IsicSource(2018, path, tmp_path, masks=masks).fingerprint()

    first = fingerprint()
    assert len(first) == 64
    assert fingerprint() == first
    assert fingerprint(masks=True) != first
    assert fingerprint(shutil.copytree(folder, tmp_path / "copy")) == first
    (folder / "notes.txt").write_text("not used")
    assert fingerprint() == first
    table = folder / "ISIC2018_Task3_Training_LesionGroupings.csv"
    table.write_text(table.read_text().replace("HAM_12153", "HAM_99999"))
    changed = fingerprint()
    assert changed != first
    write_images(folder / "ISIC2018_Task3_Test_Input", [34529])
    assert fingerprint() not in (first, changed)


def test_fingerprint_follows_the_parts(tmp_path):
    seen = set()
    write_images(tmp_path / "ISIC-2017_Test_v2_Data", range(2))
    write_masks(tmp_path / "ISIC-2017_Test_v2_Data", range(2))
    shutil.copytree(tmp_path / "ISIC-2017_Test_v2_Data", tmp_path / "ISIC-2017_Validation_Data")
    for part in ("Test_v2", "Validation"):
        source = IsicSource(2017, tmp_path / f"ISIC-2017_{part}_Data", tmp_path)
        seen.add(source.fingerprint())
    assert len(seen) == 2


@pytest.mark.parametrize("masks", [True, False])
def test_real_images(real_data: Path, tmp_path, masks):
    source = IsicSource(2017, real_data / "isic2017", tmp_path, masks=masks)
    examples = source.examples()
    assert source.notes == []
    assert not source.has_lesion_ids
    counts = collections.Counter(example.label for example in examples)
    assert counts == {"nv": 1372, "mel": 374, "sk": 254}
    assert {example.part for example in examples} == {None}
    for example in examples:
        assert example.image_id in example.image_name
        assert f"{example.image_id}_segmentation.png" in example.mask_name
    image, mask = examples[0].load()
    assert Image.open(io.BytesIO(image)).size == Image.open(io.BytesIO(mask)).size == (256, 256)
