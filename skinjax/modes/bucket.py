"""A run's folder in a Cloud Storage bucket, worked on through a copy of it on this machine.

Checkpoints, which are large, lie in the bucket alone: Orbax writes and reads them there. All else
of a run is small, and much of it grows line by line, which an object cannot: it is written into
the copy, and copied to the bucket when a checkpoint is about to be saved and at the end. So what
the bucket holds is never behind its newest checkpoint.
"""

import contextlib
import fnmatch
import functools
import hashlib
import json
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import jax
from absl import logging
from etils import epath

from skinjax.errors import UserError
from skinjax.process import end_at_once

SCHEME = "gs://"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"
# The lock is written anew so often; one that has not been for LEASE_SECONDS is nobody's any more.
RENEWAL_SECONDS = 20.0
LEASE_SECONDS = 90.0
# In the copy: its address, and the digests of what is in the bucket as it is here.
_NOTE = ".bucket"


@contextlib.contextmanager
def opened(workdir: str) -> Iterator[Path]:
    """Gives the folder to work in for a workdir: itself, or for one in a bucket a copy of it here.

    What has changed in the copy is copied back at the end, whatever ended it; then it is deleted.

    Raises:
        UserError: where the bucket cannot be read or written.
    """
    if not workdir.startswith(SCHEME):
        yield Path(workdir)
        return
    address = workdir.rstrip("/")
    with tempfile.TemporaryDirectory(prefix="skinjax-") as temporary:
        # The same name: it is in titles and messages.
        copy = Path(temporary, *address.removeprefix(SCHEME).split("/"))
        copy.mkdir(parents=True)
        digests = _fetch(copy, address)
        try:
            yield copy
        except UserError as error:
            # In the user's words: the copy is gone by the time that it is read.
            error.args = tuple(str(arg).replace(str(copy), address) for arg in error.args)
            raise
        finally:
            # Of every process: each may have written masks into its copy.
            _publish(copy)
            if _read_note(copy)[1] != digests:
                print(f"What was written to {copy} is in {address}.", flush=True)


def _fetch(copy: Path, address: str, left_out: str | None = None) -> dict[str, str]:
    """Brings a copy to what the bucket has now, but for one folder; the digests of its files."""
    _, digests = _read_note(copy)
    with _told(address):
        for name, blob in _blobs(address).items():
            if left_out and name.startswith(left_out):
                continue
            content = blob.download_as_bytes()
            digests[name] = _digest(content)
            path = copy / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    _write_note(copy, address, digests)
    return digests


def publish(workdir: Path) -> None:
    """Copies what is new in a folder to its bucket; does nothing where it is of none.

    Of several processes of a training it is the first one alone that does, since it alone writes.

    Raises:
        UserError: where the bucket cannot be written.
    """
    if jax.process_index() == 0:
        _publish(workdir)


def _publish(workdir: Path) -> None:
    address, digests = _read_note(workdir)
    if address is None:
        return
    files = [path for path in workdir.rglob("*") if path.is_file()]
    names = {path.relative_to(workdir).as_posix(): path for path in files}
    with _told(address):
        # An evaluation that was begun anew and stopped has no figures, in the bucket neither.
        for name in [name for name in digests if name not in names and _is_figures(name)]:
            _blob(address, name).delete()
            del digests[name]
        # Last what makes it a run.
        for name in sorted(names, key=lambda name: (name == "config.json", name)):
            content = names[name].read_bytes()
            if not _is_private(name) and digests.get(name) != _digest(content):
                _blob(address, name).upload_from_string(content, "application/octet-stream")
                digests[name] = _digest(content)
    _write_note(workdir, address, digests)


def _is_figures(name: str) -> bool:
    return fnmatch.fnmatch(name, "evaluate/*/metrics.json")


def checkpoints_folder(workdir: Path) -> Path | epath.Path:
    """Where the checkpoints of a run lie: in the folder, or in the bucket that it is a copy of."""
    address, _ = _read_note(workdir)
    return epath.Path(f"{address}/{CHECKPOINTS}") if address else workdir / CHECKPOINTS


def is_copy(workdir: Path) -> bool:
    """Whether a folder is a copy of one in a bucket."""
    return _read_note(workdir)[0] is not None


