"""Folders in the cache that are whole or not there, and zips unpacked into them safely."""

import calendar
import contextlib
import fcntl
import hashlib
import lzma
import os
import platform
import shutil
import stat
import tempfile
import time
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from absl import logging

from skinjax.errors import UserError

# A terabyte is more than any public set of skin pictures; what claims more is a mistake or a bomb.
MAX_UNPACKED_BYTES = 2**40

_JUNK_NAMES = frozenset({"__macosx", "thumbs.db", "desktop.ini"})
_CHUNK_BYTES = 2**20
_HOST = f"-{platform.node()}-"
_DAY = 24 * 60 * 60.0
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    UnicodeDecodeError,
)


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is what systems leave behind, or hidden."""
    return name.startswith(".") or name.lower() in _JUNK_NAMES


def cache_folder(named: str) -> Path:
    """The folder of the cache that a configuration names, `~` resolved.

    Where the home that it lies in is missing or cannot be written, and holds nothing prepared
    either, it is one in the system's temporary folder, with a warning.
    """
    folder = Path(os.path.expanduser(named))
    if not named.startswith("~"):
        return folder
    is_writable = False
    if not str(folder).startswith("~"):  # else nobody knows of a home
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            is_writable = os.access(folder, os.W_OK)
    if is_writable or (folder / "prepared").is_dir():
        return folder
    other = Path(tempfile.gettempdir(), f"skinjax-{os.getuid()}")
    logging.warning(
        "%s cannot be written: data is prepared in %s; config.data.cache_dir can name another.",
        named,
        other,
    )
    return other


def disk_error(folder: Path, error: Exception) -> UserError:
    """The UserError for a cache folder that cannot be written, for example because it is full."""
    reason = getattr(error, "strerror", None) or str(error)
    return UserError(
        f"Cannot write to {folder} ({reason}): free space there or make it writable, or set "
        "config.data.cache_dir to a folder on another disk."
    )


def unreadable(path: str | Path, error: OSError) -> UserError:
    """The UserError for a file of the user's that cannot be read."""
    return UserError(
        f"Cannot read {path} ({error.strerror or error}): check that it is there and can be read."
    )


