"""A run's folder: its configuration, its split, and who may go on with it."""

import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from absl import logging
from ml_collections import ConfigDict

from skinjax.engine.optim import OPEN_ENDED_SCHEDULES
from skinjax.errors import UserError
from skinjax.modes import bucket
from skinjax.modes.config import default_config, flatten
from skinjax.tasks.views import check_tta

LOCK = ".lock"
_WRITTEN_FIRST = (LOCK, "splits.csv", "classes.json")  # before config.json, which makes it a run
_WRITTEN_BEFORE_STEPS = ("config.json", "init_from.txt", bucket.CHECKPOINTS)

# Fields that change neither what is learnt nor how it is scored (a mesh: rounding aside).
MAY_CHANGE = (
    "log_every_steps",
    "save_every_steps",
    "keep_last",
    "remat",
    "mesh.data",
    "mesh.fsdp",
    "mesh.space",
    "max_skipped_steps",
    "data.source",
    "data.cache_dir",
    "data.cache",
    "data.num_threads",
)


def open_workdir(workdir: Path, config: ConfigDict) -> bool:
    """Makes the folder of a new run, or checks that it holds this one.

    Returns:
        Whether the run is there already. One that was refused before its first step is not: what
        was wrong with its configuration may have changed.

    Raises:
        UserError: where the folder holds another run, or something that is no run, or cannot be
            made.
    """
    left: tuple[str, ...] = _WRITTEN_FIRST
    if (workdir / "config.json").exists():
        if _is_begun(workdir):
            check_resume(workdir, config)
            return True
        read_config(workdir)  # refuses what is no run's
        left = (*_WRITTEN_FIRST, *_WRITTEN_BEFORE_STEPS)
    make_folder("workdir", workdir)
    # A run that was killed before its config.json was written, or refused before its first step,
    # has left no more than these.
    others = sorted(p.name for p in workdir.iterdir() if p.name not in left)
    others = [name for name in others if not (name.endswith(".tmp") or name.startswith("."))]
    if others:
        raise UserError(
            f"--workdir={workdir} is not empty and holds no run (it has "
            f"{', '.join(others[:3])}): name a new or "
            "an empty folder."
        )
    return False


def _is_begun(workdir: Path) -> bool:
    """Whether a folder with a config.json holds more than a training leaves before its steps."""
    checkpoints = bucket.checkpoints_folder(workdir)
    if checkpoints.exists() and any(checkpoints.iterdir()):
        return True
    # A config.json alone is somebody's record.
    prepared = all((workdir / name).exists() for name in ("splits.csv", "classes.json"))
    return (workdir / "metrics.jsonl").exists() or not prepared


def make_folder(flag: str, folder: Path) -> None:
    """Makes the folder that a flag names, where it is missing.

    Raises:
        UserError: where it cannot be made or written.
    """
    what = "made"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        what = "written"
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # a full disk is told as such
        raise UserError(
            f"--{flag}={folder} cannot be {what} ({error.strerror}): name a folder that can be "
            "written."
        ) from error


def _opened_lock(flag: str, workdir: Path) -> TextIO:
    try:
        return (workdir / LOCK).open("a+")
    except OSError as error:
        raise UserError(
            f"--{flag}={workdir} cannot be written ({error.strerror}): name a folder that can be."
        ) from error


@contextmanager
def locked(workdir: Path, flag: str = "workdir") -> Iterator[None]:
    """Holds a run's folder for one process; the lock ends with the process, however that ends.

    Of a folder in a bucket the original is held, too (`bucket.held`).

    Args:
        workdir: the folder; made where it is missing.
        flag: the one that names it, for messages.

    Raises:
        UserError: where another process writes to it, or it cannot be made or written.
    """
    make_folder(flag, workdir)
    with _opened_lock(flag, workdir) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"--{flag}={workdir} is in use by process {file.read().strip() or 'unknown'}: "
                "wait for it, "
                "stop it, or give this run a folder of its own."
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                raise
            logging.warning(
                "%s is on a file system without locks (%s): nothing hinders a second process from "
                "writing to it.",
                workdir,
                error.strerror,
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        with bucket.held(workdir):
            yield


def write_config(path: Path, config: ConfigDict) -> None:
    """Writes the whole configuration as JSON."""
    write_text(path, json.dumps(config.to_dict(), indent=2) + "\n")


def write_classes(path: Path, classes: Sequence[str]) -> None:
    """Writes the names of the classes that the run tells apart, in the order of its logits."""
    write_text(path, json.dumps(list(classes)) + "\n")


def read_classes(workdir: Path) -> tuple[str, ...]:
    """Reads what `write_classes` wrote.

    Raises:
        UserError: where it is missing or damaged.
    """
    path = workdir / "classes.json"
    try:
        return tuple(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): start the run's training command again, which "
            "writes it, or restore it from a copy."
        ) from error


