"""What a training shows and writes while it runs: progress, rates, JSONL and TensorBoard."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import jax

from skinjax.engine.steps import InFlight

if TYPE_CHECKING:
    from skinjax.engine.event_file import EventFile


class Monitor:
    """Logs a training's figures, one window behind it, so that none is waited for.

    A window is the steps between two log events. Its figures are fetched when the next one is
    full: by then the device is done with them. Rates leave out compilation and evaluation
        (`pause`).

    Args:
        workdir: gets metrics.jsonl and TensorBoard's files.
        start_step: the step that the training goes on from; later lines of an earlier, stopped run
            are cut off, since their steps are done again.
        total_steps: of the whole training.
        batch_size: images a step.
        steps_per_epoch: may be fractional.
        training_seconds: what the run had spent on its steps before it was resumed.
        writes: whether this process writes; where it does not, another one of the run does.
        note_skipped: is told, of a window that has some, the steps that were skipped and how many
            each was in a row (`skipped.SkippedSteps.note`).
    """

    def __init__(
        self,
        workdir: Path,
        *,
        start_step: int,
        total_steps: int,
        batch_size: int,
        steps_per_epoch: float,
        training_seconds: float,
        note_skipped: Callable[[Sequence[int], Sequence[int]], None],
        writes: bool = True,
    ):
        self._total_steps = total_steps
        self._batch_size = batch_size
        self._steps_per_epoch = steps_per_epoch
        path = workdir / "metrics.jsonl" if writes else Path(os.devnull)
        if writes:
            cut_after(path, start_step)
        self._file = path.open("a", encoding="utf-8")
        self._tensorboard = _open_tensorboard(workdir, start_step + 1) if writes else None
        self._note_skipped = note_skipped
        self._window: list[dict[str, jax.Array]] = []
        self._behind: list[dict[str, jax.Array]] = []
        self._in_flight = InFlight()
        self._behind_closed = 0.0
        self._seconds_before = training_seconds
        self._start = self._window_start = time.monotonic()
        self._paused = self._window_paused = 0.0
        self._fetched_step = start_step
        self._status_width = 0

    @property
    def training_seconds(self) -> float:
        """Seconds spent on steps so far, those of the resumed runs included, pauses not."""
        return self._seconds_before + time.monotonic() - self._start - self._paused

    def progress(self, step: int) -> dict[str, float]:
        """What a checkpoint notes beside the state: the data's position and the clock."""
        return {
            "examples_seen": step * self._batch_size,
            "training_seconds": self.training_seconds,
        }

    def add(self, figures: dict[str, jax.Array]) -> None:
        """Takes one step's figures, scalars on the device, and waits as `steps.InFlight` does."""
        self._window.append(figures)
        self._in_flight.add(figures)

    def log_window(self, step: int) -> None:
        """Closes the window at `step`; writes it if the device is done with it, and what was left.

        Raises:
            UserError: where too many steps in a row were skipped.
        """
        behind, self._behind = self._behind, []
        window, self._window = self._window, []
        now, is_ready = time.monotonic(), _is_ready(window)
        if behind:
            # Where the host waits for the device at each step, the window was done as it closed;
            # where the host runs ahead, it is done when its figures have come.
            done = self._behind_closed if _is_ready(behind) else None
            self._write_window(step - len(window), behind, done)
        if is_ready:
            self._write_window(step, window, now)
        else:
            self._behind, self._behind_closed = window, now

    def flush(self, step: int) -> None:
        """Writes what is not written yet, waiting for the device: for a pause or the end."""
        left = self._behind + self._window
        self._behind, self._window = [], []
        if left:
            self._write_window(step, left)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves what happens inside (compilation, evaluation) out of the rates."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - start

    def write(self, step: int, split: str, figures: dict[str, float]) -> None:
        """Writes one log event: a line of JSON, and a point a figure for TensorBoard."""
        event = {"step": step, "epoch": round(step / self._steps_per_epoch, 4), "split": split}
        self._file.write(json.dumps(event | figures) + "\n")
        self._file.flush()
        if self._tensorboard is not None:
            self._tensorboard.add(figures, step)

    def say(self, line: str) -> None:
        """Prints a line that stays."""
        self._clear_status()
        print(line, flush=True)

    def _write_window(
        self, step: int, window: list[dict[str, jax.Array]], done: float | None = None
    ) -> None:
        """Fetches and writes a window's figures; its time ends at `done`, or when they are here."""
        rows = jax.device_get(window)
        now = time.monotonic() if done is None else done
        seconds = now - self._window_start - (self._paused - self._window_paused)
        self._window_start, self._window_paused = now, self._paused
        num_steps = step - self._fetched_step
        self._fetched_step = step
        rate = num_steps * self._batch_size / max(seconds, 1e-9)
        good = [row for row in rows if not row["skipped"]]
        figures = {
            f"train/{name}": float(sum(row[name] for row in good)) / len(good)
            for name in (good[0] if good else ())
            if name not in ("learning_rate", "skipped")
        }
        figures |= {
            "train/skipped_steps": len(rows) - len(good),
            "learning_rate": float(rows[-1]["learning_rate"]),
            "images_per_second": rate,
        }
        self.write(step, "train", figures)
        if len(good) < len(rows):
            in_a_row = {step - len(rows) + n: int(row["skipped"]) for n, row in enumerate(rows, 1)}
            in_a_row = {number: count for number, count in in_a_row.items() if count}
            self.say(
                f"{len(in_a_row)} of the steps {step - len(rows) + 1:,} to {step:,} skipped: their "
                "loss or gradient was not finite."
            )
            self._note_skipped(list(in_a_row), list(in_a_row.values()))
        left = (self._total_steps - step) * self._batch_size / rate
        loss = f"{figures['train/loss']:.4f}" if good else "not finite"
        self._status(
            f"step {step:,}/{self._total_steps:,}  epoch {step / self._steps_per_epoch:.1f}  "
            f"loss {loss}  {rate:,.0f} images/s  {duration(left)} left"
        )

    def _status(self, line: str) -> None:
        """Shows a line that the next one replaces; on what is no terminal, a line of its own."""
        if not sys.stdout.isatty():
            print(line, flush=True)
            return
        self._clear_status()
        self._status_width = len(line)
        print(line, end="\r", flush=True)

    def _clear_status(self) -> None:
        if self._status_width:
            print(" " * self._status_width, end="\r")
            self._status_width = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._clear_status()
        try:
            self._file.close()
        finally:
            if self._tensorboard is not None:
                self._tensorboard.close()


def _open_tensorboard(workdir: Path, purge_step: int) -> "EventFile":
    # Not above: what this imports must come after jax's devices, as event_file.py says.
    from skinjax.engine.event_file import EventFile

    return EventFile(workdir / "tensorboard", purge_step)


def _is_ready(window: list[dict[str, jax.Array]]) -> bool:
    # Several processes must find a loss that is not finite at the same step, whichever is faster.
    return jax.process_count() == 1 and all(
        figure.is_ready()  # type: ignore[attr-defined]
        for figure in window[-1].values()
    )


def cut_after(path: Path, step: int) -> None:
    """Cuts the log events after `step`, and a torn last line, off a metrics.jsonl."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            event: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            break  # torn by a kill while it was being written: nothing follows it
        if event["step"] <= step:
            kept.append(line + "\n")
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    temporary.replace(path)


def duration(seconds: float) -> str:
    """Seconds as a person says them: '48 s', '12 min', '3 h 20 min'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
