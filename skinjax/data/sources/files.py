"""The files of a data set on disk: found in folders and zips, and told apart by their names."""

import collections
import filecmp
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import logging

from skinjax.data.archives import is_junk, unpack, unreadable, zip_names
from skinjax.data.sources.example import Example
from skinjax.errors import UserError

# What is missing up to this share is left out with a warning; more of it is a broken download.
MAX_SHARE_MISSING = 0.01

# What `missing` says of masks without an image, which are no loss to a training.
ORPHANED_MASKS = "masks have no image"

_MAX_NESTED_ZIPS = 3


@dataclass(frozen=True)
class File:
    """A file that was found.

    Attributes:
      path: Where it is.
      relative: Its path from where the search began.
      num_bytes: Its size.
      mtime_ns: When it was last changed.
    """

    path: str
    relative: str
    num_bytes: int
    mtime_ns: int


# A path from where the search began, '/' between its parts -> what the file is and its key among
# those of its kind. The kind is 'zip' for one to look into and empty for nothing of ours; the key
# is empty where one of a kind is enough (a table).
Classify = Callable[[str], tuple[str, str]]


class Found:
    """The files of a data set below one or more folders.

    Args:
      classify: Tells by its path what a file is.
      cache_dir: Where zips are unpacked.
      is_our_zip: Whether a zip in a zip is worth unpacking, by its name.
    """

    def __init__(
        self,
        classify: Classify,
        cache_dir: str | Path,
        is_our_zip: Callable[[str], bool] = lambda name: True,
    ):
        self._classify = classify
        self._cache_dir = Path(cache_dir).expanduser()
        self._is_our_zip = is_our_zip
        self._by_kind: dict[str, dict[str, File]] = collections.defaultdict(dict)

    def __getitem__(self, kind: str) -> dict[str, File]:
        """The files of a kind by their keys; by their paths where a kind has no keys."""
        return self._by_kind[kind]

    def add_source(self, root: Path, what: str) -> None:
        """Adds what lies in a folder or a zip.

        Args:
          root: The folder or zip.
          what: The name of the data set, for messages.

        Raises:
          UserError: It does not exist, or is neither of the two.
        """
        if root.is_dir():
            self.add(root)
        elif not root.exists():
            raise UserError(
                f"config.data.source={root} does not exist: set it to the folder or zip that holds "
                f"{what}."
            )
        elif root.suffix.lower() != ".zip":
            raise UserError(
                f"config.data.source={root} is neither a folder nor a zip: set it to the folder or "
                f"zip that holds {what}."
            )
        else:
            self.add_zip(root)

    def add(self, folder: Path, depth: int = 0) -> None:
        """Adds what lies in a folder, and in the zips there that hold something new."""
        zips = []
        for file in walk(folder):
            kind, key = self._kind(file.relative)
            if kind not in ("", "image", "mask") and not os.path.exists(file.path):
                raise UserError(
                    f"{file.path} is a link to {os.readlink(file.path)}, which is not there: bring "
                    "it back, or remove the link."
                )
            if kind == "zip":
                zips.append(Path(file.path))
            elif kind:
                _keep(self._by_kind[kind], key or file.relative, file)
        for path in zips:
            # Who unpacked by hand and kept the zip has everything already; and other zips that
            # happen to lie there are none of our business.
            if any(self._is_new(name) for name in zip_names(path)):
                self.add_zip(path, depth + 1)

    def add_zip(self, path: Path, depth: int = 1) -> None:
        """Adds what lies in a zip."""
        if depth > _MAX_NESTED_ZIPS:
            raise UserError(
                f"{path} lies in a zip in a zip in a zip: unpack them and give the folder."
            )
        self.add(unpack(path, self._cache_dir), depth)

    def _kind(self, path: str) -> tuple[str, str]:
        return self._classify(path.replace(os.sep, "/"))

    def _is_new(self, name: str) -> bool:
        """Whether a path in a zip is a piece of the data set that was not found yet."""
        kind, key = self._kind(name)
        if kind == "zip":
            return self._is_our_zip(os.path.basename(name))
        found = self._by_kind[kind]
        return bool(kind) and (key not in found if key else not found)


