"""HAM10000 as people have it on disk: Kaggle's and Harvard Dataverse's layouts, folders or zips.

Tschandl, Rosendahl and Kittler, Sci Data 5:180161 (2018), doi 10.7910/DVN/DBW86T; the masks are
from Tschandl et al., Nat Med 26 (2020), in the same Dataverse entry.
"""

import functools
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from absl import logging

from skinjax.data.archives import is_junk, unpack, zip_names
from skinjax.data.sources.example import CLASSES, Example
from skinjax.data.sources.ham10000_tables import TableRow, read_metadata, read_one_hot
from skinjax.errors import UserError

# What is missing up to this share is left out with a warning; more of it is a broken download.
MAX_SHARE_MISSING = 0.01

_MASK_SET = "HAM10000_segmentations_lesion_tschandl"
_GET_MASKS = (
    f"get {_MASK_SET}.zip from the Harvard Dataverse, doi 10.7910/DVN/DBW86T, and put it (or its "
    "folder) beside the images"
)
_TABLE = "HAM10000_metadata"
_ONE_HOT_TABLE = "GroundTruth.csv"

_IMAGE = re.compile(r"(isic_\d+)\.(?:jpe?g|png)", re.IGNORECASE)
_MASK = re.compile(r"(isic_\d+)_segmentation\.(?:png|jpe?g|bmp|tiff?)", re.IGNORECASE)
_METADATA = re.compile(r"ham10000_metadata(?:\.(?:csv|tab|tsv|txt))?", re.IGNORECASE)
# The challenge's test set lies in the same Dataverse entry and is no part of the 10,015 images.
_NOT_OURS = re.compile(r"isic2018_task3_test", re.IGNORECASE)
_OUR_ZIP = re.compile(r"ham10000_", re.IGNORECASE)

_MAX_NESTED_ZIPS = 3


@dataclass(frozen=True)
class _File:
    """A file that was found: its full path, its path from where the search began, its status."""

    path: str
    relative: str
    num_bytes: int
    mtime_ns: int


class _Found:
    """The files of the data set below one or more folders, told apart by their names.

    Attributes:
      images: Files by image id in lower case.
      masks: Files by image id in lower case.
      tables: Tables with lesion ids.
      one_hot_tables: Tables of one column a class.
    """

    def __init__(self) -> None:
        self.images: dict[str, _File] = {}
        self.masks: dict[str, _File] = {}
        self.tables: list[_File] = []
        self.one_hot_tables: list[_File] = []

    def add(self, folder: Path, cache_dir: Path, depth: int = 0) -> None:
        """Adds what lies in a folder, and in the zips there that hold something new."""
        zips = []
        for file in _walk(folder):
            kind, image_id = _classify(file.relative)
            if kind == "image":
                _keep(self.images, image_id, file)
            elif kind == "mask":
                _keep(self.masks, image_id, file)
            elif kind == "table":
                self.tables.append(file)
            elif kind == "one-hot table":
                self.one_hot_tables.append(file)
            elif kind == "zip":
                zips.append(Path(file.path))
        for path in zips:
            # Who unpacked by hand and kept the zip has everything already; and other zips that
            # happen to lie there are none of our business.
            if any(self._is_new(name) for name in zip_names(path)):
                self.add_zip(path, cache_dir, depth + 1)

    def add_zip(self, path: Path, cache_dir: Path, depth: int = 1) -> None:
        """Adds what lies in a zip."""
        if depth > _MAX_NESTED_ZIPS:
            raise UserError(
                f"{path} lies in a zip in a zip in a zip: unpack them and give the folder."
            )
        self.add(unpack(path, cache_dir), cache_dir, depth)

    def _is_new(self, name: str) -> bool:
        """Whether a path in a zip is a piece of the data set that was not found yet."""
        kind, image_id = _classify(name)
        return (
            (kind == "image" and image_id not in self.images)
            or (kind == "mask" and image_id not in self.masks)
            or (kind == "table" and not self.tables)
            or (kind == "one-hot table" and not self.one_hot_tables)
            or (kind == "zip" and _OUR_ZIP.match(os.path.basename(name)) is not None)
        )


