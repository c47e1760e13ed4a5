"""The table of a prepared data set: what is known of each picture beside its pixels."""

import csv
import dataclasses
from pathlib import Path

_COLUMNS = ("image_id", "lesion_id", "label", "part")


@dataclasses.dataclass(frozen=True)
class Row:
    """What is known of one prepared picture.

    Attributes:
      image_id: The name of the picture, unique in its data set.
      lesion_id: The lesion it shows; the image_id where the data set does not say.
      label: The class name of the diagnosis, or None.
      part: The official split (`train`, `val` or `test`), or None.
      metadata: What else the data set says about it, as text.
    """

    image_id: str
    lesion_id: str
    label: str | None
    part: str | None
    metadata: dict[str, str]


def write_table(path: Path, rows: list[Row]) -> None:
    """Writes the table as CSV; metadata columns are marked, so that no name can clash."""
    keys = sorted({key for row in rows for key in row.metadata})
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*_COLUMNS, *(f"metadata.{key}" for key in keys)])
        for row in rows:
            known = (row.image_id, row.lesion_id, row.label or "", row.part or "")
            writer.writerow([*known, *(row.metadata.get(key, "") for key in keys)])


def read_table(path: Path) -> list[Row]:
    """Reads what `write_table` wrote; empty metadata is left out.

    Raises:
      OSError: It cannot be read.
      ValueError: It is damaged.
    """
    with open(path, newline="", encoding="utf-8") as file:
        try:
            header, *lines = list(csv.reader(file)) or [[]]
        except csv.Error as error:
            raise ValueError(str(error)) from error
    keys = [column.removeprefix("metadata.") for column in header[len(_COLUMNS) :]]
    rows = []
    for image_id, lesion_id, label, part, *values in lines:
        metadata = {key: value for key, value in zip(keys, values, strict=True) if value}
        rows.append(Row(image_id, lesion_id, label or None, part or None, metadata))
    return rows