class Tally:
    """What of a data set cannot be used: noted up to 1%, refused above; or all of it only noted.

    Args:
      root: Where the data set lies, for messages.
      strict: Whether too much of it is refused.

    Attributes:
      notes: Sentences for the user to read.
      missing: What was left out: (file, what is wrong with it).
    """

    def __init__(self, root: str | Path, strict: bool = True):
        self._root, self._strict = root, strict
        self.notes: list[str] = []
        self.missing: list[tuple[str, str]] = []

    def leave_out(self, what: str, mend: str, names: list[str], total: int) -> None:
        """Notes names that are left out.

        Args:
          what: Is the matter with them, as 'images have no mask'.
          mend: What the user can do.
          names: Of the files or rows.
          total: How many there are of their kind.

        Raises:
          UserError: They are above 1% of all.
        """
        if not names:
            return
        self.missing += [(name, what) for name in names]
        listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        sentence = f"{len(names)} of {total} {what} in {self._root}: {listed}"
        if self._strict and len(names) > MAX_SHARE_MISSING * total:
            raise UserError(f"{sentence}. That is above {MAX_SHARE_MISSING:.0%}: {mend}.")
        self.notes.append(f"{sentence}. They are left out.")

    def log(self) -> None:
        """Warns of all that was noted."""
        for note in self.notes:
            logging.warning("%s", note)


class Tallied:
    """What every source that reads files has: a tally of what it could not use, to be read."""

    _tally: Tally

    @property
    def notes(self) -> list[str]:
        """Sentences about what was left out or looks odd, for the user to read."""
        return self._tally.notes

    @property
    def missing(self) -> list[tuple[str, str]]:
        """What was left out: (file or row, what is wrong with it)."""
        return self._tally.missing


def require_source(source: str | Path | None, what: str) -> Path:
    """The path that config.data.source names.

    Raises:
      UserError: It is empty.
    """
    if not source or not str(source).strip():
        raise UserError(
            f"config.data.source is empty: set it to the folder or zip that holds {what} (or set "
            "config.data.dataset='phantom' for built-in data)."
        )
    return Path(source).expanduser()


def example_of(image_id: str, image: File, mask: File | None, **known: Any) -> Example:
    """An example that is read from an image's file, and its mask's where there is one.

    Args:
      image_id: The name of the picture, unique in its data set.
      image: Its file.
      mask: Its mask's.
      **known: The other attributes of `Example`.
    """
    mask_path = mask.path if mask else None
    return Example(
        image_id,
        functools.partial(_load, image.path, mask_path),
        image_name=image.path,
        mask_name=mask_path,
        **known,
    )


def _load(image: str, mask: str | None) -> tuple[bytes, bytes | None]:
    """Reads an image's file and its mask's."""
    return Path(image).read_bytes(), Path(mask).read_bytes() if mask else None


def fingerprint(tables: Iterable[File], files: Iterable[File], *more: str) -> str:
    """Digests tables' content, and files' paths, sizes and times of change."""
    digest = hashlib.sha256()
    for table in tables:
        digest.update(Path(table.path).read_bytes())
    lines = sorted(f"{file.relative}\n{file.num_bytes}\n{file.mtime_ns}" for file in files)
    for line in (*lines, *more):
        digest.update(f"\n{line}".encode(errors="surrogateescape"))
    return digest.hexdigest()


def stat_file(path: str, relative: str) -> File:
    """The file at a path."""
    status = os.stat(path)
    return File(path, relative, status.st_size, status.st_mtime_ns)


def walk(folder: Path) -> Iterator[File]:
    """All files below a folder in a fixed order; junk is left out.

    Raises:
      UserError: A folder cannot be looked into.
    """
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
            if entry.is_symlink() and not os.path.exists(entry.path):
                # A link to nothing: whoever wants it finds that it cannot be read.
                yield File(entry.path, entry.path[len(str(folder)) + 1 :], 0, 0)
            elif entry.is_dir():
                pending.append(entry.path)
            elif entry.is_file():
                status = entry.stat()
                relative = entry.path[len(str(folder)) + 1 :]
                yield File(entry.path, relative, status.st_size, status.st_mtime_ns)


def is_copy(file: File, other: File) -> bool:
    """Whether two files hold the same: by size, where not all of some rows and columns have one.

    Raises:
      UserError: One cannot be read.
    """
    if file.num_bytes != other.num_bytes:
        return False
    is_compressed = not file.path.lower().endswith((".bmp", ".tif", ".tiff", ".ppm"))
    if is_compressed or not file.num_bytes:  # none: of a link to nothing, too
        return True
    try:
        return filecmp.cmp(file.path, other.path, shallow=False)
    except OSError as error:
        raise unreadable(error.filename or file.path, error) from error


def _keep(files: dict[str, File], key: str, file: File) -> None:
    """Adds a file; a second one of the same key must be a copy (Kaggle's zip holds all twice)."""
    other = files.get(key)
    if other is None:
        files[key] = file
    elif not is_copy(file, other):
        raise UserError(
            f"{other.path} and {file.path} have the same name and different content: leave only "
            "the right one there."
        )
    elif file.relative < other.relative:
        files[key] = file
