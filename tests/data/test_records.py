"""Records are made once, exactly, whole or not at all; and broken input is named."""

import dataclasses
import io
import json
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import fill, flip

from skinjax.data import images, records
from skinjax.data.records import Prepared, prepare
from skinjax.data.sources.example import Example
from skinjax.data.sources.ham10000 import Ham10000Source
from skinjax.data.table import Row
from skinjax.errors import UserError


def encode(image, format="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format, **options)
    return buffer.getvalue()


def picture(index=0, height=12, width=16):
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)


def mask(index=0, height=12, width=16):
    result = np.zeros((height, width), np.uint8)
    result[: height // 2, : width // 2 + index % 3] = 255
    return result


class Memory:
    """A source whose files are in memory."""

    name = "memory"
    classes = ("benign", "malignant")
    has_lesion_ids = True

    def __init__(self, files, mark="", notes=(), delay=0.0):
        self.files = files
        self.mark = mark
        self.notes = list(notes)
        self.delay = delay
        self.num_loads = 0
        self.changes = {}

    def fingerprint(self):
        return f"memory {self.mark}"

    def load(self, index):
        self.num_loads += 1
        time.sleep(self.delay)
        return self.files[index]

    def examples(self):
        result = []
        for index, (_, mask_bytes) in enumerate(self.files):
            example = Example(
                image_id=f"image_{index}",
                load=lambda index=index: self.load(index),
                image_name=f"folder/image_{index}.jpg",
                mask_name=f"folder/mask_{index}.png" if mask_bytes is not None else None,
                lesion_id=f"lesion_{index // 2}",
                label=self.classes[index % 2],
                metadata={"age": str(index), "site": 'a "back",\nlower'} if index % 3 else {},
            )
            result.append(dataclasses.replace(example, **self.changes.get(index, {})))
        return result


def files_of(num=6):
    return [(encode(picture(index), "JPEG"), encode(mask(index))) for index in range(num)]


def test_records_are_read_back_exactly(tmp_path):
    palette = Image.fromarray(mask()).convert("P")
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    files = files_of()
    files[2] = (encode(picture(2)), buffer.getvalue() + b"\0\0")
    files[3] = (files[3][0], None)
    source = Memory(files)
    source.changes = {1: {"lesion_id": None, "label": None, "part": "test"}}
    prepared = prepare(source, tmp_path, 100)
    assert prepared.name == "memory"
    assert prepared.classes == source.classes
    assert prepared.has_lesion_ids
    assert prepared.directory.parent == tmp_path / "prepared"
    assert len(prepared) == 6
    assert [prepared.read(position) for position in range(6)] == files
    metadata = {"age": "1", "site": 'a "back",\nlower'}
    assert prepared.table[:2] == [
        Row("image_0", "lesion_0", "benign", None, {}),
        Row("image_1", "image_1", None, "test", metadata),
    ]
    with pytest.raises(IndexError):
        prepared.read(6)
    with pytest.raises(IndexError):
        prepared.read(-1)


def test_prepared_once_and_opened_again(tmp_path):
    source = Memory(files_of())
    first = prepare(source, tmp_path, 100)
    assert source.num_loads == 6
    second = prepare(source, tmp_path, 100)
    assert source.num_loads == 6
    opened = Prepared(first.directory)
    for other in (second, opened):
        assert other.directory == first.directory
        assert other.table == first.table
        assert other.read(3) == first.read(3)


def test_another_content_size_or_code_is_prepared_anew(tmp_path, monkeypatch):
    first = prepare(Memory(files_of()), tmp_path, 100)
    assert prepare(Memory(files_of(), mark="changed"), tmp_path, 100).directory != first.directory
    assert prepare(Memory(files_of()), tmp_path, 10).directory != first.directory
    monkeypatch.setattr(records, "_code_digest", lambda: "another")
    assert prepare(Memory(files_of()), tmp_path, 100).directory != first.directory


@pytest.mark.parametrize(
    "module", ["records.py", "images.py", "near_duplicates.py", "sources/ham10000.py"]
)
def test_the_code_digest_covers_what_decides_the_content(tmp_path, monkeypatch, module):
    copy = shutil.copytree(Path(records.__file__).parent, tmp_path / "data")
    monkeypatch.setattr(records, "__file__", str(copy / "records.py"))
    digest = records._code_digest()
    assert len(digest) == 64
    assert records._code_digest() == digest
    with (copy / module).open("a") as file:
        file.write("#")
    assert records._code_digest() != digest


def test_pictures_are_reduced_and_masks_are_not(tmp_path):
    smooth = np.asarray(Image.fromarray(picture(0, 5, 7)).resize((140, 100)))
    shape = mask(0, 100, 140)
    prepared = prepare(Memory([(encode(smooth, "JPEG", quality=95), encode(shape))]), tmp_path, 50)
    image_bytes, mask_bytes = prepared.read(0)
    assert mask_bytes == encode(shape)
    reduced = images.decode_image(image_bytes, "a")
    assert reduced.shape == (50, 70, 3)
    expected = images.shrink(smooth, 50).astype(int)
    assert np.abs(reduced - expected).mean() < 3


def test_larger_pictures_than_the_limit_are_refused_by_its_name(tmp_path):
    source = Memory([(encode(picture(i)), encode(mask(i))) for i in range(3)])
    with pytest.raises(UserError, match=r"16 x 12 pixels.*raise config\.data\.max_pixels"):
        prepare(source, tmp_path, 8, 1, max_pixels=191)
    assert len(prepare(source, tmp_path, 8, 1, max_pixels=192)) == 3


def test_what_others_would_read_differently_is_encoded_anew(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.asarray(Image.fromarray(picture(0, 3, 4)).resize((32, 24)))
    grey = pixels[:, :, 0]
    turned = encode(pixels, "JPEG", exif=exif, quality=95)
    files = [
        (turned, encode(mask(0, 32, 24))),  # as high as the picture once it is upright
        (encode(grey, "PNG"), encode(mask(0, 24, 32))),
    ]
    prepared = prepare(Memory(files), tmp_path, 100)
    for position, expected in enumerate([np.rot90(pixels, -1), np.repeat(grey[..., None], 3, 2)]):
        image_bytes, _ = prepared.read(position)
        assert images.is_plain(image_bytes)
        decoded = images.decode_image(image_bytes, "a").astype(int)
        assert decoded.shape == expected.shape
        assert np.abs(decoded - expected).mean() < 4


def test_the_mask_may_be_larger_than_its_picture(tmp_path):
    files = [(encode(picture(0, 15, 20), "JPEG"), encode(mask(0, 45, 60)))]
    files.append((encode(picture(1, 100, 133), "JPEG"), encode(mask(0, 767, 1022))))
    assert len(prepare(Memory(files), tmp_path, 100)) == 2


@pytest.mark.parametrize("shape", [(16, 12), (45, 66), (12, 19)])
def test_a_mask_of_another_shape_is_refused(tmp_path, shape):
    files = files_of(2)
    files[1] = (files[1][0], encode(mask(0, *shape)))
    with pytest.raises(UserError, match=r"folder/mask_1\.png .*folder/image_1\.jpg"):
        prepare(Memory(files), tmp_path, 100)
    assert not list((tmp_path / "prepared").iterdir())


def test_a_mask_that_is_none_is_named(tmp_path):
    files = files_of(2)
    files[1] = (files[1][0], encode(picture()))
    with pytest.raises(UserError, match=r"folder/mask_1\.png has .* grey levels"):
        prepare(Memory(files), tmp_path, 100)
    files[1] = (files[1][0], files[1][1][:-30])
    with pytest.raises(UserError, match=r"folder/mask_1\.png cannot be decoded"):
        prepare(Memory(files), tmp_path, 100)


def test_broken_pictures_are_listed_above_a_hundredth(tmp_path):
    files = files_of(8)
    for index in (2, 5):
        files[index] = (files[index][0][:100], files[index][1])
    with pytest.raises(UserError) as caught:
        prepare(Memory(files), tmp_path, 100)
    assert "2 of the 8 pictures" in str(caught.value)
    assert "folder/image_2.jpg" in str(caught.value)
    assert "folder/image_5.jpg" in str(caught.value)
    assert not list((tmp_path / "prepared").iterdir())


def test_a_hundredth_of_broken_pictures_is_left_out_with_a_note(tmp_path, caplog):
    files = files_of(1) * 200
    files[7] = (b"no picture", files[7][1])
    source = Memory(files, notes=["said before"])
    prepared = prepare(source, tmp_path, 100)
    assert len(prepared) == 199
    assert prepared.table[7].image_id == "image_8"
    assert prepared.read(7) == files[8]
    assert prepared.notes[0] == "said before"
    assert "1 of the 200 pictures" in prepared.notes[1]
    assert "folder/image_7.jpg" in prepared.notes[1]
    assert prepared.notes[1] in caplog.text
    assert "said before" not in caplog.text
    assert Prepared(prepared.directory).notes == prepared.notes


def test_a_wholly_broken_copy_stops_early(tmp_path):
    source = Memory([(b"no picture", None)] * 1000)
    with pytest.raises(UserError, match="of the 1000 pictures of memory cannot be used"):
        prepare(source, tmp_path, 100, num_threads=2)
    assert source.num_loads < 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": "image_0"}, "image_0 comes twice"),
        ({"image_id": "n\udce4vus"}, "is not UTF-8.*rename the file"),
        ({"label": "nevus"}, "image_1 has the label 'nevus'.*benign, malignant"),
    ],
)
def test_contradictions_of_a_source_are_named(tmp_path, change, message):
    source = Memory(files_of(2))
    source.changes = {1: change}
    with pytest.raises(UserError, match=message):
        prepare(source, tmp_path, 100)


