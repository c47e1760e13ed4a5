"""The sets of the ISIC challenges of 2016 to 2020, in the layouts of their official files.

2016: Gutman et al., arXiv 1605.01397. 2017: Codella et al., arXiv 1710.05006. 2018: Codella et al.,
arXiv 1902.03368. 2019: the sets before it and Combalia et al., arXiv 1908.02288. 2020: Rotemberg et
al., Sci Data 8:34 (2021).
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from skinjax.data.sources.example import Example
from skinjax.data.sources.files import (
    ORPHANED_MASKS,
    File,
    Tallied,
    Tally,
    example_of,
    fingerprint,
    require_source,
)
from skinjax.data.sources.isic_files import YEARS, IsicFiles
from skinjax.data.sources.isic_tables import TableRow, read_duplicates, read_facts, read_labels
from skinjax.errors import UserError

_PARTS = (None, "train", "val", "test")


@dataclasses.dataclass(frozen=True)
class _Record:
    """An image and what belongs to it.

    Attributes:
      image_id: In the official spelling.
      image: Its file.
      mask: Its mask's file.
      part: The part its folder tells.
      truth_part: The part that the folder of its mask tells, or the table of its label.
      row: Its row in the table of labels.
      facts: Its row in the table that says more.
    """

    image_id: str
    image: File
    mask: File | None
    part: str | None
    truth_part: str | None
    row: TableRow | None
    facts: TableRow | None

    @property
    def key(self) -> str:
        """The image id in lower case."""
        return self.image_id.lower()

    @property
    def lesion_id(self) -> str | None:
        """What must not be divided: the patient or the lesion."""
        return (self.row and self.row.group) or (self.facts and self.facts.group) or None

    @property
    def is_unknown(self) -> bool:
        """Whether its row says that it is of none of the classes."""
        return self.row is not None and self.row.label is None

    def has(self, what: str) -> bool:
        """Whether it has a `mask`, or a `label`."""
        return (self.mask if what == "mask" else self.row) is not None


class IsicSource(Tallied):
    """The set of one of the ISIC challenges; see `skinjax.data.sources.example.Source`.

    Attributes:
      name: 'isic2016' to 'isic2020'.
      classes: The class names, in the order of the labels.
      has_lesion_ids: Whether a table says which images show the same lesion or patient.
      lesion_ids_mend: Where to put the table that would; None where nobody publishes it.
      notes: What was left out, for the user to read.
    """

    def __init__(
        self,
        year: int,
        source: str | Path | None,
        cache_dir: str | Path,
        *,
        masks: bool = True,
        strict: bool = True,
    ):
        """Finds the data set's files; reads its tables, but no picture.

        Args:
          year: Of the challenge, 2016 to 2020.
          source: A folder, a zip, or a folder of zips.
          cache_dir: Where zips are unpacked.
          masks: Whether every image needs a mask. Without, every image needs a label, and its mask
            is None where there is none. 2018 has other images for the one than for the other.
          strict: Whether images without are left out, and refused where they are above 1% of a
            part whose masks or labels are there. Otherwise they are listed, and it is noted.

        Raises:
          UserError: Nothing was found, a table is wrong, or too much is missing.
        """
        self._year, self._about = year, YEARS[year]
        self._masks, self._strict = masks, strict
        self.name, self.classes = f"isic{year}", self._about.classes
        if masks and strict and not self._about.masks:
            with_masks = ", ".join(f"isic{year}" for year, about in YEARS.items() if about.masks)
            raise UserError(
                f"ISIC {year} has no masks to learn outlines from: set config.data.dataset to one "
                f"that has ({with_masks} or ham10000), or config.task='classification'."
            )
        root = require_source(source, f"ISIC {year}")
        self._files = IsicFiles(year, root, cache_dir, masks)
        self._tally = Tally(self._files.root, strict)
        self._row_parts: dict[str, str] = {}
        records = self._read()
        self._note_orphans(records)
        records = self._without_duplicates(records)
        records = self._without_unknown(records)
        if masks or not strict:
            records = self._with_truth(records, "mask")
        if not masks or not strict:
            records = self._with_truth(records, "label")
        self._records = _with_parts(records)
        self.has_lesion_ids = any(record.lesion_id for record in records)
        table = "" if masks and self._about.tasks_apart else self._about.lesions
        self.lesion_ids_mend = (
            f"put {self._about.named(table, 'train')}.csv beside it" if table else None
        )
        self._note_groups()
        self._tally.log()

    def fingerprint(self) -> str:
        """Digests the tables' content, the parts, and the files' paths, sizes and times."""
        roles = ("labels", "facts", "duplicates")
        tables = [file for role in roles for file, _ in self._files.tables(role)]
        used = [file for record in self._records for file in (record.image, record.mask) if file]
        # The parts can hang on the source's own name, which is no part of the files' paths.
        parts = [f"{record.image_id}\n{record.part}" for record in self._records]
        return fingerprint(tables, used, *parts)

    def examples(self) -> list[Example]:
        """Returns all examples, ordered by image id."""
        return [
            example_of(
                record.image_id,
                record.image,
                record.mask,
                lesion_id=record.lesion_id,
                label=record.row.label if record.row else None,
                part=record.part,
                metadata={
                    **(record.facts.metadata if record.facts else {}),
                    **(record.row.metadata if record.row else {}),
                },
            )
            for record in self._records
        ]

    def _read(self) -> list[_Record]:
        """Reads the tables, and puts together what belongs to each image."""
        rows: dict[str, TableRow] = {}
        facts: dict[str, TableRow] = {}
        for table, part in self._files.tables("labels"):
            read_labels(self._year, table.path, rows)
            for key in rows:
                self._row_parts.setdefault(key, part)
        for table, _ in self._files.tables("facts"):
            read_facts(table.path, facts)
        records = []
        for key, (image, place) in self._files.images.items():
            mask = self._files.masks.get(key)
            records.append(
                _Record(
                    f"ISIC{key[4:]}",
                    image,
                    mask[0] if mask else None,
                    place.part,
                    (mask[1].part if mask else None) or self._row_parts.get(key),
                    rows.get(key),
                    facts.get(key),
                )
            )
        return records

    def _note_orphans(self, records: list[_Record]) -> None:
        """Notes or refuses masks and rows that have no image."""
        ids = set(self._files.images)
        masks = {
            key: (file.relative, place.part) for key, (file, place) in self._files.masks.items()
        }
        rows = {key: (f"ISIC{key[4:]}", part) for key, part in self._row_parts.items()}
        present = {part for record in records for part in (record.part, record.truth_part)}
        if self._masks or not self._strict:
            self._note_orphans_of("masks", masks, ids, present)
        else:
            lacking = [name for key, (name, _) in masks.items() if key not in ids]
            self._tally.missing += [(name, ORPHANED_MASKS) for name in lacking]
        if not self._masks or not self._strict:
            self._note_orphans_of("rows of the tables", rows, ids, present)

    def _note_orphans_of(
        self,
        what: str,
        names: Mapping[str, tuple[str, str | None]],
        ids: set[str],
        present: set[str | None],
    ) -> None:
        """Notes or refuses those of (image id: name, part) that have no image."""
        for part in _PARTS:
            of_part = {key: name for key, (name, of) in names.items() if of == part}
            lacking = [name for key, name in sorted(of_part.items()) if key not in ids]
            no_image = ORPHANED_MASKS if what == "masks" else f"{what} have no image"
            end = " They are left out."
            if part is not None and part not in present:
                sentence = f"{what} are of the part {part!r}, of which there is no image,"
                missing = ORPHANED_MASKS if what == "masks" else ""
                self._note(sentence, lacking, len(names), end, missing)
            elif (self._year, part, what) == (2018, "test", "rows of the tables"):
                # The table lists an image more than there are in some copies.
                self._note(no_image, lacking, len(of_part), end, no_image)
            else:
                mend = "get the missing images, or remove what has none"
                self._tally.leave_out(no_image, mend, lacking, len(of_part))

    def _without_duplicates(self, records: list[_Record]) -> list[_Record]:
        """Leaves out, of images that are there twice, all but the first."""
        ids = {record.key for record in records}
        first_of: dict[str, str] = {}
        for table, _ in self._files.tables("duplicates"):
            for pair in read_duplicates(table.path):
                # Pairs can form chains, of which one image stays, and the only copy always does.
                first, second = (_last(first_of, key) for key in pair)
                if first != second and ids.issuperset(pair):
                    first_of[second] = first
        twice = [record.image.relative for record in records if record.key in first_of]
        what = "images are there under another name too, as the table of duplicates says,"
        self._note(what, twice, len(records), " They are left out.")
        return [record for record in records if record.key not in first_of]

    def _without_unknown(self, records: list[_Record]) -> list[_Record]:
        """Leaves out images of no class; if not strict, they are listed without a label."""
        names = [record.image.relative for record in records if record.is_unknown]
        what = f"images are UNK, none of {', '.join(self.classes)},"
        self._note(what, names, len(records), " They are left out." if self._strict else "")
        return [record for record in records if not (self._strict and record.is_unknown)]

    def _with_truth(self, records: list[_Record], what: str) -> list[_Record]:
        """The images that have a `mask`, or a `label`; if not strict, all, and it is noted."""
        is_needed = self._masks == (what == "mask") and (what == "label" or self._about.masks)
        kept: list[_Record] = []
        for part in _PARTS:
            members = [record for record in records if record.part == part]
            having = [record for record in members if record.has(what)]
            lacking = [record.image.relative for record in members if not record.has(what)]
            of_part = f"images of the part {part!r}" if part else "images"
            if not self._strict:
                # An audit sees for itself which image has no mask.
                missing = f"images have no {what}" if having and what == "label" else ""
                if is_needed or having:
                    self._note(f"{of_part} have no {what}", lacking, len(members), "", missing)
                having = members
            elif having:
                mend = f"get the whole {self._truth_name(what, part)}"
                self._tally.leave_out(f"images have no {what}", mend, lacking, len(members))
            elif lacking:
                self._tally.notes.append(
                    f"{len(lacking)} {of_part} have no {what}, because "
                    f"{self._truth_name(what, part)} is not in {self._files.root}. They are left "
                    "out."
                )
            kept += having
        if records and not kept:
            mend = self._files.hint_at_truth(what) or (
                f"get {self._truth_name(what, records[0].part)}, and set config.data.source to "
                "the folder that holds both."
            )
            raise UserError(f"There are no {what}s for the images in {self._files.root}: {mend}")
        return sorted(kept, key=lambda record: record.key)

    def _truth_name(self, what: str, part: str | None) -> str:
        """The official name of what holds a part's masks, or labels."""
        if what == "mask":
            return self._about.named(self._about.masks, part or "train")
        return f"{self._about.named(self._about.labels[0], part or 'train')}.csv"

    def _note(
        self, what: str, names: Iterable[str], total: int, end: str = "", missing: str = ""
    ) -> None:
        """Notes names of which something is to be said, whatever their share.

        Args:
          what: Is to be said.
          names: Of the files or rows.
          total: How many there are of their kind.
          end: More sentences.
          missing: What is wrong with them; empty where they are rightly left out, or not at all.
        """
        if names := list(names):
            self._tally.missing += [(name, missing) for name in names if missing]
            self._tally.notes.append(f"{len(names)} of {total} {what} in {self._files.root}.{end}")

    def _note_groups(self) -> None:
        """Says what a split by lesion goes by, where that is not always the lesion."""
        without = sum(record.lesion_id is None for record in self._records)
        if self.has_lesion_ids and self._year == 2020:
            self._tally.notes.append(
                "A split of ISIC 2020 by lesion keeps patients together: all images of a patient "
                "are on one side."
            )
        if self.has_lesion_ids and without:
            self._tally.notes.append(
                f"{without} of {len(self._records)} images in {self._files.root} have no lesion "
                "id. Each counts as a lesion of its own."
            )


def _last(first_of: dict[str, str], key: str) -> str:
    """Where a chain of duplicates leads."""
    while key in first_of:
        key = first_of[key]
    return key


def _with_parts(records: list[_Record]) -> list[_Record]:
    """Gives each image its part, or none to any where only the training part can be used."""
    parts = [record.part or record.truth_part for record in records]
    divided = set(parts) <= {None, "train"}
    return [
        dataclasses.replace(record, part=None if divided else part)
        for record, part in zip(records, parts, strict=True)
    ]
