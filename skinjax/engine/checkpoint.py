"""Checkpoints: the state, how far the data was read, and which of them are kept."""

import contextlib
import errno
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from skinjax.engine import manifest
from skinjax.engine.state import TrainState
from skinjax.errors import UserError

PyTree = Any


class Checkpoints:
    """The checkpoints of one run: the last few and the best, each state and progress as one whole.

    Orbax's `max_to_keep` with a `best_fn` may delete the newest; the two preservation policies keep
    both. A checkpoint is written beside its place and renamed when whole, so that a run killed
    while saving finds the one before. Each holds a manifest of digests; what no longer is as it was
    written is moved to `damaged-STEP`, with a warning, and is not used. In a bucket there is none:
    an object has its own checksum, which Cloud Storage checks.

    Args:
        directory: where they lie, gs:// too; made where it is missing, unless `read_only`.
        keep_last: how many of the newest are kept.
        best_metric: the figure, higher is better, whose best checkpoint is kept too.
        read_only: for reading the checkpoints of a run that may still be training: nothing is
            moved, and one that is damaged is refused when it is to be read.

    Attributes:
        directory: where they lie.
        unreadable: steps whose scores cannot be read any more, and why; of `read_only` alone.

    Raises:
        UserError: where there are checkpoints and each of them is damaged.
    """

    def __init__(
        self,
        directory: Path | epath.Path,
        keep_last: int,
        best_metric: str,
        *,
        read_only: bool = False,
    ):
        # What is in a bucket has no other than its whole address.
        self.directory = directory.absolute() if isinstance(directory, Path) else directory
        self._read_only = read_only
        self._step_to_save = -1
        self.unreadable: dict[int, str] = {}
        self._on_disk = isinstance(self.directory, Path)
        if isinstance(self.directory, Path):
            if read_only:
                self.unreadable = _find_damaged(self.directory, "metrics")
            else:
                _move_damaged(self.directory)

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
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                best_fn=score,
                create=not read_only,
                cleanup_tmp_directories=not read_only,
                step_name_format=_Except(self.unreadable) if read_only else None,
                async_options=ocp.AsyncOptions(
                    post_finalization_callback=self._write_manifest if self._on_disk else None
                ),
            ),
            item_names=("state", "progress"),
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(type_handler_registry=_array_handlers()),
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
            self._manager.wait_until_finished()  # the one before has its manifest by its own step
            # Asked first, since what a full disk does to Orbax's threads fills the terminal.
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
            if isinstance(self.directory, Path) and shutil.disk_usage(self.directory).free < size:
                raise self._full_disk()
            self._step_to_save = step
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(state), progress=ocp.args.JsonSave(progress)
                ),
                metrics=metrics or {},
                custom_metadata=manifest.description() if self._on_disk else None,
            )

    def _write_manifest(self) -> None:
        """Orbax calls this in its thread, and in one process, before it renames a checkpoint."""
        assert isinstance(self.directory, Path)
        folder = f"{self._step_to_save}{ocp.path.step.TMP_DIR_SUFFIX}"
        manifest.write_manifest(self.directory / folder)

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
            abstract_state: a `TrainState`, or another tree, of `jax.ShapeDtypeStruct`s with
                shardings.

        Returns:
            The state and the progress, as they were saved.

        Raises:
            UserError: where it is damaged.
        """
        self._refuse_damaged(step)
        wanted: PyTree = abstract_state
        saved = self._manager.item_metadata(step)["state"]
        counts_skipped = not isinstance(abstract_state, TrainState) or "skipped" in saved
        if not counts_skipped:  # saved before steps were skipped
            wanted = {name: value for name, value in vars(wanted).items() if name != "skipped"}
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(state=_restore_args(wanted), progress=ocp.args.JsonRestore()),
        )
        if counts_skipped:
            return restored.state, restored.progress
        none = jax.device_put(jnp.int32(0), abstract_state.skipped.sharding)
        return TrainState(**restored.state, skipped=none), restored.progress

    def restore_variables(self, step: int, sharding: jax.sharding.Sharding) -> PyTree:
        """Reads only what predicts: the averaged variables where the run averages, else the raw.

        Neither the optimiser nor the devices of the training need to be known.

        Args:
            step: one of `steps()`.
            sharding: where the variables shall lie.

        Returns:
            {'params': ..., 'batch_stats': ...}.

        Raises:
            UserError: where it is damaged.
        """
        self._refuse_damaged(step)
        saved = self._manager.item_metadata(step)["state"]
        names = ["ema"] if saved["ema"] else ["params", "batch_stats"]
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            {name: saved[name] for name in names},
        )
        args = ocp.args.Composite(state=_restore_args(abstract, partial_restore=True))
        restored = self._manager.restore(step, args=args).state
        return restored.get("ema", restored)

    def _refuse_damaged(self, step: int) -> None:
        """Refuses a checkpoint that is no longer as it was written; warns where nobody can tell."""
        if not isinstance(self.directory, Path):
            return
        folder = self.directory / str(step)
        if not manifest.has_manifest(folder):
            logging.warning(
                "The checkpoint %s was saved before checkpoints had a manifest of digests: whether "
                "it still is as it was written cannot be checked.",
                folder,
            )
        if not self._read_only:
            return  # it was checked when the folder was opened, or written since
        if damage := manifest.find_damage(folder):
            others = ", ".join(str(other) for other in self.steps() if other != step)
            raise UserError(
                f"The checkpoint {folder} is damaged: {damage}. Bring it back from a copy, or name "
                f"another (--checkpoint=STEP; there are {others or 'none'}); none was taken in its "
                "place."
            )

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
                raise self._full_disk() from error
            raise

    def _full_disk(self) -> UserError:
        return UserError(
            f"The disk is full: a checkpoint could not be saved in {self.directory}. Those before "
            "it are whole; make room and start the same command again, it goes on from the newest."
        )

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
            # What several processes save together never ends where one of them is gone.
            if jax.process_count() == 1:
                try:
                    self._manager.close()
                except Exception as second:  # told, but what ended the run is what is raised
                    logging.warning("A checkpoint could not be finished (%s).", second)
            return
        with self._full_disk_told():
            self._manager.close()


def _array_handlers() -> Any:
    """Orbax's handler of jax.Arrays alone: of copies on several devices one is written, whole.

    Unless told, each device cuts its share out of its copy first: to compile the cut of every array
    took three seconds of the first save on a CPU of two devices.
    """
    handler = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
    return ocp.type_handlers.create_type_handler_registry((jax.Array, handler))


class _Except(ocp.path.step.NameFormat):
    """Orbax's names of steps, but for those whose scores it would fail to read."""

    def __init__(self, excepted: dict[int, str]):
        self._excepted = excepted
        self._names = ocp.path.step.standard_name_format()

    def build_name(self, step: int) -> str:
        return self._names.build_name(step)

    def find_all(self, base_path: Any) -> Iterator[Any]:
        found = self._names.find_all(base_path)
        return (metadata for metadata in found if metadata.step not in self._excepted)

    def find_step(self, base_path: Any, step: int) -> Any:
        return self._names.find_step(base_path, step)