def test_an_empty_source_is_named(tmp_path):
    with pytest.raises(UserError, match="memory holds no pictures"):
        prepare(Memory([]), tmp_path, 100)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    source = Memory(files_of(2))

    def load():
        return Path(tmp_path, "gone.jpg").read_bytes(), None

    source.changes = {1: {"load": load}}
    with pytest.raises(UserError, match=r"Cannot read folder/image_1\.jpg .*No such file"):
        prepare(source, tmp_path / "cache", 100)


def test_several_shards_keep_the_order(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "EXAMPLES_PER_SHARD", 64)
    files = files_of(1) * 200
    for index in range(200):
        files[index] = (encode(picture(index, 3, 4), "PNG"), None)
    files[60] = (b"no picture", None)
    prepared = prepare(Memory(files), tmp_path, 100, num_threads=3)
    kept = files[:60] + files[61:]
    assert len(list(prepared.directory.glob("*array_record*"))) == 4
    assert [prepared.read(position) for position in range(199)] == kept
    assert [row.image_id for row in prepared.table[59:61]] == ["image_59", "image_61"]


def test_a_last_shard_that_stays_empty_does_no_harm(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "EXAMPLES_PER_SHARD", 100)
    files = files_of(1) * 101
    files[3] = (b"no picture", None)
    prepared = prepare(Memory(files), tmp_path, 100)
    assert len(prepared) == 100
    assert prepared.read(99) == files[100]


