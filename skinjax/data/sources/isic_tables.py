"""The tables of the ISIC challenges of 2016 to 2020."""

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from skinjax.data.archives import unreadable
from skinjax.data.sources.isic_files import IMAGE_ID, YEARS
from skinjax.data.sources.tables import is_one, read_rows, require_columns
from skinjax.errors import UserError

_TABLE_ID = re.compile(rf"({IMAGE_ID})(?:\.\w+)?", re.IGNORECASE)
_ID_COLUMNS = ("image", "image_id", "image_name", "isic_id")
_BINARY = ("benign", "malignant")
_UNKNOWN = "unk"


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
      label: The class; None where the row says that it is none of them, or says nothing about it.
      group: The lesion, or the patient where the table says who that is.
      metadata: What else it says.
      where: Its line and table, for messages.
    """

    label: str | None
    group: str | None
    metadata: dict[str, str]
    where: str = field(compare=False)


def read_labels(year: int, path: str, rows: dict[str, TableRow]) -> None:
    """Reads a table of labels.

    Args:
      year: Of the challenge.
      path: The table.
      rows: Gets its rows, by the image ids in lower case.

    Raises:
      UserError: A label is not known, or contradicts what is in `rows` already.
    """
    read = _read_without_header if year == 2016 else _read_lower
    count = 0
    for line, columns in read(path):
        image_id, where = _pop_id(columns, path, line), f"Line {line} of {path}"
        label, group = _LABELS[year](columns, path, line)
        metadata = {key: value for key, value in columns.items() if value}
        _add(rows, image_id, TableRow(label, group, metadata, where))
        count += 1
    if not count:
        raise UserError(f"{path} has no rows: download it again.")


def read_facts(path: str, rows: dict[str, TableRow]) -> None:
    """Reads a table of lesions, or of what else is known about the images, into `rows`."""
    for line, columns in _read_lower(path):
        image_id, where = _pop_id(columns, path, line), f"Line {line} of {path}"
        group = columns.pop("lesion_id", "") or None
        metadata = {key: value for key, value in columns.items() if value}
        _add(rows, image_id, TableRow(None, group, metadata, where))


def read_duplicates(path: str) -> list[tuple[str, str]]:
    """Reads the pairs of image ids, in lower case, of which the second repeats the first."""
    pairs = []
    for _, columns in _read_lower(path):
        require_columns(path, columns, ("image_name_1", "image_name_2"))
        pairs.append((columns["image_name_1"].lower(), columns["image_name_2"].lower()))
    return pairs


def _read_lower(path: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a table with a header, its columns in lower case."""
    for line, row in read_rows(path):
        yield line, {column.lower(): value for column, value in row.items()}


def _read_without_header(path: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of 2016's tables, which have two columns and no header."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for values in reader:
                if values and len(values) != 2:
                    raise UserError(
                        f"Line {reader.line_num} of {path} has {len(values)} columns, where an "
                        "image id and a label must be: correct it or download it again."
                    )
                if values:
                    yield reader.line_num, {"image": values[0].strip(), "label": values[1].strip()}
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no table ({error}): download it again.") from error
    except OSError as error:
        raise unreadable(path, error) from error


def _pop_id(columns: dict[str, str], path: str, line: int) -> str:
    """Takes the image id out of a row."""
    name = next((name for name in _ID_COLUMNS if name in columns), _ID_COLUMNS[0])
    require_columns(path, columns, (name,))
    value = columns.pop(name)
    match = _TABLE_ID.fullmatch(value)
    if not match:
        raise UserError(
            f"Line {line} of {path} has the image id {value!r}, where one like ISIC_0000000 must "
            "be: correct it."
        )
    return match[1].lower()


def _label_2016(columns: dict[str, str], path: str, line: int) -> tuple[str, None]:
    """'benign' or 'malignant', which the test's table calls 0.0 and 1.0."""
    return _binary(columns.pop("label"), path, line), None


def _label_2017(columns: dict[str, str], path: str, line: int) -> tuple[str, None]:
    """A column each for melanoma and seborrheic keratosis; what is neither is a nevus."""
    names = {"melanoma": "mel", "seborrheic_keratosis": "sk"}
    chosen = _chosen(columns, tuple(names), path, line)
    if len(chosen) > 1:
        raise UserError(
            f"Line {line} of {path} has a 1 in {len(chosen)} columns, where it must be at most "
            "one: correct it."
        )
    return names[chosen[0]] if chosen else "nv", None


def _label_one_hot(
    columns: dict[str, str], classes: tuple[str, ...], path: str, line: int
) -> tuple[str | None, None]:
    """A column for each class."""
    chosen = _chosen(columns, classes, path, line)
    if len(chosen) != 1:
        raise UserError(
            f"Line {line} of {path} has a 1 in {len(chosen)} columns, where it must be one "
            "diagnosis: correct it."
        )
    return None if chosen[0] == _UNKNOWN else chosen[0], None


def _label_2020(columns: dict[str, str], path: str, line: int) -> tuple[str, str | None]:
    """The target, which benign_malignant repeats as a word; and the patient."""
    require_columns(path, columns, ("patient_id", "target"))
    label = _binary(columns.pop("target"), path, line)
    word = columns.pop("benign_malignant", "")
    if word and _binary(word, path, line) != label:
        raise UserError(
            f"Line {line} of {path} says {word!r} and its target says {label!r}: correct it."
        )
    return label, columns.pop("patient_id") or None


_LABELS: dict[int, Callable[[dict[str, str], str, int], tuple[str | None, str | None]]] = {
    2016: _label_2016,
    2017: _label_2017,
    2018: lambda columns, path, line: _label_one_hot(columns, YEARS[2018].classes, path, line),
    2019: lambda columns, path, line: _label_one_hot(
        columns, (*YEARS[2019].classes, _UNKNOWN), path, line
    ),
    2020: _label_2020,
}


def _binary(value: str, path: str, line: int) -> str:
    """A label of two classes, as a word or a number."""
    if value.lower() in _BINARY:
        return value.lower()
    try:
        return _BINARY[(0.0, 1.0).index(float(value))]
    except ValueError:
        raise UserError(
            f"Line {line} of {path} has the label {value!r}: known are benign and malignant, or 0 "
            "and 1."
        ) from None


def _chosen(columns: dict[str, str], names: tuple[str, ...], path: str, line: int) -> list[str]:
    """Takes columns of 0 and 1 out of a row; those that are 1."""
    require_columns(path, columns, names)
    return [name for name in names if is_one(columns.pop(name), path, line)]


def _add(rows: dict[str, TableRow], image_id: str, row: TableRow) -> None:
    """Adds a row; a second one on the same image must agree, and may say more."""
    other = rows.get(image_id)
    if other is None:
        rows[image_id] = row
        return
    groups = {group for group in (row.group, other.group) if group}
    if row.label != other.label or len(groups) > 1:
        raise UserError(
            f"{row.where} contradicts {other.where[0].lower()}{other.where[1:]} on "
            f"ISIC{image_id[4:]}: correct it, or leave only the right table there."
        )
    metadata = {**row.metadata, **other.metadata}
    rows[image_id] = TableRow(row.label, next(iter(groups), None), metadata, other.where)
