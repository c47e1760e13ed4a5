"""Steps that were skipped because their loss or gradient was not finite: noted, up to a limit."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from skinjax.engine.monitor import cut_after
from skinjax.errors import UserError

FILE = "skipped_steps.jsonl"


class SkippedSteps:
    """Writes down which steps were skipped, and ends a run that does nothing else.

    Args:
        workdir: gets skipped_steps.jsonl, a line a step: its number and the image ids of its batch.
        start_step: the step that the training goes on from; lines of later ones are cut off.
        limit: how many in a row are borne.
        image_ids: of the batch of a step.
    """

    def __init__(
        self,
        workdir: Path,
        start_step: int,
        limit: int,
        image_ids: Callable[[int], Sequence[str]],
    ):
        self._path, self._limit, self._image_ids = workdir / FILE, limit, image_ids
        if jax.process_index() == 0:
            cut_after(self._path, start_step)

    def note(self, steps: Sequence[int], in_a_row: Sequence[int]) -> None:
        """Takes the steps that were skipped, and how many each was in a row.

        Raises:
            UserError: where these are more than the limit.
        """
        if jax.process_index() == 0:
            with self._path.open("a", encoding="utf-8") as file:
                for step in steps:
                    line = {"step": step, "image_ids": list(self._image_ids(step))}
                    file.write(json.dumps(line) + "\n")
        for step, count in zip(steps, in_a_row, strict=True):
            if count > self._limit:
                raise UserError(
                    f"Step {step}: the loss or its gradient was not finite, {count} times in a row "
                    f"now. These steps changed nothing, and the last checkpoint is kept; {FILE} "
                    "names their images. Where the images are sound, begin a new run with a lower "
                    "config.optimizer.learning_rate or with config.optimizer.clip_norm; to bear "
                    f"more, set config.max_skipped_steps ({self._limit}) and start again."
                )
