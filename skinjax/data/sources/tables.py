"""What the tables of all data sets have in common: rows of named columns, and one-hot flags."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from skinjax.data.archives import unreadable
from skinjax.errors import UserError


def read_rows(path: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Reads a table with a header, separated by commas or tabs.

    Args:
      path: The file, UTF-8 with or without a byte order mark.

    Yields:
      The number of a row's last line and its values by column, both without spaces around them.

    Raises:
      UserError: A row has more or fewer columns than the header, it is no table, or cannot be read.
    """
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
    except OSError as error:
        raise unreadable(path, error) from error


def differ(paths: Iterable[str]) -> bool:
    """Whether tables that are found more than once are not copies.

    Raises:
      UserError: One cannot be read.
    """
    contents = set()
    for path in paths:
        try:
            contents.add(Path(path).read_bytes())
        except OSError as error:
            raise unreadable(path, error) from error
    return len(contents) > 1


def require_columns(path: str, row: dict[str, str], columns: Iterable[str]) -> None:
    """Refuses a table without these columns.

    Args:
      path: The table, for the message.
      row: Its first row.
      columns: That it must have.

    Raises:
      UserError: It names those that are missing, and those that there are.
    """
    missing = [column for column in columns if column not in row]
    if missing:
        raise UserError(
            f"{path} lacks the column {', '.join(missing)} (it has {', '.join(row)}): download it "
            "again."
        )


def is_one(value: str, path: str, line: int) -> bool:
    """Whether a one-hot column is set.

    Raises:
      UserError: The value is neither 0 nor 1, as '0', '1.0' and the like.
    """
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if number not in (0.0, 1.0):
        raise UserError(f"Line {line} of {path} has {value!r} where 0 or 1 must be: correct it.")
    return number == 1.0
