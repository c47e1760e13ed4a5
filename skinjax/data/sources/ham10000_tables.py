"""HAM10000's tables: the release's metadata, and the one-hot table of a Kaggle copy."""

import difflib
from dataclasses import dataclass

from skinjax.data.sources.example import CLASSES
from skinjax.data.sources.tables import is_one, read_rows, require_columns
from skinjax.errors import UserError


@dataclass(frozen=True)
class TableRow:
    """A row of the table."""

    image_id: str
    lesion_id: str | None
    label: str
    metadata: dict[str, str]


def read_metadata(path: str) -> list[TableRow]:
    """Reads HAM10000_metadata: lesion_id, image_id, dx and more."""
    records: dict[str, TableRow] = {}
    for line, row in read_rows(path):
        require_columns(path, row, ("lesion_id", "image_id", "dx"))
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
    for line, row in read_rows(path):
        columns = {column.lower(): value for column, value in row.items()}
        require_columns(path, columns, ("image", *CLASSES))
        chosen = [name for name in CLASSES if is_one(columns[name], path, line)]
        if len(chosen) != 1:
            raise UserError(
                f"Line {line} of {path} ({columns['image']}) has a 1 in {len(chosen)} columns, "
                "where it must be one diagnosis: correct it."
            )
        _add(records, TableRow(columns["image"], None, chosen[0], {}), path, line)
    return _some(records, path)


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