@contextlib.contextmanager
def build_folder(target: Path) -> Iterator[Path]:
    """Gives a temporary folder to fill, which becomes `target` in one step when all went well.

    So `target` is never seen half-filled. Where another process was faster, its folder stays and
    this one is dropped. Folders left behind by processes that died are removed; those of living
    ones are known by a lock on the folder and left alone. Other hosts do not see locks on folders
    of NFS: those of theirs are left alone until they are a day old.

    Args:
      target: The folder to make.

    Yields:
      The temporary folder, beside `target`.
    """
    parent = target.parent
    parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(parent)
    stem = f".{target.name}{_HOST}{uuid.uuid4().hex[:12]}"
    unlocked, temporary = parent / f"{stem}.new", parent / f"{stem}.tmp"
    unlocked.mkdir()
    descriptor = os.open(unlocked, os.O_RDONLY)
    try:
        # Some network file systems have no locks; nobody else can lock there either, and what
        # cannot be locked is not removed.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The lock goes with the folder: under its second name it is never seen unlocked.
        unlocked.rename(temporary)
        yield temporary
        # The new name must not reach the disk before the content does.
        os.sync()
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            logging.info("%s was made by another process meanwhile.", target)
    finally:
        shutil.rmtree(unlocked, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(descriptor)


def unpack(archive: Path, cache_dir: Path, *, max_bytes: int = MAX_UNPACKED_BYTES) -> Path:
    """Unpacks a zip into the cache, once; later calls find it there.

    The folder's name holds a digest of the zip's name, size and time of change. Files keep the
    times they have in the zip, so that unpacking again gives the same folder.

    Args:
      archive: The zip.
      cache_dir: The cache; the folder is made in its `unpacked`.
      max_bytes: The most that is unpacked.

    Returns:
      The folder that holds the zip's content.

    Raises:
      UserError: The zip is damaged, encrypted, too large, or holds a link, or a path that leads out
        of it or is another one elsewhere; or the cache cannot be written.
    """
    status = archive.stat()
    key = f"{archive.name}\n{status.st_size}\n{status.st_mtime_ns}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    target = cache_dir / "unpacked" / f"{archive.stem}-{digest}"
    if target.is_dir():
        return target
    with _opened(archive) as opened:
        members = _checked_members(archive, opened, max_bytes)
        total = sum(member.file_size for member, _ in members)
        logging.info("Unpacking %s (%.1f MB) into %s", archive, total / 1e6, target)
        try:
            _extract(archive, opened, members, total, target)
        except OSError as error:
            raise disk_error(target.parent, error) from error
    return target


def zip_names(archive: Path) -> list[str]:
    """Lists the paths of the files in a zip, junk left out.

    Raises:
      UserError: The zip is damaged.
    """
    with _opened(archive) as opened:
        # As paths, so that a leading "./", which some programs write, hides nothing.
        names = [PurePosixPath(name) for name in opened.namelist() if not name.endswith("/")]
    return [str(name) for name in names if not any(is_junk(part) for part in name.parts)]


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    """Opens a zip.

    Raises:
      UserError: It cannot be read, or was cut off or damaged; then also while it is in use.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except _ZIP_ERRORS as error:
        raise UserError(
            f"The zip {archive} cannot be unpacked ({error}): download it again, or unpack it "
            "yourself and give the folder."
        ) from error
    except OSError as error:
        raise unreadable(archive, error) from error


def _checked_members(
    archive: Path, opened: zipfile.ZipFile, max_bytes: int
) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """The files to unpack and their paths in the folder; junk is left out."""
    members = []
    total = 0
    for member in opened.infolist():
        path = PurePosixPath(member.filename)
        windows = PureWindowsPath(member.filename)
        if path.is_absolute() or ".." in (*path.parts, *windows.parts) or windows.anchor:
            raise UserError(
                f"The zip {archive} holds the path {member.filename!r}, which leads out of it: do "
                "not trust it, and download it again from where it is published."
            )
        if "\\" in member.filename or ":" in member.filename:
            raise UserError(
                f"The zip {archive} holds the path {member.filename!r}, whose backslash or colon "
                "means another thing on other systems: unpack it yourself and give the folder."
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UserError(
                f"The zip {archive} holds the link {member.filename!r}: unpack it yourself and "
                "give the folder."
            )
        if member.is_dir() or any(is_junk(part) for part in path.parts):
            continue
        if member.flag_bits & 1:
            raise UserError(
                f"The zip {archive} is encrypted: unpack it yourself and give the folder."
            )
        total += member.file_size
        members.append((member, path))
    if total > max_bytes:
        raise UserError(
            f"The zip {archive} would unpack to {total:,} bytes, above the limit of "
            f"{max_bytes:,}: unpack it yourself and give the folder."
        )
    return members


def _extract(
    archive: Path,
    opened: zipfile.ZipFile,
    members: list[tuple[zipfile.ZipInfo, PurePosixPath]],
    total: int,
    target: Path,
) -> None:
    """Writes the files; at most as many bytes as the zip announced, whatever it really holds."""
    with build_folder(target) as folder:
        free = shutil.disk_usage(folder).free
        if free < total:
            raise UserError(
                f"Unpacking {archive} takes {total / 1e9:.2f} GB and {target.parent} has "
                f"{free / 1e9:.2f} GB free: free some space, or set config.data.cache_dir to a "
                "folder on another disk."
            )
        for member, path in members:
            destination = folder / path
            destination.parent.mkdir(parents=True, exist_ok=True)
            # zipfile itself stops at the announced size and compares the checksum at the end.
            with opened.open(member) as packed, open(destination, "wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, _CHUNK_BYTES)
            # A zip tells no time zone; in any of ours it has to give the same. Some tell no month.
            year, month, *rest = member.date_time
            changed = calendar.timegm((year, min(max(month, 1), 12), *rest))
            os.utime(destination, (changed, changed))


def _remove_leftovers(parent: Path) -> None:
    """Removes the temporary folders of processes that died."""
    for leftover in parent.glob(".*.tmp"):
        try:
            descriptor = os.open(leftover, os.O_RDONLY)
        except OSError:
            continue  # another process removed it, it became whole, or it is another user's
        try:
            age = time.time() - os.fstat(descriptor).st_mtime
            if _HOST not in leftover.name and age < _DAY:
                continue
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # its process lives, or the file system knows no locks
        else:
            logging.info("Removing %s, which was left behind half-made.", leftover)
            shutil.rmtree(leftover, ignore_errors=True)
        finally:
            os.close(descriptor)