def _find_damaged(directory: Path, item: str = "") -> dict[int, str]:
    """What is wrong with the checkpoints of a folder, by their steps (`manifest.find_damage`)."""
    found = ocp.path.step.standard_name_format().find_all(directory.absolute())
    steps = sorted(metadata.step for metadata in found)
    damages = {step: manifest.find_damage(directory / str(step), item) for step in steps}
    damaged = {step: damage for step, damage in damages.items() if damage}
    if damaged and len(damaged) == len(steps):
        listed = "; ".join(f"of step {step}, {damage}" for step, damage in damaged.items())
        raise UserError(
            f"No checkpoint in {directory} is whole: {listed}. Bring one back from a copy, or "
            "delete the folder to train from the beginning."
        )
    return damaged


def _move_damaged(directory: Path) -> None:
    """Moves damaged checkpoints out of Orbax's sight, so that the newest is one that is whole."""
    damaged = _find_damaged(directory)
    # All processes have looked before one of them moves anything, and go on when it has.
    multihost_utils.sync_global_devices("damaged checkpoints are found")
    for step, damage in damaged.items() if jax.process_index() == 0 else ():
        aside = directory / f"damaged-{step}"
        shutil.rmtree(aside, ignore_errors=True)
        (directory / str(step)).rename(aside)
        logging.warning(
            "The checkpoint of step %d in %s is damaged (%s): it is not used, and lies in %s now.",
            step,
            directory,
            damage,
            aside.name,
        )
    multihost_utils.sync_global_devices("damaged checkpoints are moved")


def _restore_args(abstract: PyTree, **options: bool) -> ocp.args.PyTreeRestore:
    restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
    return ocp.args.PyTreeRestore(item=abstract, restore_args=restore_args, **options)
