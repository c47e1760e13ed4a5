"""PH2 as people have it on disk: the published folders, with the text table or the spreadsheet.

Mendonça, Ferreira, Marques, Marcal and Rozeira, EMBC 2013, doi 10.1109/EMBC.2013.6610779: 200
dermoscopic pictures of melanocytic lesions with outlines, from the Hospital Pedro Hispano.
"""

import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from skinjax.data.archives import unreadable
from skinjax.data.sources.example import Example
from skinjax.data.sources.files import (
    ORPHANED_MASKS,
    File,
    Found,
    Tallied,
    Tally,
    example_of,
    fingerprint,
    require_source,
    stat_file,
)
from skinjax.data.sources.tables import differ, require_columns
from skinjax.errors import UserError

# In the order of the numbers in the text table.
CLASSES = ("common_nevus", "atypical_nevus", "melanoma")

# In the order of the numbers in the text table, 1 to 6; the spreadsheet has a column for each.
_COLORS = ("white", "red", "light_brown", "dark_brown", "blue_gray", "black")

_GET_ALL = "get the whole set again, with its folders as they are (IMD003/IMD003_lesion and so on)"

_IMAGE = re.compile(r"(imd\d+)\.(?:bmp|png|jpe?g|tiff?)", re.IGNORECASE)
_MASK = re.compile(r"(imd\d+)_lesion\.(?:bmp|png|jpe?g|tiff?)", re.IGNORECASE)
# Some copies give the masks their pictures' names.
_MASK_FOLDER = re.compile(r"masks?|lesions?|imd\d+_lesion", re.IGNORECASE)
_ROI_FOLDER = re.compile(r"imd\d+_roi", re.IGNORECASE)
_TABLE = re.compile(r"ph2_dataset\.(txt|xlsx)", re.IGNORECASE)
# What openpyxl says of a file that is no spreadsheet, or a damaged one.
_SHEET_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    OSError,
    SyntaxError,
)


@dataclass(frozen=True)
class _Row:
    """A row of the table."""

    label: str
    metadata: Mapping[str, str]


