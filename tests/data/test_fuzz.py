"""Damaged pictures, masks, tables: each is a finding or a sentence, and none changes hands."""

import functools
import io
import random
import warnings

import numpy as np
import pytest
from layouts import LAYOUTS, picture
from PIL import Image

from skinjax.data import records
from skinjax.data.catalog import create_source
from skinjax.data.inspection import inspect
from skinjax.data.sources.example import Example
from skinjax.errors import UserError

NUM_PICTURES = 1600
NUM_TABLES = 80  # of each of the seven layouts below: 2,160 cases in all

FORMATS = [("JPEG", "RGB"), ("PNG", "RGB"), ("PNG", "P"), ("BMP", "RGB"), ("TIFF", "RGB")]
FORMATS += [("GIF", "P"), ("WEBP", "RGB"), ("PNG", "RGBA"), ("JPEG", "CMYK"), ("PPM", "RGB")]
MASK_FORMATS = [("PNG", "1"), ("PNG", "L"), ("BMP", "1"), ("PNG", "P"), ("TIFF", "1")]


@functools.cache
def encoded(index, format, mode, is_mask):
    array = picture(index)[1] * np.uint8(255) if is_mask else picture(index)[0]
    buffer = io.BytesIO()
    Image.fromarray(array).convert(mode).save(buffer, format)
    return buffer.getvalue()


def damaged(data, rng):
    """The bytes of a file after something happened to it."""
    what = rng.randrange(9)
    data = bytearray(data)
    place = rng.randrange(len(data))
    if what == 0:
        del data[place:]
    elif what == 1:
        for _ in range(rng.randint(1, 30)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif what == 2:  # in the header, where sizes and offsets are
        data[rng.randrange(min(64, len(data)))] = rng.choice((0, 1, 127, 128, 255))
    elif what == 3:
        data[place : place + rng.randint(1, 200)] = b""
    elif what == 4:
        data[place:place] = rng.randbytes(rng.randint(1, 200))
    elif what == 5:
        length = rng.randint(1, 400)
        data[place : place + length] = bytes(min(length, len(data) - place))
    elif what == 6:
        data = bytearray(rng.randbytes(rng.randint(0, 300)))
    elif what == 7:
        start = rng.randrange(min(32, len(data)))
        data[start : start + 4] = rng.randbytes(4)
    else:
        data += data[: rng.randrange(len(data))]
    return bytes(data)


def test_damaged_pictures_and_masks_end_in_a_finding_and_are_left_out():
    rng = random.Random(20)
    kinds = set()
    for case in range(NUM_PICTURES):
        index = case % 12
        image = encoded(index, *rng.choice(FORMATS), False)
        mask = encoded(index, *rng.choice(MASK_FORMATS), True)
        hits_image, hits_mask = rng.choice(((True, False), (False, True), (True, True)))
        image = damaged(image, rng) if hits_image else image
        mask = damaged(mask, rng) if hits_mask else mask
        example = Example(f"case{case}", lambda i=image, m=mask: (i, m), "x.jpg", "x.png")
        with warnings.catch_warnings():
            # Pillow warns of what it then reads or refuses.
            warnings.simplefilter("ignore")
            seen, _ = inspect(example, expects_mask=True, max_pixels=2**20)
            try:
                made = records._encode(example, size=32, max_pixels=2**20)
            except UserError as error:
                made = error
        kinds |= {finding.finding for finding in seen.findings}
        refusals = [f for f in seen.findings if f.stops or f.left_out]
        # What an audit finds to stop or to be left out is what preparation refuses, and no more.
        assert isinstance(made, UserError) == bool(refusals), (case, made, refusals)
        if isinstance(made, UserError):
            assert str(made).endswith((".", ")")) and "x." in str(made)
            continue
        assert made["mask"] == mask and made["image_id"] == example.image_id
        if not hits_image:
            shown = np.asarray(Image.open(io.BytesIO(made["image"])).convert("RGB"), int)
            assert shown.shape == (32, 43, 3)
    assert {"image: does not decode", "mask: does not decode", "mask is not binary"} <= kinds


TABLES = {
    "ham10000": "HAM10000_metadata.csv",
    "isic2016": "ISBI2016_ISIC_Part3_Training_GroundTruth.csv",
    "isic2017": "ISIC-2017_Training_Part3_GroundTruth.csv",
    "isic2018": "ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv",
    "isic2019": "ISIC_2019_Training_GroundTruth.csv",
    "ph2": "PH2_dataset.txt",
    "folder": "table.csv",
}


@pytest.mark.parametrize("name", TABLES)
def test_damaged_tables_end_in_a_sentence_or_in_the_rows_that_are_whole(name, tmp_path):
    root, cache = tmp_path / "data", tmp_path / "cache"
    LAYOUTS[name][0](root)
    options = {"group_column": "patient"} if name == "folder" else {}
    whole = {
        example.image_id: (example.label, example.lesion_id, example.image_name)
        for example in create_source(name, root, cache, masks=False, **options).examples()
    }
    assert len(whole) >= 59
    path = root / TABLES[name]
    lines = path.read_bytes().split(b"\n")
    rng = random.Random(name)
    for _ in range(NUM_TABLES):
        chosen = rng.randrange(len(lines))
        line = damaged(lines[chosen], rng) if lines[chosen] else rng.randbytes(20)
        path.write_bytes(b"\n".join([*lines[:chosen], line, *lines[chosen + 1 :]]))
        touched = lines[chosen] + line
        for strict in (True, False):
            try:
                source = create_source(name, root, cache, masks=False, strict=strict, **options)
                examples = source.examples()
            except UserError as error:
                assert len(str(error)) > 20
                continue
            for example in examples:
                found = (example.label, example.lesion_id, example.image_name)
                if example.image_id.encode() in touched or chosen == 0:
                    # Its own row, or the header, may say another thing now, but of this picture.
                    assert example.image_name == whole[example.image_id][2]
                elif example.label is not None:
                    assert found == whole[example.image_id], (chosen, line)