def test_reading_from_many_threads(tmp_path):
    files = files_of(50)
    prepared = prepare(Memory(files), tmp_path, 100)
    positions = list(np.random.default_rng(0).integers(0, 50, 2000))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(prepared.read, positions)) == [files[p] for p in positions]


def test_little_is_loaded_ahead(tmp_path):
    num_unwritten = []
    source = Memory(files_of(1) * 300)
    original = records._RecordWriter.write

    def write(self, path, examples):
        def counted():
            for num_written, example in enumerate(examples):
                num_unwritten.append(source.num_loads - num_written)
                yield example

        original(self, path, counted())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records._RecordWriter, "write", write)
        prepare(source, tmp_path, 100, num_threads=2)
    assert len(num_unwritten) == 300
    assert max(num_unwritten) <= 2 * 4 + 1


def test_damaged_records_are_named(tmp_path):
    files = [
        (encode(picture(index, 60, 80), "PNG"), encode(mask(index, 60, 80))) for index in range(20)
    ]
    prepared = prepare(Memory(files), tmp_path, 100)
    (shard,) = prepared.directory.glob("*array_record*")
    content = bytearray(shard.read_bytes())
    content[content.index(files[7][0]) + 500] ^= 1
    shard.write_bytes(content)
    damaged = Prepared(prepared.directory)
    assert damaged.read(6) == files[6]
    with pytest.raises(UserError, match=rf"Record 7 of .*{shard.name} \(image image_7\).*delete"):
        damaged.read(7)
    shard.write_bytes(content[:-1])
    with pytest.raises(UserError, match=f"{shard.name} are damaged or missing: delete the folder"):
        prepare(Memory(files), tmp_path, 100)
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name} are damaged or missing: delete the folder"):
        Prepared(prepared.directory)


