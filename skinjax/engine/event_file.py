"""A training's figures as TensorBoard reads them.

A module of its own, since tensorboardX imports PyTorch where that is installed: a second or two,
and a second set of CUDA libraries, which must not come into the process ahead of jax's.
"""

import socket
import time
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

# TensorBoard shows what is flushed; that waits for the disk, so not at each event.
_FLUSH_SECONDS = 60


class EventFile:
    """A file of TensorBoard's events, written by the thread that calls.

    tensorboardX's SummaryWriter hands them to a thread, which a full disk ends; the training would
    then wait for ever to hand over the next.

    Args:
        folder: of the files; a resumed run adds one.
        purge_step: events of this step and later ones, in the files before, are not shown.
    """

    def __init__(self, folder: Path, purge_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
        self._file = RecordWriter(str(folder / name))
        self._flushed = time.monotonic()
        self._write(file_version="brain.Event:2")
        self._write(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, figures: dict[str, float], step: int) -> None:
        """Adds figures of a step; on disk within a minute or so."""
        for name, value in figures.items():
            self._write(step=step, summary=scalar(name, value))
        if time.monotonic() > self._flushed + _FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes what is left."""
        self._file.close()

    def _write(self, **fields: Any) -> None:
        self._file.write(Event(wall_time=time.time(), **fields).SerializeToString())
