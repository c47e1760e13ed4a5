"""A trained run, opened to be used: its configuration, its data and a checkpoint's variables."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from skinjax.data.combined import Combined
from skinjax.data.pipeline import eval_batches, prefetch
from skinjax.data.records import Prepared
from skinjax.engine import parallel
from skinjax.engine.checkpoint import Checkpoints
from skinjax.errors import UserError
from skinjax.modes import build, datasets
from skinjax.modes.workdir import read_classes, read_config

PyTree = Any


class TrainedRun:
    """A run's model at one of its checkpoints, over the run's own data or another data set.

    Args:
        workdir: the run's folder.
        checkpoint: 'best' by the run's metric on val, 'last', or a step.
        tta: whether predictions are averaged over views.
        dataset: the name of a data set that the run was not trained on; empty for its own data.
        source: the folder or zip of that data set; without one, where the run's own data lies now.

    Attributes:
        workdir: the run's folder.
        config: its configuration.
        classes: that it tells apart.
        prepared: the data.
        is_own: whether that is the run's own.
        task: what it was trained for.
        step: of the checkpoint.
        is_best: whether that is the best checkpoint.
        tta: whether predictions are averaged over views.

    Raises:
        UserError: where the run, the checkpoint or the data is not there.
    """

    def __init__(
        self,
        workdir: Path,
        checkpoint: str = "best",
        tta: bool = False,
        dataset: str = "",
        source: str = "",
    ):
        self.workdir, self.tta, self.is_own = workdir, tta, not dataset
        self.config = read_config(workdir)
        self._mesh = parallel.create_mesh(parallel.dividing_devices(self.config.batch_size))
        sharding = parallel.replicated_sharding(self._mesh)
        self.step, self.is_best, self._variables = restore_variables(workdir, checkpoint, sharding)
        self.classes = read_classes(workdir)
        self.prepared: Prepared | Combined
        if self.is_own:
            self.config.data.source = source or self.config.data.source
            self.prepared = datasets.prepare_data(self.config)
        else:
            self.prepared = datasets.prepare_set(self.config, dataset, source)
        self.task = build.create_task(self.config, self.classes)
        self._predict = jax.jit(
            lambda variables, images: self.task.predict(variables, images, tta=tta),
            out_shardings=sharding,
        )

    def positions(self, split: str) -> list[int]:
        """Where the images of a split are in the data.

        Raises:
            UserError: where there is no such split, or another data set's images were trained on.
        """
        if self.is_own:
            return datasets.read_split(self.workdir / "splits.csv", self.prepared, split)
        positions = list(range(len(self.prepared)))
        if split != "all":
            positions = datasets.split_data(self.config, self.prepared)[split]
        assert isinstance(self.prepared, Prepared)  # one set, not several
        splits_file = self.workdir / "splits.csv"
        datasets.refuse_trained(self.config, splits_file, self.prepared, positions)
        return positions

    def predict(self, positions: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """Yields, for each position, the task's prediction, the content box and the position."""
        config = self.config
        examples = datasets.create_examples(
            config, self.prepared, positions, with_masks=False, cache=False
        )
        batches = eval_batches(examples, config.batch_size, config.data.num_threads)
        left = iter(positions)
        behind = None
        for batch in prefetch(batches, self._put):
            output = self._predict(self._variables, batch["images"]), batch["boxes"]
            if behind is not None:
                yield from zip(*jax.device_get(behind), left, strict=False)
            behind = output
        if behind is not None:
            # The last batch is filled up: `left` ends before it does. It stands last in the zip,
            # which would else take one from it at the end of each batch.
            yield from zip(*jax.device_get(behind), left, strict=False)

    def _put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        return parallel.put_batch(batch, self._mesh)


def restore_variables(
    workdir: Path, checkpoint: str, sharding: jax.sharding.Sharding
) -> tuple[int, bool, PyTree]:
    """Reads the variables of a run's checkpoint: the averaged ones where the run averages.

    Args:
        workdir: the run's folder.
        checkpoint: 'best' by the run's metric on val, 'last', or a step.
        sharding: where the variables shall lie.

    Returns:
        The checkpoint's step, whether it is the best, and the variables.

    Raises:
        UserError: where there is no such checkpoint.
    """
    config = read_config(workdir)
    directory = workdir / "checkpoints"
    if not directory.is_dir():
        raise UserError(f"{directory} is missing: the run has saved no checkpoint; train it first.")
    with Checkpoints(directory, config.keep_last, config.best_metric, read_only=True) as found:
        steps, best_step = found.steps(), found.best_step()
        if best_step is None:
            raise UserError(f"{directory} holds no whole checkpoint: train the run first.")
        step = {"best": best_step, "last": steps[-1]}.get(checkpoint)
        if step is None:
            step = int(checkpoint) if checkpoint.isdecimal() else -1
        if step not in steps:
            raise UserError(
                f"--checkpoint={checkpoint}: {directory} has those of steps "
                f"{', '.join(map(str, steps))}; say one of them, 'best' or 'last'."
            )
        return step, step == best_step, found.restore_variables(step, sharding)
