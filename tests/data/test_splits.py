"""Splits: no lesion on both sides, every image once, stratified, the same everywhere."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinjax.data.sources.ham10000 import Ham10000Source
from skinjax.data.splits import SPLITS, leaked_share, make_splits, read_splits, write_splits
from skinjax.data.table import Row
from skinjax.errors import UserError

LABELS = ("bkl", "mel", "nv", None)
EXPECTED_TEST = [11, 15, 25]


def row(image, lesion, label=None, part=None):
    return Row(f"image_{image}", f"lesion_{lesion}", label, part, {})


@st.composite
def tables(draw):
    """Tables in which lesions have one to four images, and now and then two labels."""
    num_lesions = draw(st.integers(0, 60))
    result = []
    for lesion in range(num_lesions):
        label = draw(st.sampled_from(LABELS))
        for _ in range(draw(st.integers(1, 4))):
            other = label if label is None or draw(st.integers(0, 9)) else "bkl"
            result.append(row(len(result), lesion, other))
    return result


def members(table, splits, key):
    return {name: {key(table[p]) for p in positions} for name, positions in splits.items()}


def strata(table, key):
    """The label that counts for each unit."""
    labels = {}
    for entry in table:
        labels.setdefault(key(entry), set()).add(entry.label or "")
    return {unit: min(found) for unit, found in labels.items()}


KEYS = {"lesion": lambda entry: entry.lesion_id, "image": lambda entry: entry.image_id}
MODES = st.tuples(
    st.sampled_from(sorted(KEYS)),
    st.integers(0, 1000),
    st.one_of(
        st.just((0, 0)),
        st.integers(3, 7).flatmap(lambda k: st.tuples(st.just(k), st.integers(0, k - 1))),
    ),
)


@given(tables(), MODES)
def test_disjoint_complete_and_by_unit(table, mode):
    unit, seed, (folds, fold) = mode
    splits = make_splits(table, unit, seed, folds, fold)
    assert tuple(splits) == SPLITS
    assert sorted(itertools.chain(*splits.values())) == list(range(len(table)))
    assert all(positions == sorted(positions) for positions in splits.values())
    units = members(table, splits, KEYS[unit])
    assert sum(map(len, units.values())) == len(set.union(*units.values()))
    if unit == "lesion":
        assert leaked_share(table, splits) == 0


@given(tables(), MODES)
def test_every_label_is_shared_out_within_one_unit(table, mode):
    unit, seed, (folds, fold) = mode
    splits = make_splits(table, unit, seed, folds, fold)
    labels = strata(table, KEYS[unit])
    units = members(table, splits, KEYS[unit])
    shares = (
        {"train": 1 - 2 / folds, "val": 1 / folds, "test": 1 / folds}
        if folds
        else {"train": 0.8, "val": 0.1, "test": 0.1}
    )
    for label in set(labels.values()):
        num_units = sum(found == label for found in labels.values())
        for name, share in shares.items():
            num_here = sum(labels[key] == label for key in units[name])
            # Training is what the two others leave, and takes the rounding of both.
            allowed = 2 if name == "train" else 1
            assert abs(num_here - share * num_units) <= allowed


@given(tables(), MODES, st.randoms())
def test_the_order_of_the_rows_has_no_influence(table, mode, random):
    unit, seed, (folds, fold) = mode
    shuffled = random.sample(table, len(table))
    one = members(table, make_splits(table, unit, seed, folds, fold), KEYS["image"])
    other = members(shuffled, make_splits(shuffled, unit, seed, folds, fold), KEYS["image"])
    assert one == other


@given(tables(), st.integers(3, 7), st.integers(0, 100))
def test_folds_test_every_image_once_and_are_even(table, folds, seed):
    tested = []
    for fold in range(folds):
        splits = make_splits(table, "lesion", seed, folds, fold)
        following = make_splits(table, "lesion", seed, folds, (fold + 1) % folds)
        assert splits["val"] == following["test"]
        tested.append(splits["test"])
    assert sorted(itertools.chain(*tested)) == list(range(len(table)))
    num_lesions = [len({table[p].lesion_id for p in positions}) for positions in tested]
    assert max(num_lesions) - min(num_lesions) <= 1


def test_another_seed_gives_another_division_of_the_same_sizes():
    table = [row(i, i, LABELS[i % 3]) for i in range(300)]
    one, other = make_splits(table, seed=0), make_splits(table, seed=1)
    assert {name: len(found) for name, found in one.items()} == {
        "train": 240,
        "val": 30,
        "test": 30,
    }
    assert [len(found) for found in one.values()] == [len(found) for found in other.values()]
    assert len(set(one["test"]) & set(other["test"])) < 15


def test_the_division_is_written_in_stone():
    """A changed division makes old scores incomparable: this may only fail on purpose."""
    table = [row(i, i, LABELS[i % 3]) for i in range(30)]
    assert make_splits(table, seed=0)["test"] == EXPECTED_TEST
    code = (
        "from skinjax.data.table import Row\n"
        "from skinjax.data.splits import make_splits\n"
        "labels = ('bkl', 'mel', 'nv')\n"
        "t = [Row(f'image_{i}', f'lesion_{i}', labels[i % 3], None, {}) for i in range(30)]\n"
        "print(make_splits(t, seed=0)['test'])\n"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == str(EXPECTED_TEST)


def test_fractions():
    table = [row(i, i) for i in range(100)]
    splits = make_splits(table, fractions=(0.5, 0.0, 0.5))
    assert [len(splits[name]) for name in SPLITS] == [50, 0, 50]
    with pytest.raises(UserError, match="sum to 1"):
        make_splits(table, fractions=(0.5, 0.5, 0.5))


@pytest.mark.parametrize("lacking", [("val",), ("test",), ("val", "test")])
def test_what_the_official_parts_lack_is_taken_from_their_training_part(lacking):
    official = [name for name in SPLITS if name not in lacking]
    table = [
        row(i, i // 2, "nv", "train" if i < 200 or len(official) == 1 else official[1])
        for i in range(240)
    ]
    splits = make_splits(table)
    assert sorted(itertools.chain(*splits.values())) == list(range(240))
    num_train = sum(entry.part == "train" for entry in table)
    for name in lacking:
        assert len(splits[name]) == pytest.approx(num_train / 10, abs=2)
        assert all(table[position].part == "train" for position in splits[name])
    for name in official[1:]:
        assert splits[name] == list(range(200, 240))
    assert leaked_share(table, splits) == 0
    assert make_splits(table, seed=1) != splits


def test_official_parts_are_kept_and_the_rest_is_divided():
    parts = ["test", "train", "val", "train", "test"]
    table = [row(i, i, "nv", part) for i, part in enumerate(parts)]
    assert make_splits(table, seed=3) == {"train": [1, 3], "val": [2], "test": [0, 4]}
    splits = make_splits([*table, *(row(i, i, "nv") for i in range(5, 105))])
    assert {0, 4} < set(splits["test"])
    assert len(splits["test"]) == 12
    with pytest.raises(UserError, match=r"official split.*config\.data\.folds=0"):
        make_splits(table, folds=5)
    with pytest.raises(UserError, match="image_0 has the part 'training'"):
        make_splits([row(0, 0, "nv", "training")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": "patient"}, "config.data.split is 'patient'"),
        ({"folds": 2}, "at least 3 folds"),
        ({"folds": 1}, "at least 3 folds"),
        ({"folds": -3}, "at least 3 folds"),
        ({"folds": 5, "fold": 5}, "between 0 and folds - 1"),
        ({"folds": 5, "fold": -1}, "between 0 and folds - 1"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        make_splits([row(0, 0)], **options)


def test_leaked_share_counts_test_images():
    table = [row(0, 0), row(1, 0), row(2, 0), row(3, 1), row(4, 2), row(5, 2)]
    assert leaked_share(table, {"train": [0], "val": [5], "test": [1, 2, 3, 4]}) == 0.5
    assert leaked_share(table, {"train": [0], "val": [], "test": []}) == 0


def test_membership_is_written_and_read(tmp_path):
    table = [row(i, i // 2) for i in range(30)]
    splits = make_splits(table)
    path = tmp_path / "splits.csv"
    path.write_text("old")
    write_splits(path, table, splits)
    lines = path.read_text().splitlines()
    assert lines[0] == "image_id,lesion_id,split"
    assert len(lines) == 31
    assert [entry.name for entry in tmp_path.iterdir()] == ["splits.csv"]
    for name, rows in read_splits(path).items():
        expected = [(table[p].image_id, table[p].lesion_id) for p in splits[name]]
        assert [(r.image_id, r.lesion_id) for r in rows] == expected


def test_a_table_of_splits_that_is_none_is_named(tmp_path):
    path = tmp_path / "splits.csv"
    with pytest.raises(UserError, match=r"no table of splits at .*splits\.csv"):
        read_splits(path)
    path.write_text("image,split\n")
    with pytest.raises(UserError, match=r"splits\.csv does not begin with"):
        read_splits(path)
    path.write_text("image_id,lesion_id,split\na,b,train\na,b,tset\n")
    with pytest.raises(UserError, match=r"Line 3 of .*splits\.csv"):
        read_splits(path)


def test_real_lesions_leak_into_a_split_by_image(real_data, tmp_path):
    source = Ham10000Source(real_data / "ham10000", tmp_path)
    table = [
        Row(example.image_id, example.lesion_id, example.label, None, {})
        for example in source.examples()
    ]
    shares = [
        leaked_share(table, make_splits(table, "image", seed, fractions=(0.8, 0.0, 0.2)))
        for seed in range(20)
    ]
    assert np.mean(shares) == pytest.approx(0.392, abs=0.005)
    splits = make_splits(table)
    assert leaked_share(table, splits) == 0
    assert abs(len(splits["test"]) - 855) < 60
    counts = {name: len({table[p].lesion_id for p in found}) for name, found in splits.items()}
    assert sum(counts.values()) == 6350
    # A tenth of each of the seven classes, each rounded to whole lesions.
    assert abs(counts["test"] - 635) <= 3.5
    assert abs(counts["val"] - 635) <= 3.5
