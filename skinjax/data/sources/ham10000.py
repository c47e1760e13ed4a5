"""HAM10000 as people have it on disk: Kaggle's and Harvard Dataverse's layouts, folders or zips.

Tschandl, Rosendahl and Kittler, Sci Data 5:180161 (2018), doi 10.7910/DVN/DBW86T; the masks are
from Tschandl et al., Nat Med 26 (2020), in the same Dataverse entry.
"""

import os
import re
from pathlib import Path

from skinjax.data.sources.example import CLASSES, Example
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
from skinjax.data.sources.ham10000_tables import TableRow, read_metadata, read_one_hot
from skinjax.data.sources.tables import differ
from skinjax.errors import UserError

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


class Ham10000Source(Tallied):
    """HAM10000 in any of its published layouts; see `skinjax.data.sources.example.Source`.

    Attributes:
      has_lesion_ids: False where only the one-hot table of the Kaggle set with masks is there.
      notes: What was left out, for the user to read.
    """

    name = "ham10000"
    classes = CLASSES
    lesion_ids_mend = f"put {_TABLE}.csv beside it"

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
          masks: Whether every image needs a mask. Without, an image's mask is None where there is
            none.
          strict: Whether it is an error that above 1% of the images, masks or rows are missing.

        Raises:
          UserError: Nothing was found, the table has an unknown diagnosis, or too much is missing.
        """
        self._root = require_source(source, "HAM10000")
        self._tally = Tally(self._root, strict)
        found = self._find(cache_dir)
        self._table_file, records = self._read_table(found)
        self.has_lesion_ids = all(record.lesion_id is not None for record in records)
        records = self._matched(records, found, masks)
        self._rows = [
            (
                record,
                found["image"][record.image_id.lower()],
                found["mask"].get(record.image_id.lower()),
            )
            for record in sorted(records, key=lambda record: record.image_id)
        ]
        self._tally.log()

    def fingerprint(self) -> str:
        """Digests the table's content and the files' paths, sizes and times of change."""
        used = [file for _, image, mask in self._rows for file in (image, mask) if file is not None]
        return fingerprint([self._table_file], used)

    def examples(self) -> list[Example]:
        """Returns all examples, ordered by image id."""
        return [
            example_of(
                record.image_id,
                image,
                mask,
                lesion_id=record.lesion_id,
                label=record.label,
                metadata=record.metadata,
            )
            for record, image, mask in self._rows
        ]

    def _find(self, cache_dir: str | Path) -> Found:
        """Finds the files in the source, and the table and masks beside it."""
        found = Found(_classify, cache_dir, lambda name: _OUR_ZIP.match(name) is not None)
        found.add_source(self._root, "HAM10000")
        if not found["image"]:
            raise UserError(
                f"There are no HAM10000 images (ISIC_0024306.jpg and the like) in {self._root}: "
                "set config.data.source to the folder or zip that holds them."
            )
        parent = self._root.absolute().parent
        if (found["table"] and found["mask"]) or not os.access(parent, os.R_OK):
            return found
        # The folder of the masks is taken before the zip it came from.
        for path in sorted(parent.iterdir(), key=lambda path: (path.is_file(), path.name)):
            if not found["table"] and path.is_file() and _METADATA.fullmatch(path.name):
                found["table"][path.name] = stat_file(str(path), path.name)
            if not found["mask"] and path.name.lower() == _MASK_SET.lower() and path.is_dir():
                found.add(path)
            if not found["mask"] and path.name.lower() == f"{_MASK_SET.lower()}.zip":
                found.add_zip(path)
        return found

    def _read_table(self, found: Found) -> tuple[File, list[TableRow]]:
        """Reads the table with lesion ids, or else the one-hot table."""
        for kind, read in (("table", read_metadata), ("one-hot table", read_one_hot)):
            files = list(found[kind].values())
            if files:
                if differ(file.path for file in files):
                    names = " and ".join(file.path for file in files)
                    raise UserError(f"The tables {names} differ: leave only the right one there.")
                return files[0], read(files[0].path)
        raise UserError(
            f"There is no {_TABLE}.csv in {self._root} or beside it: download it from where the "
            "images came from (it lists each image's lesion and diagnosis)."
        )

    def _matched(
        self, records: list[TableRow], found: Found, masks_required: bool
    ) -> list[TableRow]:
        """The rows that have an image, and a mask if required; notes or refuses the others."""
        if masks_required and not found["mask"]:
            raise UserError(f"There are no masks in {self._root} or beside it: {_GET_MASKS}.")
        ids = {record.image_id.lower() for record in records}
        self._tally.missing += [
            (file.relative, ORPHANED_MASKS)
            for key, file in sorted(found["mask"].items())
            if key not in found["image"]
        ]
        self._tally.leave_out(
            "rows of the table have no image",
            "get the missing images (there are two parts), or remove the rows",
            [
                record.image_id
                for record in records
                if record.image_id.lower() not in found["image"]
            ],
            len(records),
        )
        self._tally.leave_out(
            "images have no row in the table",
            f"get the whole {_TABLE}.csv, or give a folder that holds HAM10000 alone",
            [file.relative for key, file in sorted(found["image"].items()) if key not in ids],
            len(found["image"]),
        )
        records = [record for record in records if record.image_id.lower() in found["image"]]
        if masks_required:
            self._tally.leave_out(
                "images have no mask",
                _GET_MASKS,
                [r.image_id for r in records if r.image_id.lower() not in found["mask"]],
                len(records),
            )
            records = [record for record in records if record.image_id.lower() in found["mask"]]
        return records


def _classify(path: str) -> tuple[str, str]:
    """What a file is by its path (empty if nothing of ours), and its image id in lower case."""
    *folders, name = path.split("/")
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
