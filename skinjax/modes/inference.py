"""Trained runs, opened to be used: their models, averaged where several, and a run's data."""

import dataclasses
import functools
import hashlib
import operator
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from skinjax.data.combined import Combined
from skinjax.data.pipeline import eval_batches, prefetch
from skinjax.data.records import Prepared
from skinjax.data.splits import read_splits
from skinjax.engine import parallel
from skinjax.engine.checkpoint import Checkpoints
from skinjax.engine.distributed import first_on_host
from skinjax.errors import UserError
from skinjax.modes import bucket, build, datasets
from skinjax.modes.workdir import read_classes, read_config
from skinjax.tasks.views import check_tta

PyTree = Any

# What runs must have in common to see the same batch.
_SHARED_FIELDS = ("task", "image_size", "fit", "data.size")


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """A run's model at one of its checkpoints.

    Attributes:
        workdir: the run's folder.
        config: its configuration.
        classes: that it tells apart.
        task: what it was trained for.
        step: of the checkpoint.
        is_best: whether that is the best checkpoint.
        variables: of the model, on the devices.
    """

    workdir: Path
    config: ConfigDict
    classes: tuple[str, ...]
    task: build.Task
    step: int
    is_best: bool
    variables: PyTree

    def digest(self) -> str:
        """A digest of the weights, to tell whether a model is still the one it was."""
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.variables):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.asarray(leaf).tobytes())
        return digest.hexdigest()


