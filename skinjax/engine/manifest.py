"""A manifest of digests: whether a checkpoint on disk still is what was written.

Orbax keeps no checksum of the arrays and restores a flipped bit without a word. The manifest is
written when all else of a checkpoint is, before the checkpoint gets its name: a run killed while
it saves leaves both or neither.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import orbax.checkpoint as ocp

T = TypeVar("T")

MANIFEST = "manifest.json"
# Orbax's description of a checkpoint. It and the mark of success get their last words after the
# manifest: the time of the commit.
_DESCRIPTION = "_CHECKPOINT_METADATA"
_LATER = (_DESCRIPTION, "commit_success.txt", MANIFEST)


def write_manifest(folder: Path) -> None:
    """Writes the size and the SHA-256 of each file of a checkpoint into its manifest.

    Args:
        folder: that holds the checkpoint, wholly written.
    """
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    names = sorted(name for name in names if name not in _LATER)
    digests = _map(lambda name: _digest(folder / name), names)
    files = {
        name: {"bytes": num_bytes, "sha256": digest}
        for name, (num_bytes, digest) in zip(names, digests, strict=True)
    }
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")


def description() -> dict[str, Any]:
    """What a checkpoint's description says of itself where it has a manifest."""
    return {"manifest": MANIFEST}


def has_manifest(folder: Path) -> bool:
    """Whether a checkpoint can be checked: those of versions before the manifests cannot."""
    return (folder / MANIFEST).exists()


def find_damage(folder: Path, item: str = "") -> str | None:
    """What of a checkpoint is no longer as it was written, in words; None where all is.

    Of a checkpoint from before there were manifests, the description alone is looked at.

    Args:
        folder: of the checkpoint.
        item: 'metrics' and the like: looks at this part of the checkpoint alone.
    """
    try:
        _check(folder, item)
    except _DamageError as damage:
        return str(damage)
    return None


class _DamageError(Exception):
    """What is wrong with a file, by its name."""


def _check(folder: Path, item: str) -> None:
    with _named(_DESCRIPTION):
        described = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        items, own = set(described["item_handlers"]), dict(described["custom_metadata"])
        # Orbax reads it too, and raises where a field is not as it should be.
        if ocp.path.step.Metadata(step=0, path=folder).commit_timestamp_nsecs is None:
            raise ValueError("no time of commit")
    if not has_manifest(folder):
        if own.get("manifest"):
            raise _DamageError(f"{MANIFEST} is missing")
        return
    with _named(MANIFEST):
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"].items()
        expected = {name: (file["bytes"], file["sha256"]) for name, file in files}
    # Orbax does not look for scores where the description has none.
    if items != {name.split("/")[0] for name in expected} or not own.get("manifest"):
        raise _DamageError(f"{_DESCRIPTION} has changed")

    def compare(name: str) -> None:
        with _named(name):
            num_bytes, digest = _digest(folder / name)
        if num_bytes != expected[name][0]:
            raise _DamageError(f"{name} has {num_bytes:,} of its {expected[name][0]:,} bytes")
        if digest != expected[name][1]:
            raise _DamageError(f"{name} has changed")

    _map(compare, [name for name in expected if name.startswith(f"{item}/" if item else "")])


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Turns what reading a file raises into the damage that it means."""
    try:
        yield
    except FileNotFoundError as error:
        raise _DamageError(f"{name} is missing") from error
    except OSError as error:
        raise _DamageError(f"{name} cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _DamageError(f"{name} has changed") from error


def _digest(path: Path) -> tuple[int, str]:
    """The number of a file's bytes and their SHA-256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def _map(function: Callable[[str], T], names: Iterable[str]) -> list[T]:
    """In threads: hashing leaves Python's lock to others."""
    with ThreadPoolExecutor(thread_name_prefix="digest") as pool:
        return list(pool.map(function, names))