def test_a_damaged_or_missing_description_is_named(tmp_path):
    prepared = prepare(Memory(files_of()), tmp_path, 100)
    about = prepared.directory / "prepared.json"
    changed = json.loads(about.read_text())
    changed["shards"][0]["num_examples"] = 5
    about.write_text(json.dumps(changed))
    with pytest.raises(UserError, match=r"index\.csv does not fit its records"):
        Prepared(prepared.directory)
    for content in (b"{", b"[]", b"{}", b"\xff", json.dumps(changed | {"shards": [{}]}).encode()):
        about.write_bytes(content)
        with pytest.raises(UserError, match=NOT_READ):
            Prepared(prepared.directory)


NOT_READ = r"no prepared data set that can be read \(.*\): delete the folder"


@pytest.mark.parametrize("name", ["prepared.json", "index.csv", "thumbnails.npy"])
@pytest.mark.parametrize("kept", [None, 0, 0.5])
def test_a_part_that_is_missing_or_cut_short_is_named(tmp_path, name, kept):
    prepared = prepare(Memory(files_of(12)), tmp_path, 100)
    path = prepared.directory / name
    content = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match=rf"{NOT_READ}|does not fit its records: delete the folder"):
        Prepared(prepared.directory)


def test_a_table_whose_quote_takes_in_all_that_follows_is_named(tmp_path):
    prepared = prepare(Memory(files_of(12)), tmp_path, 100)
    path = prepared.directory / "index.csv"
    path.write_bytes(b'"' + path.read_bytes() * 1000)  # more than csv takes for one field
    with pytest.raises(UserError, match=NOT_READ):
        Prepared(prepared.directory)


def test_two_at_once_end_with_one_whole_set(tmp_path):
    files = files_of(30)
    results = []

    def work():
        prepared = prepare(Memory(files, delay=0.005), tmp_path, 100, num_threads=2)
        results.append([prepared.read(position) for position in range(30)])

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [files] * 3
    assert len(list((tmp_path / "prepared").iterdir())) == 1


PREPARE = textwrap.dedent("""
    import resource, sys, time
    import numpy as np
    from skinjax.data.images import encode_image
    from skinjax.data.records import prepare
    from skinjax.data.sources.example import Example

    cache_dir, num_images, seconds, max_bytes = sys.argv[1], *map(float, sys.argv[2:])

    class Slow:
        name, classes, has_lesion_ids, notes = "slow", ("a",), True, []

        def fingerprint(self):
            return "slow"

        def load(self, index):
            if index == num_images - 1:
                print("nearly done", flush=True)
                time.sleep(seconds)
            pixels = np.random.default_rng(index).integers(0, 256, (64, 64, 3), np.uint8)
            return encode_image(pixels), None

        def examples(self):
            return [
                Example(str(index), lambda index=index: self.load(index), f"{index}.jpg")
                for index in range(int(num_images))
            ]

    if max_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(max_bytes), int(max_bytes)))
    try:
        print(len(prepare(Slow(), cache_dir, 64)))
    except Exception as error:
        print(type(error).__name__, error)
        sys.exit(2)
    assert "tensorflow" not in sys.modules
""")


