"""A user's own table of pictures."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from skinjax.data.archives import unreadable
from skinjax.data.sources.folder_layout import PARTS
from skinjax.data.sources.tables import read_rows
from skinjax.errors import UserError

# Where the names of the table and its columns stand, for messages.
KEYS = "config.data.table"


@dataclass(frozen=True)
class Row:
    """What a table, or its folder, says of an image.

    Attributes:
      image: Its name, as it stands in the table.
      label: Its class.
      group: What must not be divided: a lesion or a patient.
      mask: The name of its mask, as it stands in the table.
      part: Of an official split.
      metadata: All else.
    """

    image: str = field(default="", compare=False)  # the same file may be spelt in several ways
    label: str | None = None
    group: str | None = None
    mask: str | None = field(default=None, compare=False)
    part: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_header(path: str) -> list[str]:
    """The columns of a table, as far as it is one.

    Raises:
      UserError: It cannot be read.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            header = file.readline(10_000).strip("\n")
    except OSError as error:
        raise unreadable(path, error) from error
    return [name.strip().strip('"') for name in header.split("\t" if "\t" in header else ",")]


def read_table(
    path: str, columns: Mapping[str, str], *, labels_optional: bool, groups_optional: bool
) -> dict[int, Row]:
    """Reads a table with a header, separated by commas or tabs.

    Args:
      path: The file.
      columns: The names of the columns by what they hold: `image`, `label`, `group`, `mask` and
        `part`; empty for one that is not there. What is in others is metadata.
      labels_optional: Whether the column `label` may be missing, if it is not called otherwise.
      groups_optional: Whether a row may have no group.

    Returns:
      The rows by their lines' numbers.

    Raises:
      UserError: A column is missing, a row is not complete, or there are none.
    """
    columns = {key: column for key, column in columns.items() if column}
    if "image" not in columns:
        raise UserError(f"{KEYS}.image_column is empty: name the column of images in {path}.")
    rows: dict[int, Row] = {}
    for line, values in read_rows(path):
        if not rows:
            # Without being asked for it, a set of masks needs no labels.
            if labels_optional and columns.get("label") == "label" and "label" not in values:
                del columns["label"]
            missing = {key: name for key, name in columns.items() if name not in values}
            if missing:
                keys = ", ".join(f"{KEYS}.{key}_column={name!r}" for key, name in missing.items())
                raise UserError(
                    f"{path} has no such column: {keys} (it has {', '.join(values)}): name "
                    "one that it has."
                )
        cells = {key: values[name] for key, name in columns.items()}
        for key in ("image", "group"):
            # An image of no group would fall to either side of a split.
            if cells.get(key) == "" and (key == "image" or not groups_optional):
                raise UserError(
                    f"Line {line} of {path} has nothing in the column {columns[key]!r}: fill "
                    "it in or remove the line."
                )
        part = cells.get("part")
        if part is not None and part.casefold() not in PARTS:
            raise UserError(
                f"Line {line} of {path} has the part {part!r}: it must be train, val or test."
            )
        rows[line] = Row(
            image=cells["image"],
            label=cells.get("label") or None,
            group=cells.get("group") or None,
            mask=cells.get("mask") or None,
            part=None if part is None else PARTS[part.casefold()],
            metadata={
                key: value for key, value in values.items() if value and key not in columns.values()
            },
        )
    if not rows:
        raise UserError(f"{path} has no rows: fill it in, or take it away.")
    return rows
