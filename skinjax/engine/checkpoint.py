"""Checkpoints: the state, how far the data was read, and which of them are kept."""

import contextlib
import errno
import math
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from skinjax.errors import UserError

PyTree = Any


class Checkpoints:
    """The checkpoints of one run: the last few and the best, each state and progress as one whole.

    Orbax's `max_to_keep` with a `best_fn` may delete the newest; the two preservation policies keep
    both. A checkpoint is written beside its place and renamed when whole, so that a run killed
    while saving finds the one before.

    Args:
        directory: where they lie; made where it is missing, unless `read_only`.
        keep_last: how many of the newest are kept.
        best_metric: the figure, higher is better, whose best checkpoint is kept too.
        read_only: for reading the checkpoints of a run that may still be training.
    """

    def __init__(
        self, directory: Path, keep_last: int, best_metric: str, *, read_only: bool = False
    ):
        self.directory = directory

        def score(metrics: dict[str, float]) -> float:
            # One that was saved between evaluations is never the best, unless there are no others.
            return metrics.get(best_metric, -math.inf)

        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep_last),
                checkpoint_managers.BestN(get_metric_fn=score, n=1),
            ]
        )
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                best_fn=score,
                create=not read_only,
                cleanup_tmp_directories=not read_only,
            ),
            item_names=("state", "progress"),
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(),
                "progress": ocp.JsonCheckpointHandler(),
            },
        )

    def steps(self) -> list[int]:
        """The steps that a whole checkpoint is there for, ascending."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """The newest checkpoint's step; None where there is none."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step of the best by the named metric; the newest where none was evaluated."""
        return self._manager.best_step()

    def save(
        self, step: int, state: PyTree, progress: dict[str, Any], metrics: dict[str, float] | None
    ) -> None:
        """Starts to save a checkpoint; returns as soon as the arrays are off the device.

        Args:
            step: updates done.
            state: the arrays.
            progress: plain values: the data's position and the clock.
            metrics: figures of an evaluation at this very step, or None where there was none.

        Raises:
            UserError: where the disk is full (of this checkpoint or of the one before).
        """
        with self._full_disk_told():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(state), progress=ocp.args.JsonSave(progress)
                ),
                metrics=metrics or {},
            )

    def wait(self) -> None:
        """Waits until what was saved is on the disk.

        Raises:
            UserError: where the disk is full.
        """
        with self._full_disk_told():
            self._manager.wait_until_finished()

    def restore(self, step: int, abstract_state: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """Reads the checkpoint of a step, onto the devices that the abstract state names.

        Args:
            step: one of `steps()`.
            abstract_state: `jax.ShapeDtypeStruct`s with shardings.

        Returns:
            The state and the progress, as they were saved.
        """
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=_restore_args(abstract_state), progress=ocp.args.JsonRestore()
            ),
        )
        return restored.state, restored.progress

    def restore_variables(self, step: int, sharding: jax.sharding.Sharding) -> PyTree:
        """Reads only what predicts: the averaged variables where the run averages, else the raw.

        Neither the optimiser nor the devices of the training need to be known.

        Args:
            step: one of `steps()`.
            sharding: where the variables shall lie.

        Returns:
            {'params': ..., 'batch_stats': ...}.
        """
        saved = self._manager.item_metadata(step)["state"]
        names = ["ema"] if saved["ema"] else ["params", "batch_stats"]
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            {name: saved[name] for name in names},
        )
        args = ocp.args.Composite(state=_restore_args(abstract, partial_restore=True))
        restored = self._manager.restore(step, args=args).state
        return restored.get("ema", restored)

    @contextlib.contextmanager
    def _full_disk_told(self) -> Iterator[None]:
        """Turns what a full disk raises into the user's words, and nothing else."""
        try:
            yield
        except Exception as error:
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            # tensorstore reports the system's words inside errors of its own kind.
            words = ("No space left on device", "Disk quota exceeded")
            if full or any(word in str(error) for word in words):
                raise UserError(
                    f"The disk is full: a checkpoint could not be saved in {self.directory}. Those "
                    "before it are whole; make room and start the same command again, it goes on "
                    "from the newest."
                ) from error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finishes what is being saved, whatever ended the run."""
        if error is not None:
            self._manager.close()
            return
        with self._full_disk_told():
            self._manager.close()


def _restore_args(abstract: PyTree, **options: bool) -> ocp.args.PyTreeRestore:
    restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
    return ocp.args.PyTreeRestore(item=abstract, restore_args=restore_args, **options)
