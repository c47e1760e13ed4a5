"""What was done in a folder of predictions, kept so that a run that was stopped goes on."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from skinjax.data.sources.files import File
from skinjax.errors import UserError
from skinjax.modes.workdir import LOCK, locked, make_folder, write_text

SETTINGS = "settings.json"
_JOURNAL = ".journal.jsonl"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A picture that was dealt with.

    Attributes:
        name: its `File.relative`.
        num_bytes: its size then.
        mtime_ns: when it had last been changed then.
        row: what predictions.csv says of it after its name; first 'ok' or why it was not read.
        kinds: the sub-folders in which a file of it is that of the picture as it was then.
    """

    name: str
    num_bytes: int
    mtime_ns: int
    row: list[str]
    kinds: list[str]

    def is_of(self, file: File) -> bool:
        """Whether the picture was read, and its file is still what it was."""
        unchanged = (file.num_bytes, file.mtime_ns) == (self.num_bytes, self.mtime_ns)
        return unchanged and self.row[0] == "ok"


class Journal:
    """The pictures of an output folder that are done; a line each, written as it is done.

    Args:
        folder: the output folder, made where it is missing; held for this process until closed.
        settings: all that the answers depend on, as JSON has it.
        about: more to tell whoever opens settings.json; it may change.

    Attributes:
        entries: by name, those of earlier runs too.

    Raises:
        UserError: where the folder holds something else, or predictions of other settings, or
            another process writes to it.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], about: dict[str, Any]):
        make_folder("output", folder)
        with contextlib.ExitStack() as stack:
            _check_folder(folder)
            stack.enter_context(locked(folder, "output"))
            _check_settings(folder, settings)
            write_text(folder / SETTINGS, json.dumps(about | settings, indent=2) + "\n")
            self.entries = {entry.name: entry for entry in _read(folder / _JOURNAL)}
            # Written anew: a line that a kill cut short would spoil the next one.
            lines = [_line(entry) for entry in self.entries.values()]
            write_text(folder / _JOURNAL, "".join(lines))
            self._file = stack.enter_context((folder / _JOURNAL).open("a", encoding="utf-8"))
            self._stack = stack.pop_all()

    def add(self, entry: Entry) -> None:
        """Notes that a picture is done."""
        self.entries[entry.name] = entry
        self._file.write(_line(entry))
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Lets go of the folder."""
        self._stack.close()


def _check_folder(folder: Path) -> None:
    """Refuses a folder that holds something which is no earlier output."""
    if (folder / SETTINGS).exists():
        return
    others = sorted(p.name for p in folder.iterdir() if p.name != LOCK)
    if others:
        raise UserError(
            f"--output={folder} is not empty and holds no predictions (it has "
            f"{', '.join(others[:3])}): name a new or an empty folder."
        )


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Refuses a folder whose predictions were made otherwise."""
    path = folder / SETTINGS
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}): name another --output.") from error
    # As JSON would give them back.
    now = json.loads(json.dumps(settings))
    changed = [
        f"{key} {_short(before.get(key))} there, {_short(value)} now"
        for key, value in now.items()
        if before.get(key) != value
    ]
    if changed:
        raise UserError(
            f"--output={folder} holds predictions made otherwise: {'; '.join(changed)}. Name "
            "another folder, or delete this one to have all pictures predicted anew."
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _read(path: Path) -> Iterator[Entry]:
    """The entries of a journal as far as they are whole: a kill may have cut the last one short."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                yield Entry(*json.loads(line))
            except json.JSONDecodeError:
                return


def _line(entry: Entry) -> str:
    return json.dumps(dataclasses.astuple(entry)) + "\n"
