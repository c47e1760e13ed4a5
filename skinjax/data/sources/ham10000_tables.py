"""HAM10000's tables: the release's metadata, and the one-hot table of a Kaggle copy."""

import csv
import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from skinjax.data.sources.example import CLASSES
from skinjax.errors import UserError


@dataclass(frozen=True)
class TableRow:
    """A row of the table."""

    image_id: str
    lesion_id: str | None
    label: str
    metadata: dict[str, str]


def _rows_of(path: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a table with their line numbers; separated by commas or tabs."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter="\t" if "\t" in header else ",")
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(
                        f"Line {reader.line_num} of {path} does not have the header's "
                        f"{len(reader.fieldnames or ())} columns: correct it or download it again."
                    )
                yield reader.line_num, {key.strip(): value.strip() for key, value in row.items()}
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no table ({error}): download it again.") from error


def _require(path: str, row: dict[str, str], columns: Iterable[str]) -> None:
    """Refuses a table without these columns."""
    missing = [column for column in columns if column not in row]
    if missing:
        raise UserError(
            f"{path} lacks the column {', '.join(missing)} (it has {', '.join(row)}): download it "
            "again."
        )


def read_metadata(path: str) -> list[TableRow]:
    """Reads HAM10000_metadata: lesion_id, image_id, dx and more."""
    records: dict[str, TableRow] = {}
    for line, row in _rows_of(path):
        _require(path, row, ("lesion_id", "image_id", "dx"))
        image_id, lesion_id, label = row.pop("image_id"), row.pop("lesion_id"), row.pop("dx")
        if not image_id or not lesion_id:
            raise UserError(f"Line {line} of {path} lacks its image_id or lesion_id: correct it.")
        if label.lower() not in CLASSES:
            nearest = difflib.get_close_matches(label.lower(), CLASSES, n=1, cutoff=0)[0]
            raise UserError(
                f"Line {line} of {path} ({image_id}) has the diagnosis {label!r}: known are "
                f"{', '.join(CLASSES)}; the nearest is {nearest}."
            )
        metadata = {key: value for key, value in row.items() if value}
        _add(records, TableRow(image_id, lesion_id, label.lower(), metadata), path, line)
    return _some(records, path)


def read_one_hot(path: str) -> list[TableRow]:
    """Reads GroundTruth.csv: image, and a column of 0.0 and 1.0 for each class."""
    records: dict[str, TableRow] = {}
    for line, row in _rows_of(path):
        columns = {column.lower(): value for column, value in row.items()}
        _require(path, columns, ("image", *CLASSES))
        chosen = [name for name in CLASSES if _is_one(columns[name], path, line)]
        if len(chosen) != 1:
            raise UserError(
                f"Line {line} of {path} ({columns['image']}) has a 1 in {len(chosen)} columns, "
                "where it must be one diagnosis: correct it."
            )
        _add(records, TableRow(columns["image"], None, chosen[0], {}), path, line)
    return _some(records, path)


def _is_one(value: str, path: str, line: int) -> bool:
    """Whether a one-hot column is set."""
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if number not in (0.0, 1.0):
        raise UserError(f"Line {line} of {path} has {value!r} where 0 or 1 must be: correct it.")
    return number == 1.0


def _add(records: dict[str, TableRow], record: TableRow, path: str, line: int) -> None:
    """Adds a row; the same row twice is taken once."""
    other = records.setdefault(record.image_id.lower(), record)
    if other != record:
        raise UserError(
            f"Line {line} of {path} contradicts an earlier line on {record.image_id}: correct it."
        )


def _some(records: dict[str, TableRow], path: str) -> list[TableRow]:
    """The rows, of which there must be some."""
    if not records:
        raise UserError(f"{path} has no rows: download it again.")
    return list(records.values())
