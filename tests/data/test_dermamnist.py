"""DermaMNIST's npz files in miniature, whole and damaged."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from skinjax.data.images import decode_image
from skinjax.data.sources.dermamnist import DermaMnistSource
from skinjax.data.sources.example import CLASSES
from skinjax.errors import UserError

SIZE = 28
COUNTS = {"train": 8, "val": 3, "test": 4}
NAMES = ("dermamnist.npz", "dermamnist_64.npz", "dermamnist_128.npz", "dermamnist_224.npz")


def arrays():
    made = {}
    for part, count in COUNTS.items():
        generator = np.random.default_rng(len(part))
        made[f"{part}_images"] = generator.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
        labels = [(index + len(part)) % 7 for index in range(count)]
        made[f"{part}_labels"] = np.array(labels, np.uint8)[:, None]
    return made


def write(path, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {name: array for name, array in (arrays() | changes).items() if array is not None}
    np.savez_compressed(path, **content)
    return path


def check(source):
    """Every picture of every part, without loss, with its own label."""
    assert source.name == "dermamnist"
    assert source.classes == CLASSES == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    assert source.has_lesion_ids is False
    assert source.lesion_ids_mend is None
    assert source.missing == []
    assert len(source.notes) == 1
    assert "arXiv:2401.14497" in source.notes[0]
    examples = source.examples()
    ids = [f"dermamnist_{p}_{i:05d}" for p in sorted(COUNTS) for i in range(COUNTS[p])]
    assert [example.image_id for example in examples] == ids == sorted(ids)
    made = arrays()
    for example in examples:
        _, part, index = example.image_id.split("_")
        image, mask = example.load()
        assert mask is None
        assert image.startswith(b"\x89PNG")
        decoded = decode_image(image, example.image_name)
        np.testing.assert_array_equal(decoded, made[f"{part}_images"][int(index)])
        assert example.label == CLASSES[made[f"{part}_labels"][int(index), 0]]
        assert example.part == part
        assert example.lesion_id is None
        assert example.mask_name is None
        assert f"{part}_images[{int(index)}]" in example.image_name


@pytest.mark.parametrize("name", NAMES)
def test_each_file_alone_and_in_a_folder(tmp_path, name):
    path = write(tmp_path / "medmnist" / name)
    (path.parent / "notes.txt").write_text("not ours")
    (path.parent / "pathmnist.npz").write_bytes(b"not ours")
    check(DermaMnistSource(path, tmp_path / "cache", masks=False))
    unpacked = tmp_path / "cache" / "unpacked"
    before = {folder: folder.stat().st_ino for folder in unpacked.iterdir()}
    assert len(before) == 1
    check(DermaMnistSource(path.parent, tmp_path / "cache", masks=False))
    assert {folder: folder.stat().st_ino for folder in unpacked.iterdir()} == before


def test_relative_paths_home_and_another_name(tmp_path, monkeypatch):
    write(tmp_path / "derma.npz")
    monkeypatch.chdir(tmp_path)
    check(DermaMnistSource("derma.npz", "cache", masks=False))
    monkeypatch.setenv("HOME", str(tmp_path))
    check(DermaMnistSource("~/derma.npz", "~/cache", masks=False))


def test_in_a_zip(tmp_path):
    path = write(tmp_path / "dermamnist.npz")
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as opened:
        opened.write(path, "medmnist/dermamnist.npz")
    check(DermaMnistSource(tmp_path / "archive.zip", tmp_path / "cache", masks=False))


def test_pictures_stay_on_disk(tmp_path, monkeypatch):
    path = write(tmp_path / "dermamnist.npz")
    modes = []
    load = np.load

    def watched(*args, **kwargs):
        modes.append((kwargs["mmap_mode"], kwargs["allow_pickle"]))
        return load(*args, **kwargs)

    monkeypatch.setattr(np, "load", watched)
    check(DermaMnistSource(path, tmp_path / "cache", masks=False))
    assert modes == [("r", False)] * 6


def test_several_files_are_an_error_that_names_them(tmp_path):
    write(tmp_path / "dermamnist.npz")
    write(tmp_path / "dermamnist_64.npz")
    with pytest.raises(UserError, match=r"dermamnist\.npz, dermamnist_64\.npz: .*the one"):
        DermaMnistSource(tmp_path, tmp_path / "cache", masks=False)


def test_there_are_no_masks(tmp_path):
    path = write(tmp_path / "dermamnist.npz")
    with pytest.raises(UserError, match=r"has no masks: set config\.task='classification'"):
        DermaMnistSource(path, tmp_path / "cache")
    source = DermaMnistSource(path, tmp_path / "cache", strict=False)
    assert source.notes[0] == "DermaMNIST has no masks."
    assert len(source.examples()) == 15
    check(DermaMnistSource(path, tmp_path / "cache", masks=False, strict=False))


def test_sources_that_hold_nothing(tmp_path):
    with pytest.raises(UserError, match=r"config\.data\.source is empty"):
        DermaMnistSource(None, tmp_path / "cache", masks=False)
    with pytest.raises(UserError, match=r"nowhere\.npz does not exist"):
        DermaMnistSource(tmp_path / "nowhere.npz", tmp_path / "cache", masks=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no dermamnist\.npz .*empty"):
        DermaMnistSource(tmp_path / "empty", tmp_path / "cache", masks=False)
    (tmp_path / "dermamnist.npz").write_text("<html>")
    with pytest.raises(UserError, match=r"dermamnist\.npz cannot be unpacked"):
        DermaMnistSource(tmp_path / "dermamnist.npz", tmp_path / "cache", masks=False)


IMAGES = arrays()["val_images"]
LABELS = arrays()["val_labels"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_images": None}, "lacks the array val_images"),
        ({"test_labels": None}, "lacks the array test_labels"),
        ({"val_images": IMAGES.astype(np.float32)}, r"val_images .*float32 \[3, 28, 28, 3\]"),
        ({"val_images": IMAGES[..., 0]}, r"val_images .*uint8 \[3, 28, 28\]"),
        ({"val_images": IMAGES[:, :20]}, r"val_images .*uint8 \[3, 20, 28, 3\]"),
        ({"val_images": IMAGES[..., :1]}, r"val_images .*uint8 \[3, 28, 28, 1\]"),
        ({"val_images": IMAGES[:, :20, :20]}, r"several sizes, \[20, 28\]"),
        ({"val_images": IMAGES[:0], "val_labels": LABELS[:0]}, "val_images .*"),
        ({"val_labels": LABELS.astype(np.float32)}, r"val_labels .*float32 \[3, 1\]"),
        ({"val_labels": LABELS[:, 0]}, r"val_labels .*uint8 \[3\]"),
        ({"val_labels": LABELS[:2]}, "3 val_images and 2 val_labels"),
        ({"val_labels": LABELS * 0 + 7}, "val_labels .*from 7 to 7 .*0 to 6"),
        ({"val_labels": LABELS.astype(np.int8) * 0 - 1}, "val_labels .*from -1 to -1"),
    ],
)
def test_damaged_arrays(tmp_path, changes, message):
    path = write(tmp_path / "dermamnist.npz", **changes)
    with pytest.raises(UserError, match=message):
        DermaMnistSource(path, tmp_path / "cache", masks=False)


class Malicious:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_pickles_are_refused_unread(tmp_path):
    trap = tmp_path / "executed"
    pickle.loads(pickle.dumps(Malicious(trap))).close()
    assert trap.exists(), "the trap must work, or this test says nothing"
    trap.unlink()
    objects = np.empty(3, object)
    objects[:] = [Malicious(trap)] * 3
    contents = (npy(objects), pickle.dumps(Malicious(trap)))
    for index, content in enumerate(contents):
        path = tmp_path / str(index) / "dermamnist.npz"
        made = {name: npy(array) for name, array in arrays().items()} | {"val_labels": content}
        path.parent.mkdir()
        with zipfile.ZipFile(path, "w") as opened:
            for name, data in made.items():
                opened.writestr(f"{name}.npy", data)
        with pytest.raises(UserError, match=r"val_labels .*cannot be read"):
            DermaMnistSource(path, tmp_path / "cache", masks=False)
        assert not trap.exists()


@pytest.mark.parametrize("content", ["empty", "cut", "zip"])
def test_what_is_no_array(tmp_path, content):
    whole = npy(arrays()["val_images"])
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros(3))
    data = {"empty": b"", "cut": whole[:-100], "zip": buffer.getvalue()}[content]
    with zipfile.ZipFile(tmp_path / "dermamnist.npz", "w") as opened:
        for name, array in arrays().items():
            opened.writestr(f"{name}.npy", data if name == "val_images" else npy(array))
    with pytest.raises(UserError, match=r"val_images in .*(cannot be read|is no array)"):
        DermaMnistSource(tmp_path / "dermamnist.npz", tmp_path / "cache", masks=False)


def test_fingerprint_follows_the_content(tmp_path):
    path = write(tmp_path / "folder" / "dermamnist.npz")

    def fingerprint(source=path):
        return DermaMnistSource(source, tmp_path / "cache", masks=False).fingerprint()

    first = fingerprint()
    assert len(first) == 64
    assert fingerprint(path.parent) == first
    assert fingerprint(tmp_path) == first
    (path.parent / "notes.txt").write_text("not used")
    assert fingerprint() == first
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert fingerprint() != first
