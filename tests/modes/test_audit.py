"""An audit through its mode: each kind of damage is found, by name, and nothing else is."""

import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from skinjax.data.audit import _too_many, random_split_leak
from skinjax.data.findings import Finding
from skinjax.data.sources.example import CLASSES, Example
from skinjax.data.sources.phantom import render
from skinjax.errors import UserError
from skinjax.modes.audit import audit

MASKS = "HAM10000_segmentations_lesion_tschandl"
PART = "HAM10000_images_part_1"
NUM_IMAGES = 12


def name_of(index):
    return f"ISIC_{24306 + index:07d}"


def encode(image, format="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Twelve phantoms laid out as HAM10000: ten lesions, of which two have two pictures."""
    folder = tmp_path_factory.mktemp("clean") / "ham"
    (folder / PART).mkdir(parents=True)
    (folder / MASKS).mkdir()
    with open(folder / "HAM10000_metadata.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["lesion_id", "image_id", "dx", "age"])
        for index in range(NUM_IMAGES):
            image, mask, _ = render(7, index, 60, 80)
            path = folder / PART / f"{name_of(index)}.jpg"
            path.write_bytes(encode(image, "JPEG", quality=95))
            path = folder / MASKS / f"{name_of(index)}_segmentation.png"
            path.write_bytes(encode(mask * np.uint8(255)))
            lesion = index if index < 10 else index - 10
            writer.writerow([f"HAM_{lesion:07d}", name_of(index), CLASSES[lesion % 7], "40.0"])
    return folder


@pytest.fixture
def ham(clean, tmp_path):
    return shutil.copytree(clean, tmp_path / "ham")


def run(tmp_path, *sources, **options):
    output = tmp_path / "out"
    is_clean = audit([str(source) for source in sources], output, **options)
    with open(output / "audit.csv", newline="") as file:
        findings = [(row["finding"], row["file"], row["detail"]) for row in csv.DictReader(file)]
    report = json.loads((output / "audit.json").read_text())
    return is_clean, findings, report, (output / "audit.html").read_text()


def test_a_clean_set_has_its_facts_and_no_finding(ham, tmp_path, capsys):
    is_clean, findings, report, page = run(tmp_path, ham)
    assert is_clean and not findings
    (facts,) = report["datasets"]
    assert facts["dataset"] == "ham10000" and facts["num_images"] == facts["num_masks"] == 12
    assert facts["num_lesions"] == 10
    assert facts["num_lesions_with_several_images"] == 2 and facts["num_images_of_these"] == 4
    assert sum(facts["classes"].values()) == 12 and facts["sizes"] == {"80 x 60": 12}
    assert facts["modes"] == {"JPEG RGB": 12}
    largest = max(facts["classes"].values())
    assert facts["majority_accuracy"] == pytest.approx(largest / 12)
    masks = [np.asarray(Image.open(path)) for path in (ham / MASKS).iterdir()]
    background = np.mean([np.mean(mask == 0) for mask in masks])
    assert facts["background_accuracy"] == pytest.approx(background)
    assert 0 < facts["random_split_leak"] < 0.5
    assert "Nothing here stops a training" in page
    told = capsys.readouterr().out
    assert "12 images, 12 masks, 10 lesions" in told and "nothing stops a training" in told


def test_the_page_needs_nothing_else(ham, tmp_path):
    (ham / PART / f"{name_of(3)}.jpg").write_bytes((ham / PART / f"{name_of(4)}.jpg").read_bytes())
    page = run(tmp_path, ham)[3]
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and "http" not in page
    assert all('alt="' in image for image in re.findall(r"<img[^>]*>", page))
    assert page.count("<img") >= 3  # the pair, and the plot


def damage(what, ham):
    """Damages a set in one way; returns the finding and the file that it must be told of."""
    image = ham / PART / f"{name_of(2)}.jpg"
    mask = ham / MASKS / f"{name_of(2)}_segmentation.png"
    size = np.asarray(Image.open(mask)).shape
    if what == "cut short":
        image.write_bytes(image.read_bytes()[:400])
        return "image: does not decode", image
    if what == "empty file":
        image.write_bytes(b"")
        return "image: empty file", image
    if what == "no mask":
        mask.unlink()
        return "image has no mask", image
    if what == "no image":
        image.unlink()
        return "masks have no image", mask
    if what == "mask cut short":
        mask.write_bytes(mask.read_bytes()[:60])
        return "mask: does not decode", mask
    if what == "grey mask":
        mask.write_bytes(encode(np.tile(np.uint8([0, 90, 255, 90]), (60, 20))))
        return "mask is not binary", mask
    if what == "full mask":
        mask.write_bytes(encode(np.full(size, 255, np.uint8)))
        return "mask is all lesion", mask
    if what == "empty mask":
        mask.write_bytes(encode(np.zeros(size, np.uint8)))
        return "mask is all background", mask
    assert what == "turned mask"
    mask.write_bytes(encode(np.asarray(Image.open(mask)).T.copy()))
    return "mask has another aspect ratio", mask


STOPS = {
    "cut short": True,  # one of twelve is above 1%
    "empty file": True,
    "no mask": True,
    "no image": True,  # its row has none: again one of twelve
    "mask cut short": True,
    "grey mask": True,
    "full mask": False,
    "empty mask": False,
    "turned mask": True,
}


@pytest.mark.parametrize("what", STOPS)
def test_damage_is_found(what, ham, tmp_path):
    finding, path = damage(what, ham)
    is_clean, findings, _, page = run(tmp_path, ham)
    told = {kind: file for kind, file, _ in findings}
    assert told[finding].endswith(path.name)
    expected = {finding} | ({"rows of the table have no image"} if what == "no image" else set())
    if STOPS[what] and what not in ("mask cut short", "grey mask", "turned mask"):
        expected.add("above 1% cannot be used")
    assert set(told) == expected
    assert is_clean is not STOPS[what]
    assert finding in page


def test_pictures_that_are_broken_in_several_ways_are_counted_together():
    def stops(total, *kinds):
        findings = [Finding("a", kind, "", left_out=True) for kind in kinds for _ in range(6)]
        return [finding.detail for finding in _too_many(findings, total, "root")]

    (told,) = stops(1000, "image: empty file", "image: does not decode")
    assert told.startswith("image: broken: 12 of 1,000")
    assert stops(1000, "image: empty file", "image has no mask") == []
    assert len(stops(500, "image: empty file", "image has no mask")) == 2


def test_copies_are_told_by_where_they_stand(ham, tmp_path):
    images = [ham / PART / f"{name_of(index)}.jpg" for index in range(NUM_IMAGES)]
    # The same lesion: 0 and 10. Two lesions of two diagnoses: 3 and 4. A flipped copy: 5 and 6.
    images[10].write_bytes(images[0].read_bytes())
    images[4].write_bytes(images[3].read_bytes())
    flipped = np.asarray(Image.open(images[5]))[:, ::-1]
    images[6].write_bytes(encode(flipped, "JPEG", quality=70))
    is_clean, findings, _, _ = run(tmp_path, ham)
    told = {(kind, file[-16:], detail.split(",")[0][-16:]) for kind, file, detail in findings}
    assert told == {
        ("identical files of one lesion", images[0].name, images[10].name),
        ("identical files of two diagnoses", images[3].name, images[4].name),
        ("near-duplicates of two diagnoses", images[5].name, images[6].name),
    }
    assert not is_clean
    assert any("flipped or turned" in detail for _, _, detail in findings)


def test_two_sets_that_share_a_picture_do_not_go_together(clean, ham, tmp_path):
    for index in range(1, NUM_IMAGES):
        for path in (ham / PART / f"{name_of(index)}.jpg", ham / MASKS):
            if path.is_file():
                path.write_bytes(encode(render(8, index, 60, 80)[0], "JPEG"))
    is_clean, findings, report, _ = run(tmp_path, clean, ham)
    assert [kind for kind, _, _ in findings] == ["identical files in two data sets"]
    assert not is_clean and len(report["datasets"]) == 2


def test_mistakes_of_the_user_are_named(tmp_path):
    with pytest.raises(UserError, match="--source is missing"):
        audit([], tmp_path / "out")
    with pytest.raises(UserError, match="nowhere does not exist"):
        audit([str(tmp_path / "nowhere")], tmp_path / "out")
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError):
        audit([str(tmp_path / "empty")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_leak_of_a_random_split():
    def examples(lesions):
        return [
            Example(str(i), lambda: (b"", None), "", lesion_id=lesion, label="nv")
            for i, lesion in enumerate(lesions)
        ]

    assert random_split_leak(examples([str(i) for i in range(50)])) == {"": 0.0, "nv": 0.0}
    # Of a lesion of two pictures, the other one of a test picture is in training in 80 of 99 cases.
    shares = random_split_leak(examples([str(i // 2) for i in range(100)]))
    assert shares[""] == pytest.approx(80 / 99, abs=0.03)


def test_real_ham10000_has_its_known_facts(real_data, tmp_path):
    _, findings, report, _ = run(tmp_path, real_data / "ham10000")
    (facts,) = report["datasets"]
    assert facts["num_images"] == 8553 and facts["num_lesions"] == 6350
    assert facts["num_lesions_with_several_images"] == 1687
    assert facts["num_images_of_these"] == 3890
    assert facts["random_split_leak"] == pytest.approx(0.392, abs=0.003)
    assert report["findings"]["mask is all lesion"] == 2
    assert {kind for kind, _, _ in findings} == set(report["findings"])