class Ph2Source(Tallied):
    """PH2 in its published layout; see `skinjax.data.sources.example.Source`.

    Attributes:
      notes: What was left out, for the user to read.
    """

    name = "ph2"
    classes = CLASSES
    # The set has one picture of each lesion. (Nobody publishes which lesions are of one patient.)
    has_lesion_ids = True
    lesion_ids_mend = None

    def __init__(
        self,
        source: str | Path | None,
        cache_dir: str | Path,
        *,
        masks: bool = True,
        strict: bool = True,
    ):
        """Finds the data set's files; reads its table, but no picture.

        Args:
          source: A folder, a zip, or a folder of zips.
          cache_dir: Where zips are unpacked.
          masks: Whether every image needs a mask (and may lack a label), or a label (and may lack
            a mask).
          strict: Whether it is an error that above 1% of the images, masks or rows are missing.
            Otherwise they are only noted, and images without mask or label are examples too.

        Raises:
          UserError: Nothing was found, the table is damaged, or too much is missing.
        """
        self._root = require_source(source, "PH2")
        self._tally = Tally(self._root, strict)
        found = self._find(cache_dir)
        self._table_file = self._choose_table(found, required=strict and not masks)
        rows = _read_table(self._table_file.path) if self._table_file else {}
        self._items = self._matched(found, rows, masks, strict)
        self._tally.log()

    def fingerprint(self) -> str:
        """Digests the table's content and the files' paths, sizes and times of change."""
        used = [file for _, image, mask, _ in self._items for file in (image, mask) if file]
        return fingerprint([self._table_file] if self._table_file else [], used)

    def examples(self) -> list[Example]:
        """Returns all examples, ordered by image id."""
        return [
            example_of(
                image_id,
                image,
                mask,
                lesion_id=image_id,
                label=row.label if row else None,
                metadata=row.metadata if row else {},
            )
            for image_id, image, mask, row in self._items
        ]

    def _find(self, cache_dir: str | Path) -> Found:
        """Finds the files in the source, and the table beside it."""
        found = Found(_classify, cache_dir)
        found.add_source(self._root, "PH2")
        if not found["image"]:
            raise UserError(
                f"There are no PH2 images (IMD003.bmp and the like) in {self._root}: set "
                "config.data.source to the folder or zip that holds them."
            )
        # Who gives the folder 'PH2 Dataset images' has the table beside it.
        parent = self._root.absolute().parent
        if not (found["txt"] or found["xlsx"]) and os.access(parent, os.R_OK):
            for path in sorted(parent.iterdir()):
                if (match := _TABLE.fullmatch(path.name)) and path.is_file():
                    found[match[1].lower()][path.name] = stat_file(str(path), path.name)
        return found

    def _choose_table(self, found: Found, required: bool) -> File | None:
        """The text table, or else the spreadsheet, or none."""
        for kind in ("txt", "xlsx"):
            files = list(found[kind].values())
            if differ(file.path for file in files):
                names = " and ".join(file.path for file in files)
                raise UserError(f"The tables {names} differ: leave only the right one there.")
            if files:
                return files[0]
        if required:
            raise UserError(
                f"There is no PH2_dataset.txt or PH2_dataset.xlsx in {self._root} or beside it: "
                "put one there, it lists each image's diagnosis."
            )
        return None

    def _matched(
        self, found: Found, rows: Mapping[str, _Row], masks: bool, strict: bool
    ) -> list[tuple[str, File, File | None, _Row | None]]:
        """The images to use, each with its mask and row; notes or refuses what is missing."""
        images, outlines = found["image"], found["mask"]
        self._tally.missing += [
            (file.relative, ORPHANED_MASKS)
            for key, file in sorted(outlines.items())
            if key not in images
        ]
        self._tally.leave_out(
            "rows of the table have no image",
            f"{_GET_ALL}, or remove the rows",
            [key for key in sorted(rows) if key not in images],
            len(rows),
        )
        for what, mend, known, required in (
            ("images have no mask", _GET_ALL, outlines.keys(), masks),
            ("images have no row in the table", "get the whole table", rows.keys(), not masks),
        ):
            names = [images[key].relative for key in sorted(images) if key not in known]
            if required and strict:
                self._tally.leave_out(what, mend, names, len(images))
                images = {key: file for key, file in images.items() if key in known}
            elif required and names:
                self._tally.notes.append(f"{len(names)} of {len(images)} {what} in {self._root}.")
                # Where none has it, there is nothing wrong with the single image.
                self._tally.missing += [(name, what) for name in names if known]
        return [
            (key.upper(), file, outlines.get(key), rows.get(key))
            for key, file in sorted(images.items())
        ]


def _classify(path: str) -> tuple[str, str]:
    """What a file is by its path (empty if nothing of ours), and its image id in lower case."""
    *folders, name = path.split("/")
    if folders and _ROI_FOLDER.fullmatch(folders[-1]):
        return "", ""
    if match := _MASK.fullmatch(name):
        return "mask", match[1].lower()
    if match := _IMAGE.fullmatch(name):
        in_masks = bool(folders) and _MASK_FOLDER.fullmatch(folders[-1]) is not None
        return "mask" if in_masks else "image", match[1].lower()
    if match := _TABLE.fullmatch(name):
        return match[1].lower(), ""
    return ("zip" if name.lower().endswith(".zip") else ""), ""