class Ensemble:
    """The models of one or more runs, whose predictions of a batch are averaged.

    Args:
        workdirs: the runs' folders, at least one.
        checkpoint: 'best' by the run's metric on val, 'last', or a step, of each run.
        tta: what each model's predictions are averaged over: '', 'flips' or 'zooms'.
        batch_size: of the batches that it will see; the first run's own, unless told.

    Attributes:
        members: the models, in the order of the workdirs.
        config: of the first run.
        classes: that they tell apart.
        batch_size: as told, or the next larger one that the devices divide.
        mesh: the devices.
        gather: has an array lie as the predictions do, each process able to fetch the whole of it.

    Raises:
        UserError: where a run or the checkpoint is not there, or they do not go together.
    """

    def __init__(
        self,
        workdirs: Sequence[Path],
        checkpoint: str = "best",
        tta: str = "",
        batch_size: int | None = None,
    ):
        check_tta(tta)
        configs = [read_config(workdir) for workdir in workdirs]
        self.config = configs[0]
        self.mesh, self.batch_size = build.create_inference_mesh(self.config, batch_size)
        self._sharding = parallel.replicated_sharding(self.mesh)
        self.members = [
            self._open(workdir, config, checkpoint)
            for workdir, config in zip(workdirs, configs, strict=True)
        ]
        self.classes = self.members[0].classes
        for member in self.members[1:]:
            _check_together(self.members[0], member)

        # Every process gets all predictions, though each reads its share of the pictures. A single
        # one fetches each device's part: to exchange them first, the devices would wait for each
        # other in every batch, and on a CPU other threads hold them up in turn.
        outputs = parallel.batch_sharding(self.mesh)
        if jax.process_count() > 1:
            outputs = self._sharding
        self.gather = jax.jit(lambda array: array, out_shardings=outputs)

        @functools.cache
        def make_predict(task: build.Task) -> Callable[[PyTree, jax.Array], jax.Array]:
            return jax.jit(functools.partial(task.predict, tta=tta), out_shardings=outputs)

        # Runs that differ in their weights alone, as folds and seeds do, share a compiled program.
        self._predict = [make_predict(member.task) for member in self.members]

    def _open(self, workdir: Path, config: ConfigDict, checkpoint: str) -> Member:
        step, is_best, variables = restore_variables(workdir, checkpoint, self._sharding)
        classes = read_classes(workdir)
        task = build.create_task(config, classes)
        return Member(workdir, config, classes, task, step, is_best, variables)

    def put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Sends a batch to the devices, without waiting."""
        return parallel.put_batch(batch, self.mesh)

    def predict(self, images: jax.Array) -> jax.Array:
        """Predicts one batch, without waiting for it.

        Args:
            images: uint8 [N, H, W, 3], N a multiple of the mesh's size.

        Returns:
            Of segmentation the mean probability of lesion, float32 [N, H, W] in [0, 1]. Of
            classification each of the M models' log probabilities, float32 [N, M, K], which are
            averaged when each has got its temperature (`predictions.average_calibrated`).
        """
        outputs = [
            predict(member.variables, images)
            for predict, member in zip(self._predict, self.members, strict=True)
        ]
        if self.config.task == "classification":
            return jnp.stack(outputs, axis=1)
        return outputs[0] if len(outputs) == 1 else jnp.mean(jnp.stack(outputs), axis=0)


def _check_together(first: Member, other: Member) -> None:
    """Refuses runs whose predictions cannot be averaged.

    Raises:
        UserError: naming the first thing in which they differ.
    """
    told = f"{first.workdir} and {other.workdir} cannot be averaged"
    for key in _SHARED_FIELDS:
        ours, theirs = map(operator.attrgetter(key), (first.config, other.config))
        if ours != theirs:
            raise UserError(
                f"{told}: config.{key} is {ours!r} in the first and {theirs!r} in the second. Name "
                "runs that agree in it."
            )
    if first.config.task == "classification" and first.classes != other.classes:
        raise UserError(
            f"{told}: they tell other classes apart, {', '.join(first.classes)} and "
            f"{', '.join(other.classes)}."
        )


class TrainedRun:
    """One or more runs' models at their checkpoints, over the first run's data or another data set.

    Args:
        workdir: the run's folder.
        checkpoint: 'best' by the run's metric on val, 'last', or a step.
        tta: what predictions are averaged over: '', 'flips' or 'zooms'.
        dataset: the name of a data set that the run was not trained on; empty for its own data.
        source: the folder or zip of that data set; without one, where the run's own data lies now.
        others: the folders of runs whose predictions are averaged with this one's.
        split: that will be asked for. Of the run's own data, val and test lie in the first set
            alone: the ones that were added to it need not be there any more.

    Attributes:
        workdir: the run's folder.
        config: its configuration.
        classes: that it tells apart.
        members: the models, this run's first.
        prepared: the data.
        is_own: whether that is the run's own.
        own_source: where that lies now, if not where the configuration says.
        task: what it was trained for.
        step: of the checkpoint.
        is_best: whether that is the best checkpoint, of each run.
        tta: what predictions are averaged over: '', 'flips' or 'zooms'.

    Raises:
        UserError: where a run, the checkpoint or the data is not there, or runs do not go together.
    """

    def __init__(
        self,
        workdir: Path,
        checkpoint: str = "best",
        tta: str = "",
        dataset: str = "",
        source: str = "",
        others: Sequence[Path] = (),
        *,
        split: str,
    ):
        self.workdir, self.tta, self.is_own = workdir, tta, not dataset
        self.own_source = "" if dataset else source
        self._ensemble = Ensemble([workdir, *others], checkpoint, tta)
        self.members, self.config = self._ensemble.members, self._ensemble.config
        self.classes, self.task = self._ensemble.classes, self.members[0].task
        self.step = self.members[0].step
        self.is_best = all(member.is_best for member in self.members)
        self.prepared: Prepared | Combined
        if self.is_own:
            self.config.data.source = source or self.config.data.source
            if split in ("val", "test"):
                self.config.data.also = ()
            self.prepared = first_on_host(lambda: datasets.prepare_data(self.config))
        else:
            self.prepared = first_on_host(
                lambda: datasets.prepare_set(self.config, dataset, source)
            )

    def positions(self, split: str) -> list[int]:
        """Where the images of a split are in the data.

        Raises:
            UserError: where there is no such split, or a model has learnt from its images.
        """
        if self.is_own:
            splits_file = self.workdir / "splits.csv"
            positions = datasets.read_split(splits_file, self.prepared, split)
            for member in self.members[1:]:
                self._refuse_trained_by(member, split, positions)
            return positions
        positions = list(range(len(self.prepared)))
        if split != "all":
            positions = datasets.split_data(self.config, self.prepared)[split]
        assert isinstance(self.prepared, Prepared)  # one set, not several
        for member in self.members:
            splits_file = member.workdir / "splits.csv"
            datasets.refuse_trained(member.config, splits_file, self.prepared, positions)
        return positions

    def _refuse_trained_by(self, member: Member, split: str, positions: list[int]) -> None:
        """Refuses to score images of the first run's split that another run has learnt from.

        Those of its val count, for its checkpoint and its temperature were chosen on them; but runs
        of one split (seeds) have their val in common, and may be scored there like one alone.

        Raises:
            UserError: with the count of those images.
        """
        if member.config.data.dataset != self.config.data.dataset:
            raise UserError(
                f"{member.workdir} was trained on {member.config.data.dataset}, {self.workdir} on "
                f"{self.config.data.dataset}: average runs of one data set, or score both on a "
                "--dataset that neither has seen."
            )
        if split == "train":
            return
        parts = read_splits(member.workdir / "splits.csv")
        learnt = parts["train"] if split == "val" else parts["train"] + parts["val"]
        trained = {row.image_id for row in learnt}
        num_seen = sum(self.prepared.table[p].image_id in trained for p in positions)
        if num_seen:
            raise UserError(
                f"{num_seen:,} of the {len(positions):,} images of the {split} split of "
                f"{self.workdir} were trained on by {member.workdir}, or are its val, that its "
                "checkpoint was chosen on: a score on them would mean nothing. Average runs of one "
                "split (seeds), or score on another --dataset."
            )

    def predict(self, positions: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """Yields, for each position, what `Ensemble.predict` gives, its box and the position.

        All processes of a run must call it alike; each gets everything.
        """
        examples = datasets.create_examples(
            self.config, self.prepared, positions, with_masks=False, cache=False
        )
        ensemble = self._ensemble
        rows = parallel.local_rows(ensemble.batch_size, ensemble.mesh)
        batches = eval_batches(examples, ensemble.batch_size, self.config.data.num_threads, rows)
        left = iter(positions)
        behind = None
        for batch in prefetch(batches, ensemble.put):
            output = ensemble.predict(batch["images"]), ensemble.gather(batch["boxes"])
            if behind is not None:
                yield from zip(*jax.device_get(behind), left, strict=False)
            behind = output
        if behind is not None:
            # The last batch is filled up: `left` ends before it does. It stands last in the zip,
            # which would else take one from it at the end of each batch.
            yield from zip(*jax.device_get(behind), left, strict=False)


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
        UserError: where there is no such checkpoint, it is damaged, or a damaged one may be it.
    """
    config = read_config(workdir)
    directory = bucket.checkpoints_folder(workdir)
    if not directory.is_dir():
        raise UserError(f"{directory} is missing: the run has saved no checkpoint; train it first.")
    with Checkpoints(directory, config.keep_last, config.best_metric, read_only=True) as found:
        steps, best_step = found.steps(), found.best_step()
        if best_step is None:
            raise UserError(f"{directory} holds no whole checkpoint: train the run first.")
        step = {"best": best_step, "last": steps[-1]}.get(checkpoint)
        for other, damage in found.unreadable.items():
            if checkpoint in ("best", str(other)) or (checkpoint == "last" and other > steps[-1]):
                raise UserError(
                    f"--checkpoint={checkpoint}: the one of step {other} in {directory} is damaged "
                    f"({damage}), and may be what is asked for. Bring it back from a copy, or say "
                    f"one of steps {', '.join(map(str, steps))}; none was taken in its place. "
                    "The run's training command, started again, moves it away."
                )
        if step is None:
            step = int(checkpoint) if checkpoint.isdecimal() else -1
        if step not in steps:
            raise UserError(
                f"--checkpoint={checkpoint}: {directory} has those of steps "
                f"{', '.join(map(str, steps))}; say one of them, 'best' or 'last'."
            )
        return step, step == best_step, found.restore_variables(step, sharding)
