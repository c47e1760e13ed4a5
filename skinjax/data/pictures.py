"""Pictures that somebody names to have them predicted: files, folders, zips and patterns."""

import functools
import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from skinjax.data.archives import is_junk, unpack
from skinjax.data.sources.files import File, stat_file, walk
from skinjax.data.sources.folder_layout import PICTURE
from skinjax.errors import UserError


def find_pictures(
    inputs: Sequence[str], cache_dir: Path, left_out: Iterable[Path] = ()
) -> list[File]:
    """Finds the pictures that a user names.

    Args:
        inputs: each a file, a folder or zip with everything below it, or a pattern with * and **.
            Of folders, zips and patterns, files that are pictures by their extension are taken.
        cache_dir: where zips are unpacked.
        left_out: folders whose files are never taken, wherever they lie.

    Returns:
        The pictures in the order of their `relative`, '/' between its parts: the path below the
        folder or zip, or below the part of the pattern that has no wildcard; the name of a file. A
        file that is named twice comes once.

    Raises:
        UserError: an input is not there or holds no picture, or two pictures have one `relative`.
    """
    closed = [os.path.realpath(folder) for folder in left_out]

    @functools.lru_cache(maxsize=1024)
    def is_closed(folder: str) -> bool:
        real = os.path.realpath(folder)
        return any(real == one or real.startswith(one + os.sep) for one in closed)

    by_path: dict[str, File] = {}
    for given in inputs:
        files = [f for f in _files(given, cache_dir) if not is_closed(os.path.dirname(f.path))]
        if not files:
            raise UserError(f"--input={given} holds no picture: name files, folders or zips.")
        for file in files:
            by_path.setdefault(os.path.abspath(file.path), file)
    by_name: dict[str, File] = {}
    for file in by_path.values():
        other = by_name.setdefault(file.relative, file)
        if other is not file:
            raise UserError(
                f"{other.path} and {file.path} would both be {file.relative} in the output: name a "
                "folder that holds both, or give each an --output of its own."
            )
    return [by_name[name] for name in sorted(by_name)]


def _files(given: str, cache_dir: Path) -> Iterator[File]:
    """The pictures of one input."""
    path = Path(given).expanduser()
    if path.is_file() and path.suffix.lower() != ".zip":
        yield stat_file(str(path), path.name)
        return
    if path.exists():
        folder = path if path.is_dir() else unpack(path, cache_dir)
        files: Iterable[File] = walk(folder)
    elif glob.has_magic(str(path)):
        files = _matches(path)
    else:
        raise UserError(f"--input={given} does not exist: name a file, a folder, a zip or a glob.")
    for file in files:
        if PICTURE.fullmatch(file.relative):
            yield File(file.path, file.relative.replace(os.sep, "/"), file.num_bytes, file.mtime_ns)


def _matches(pattern: Path) -> Iterator[File]:
    """The files that a pattern matches, named from its first wildcard on."""
    fixed = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    for found in sorted(glob.glob(str(pattern), recursive=True)):
        name = os.path.relpath(found, fixed)
        if os.path.isfile(found) and not any(is_junk(part) for part in name.split(os.sep)):
            yield stat_file(found, name)