def calibration_path(workdir: Path, step: int, tta: str) -> Path:
    """Where a run keeps what was chosen on val for a checkpoint and the views averaged over."""
    return workdir / "calibration" / f"step{step}{tta_suffix(tta)}.json"


def read_calibration(workdir: Path, step: int, tta: str) -> dict[str, Any] | None:
    """Reads what an evaluation chose on val for a checkpoint; warns where that is no temperature.

    Returns:
        Its 'temperature' and 'melanoma_threshold' among others; None where there was none yet.

    Raises:
        UserError: where the file is damaged.
    """
    path = calibration_path(workdir, step, tta)
    if not path.exists():
        return None
    try:
        calibration: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is damaged ({error}): delete it and evaluate the run again."
        ) from error
    if calibration["fitted_on"] != "val":
        logging.warning(
            "%s: all of val was told rightly, from which no temperature can be fitted. The "
            "probabilities of %s are as the network gives them.",
            path,
            workdir,
        )
    return calibration


def evaluation_name(
    split: str | None, dataset: str = "", tta: str = "", step: int | None = None
) -> str:
    """The name of an evaluation's folder.

    Args:
        split: that was scored; None is 'test', and 'all' of another data set.
        dataset: the other data set's name; empty for the run's own data.
        tta: what predictions were averaged over: '', 'flips' or 'zooms'.
        step: of the checkpoint, where it is another than the best.
    """
    name = (split or ("all" if dataset else "test")) + (f"-{dataset}" if dataset else "")
    return name + ("" if step is None else f"-step{step}") + tta_suffix(tta)


def tta_suffix(tta: str) -> str:
    """What tells files of predictions averaged over views from others: '', '-tta', '-tta-zooms'.

    Raises:
        UserError: where predictions cannot be averaged over that.
    """
    check_tta(tta)
    return {"": "", "flips": "-tta"}.get(tta, f"-tta-{tta}")


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    # Of each process its own: two evaluations of a run may write one file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def read_config(workdir: Path) -> ConfigDict:
    """Reads the configuration of a run.

    What an earlier version did not write yet has its default, which does what that version did.

    Raises:
        UserError: where the folder holds no run, or its config.json cannot be read.
    """
    path = workdir / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"--workdir={workdir} holds no run ({path} is missing): name the folder that a "
            "training wrote."
        ) from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}): restore it from a copy.") from error
    config = default_config(values.get("task", ""))
    with config.ignore_type():
        config.update(_tuples(values))
    return config


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that a configuration has."""
    if isinstance(value, dict):
        return {name: _tuples(v) for name, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def check_resume(workdir: Path, config: ConfigDict) -> None:
    """Refuses to go on with a run under a configuration that would make another run of it.

    Raises:
        UserError: naming each key that differs and may not.
    """
    old, new = flatten(read_config(workdir)), flatten(config)
    for fields in (old, new):  # where they lie may change, as for data.source
        fields["data.also"] = [(name, weight) for name, _, weight in fields["data.also"]]
    may_change = set(MAY_CHANGE)
    if config.schedule.name in OPEN_ENDED_SCHEDULES:
        may_change.add("num_epochs")
    changed = [
        f"config.{key}: {old.get(key)!r} there, {new.get(key)!r} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key not in may_change
    ]
    if changed:
        raise UserError(
            f"--workdir={workdir} holds another run: {'; '.join(changed)}. "
            "Give this one a --workdir of its own, or set these keys back."
        )