def _read_table(path: str) -> dict[str, _Row]:
    """The rows by image id in lower case."""
    records: dict[str, _Row] = {}
    is_sheet = path.lower().endswith(".xlsx")
    for line, values in _sheet_rows(path) if is_sheet else _text_rows(path):
        image_id = values.pop("image_name" if is_sheet else "name")
        if is_sheet:
            chosen = [name for name in CLASSES if values.pop(name).lower() == "x"]
            colors = [
                str(number)
                for number, color in enumerate(_COLORS, start=1)
                if values.pop(color, "").lower() == "x"
            ]
            values["colors"] = " ".join(colors)
            if len(chosen) != 1:
                raise UserError(
                    f"Line {line} of {path} ({image_id}) has an X in {len(chosen)} of the columns "
                    f"{', '.join(CLASSES)}, where it must be one: correct it."
                )
            label = chosen[0]
        else:
            number = values.pop("clinical_diagnosis")
            if number not in ("0", "1", "2"):
                raise UserError(
                    f"Line {line} of {path} ({image_id}) has the clinical diagnosis {number!r}: it "
                    "must be 0 (common nevus), 1 (atypical nevus) or 2 (melanoma)."
                )
            label = CLASSES[int(number)]
        row = _Row(label, {key: value for key, value in values.items() if value})
        if records.setdefault(image_id.lower(), row) != row:
            raise UserError(
                f"Line {line} of {path} contradicts an earlier line on {image_id}: correct it."
            )
    if not records:
        raise UserError(f"{path} has no rows for IMD003 and the like: get it again.")
    return records


def _text_rows(path: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Reads PH2_dataset.txt: the number of a line, and its values by column."""
    header: list[str] = []
    # Only the legend, which is prose, may have other letters than those of ASCII.
    try:
        text = Path(path).read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise unreadable(path, error) from error
    for line, content in enumerate(text.splitlines(), start=1):
        if not content.lstrip().startswith("|"):
            continue
        # Between the dermoscopic criteria some copies have one bar, where there are two elsewhere.
        cells = [" ".join(cell.split()) for cell in re.split(r"\|\|?", content.strip().strip("|"))]
        if not header:
            header = [_column(cell) for cell in cells]
            require_columns(path, dict.fromkeys(header, ""), ("name", "clinical_diagnosis"))
        elif re.fullmatch(r"imd\d+", cells[0], re.IGNORECASE):
            if len(cells) != len(header):
                raise UserError(
                    f"Line {line} of {path} ({cells[0]}) does not have the header's {len(header)} "
                    "columns: correct it or get the table again."
                )
            yield line, dict(zip(header, cells, strict=True))


def _sheet_rows(path: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Reads PH2_dataset.xlsx: the number of a row, and its values by column."""
    # Few need it, and it takes its time to import.
    import openpyxl

    header: list[str] = []
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            sheet = book.worksheets[0]
            # What a spreadsheet says of its own size is not always true.
            sheet.reset_dimensions()
            rows = [
                ["" if cell is None else " ".join(str(cell).split()) for cell in cells]
                for cells in sheet.iter_rows(values_only=True)
            ]
        finally:
            book.close()
    except _SHEET_ERRORS as error:
        raise UserError(
            f"{path} cannot be read as a spreadsheet ({error}): get it again, or use "
            "PH2_dataset.txt."
        ) from error
    for line, cells in enumerate(rows, start=1):
        if not header:
            if "image_name" in (columns := [_column(cell) for cell in cells]):
                header = columns
                require_columns(path, dict.fromkeys(header, ""), CLASSES)
        elif cells and re.fullmatch(r"imd\d+", cells[0], re.IGNORECASE):
            values = dict.fromkeys(filter(None, header), "")
            yield (
                line,
                values | {key: cell for key, cell in zip(header, cells, strict=False) if key},
            )
    if not header:
        raise UserError(f"{path} has no row with the cell 'Image Name': get it again.")


def _column(cell: str) -> str:
    """A column's name: 'Dots/Globules (A/AT/T)' is dots_globules."""
    plain = re.sub(r"\(.*\)", "", cell).lower()
    return re.sub(r"[^a-z0-9]+", "_", plain).strip("_")