def address_of(workdir: Path) -> str:
    """Where a run's folder is found again: its place in a bucket, or its whole path."""
    return _read_note(workdir)[0] or str(workdir.resolve())


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Holds a run in a bucket for one process; does nothing where the folder is of no bucket.

    Raises:
        UserError: where another process holds it.
    """
    address, _ = _read_note(workdir)
    if address is None:
        yield
        return
    lock = _Lock(address)
    with _told(address):
        lock.acquire()
    ended = threading.Event()
    keeper = threading.Thread(target=lock.keep, args=(ended,), daemon=True)
    keeper.start()
    try:
        # Whoever held it before may have gone on since the copy was made.
        _fetch(workdir, address, left_out="evaluate/")
        yield
    finally:
        ended.set()
        keeper.join()
        with _told(address):
            lock.release()


class _Lock:
    """An object that only one process can create and that its holder writes anew and anew.

    One whose holder died is taken over when it has stayed the same for LEASE_SECONDS, by the clock
    of the one who waits: no two machines' clocks are compared.
    """

    def __init__(self, address: str):
        self._address = address
        # With a word of its own: two containers may have the same names and numbers.
        self._words = f"process {os.getpid()} on {socket.gethostname()} ({uuid.uuid4().hex[:8]})"
        self._generation = 0  # that of an object which is not there

    def acquire(self) -> None:
        """Creates the lock, or takes over one that is nobody's."""
        while not self._write():
            generation, holder = self._read()
            if self._generation and generation:
                raise UserError(
                    f"--workdir={self._address} is in use by {holder}: wait for it, stop it, or "
                    "give this run a folder of its own."
                )
            self._generation = generation
            if generation:
                print(
                    f"{self._address} is or was in use by {holder}; waiting for "
                    f"{LEASE_SECONDS:.0f} s to see which.",
                    flush=True,
                )
                time.sleep(LEASE_SECONDS)

    def keep(self, ended: threading.Event) -> None:
        """Writes the lock anew until the run has ended; ends the process where it is lost."""
        while not ended.wait(RENEWAL_SECONDS):
            try:
                if self._write():
                    continue
            except Exception as error:
                logging.warning("%s cannot be reached: %s", self._address, error)
                continue
            logging.error(
                "%s could not be reached for so long that another process has taken it: this one "
                "ends, so that not both write there.",
                self._address,
            )
            end_at_once(2)

    def release(self) -> None:
        """Deletes the lock, where it is still this process's."""
        from google.api_core.exceptions import NotFound, PreconditionFailed

        try:
            _blob(self._address, LOCK).delete(if_generation_match=self._generation)
        except (NotFound, PreconditionFailed):
            logging.warning("The lock of %s was another process's at the end.", self._address)

    def _write(self) -> bool:
        """Writes the lock if it still is what this process knows; returns whether it was."""
        from google.api_core.exceptions import PreconditionFailed

        blob = _blob(self._address, LOCK)
        try:
            blob.upload_from_string(self._words, if_generation_match=self._generation)
        except PreconditionFailed:
            generation, holder = self._read()
            if holder != self._words:
                return False
            # It was written, and only the answer lost.
            self._generation = generation
            return True
        self._generation = int(blob.generation)
        return True

    def _read(self) -> tuple[int, str]:
        """The lock's generation and words; 0 where it is not there."""
        from google.api_core.exceptions import NotFound

        blob = _blob(self._address, LOCK)
        try:
            words = blob.download_as_bytes().decode()
        except NotFound:
            return 0, ""
        return int(blob.generation), words


def _read_note(workdir: Path) -> tuple[str | None, dict[str, str]]:
    """The address that a folder is a copy of, None where of none, and the digests of its files."""
    path = workdir / _NOTE
    if not path.is_file():
        return None, {}
    note = json.loads(path.read_text(encoding="utf-8"))
    return note["address"], note["digests"]


def _write_note(workdir: Path, address: str, digests: dict[str, str]) -> None:
    note = json.dumps({"address": address, "digests": digests})
    (workdir / _NOTE).write_text(note, encoding="utf-8")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_private(name: str) -> bool:
    """Whether a file is no part of a run: temporary, a lock, or the note of the bucket."""
    last = PurePosixPath(name).name
    return last.startswith(".") or last.endswith(".tmp")


@functools.cache
def _client(address: str) -> Any:
    """The library's client; made once, since it logs in."""
    try:
        from google.cloud import storage
    except ImportError as error:
        raise UserError(
            f"--workdir={address} needs further libraries: install skinjax with its extra gcs "
            "(launch/local.sh does, where an argument begins with gs://), or name a folder."
        ) from error
    # Others write there too: what Orbax lists is not to be remembered.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    return storage.Client()


def _bucket(address: str) -> tuple[Any, str]:
    """The bucket of an address, and the prefix of its objects' names."""
    name, _, prefix = address.removeprefix(SCHEME).partition("/")
    if not name or not prefix:
        raise UserError(f"--workdir={address} names no folder in a bucket: say gs://BUCKET/FOLDER.")
    return _client(address).bucket(name), f"{prefix}/"


def _blob(address: str, name: str) -> Any:
    bucket, prefix = _bucket(address)
    return bucket.blob(prefix + name)


def _blobs(address: str) -> dict[str, Any]:
    """The objects of a run by their names in it; its checkpoints and what is private left out."""
    bucket, prefix = _bucket(address)
    found = {blob.name.removeprefix(prefix): blob for blob in bucket.list_blobs(prefix=prefix)}
    return {
        name: blob
        for name, blob in found.items()
        if not (name.endswith("/") or name.startswith(f"{CHECKPOINTS}/") or _is_private(name))
    }


@contextlib.contextmanager
def _told(address: str) -> Iterator[None]:
    """Turns what the bucket's library raises into the user's words."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        from google.api_core.exceptions import Forbidden, NotFound, Unauthorized
        from google.auth.exceptions import GoogleAuthError

        mends = {
            GoogleAuthError: "log in with `gcloud auth application-default login`",
            Unauthorized: "log in with `gcloud auth application-default login`",
            Forbidden: "have yourself given the right to read and write its objects",
            NotFound: "create the bucket, or name another one",
        }
        for kind, mend in mends.items():
            if isinstance(error, kind):
                raise UserError(f"--workdir={address} cannot be used ({error}): {mend}.") from error
        raise
