"""Who trains, who validates, who tests: by lesion, stratified by diagnosis, the same everywhere."""

import csv
import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from skinjax.data.table import Row
from skinjax.errors import UserError

SPLITS = ("train", "val", "test")
UNITS = ("lesion", "image")

_HEADER = ["image_id", "lesion_id", "split"]


def make_splits(
    table: Sequence[Row],
    unit: str = "lesion",
    seed: int = 0,
    folds: int = 0,
    fold: int = 0,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
) -> dict[str, list[int]]:
    """Divides a table into training, validation and test, stratified by label.

    Every unit (a lesion with all its images, or an image) is put in its place by a hash of the seed
    and its id within its label: the order of the rows has no influence. A lesion whose images have
    several labels counts under the first in alphabetical order. Images with an official `part`
    keep it, and only the others are divided.

    Args:
      table: The rows.
      unit: `lesion`, or `image` to reproduce work that let images of a lesion fall on both sides.
      seed: Another seed, another division.
      folds: Number of folds of a cross-validation; 0 for a single division.
      fold: The fold that is tested, 0 to `folds` - 1; the next one validates, the rest trains.
      fractions: The shares of training, validation and test where `folds` is 0.

    Returns:
      The positions in the table of `train`, `val` and `test`, each ascending.

    Raises:
      UserError: The unit or the folds make no sense, or folds are asked of official parts.
    """
    if unit not in UNITS:
        raise UserError(f"config.data.split is {unit!r}: set it to 'lesion' or 'image'.")
    if folds and (folds < 3 or not 0 <= fold < folds):
        raise UserError(
            f"config.data.folds is {folds} and config.data.fold {fold}: at least 3 folds are "
            "needed (test, validation, training), and the fold lies between 0 and folds - 1."
        )
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(f"The fractions of the splits are {fractions}: they must sum to 1.")
    splits: dict[str, list[int]] = {name: [] for name in SPLITS}
    undecided = []
    for position, row in enumerate(table):
        if row.part is None:
            undecided.append(position)
        elif row.part in splits:
            splits[row.part].append(position)
        else:
            raise UserError(
                f"The image {row.image_id} has the part {row.part!r}: parts are train, val, test."
            )
    if folds and len(undecided) < len(table):
        raise UserError(
            "The data set comes with its official split, so that it cannot be divided into folds: "
            "set config.data.folds=0."
        )
    if splits["train"] and not (splits["val"] and splits["test"]):
        # All that is not official, and the official training part, give what is lacking.
        undecided = sorted(undecided + splits.pop("train"))
        val = 0.0 if splits["val"] else fractions[1]
        test = 0.0 if splits["test"] else fractions[2]
        fractions = (1 - val - test, val, test)
        splits = {name: splits.get(name, []) for name in SPLITS}

    positions: dict[str, list[int]] = defaultdict(list)
    for position in undecided:
        row = table[position]
        positions[row.lesion_id if unit == "lesion" else row.image_id].append(position)
    strata: dict[str, list[str]] = defaultdict(list)
    for key, members in positions.items():
        strata[min(table[position].label or "" for position in members)].append(key)
    first_fold = 0
    for label in sorted(strata):
        keys = sorted(strata[label], key=lambda key: (_digest(seed, key), key))
        for rank, key in enumerate(keys):
            if folds:
                # The folds go on where the last label stopped, or the first folds would grow.
                distance = (first_fold + rank - fold) % folds
                name = {0: "test", 1: "val"}.get(distance, "train")
            else:
                name = _part_of(rank, len(keys), fractions)
            splits[name].extend(positions[key])
        first_fold += len(keys)
    return {name: sorted(members) for name, members in splits.items()}


def leaked_share(table: Sequence[Row], splits: Mapping[str, Sequence[int]]) -> float:
    """The share of test images, 0 to 1, whose lesion also has an image in training."""
    if not splits["test"]:
        return 0.0
    trained = {table[position].lesion_id for position in splits["train"]}
    num_leaked = sum(table[position].lesion_id in trained for position in splits["test"])
    return num_leaked / len(splits["test"])


def write_splits(
    path: str | Path, table: Sequence[Row], splits: Mapping[str, Sequence[int]]
) -> None:
    """Writes the membership as CSV (image_id, lesion_id, split), in one step."""
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_HEADER)
        for name, members in splits.items():
            for position in members:
                writer.writerow([table[position].image_id, table[position].lesion_id, name])
    os.replace(temporary, path)


def read_splits(path: str | Path) -> dict[str, list[Row]]:
    """Reads what `write_splits` wrote.

    Returns:
      The pictures of `train`, `val` and `test`, in the order of the file: their names and their
      lesions', nothing else.

    Raises:
      UserError: The file is missing or is no such table.
    """
    splits: dict[str, list[Row]] = {name: [] for name in SPLITS}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            if next(reader, None) != _HEADER:
                raise UserError(f"{path} does not begin with the line {','.join(_HEADER)}.")
            for row in reader:
                if len(row) != 3 or row[2] not in splits:
                    raise UserError(
                        f"Line {reader.line_num} of {path} is no image_id,lesion_id,split."
                    )
                splits[row[2]].append(Row(row[0], row[1], label=None, part=None, metadata={}))
    except FileNotFoundError as error:
        raise UserError(f"There is no table of splits at {path}.") from error
    return splits


def _digest(seed: int, key: str) -> bytes:
    """Where a unit stands in its stratum; the same on every machine and in every process."""
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()


def _part_of(rank: int, num_units: int, fractions: tuple[float, float, float]) -> str:
    """The split of the unit of this rank: test first, then validation, the rest trains."""
    num_test = round(num_units * fractions[2])
    num_val = min(round(num_units * fractions[1]), num_units - num_test)
    if rank < num_test:
        return "test"
    return "val" if rank < num_test + num_val else "train"
