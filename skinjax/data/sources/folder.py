"""A user's own folder: images with masks beside them, a folder for each class, or a table."""

import posixpath
from collections.abc import Mapping, Set
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
    stat_file,
)
from skinjax.data.sources.folder_layout import (
    Masks,
    Paths,
    collect,
    find_masks,
    image_ids,
    in_mask_folders,
    parts_and_classes,
    require_train,
)
from skinjax.data.sources.folder_table import KEYS, Row, read_header, read_table
from skinjax.errors import UserError

_LAY_OUT_MASKS = (
    "put each mask into a folder masks beside the folder images, with its image's name, or name a "
    f"table's column of masks in {KEYS}.mask_column"
)
_LAY_OUT_CLASSES = (
    "sort the images into a folder for each class, or put a table beside them that has a column of "
    f"image names and one of labels ({KEYS}.image_column and {KEYS}.label_column)"
)


class FolderSource(Tallied):
    """A user's own folder; see `skinjax.data.sources.example.Source`.

    It has one of three shapes, which are told apart by what is found: a table and images; images
    and masks, in folders of their own or side by side; or a folder for each class. In the last two,
    folders train, val and test are an official split.

    Attributes:
      classes: The distinct labels, sorted; none where nothing has a label.
      has_lesion_ids: Whether each image's group is known.
      notes: What was left out, for the user to read.
    """

    name = "folder"

    def __init__(
        self,
        source: str | Path | None,
        cache_dir: str | Path,
        *,
        masks: bool = True,
        strict: bool = True,
        table: str = "",
        image_column: str = "image",
        label_column: str = "label",
        group_column: str = "",
        mask_column: str = "",
        part_column: str = "",
    ):
        """Finds the files; reads the table, but no picture.

        Args:
          source: A folder, a zip, or a folder of zips.
          cache_dir: Where zips are unpacked.
          masks: Whether every image needs a mask (and may lack a label), or a label (and may lack
            a mask).
          strict: Whether it is an error that above 1% of the images, masks or rows are missing.
            Otherwise they are only noted, and images without mask, label or row are examples too.
          table: The table, from the source or absolute. Where it is empty, the only csv or tsv
            that has the column of images is taken.
          image_column: The column of the images' names or paths, with or without extension.
          label_column: The column of classes; may be missing where masks are asked for.
          group_column: The column that tells lesions or patients apart.
          mask_column: The column of the masks' names. Where it is empty, masks are found by name.
          part_column: The column of train, val and test.

        Raises:
          UserError: There are no images, it is not clear what belongs together, the table is
            damaged or lacks a column, or too much is missing.
        """
        self._root = require_source(source, "your pictures")
        self._tally = Tally(self._root, strict)
        self._masks, self._strict = masks, strict
        self._columns = {
            "image": image_column,
            "label": label_column,
            "group": group_column,
            "mask": mask_column,
            "part": part_column,
        }
        self._hint = ""
        self._pictures, tables = collect(self._root, cache_dir)
        if not self._pictures:
            raise UserError(
                f"There are no pictures (jpg, png, bmp, tiff and the like) in {self._root}: set "
                "config.data.source to the folder or zip that holds them."
            )
        self._table_file = self._choose_table(tables, table)
        self._ids: dict[str, str] = {}
        self._masks_of: Mapping[str, str] = {}
        rows = self._table_rows() if self._table_file else self._folder_rows()
        self._rows = self._complete(rows)
        self.classes = tuple(sorted({row.label for row in self._rows.values() if row.label}))
        self.has_lesion_ids = all(row.group is not None for row in self._rows.values())
        self.lesion_ids_mend = (
            f"{'' if self._table_file else 'add a table and '}name the column that tells lesions "
            f"or patients apart in {KEYS}.group_column"
        )
        self._tally.log()

    def fingerprint(self) -> str:
        """Digests the table's content, the files' paths, sizes and times, the columns, the rows.

        What a row says can hang on files that are not used: a picture beside the folders of the
        classes makes them folders of one class.
        """
        used = [self._pictures[path] for path in self._rows]
        used += [self._pictures[self._masks_of[p]] for p in self._rows if p in self._masks_of]
        tables = [self._table_file] if self._table_file else []
        columns = [f"{key}={name}" for key, name in self._columns.items()]
        rows = [
            f"{self._ids[path]}\n{row.label}\n{row.group}\n{row.part}"
            for path, row in sorted(self._rows.items())
        ]
        return fingerprint(tables, used, *columns, *rows)

    def examples(self) -> list[Example]:
        """Returns all examples, ordered by image id."""
        found = []
        for path, row in sorted(self._rows.items(), key=lambda item: self._ids[item[0]]):
            found.append(
                example_of(
                    self._ids[path],
                    self._pictures[path],
                    self._pictures.get(self._masks_of.get(path, "")),
                    lesion_id=row.group,
                    label=row.label,
                    part=row.part,
                    metadata=row.metadata,
                )
            )
        return found

    def _choose_table(self, tables: Mapping[str, File], table: str) -> File | None:
        """The table that is named, or else the only one with a column of images."""
        if table:
            path = Path(table).expanduser()
            if path.is_absolute() or (self._root.is_dir() and (self._root / path).is_file()):
                path = self._root / path
                if path.is_file():
                    return stat_file(str(path), table)
            # In a zip it may lie in a folder.
            found = [name for name in tables if f"/{name}".endswith(f"/{path.as_posix()}")]
            if len(found) != 1:
                raise UserError(
                    f"{KEYS}.table={table} is {'no file' if not found else 'not the only one'} in "
                    f"{self._root} (tables there: {', '.join(sorted(tables)) or 'none'}): correct "
                    "it."
                )
            return tables[found[0]]
        column = self._columns["image"]
        candidates = [name for name in sorted(tables) if name.lower().endswith((".csv", ".tsv"))]
        headers = {name: read_header(tables[name].path) for name in candidates}
        chosen = [name for name in candidates if column in headers[name]]
        if len(chosen) > 1:
            raise UserError(
                f"Several tables in {self._root} have the column {column!r}, {', '.join(chosen)}: "
                f"name the right one in {KEYS}.table."
            )
        if chosen:
            return tables[chosen[0]]
        for name in candidates[:1]:
            self._hint = (
                f" The table {name} was not read, because it has no column {column!r} (it has "
                f"{', '.join(headers[name])}): name its column of images in {KEYS}.image_column."
            )
            self._tally.notes.append(self._hint.strip())
        return None

    def _table_rows(self) -> dict[str, Row]:
        """The table's rows by their images' paths; finds the masks, and names the images."""
        assert self._table_file is not None
        table = self._table_file
        rows = read_table(
            table.path,
            self._columns,
            labels_optional=self._masks or not self._strict,
            groups_optional=not self._strict,
        )
        beside = posixpath.dirname(table.relative)
        named, lost = self._named_masks(rows, beside) if self._columns["mask"] else ({}, [])
        if self._columns["mask"]:
            # Where the column tells the masks, the names of files do not.
            in_folders = {
                path for found in in_mask_folders(self._pictures).values() for path in found
            }
            masks = Masks(frozenset(in_folders | set(named.values())), {}, frozenset())
        else:
            masks = find_masks(self._pictures)
        images = self._pictures.keys() - masks.paths
        by_name = Paths(images)
        matched: dict[str, Row] = {}
        homeless = []
        masks_of = dict(masks.by_image)
        for line, row in rows.items():
            found = by_name.find(row.image, beside)
            if not found:
                homeless.append(row.image)
                continue
            path = self._only(found, line, row.image)
            contradicts = matched.setdefault(path, row) != row
            if line in named:
                contradicts |= masks_of.setdefault(path, named[line]) != named[line]
            if contradicts:
                raise UserError(
                    f"Line {line} of {table.path} contradicts an earlier line on {path}: correct "
                    "it."
                )
        # What lies among the masks that the table names, and is named by no row, is one too.
        folders = {posixpath.dirname(path) for path in named.values()}
        folders -= {posixpath.dirname(path) for path in matched}
        more = {path for path in images if posixpath.dirname(path) in folders}
        self._masks_of = masks_of
        self._name_images(images - more, masks.folders)
        self._note_orphans(masks.paths | more)
        self._tally.leave_out(
            "rows of the table have no image",
            f"get the missing images, or remove the rows ({KEYS}.image_column is the column; its "
            "paths begin in the folder of the table or of all)",
            homeless,
            len(rows),
        )
        if lost:
            what = "masks of the table are not there"
            self._tally.missing += [(name, what) for name in lost]
            self._hint = f" {len(lost)} {what}: {', '.join(lost[:10])}."
            self._tally.notes.append(self._hint.strip())
        without = [path for path in sorted(self._ids) if path not in matched]
        self._leave_out("images have no row in the table", "add them, or take them out", without)
        if not self._strict:
            matched |= {path: Row() for path in without}
        require_train((row.part for row in rows.values()), f"parts in {table.path}")
        return matched

    def _named_masks(
        self, rows: Mapping[int, Row], beside: str
    ) -> tuple[dict[int, str], list[str]]:
        """The masks that the table names, by line, and the names of those that are not there."""
        in_folders = in_mask_folders(self._pictures).values()
        # images/1.png and masks/1.png: as a mask's name, 1.png means the second.
        likely, others = (
            Paths(path for found in in_folders for path in found),
            Paths(self._pictures),
        )
        named, lost = {}, []
        for line, row in rows.items():
            if row.mask:
                found = likely.find(row.mask, beside) or others.find(row.mask, beside)
                if found:
                    named[line] = self._only(found, line, row.mask)
                else:
                    lost.append(row.mask)
        return named, lost

    def _folder_rows(self) -> dict[str, Row]:
        """What the folders say of the images, by path; finds the masks, and names the images."""
        masks = find_masks(self._pictures)
        images = self._pictures.keys() - masks.paths
        self._masks_of = masks.by_image
        self._name_images(images, masks.folders)
        self._note_orphans(masks.paths)
        rows = {}
        for path, (part, label) in parts_and_classes(self._ids).items():
            # Beside masks, folders are merely how somebody keeps his pictures.
            rows[path] = Row(label=None if masks.paths else label, part=part)
        return rows

    def _name_images(self, images: Set[str], folders: frozenset[str]) -> None:
        if not images:
            raise UserError(
                f"All pictures in {self._root} look like masks by the names of their folders or "
                "files: put the images beside them, in a folder images."
            )
        self._ids = image_ids(images, folders)

    def _note_orphans(self, masks: frozenset[str]) -> None:
        """Notes the masks that belong to no image."""
        used = set(self._masks_of.values())
        self._tally.missing += [
            (path, ORPHANED_MASKS) for path in sorted(masks) if path not in used
        ]

    def _complete(self, rows: Mapping[str, Row]) -> dict[str, Row]:
        """The images that have what is asked for; notes or refuses the others."""
        asked = self._masks_of if self._masks else [path for path in rows if rows[path].label]
        if not asked:
            what, mend = ("masks", _LAY_OUT_MASKS) if self._masks else ("labels", _LAY_OUT_CLASSES)
            sentence = f"There are no {what} in {self._root}"
            if self._strict:
                raise UserError(f"{sentence}: {mend}.{self._hint}")
            self._tally.notes.append(f"{sentence}.")
            return dict(rows)
        if self._masks:
            what, mend = "images have no mask", _LAY_OUT_MASKS + self._hint
            without = [path for path in sorted(rows) if path not in self._masks_of]
        else:
            what, mend = "images have no label", _LAY_OUT_CLASSES
            without = [path for path in sorted(rows) if not rows[path].label]
        self._leave_out(what, mend, without)
        left_out = set(without) if self._strict else ()
        return {path: row for path, row in rows.items() if path not in left_out}

    def _leave_out(self, what: str, mend: str, paths: list[str]) -> None:
        """Leaves images out, or only says what they lack."""
        if self._strict:
            self._tally.leave_out(what, mend, paths, len(self._ids))
        elif paths:
            noted = {path for path, _ in self._tally.missing}
            self._tally.missing += [(path, what) for path in paths if path not in noted]
            self._tally.notes.append(f"{len(paths)} of {len(self._ids)} {what} in {self._root}.")

    def _only(self, found: list[str], line: int, value: str) -> str:
        """The one path that a value of the table means."""
        if len(found) > 1:
            assert self._table_file is not None
            raise UserError(
                f"Line {line} of {self._table_file.path} has {value!r}, which may be "
                f"{' or '.join(found[:3])}: write the path."
            )
        return found[0]