def start(*arguments):
    command = [sys.executable, "-c", PREPARE, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_half_way_it_is_never_taken_for_whole(tmp_path):
    process = start(tmp_path, 60, 60, 0)
    try:
        assert process.stdout.readline() == "nearly done\n"
        (half,) = (tmp_path / "prepared").iterdir()
        assert half.name.endswith(".tmp")
    finally:
        process.kill()
        process.communicate()
    again = start(tmp_path, 60, 0, 0)
    output, errors = again.communicate(timeout=120)
    assert output.splitlines()[-1] == "60", errors
    (whole,) = (tmp_path / "prepared").iterdir()
    assert len(Prepared(whole)) == 60


def test_a_disk_that_fills_is_named_and_cleaned(tmp_path):
    # A limit on the size of a file is the full disk that a test can have.
    process = start(tmp_path, 60, 0, 100_000)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    message = output.splitlines()[-1]
    assert message.startswith(f"UserError Cannot write to {tmp_path / 'prepared'}")
    assert "File too large" in message
    assert "free space" in message
    assert not list((tmp_path / "prepared").iterdir())


def test_a_full_disk_is_named_and_there_is_nothing_half_made(small_disk):
    files = files_of(30)
    filler = fill(small_disk)
    with filler.open("r+b") as file:
        file.truncate(filler.stat().st_size - 2**15)  # room for a few
    with pytest.raises(UserError, match=rf"Cannot write to {small_disk / 'prepared'}.*free space"):
        prepare(Memory(files), small_disk, 100)
    assert not list((small_disk / "prepared").glob("*"))
    filler.unlink()
    assert prepare(Memory(files), small_disk, 100).read(29) == files[29]


def test_a_flip_anywhere_in_the_records_is_found_or_does_no_harm(tmp_path):
    # Noise, which no compression changes, so that the pictures are found in the records.
    files = [
        (encode(picture(index, 60, 80), "PNG"), encode(mask(index, 60, 80))) for index in range(12)
    ]
    prepared = prepare(Memory(files), tmp_path, 100)
    (shard,) = prepared.directory.glob("*array_record*")
    content = shard.read_bytes()
    num_found = 0
    rng = np.random.default_rng(0)
    # The ends hold what tells where the records are; between, there is padding as well.
    ends = [*range(0, 64), *range(len(content) - 512, len(content), 8)]
    elsewhere = rng.integers(0, len(content), 120).tolist()
    for place in ends + elsewhere:
        flip(shard, place)
        try:
            damaged = Prepared(prepared.directory)
            read = [damaged.read(position) for position in range(12)]
        except UserError as error:
            assert str(prepared.directory) in str(error)
            num_found += 1
        else:
            assert read == files
        shard.write_bytes(content)
    assert num_found > 0


def test_a_cache_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "cache").write_text("a file in its place")
    with pytest.raises(
        UserError, match=r"Cannot write to .*cache/prepared .*config\.data\.cache_dir"
    ):
        prepare(Memory(files_of()), tmp_path / "cache", 100)


def test_progress_is_a_line_every_tenth_and_nothing_when_quick(tmp_path, capsys):
    prepare(Memory(files_of(1) * 60), tmp_path, 100)
    quick = capsys.readouterr()
    assert quick.out == quick.err == ""
    prepare(Memory(files_of(1) * 60, mark="slow", delay=0.08), tmp_path, 100, num_threads=2)
    lines = capsys.readouterr().err.splitlines()
    assert 4 <= len(lines) <= 10
    assert lines[-1].startswith("preparing memory: 60 of 60 images, ")
    assert lines[-1].endswith("0 s left")


def test_other_tools_can_read_the_records(tmp_path):
    import tensorflow_datasets as tfds

    files = files_of(4)
    prepared = prepare(Memory(files), tmp_path, 100)
    builder = tfds.builder_from_directory(prepared.directory)
    data = builder.as_data_source("all_examples")
    assert [(e["image"], e["mask"], e["image_id"].decode()) for e in data] == [
        (*pair, f"image_{index}") for index, pair in enumerate(files)
    ]


def test_real_images(real_data, tmp_path):
    class Part(Ham10000Source):
        def examples(self):
            return super().examples()[:200]

    source = Part(real_data / "ham10000", tmp_path)
    prepared = prepare(source, tmp_path, 256)
    assert len(prepared) == 200
    for position, example in enumerate(source.examples()):
        assert prepared.read(position) == example.load()
        assert prepared.table[position].lesion_id == example.lesion_id
    small = prepare(source, tmp_path, 75)
    image = images.decode_image(small.read(0)[0], "a")
    assert image.shape == (75, 100, 3)
    assert small.read(0)[1] == prepared.read(0)[1]