class Ham10000Source:
    """HAM10000 in any of its published layouts; see `skinjax.data.sources.example.Source`.

    Attributes:
      has_lesion_ids: False where only the one-hot table of the Kaggle set with masks is there.
      notes: What was left out, for the user to read.
    """

    name = "ham10000"
    classes = CLASSES

    def __init__(self, source: str | Path | None, cache_dir: str | Path, *, masks: bool = True):
        """Finds the data set's files; reads its table, but no picture.

        Args:
          source: A folder, a zip, or a folder of zips.
          cache_dir: Where zips are unpacked.
          masks: Whether every image needs a mask. Without, an image's mask is None where there is
            none.

        Raises:
          UserError: Nothing was found, the table has an unknown diagnosis, or above 1% of the
            images, masks or rows are missing.
        """
        if not source or not str(source).strip():
            raise UserError(
                "config.data.source is empty: set it to the folder or zip that holds HAM10000 (or "
                "set config.data.dataset='phantom' for built-in data)."
            )
        self._root = Path(source).expanduser()
        self.notes: list[str] = []
        found = self._find(Path(cache_dir).expanduser())
        self._table_file, records = self._read_table(found)
        self.has_lesion_ids = all(record.lesion_id is not None for record in records)
        records = self._matched(records, found, masks)
        self._rows = [
            (
                record,
                found.images[record.image_id.lower()],
                found.masks.get(record.image_id.lower()),
            )
            for record in sorted(records, key=lambda record: record.image_id)
        ]
        for note in self.notes:
            logging.warning("%s", note)

    def fingerprint(self) -> str:
        """Digests the table's content and the files' paths, sizes and times of change."""
        digest = hashlib.sha256(Path(self._table_file.path).read_bytes())
        used = [file for _, image, mask in self._rows for file in (image, mask) if file is not None]
        for line in sorted(f"{file.relative}\n{file.num_bytes}\n{file.mtime_ns}" for file in used):
            digest.update(f"\n{line}".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def examples(self) -> list[Example]:
        """Returns all examples, ordered by image id."""
        return [
            Example(
                image_id=record.image_id,
                load=functools.partial(_load, image.path, mask.path if mask else None),
                image_name=image.path,
                mask_name=mask.path if mask else None,
                lesion_id=record.lesion_id,
                label=record.label,
                metadata=record.metadata,
            )
            for record, image, mask in self._rows
        ]

    def _find(self, cache_dir: Path) -> _Found:
        """Finds the files in the source, and the table and masks beside it."""
        found = _Found()
        if self._root.is_dir():
            found.add(self._root, cache_dir)
        elif self._root.is_file():
            if self._root.suffix.lower() != ".zip":
                raise UserError(
                    f"config.data.source={self._root} is neither a folder nor a zip: set it to the "
                    "folder or zip that holds HAM10000."
                )
            found.add_zip(self._root, cache_dir)
        else:
            raise UserError(
                f"config.data.source={self._root} does not exist: set it to the folder or zip that "
                "holds HAM10000."
            )
        if not found.images:
            raise UserError(
                f"There are no HAM10000 images (ISIC_0024306.jpg and the like) in {self._root}: "
                "set config.data.source to the folder or zip that holds them."
            )
        parent = self._root.absolute().parent
        if (found.tables and found.masks) or not os.access(parent, os.R_OK):
            return found
        # The folder of the masks is taken before the zip it came from.
        for path in sorted(parent.iterdir(), key=lambda path: (path.is_file(), path.name)):
            if not found.tables and path.is_file() and _METADATA.fullmatch(path.name):
                found.tables.append(_file(str(path), path.name))
            if not found.masks and path.name.lower() == _MASK_SET.lower() and path.is_dir():
                found.add(path, cache_dir)
            if not found.masks and path.name.lower() == f"{_MASK_SET.lower()}.zip":
                found.add_zip(path, cache_dir)
        return found

    def _read_table(self, found: _Found) -> tuple[_File, list[TableRow]]:
        """Reads the table with lesion ids, or else the one-hot table."""
        for files, read in ((found.tables, read_metadata), (found.one_hot_tables, read_one_hot)):
            if files:
                contents = {Path(file.path).read_bytes() for file in files}
                if len(contents) > 1:
                    names = " and ".join(file.path for file in files)
                    raise UserError(f"The tables {names} differ: leave only the right one there.")
                return files[0], read(files[0].path)
        raise UserError(
            f"There is no {_TABLE}.csv in {self._root} or beside it: download it from where the "
            "images came from (it lists each image's lesion and diagnosis)."
        )

    def _matched(
        self, records: list[TableRow], found: _Found, masks_required: bool
    ) -> list[TableRow]:
        """The rows that have an image, and a mask if required; notes or refuses the others."""
        if masks_required and not found.masks:
            raise UserError(f"There are no masks in {self._root} or beside it: {_GET_MASKS}.")
        ids = {record.image_id.lower() for record in records}
        self._left_out(
            "rows of the table have no image",
            "get the missing images (there are two parts), or remove the rows",
            [record.image_id for record in records if record.image_id.lower() not in found.images],
            len(records),
        )
        self._left_out(
            "images have no row in the table",
            f"get the whole {_TABLE}.csv, or give a folder that holds HAM10000 alone",
            [file.relative for key, file in sorted(found.images.items()) if key not in ids],
            len(found.images),
        )
        records = [record for record in records if record.image_id.lower() in found.images]
        if masks_required:
            self._left_out(
                "images have no mask",
                _GET_MASKS,
                [r.image_id for r in records if r.image_id.lower() not in found.masks],
                len(records),
            )
            records = [record for record in records if record.image_id.lower() in found.masks]
        return records

    def _left_out(self, what: str, mend: str, names: list[str], total: int) -> None:
        """Notes what is left out, or refuses where it is above 1%."""
        if not names:
            return
        listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        sentence = f"{len(names)} of {total} {what} in {self._root}: {listed}"
        if len(names) > MAX_SHARE_MISSING * total:
            raise UserError(f"{sentence}. That is above {MAX_SHARE_MISSING:.0%}: {mend}.")
        self.notes.append(f"{sentence}. They are left out.")


def _load(image: str, mask: str | None) -> tuple[bytes, bytes | None]:
    """Reads an image's file and its mask's."""
    return Path(image).read_bytes(), Path(mask).read_bytes() if mask else None


def _file(path: str, relative: str) -> _File:
    """The file at a path."""
    status = os.stat(path)
    return _File(path, relative, status.st_size, status.st_mtime_ns)


def _classify(path: str) -> tuple[str, str]:
    """What a file is by its path (empty if nothing of ours), and its image id in lower case."""
    *folders, name = path.replace(os.sep, "/").split("/")
    if any(_NOT_OURS.match(part) for part in (*folders, name)):
        return "", ""
    if match := _MASK.fullmatch(name):
        return "mask", match[1].lower()
    if match := _IMAGE.fullmatch(name):
        # Some rename the masks to their images' names.
        in_masks = bool(folders) and folders[-1].lower() in ("mask", "masks", _MASK_SET.lower())
        return "mask" if in_masks else "image", match[1].lower()
    if _METADATA.fullmatch(name):
        return "table", ""
    if name.lower() == _ONE_HOT_TABLE.lower():
        return "one-hot table", ""
    return ("zip" if name.lower().endswith(".zip") else ""), ""


def _walk(folder: Path) -> Iterator[_File]:
    """All files below a folder in a fixed order; junk is left out."""
    visited: set[str] = set()
    pending = [str(folder)]
    while pending:
        current = pending.pop()
        # Links to folders are followed, because large sets are often linked; but never in circles.
        real = os.path.realpath(current)
        if real in visited:
            continue
        visited.add(real)
        try:
            with os.scandir(current) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(
                f"Cannot look into {current} ({error.strerror}): make it readable."
            ) from error
        for entry in listed:
            if is_junk(entry.name):
                continue
            if entry.is_dir():
                pending.append(entry.path)
            elif entry.is_file():
                status = entry.stat()
                relative = entry.path[len(str(folder)) + 1 :]
                yield _File(entry.path, relative, status.st_size, status.st_mtime_ns)


def _keep(files: dict[str, _File], key: str, file: _File) -> None:
    """Adds a file; a second one of the same id must be a copy (Kaggle's zip holds all twice)."""
    other = files.get(key)
    if other is None:
        files[key] = file
    elif other.num_bytes != file.num_bytes:
        raise UserError(
            f"{other.path} and {file.path} have the same name and different content: leave only "
            "the right one there."
        )
    elif file.relative < other.relative:
        files[key] = file
