"""From a configuration to the objects it names; what the modes share."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import logging
from ml_collections import ConfigDict

from skinjax.data import splits as splitting
from skinjax.data.augment import Augmentation
from skinjax.data.catalog import create_source
from skinjax.data.pipeline import Examples
from skinjax.data.records import Prepared, prepare
from skinjax.engine.optim import (
    Schedule,
    ScheduleSettings,
    make_optimizer,
    make_plateau,
    make_schedule,
)
from skinjax.engine.state import TrainState, make_create_state
from skinjax.errors import UserError
from skinjax.tasks.classification import Classification, create_classification
from skinjax.tasks.segmentation import Segmentation, create_segmentation


def resolve_dtype(name: str) -> str:
    """'auto' as the devices' fast type: bfloat16 on an accelerator, float32 on a CPU."""
    if name != "auto":
        return name
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


Task = Segmentation | Classification


def create_task(
    config: ConfigDict, classes: tuple[str, ...], class_shares: tuple[float, ...] = ()
) -> Task:
    """Creates the task that the configuration describes.

    Args:
        config: of the run.
        classes: of the data set, in the order of its labels.
        class_shares: of the training split; a classification that is trained needs them.
    """
    model = config.model
    shared: dict[str, Any] = dict(
        attention=model.attention,
        reduction=model.reduction,
        dtype=jnp.dtype(resolve_dtype(config.dtype)),
        image_size=tuple(config.image_size),
        augmentation=Augmentation(**config.augmentation),
    )
    if config.task == "segmentation":
        return create_segmentation(
            base_features=model.base_features,
            bce_weight=config.loss.bce,
            dice_weight=config.loss.dice,
            **shared,
        )
    return create_classification(
        classes,
        depth=model.depth,
        stem=model.stem,
        class_shares=class_shares,
        **config.loss,
        **shared,
    )


def class_shares(prepared: Prepared, positions: list[int]) -> tuple[float, ...]:
    """The share of each class among the images at some positions.

    Raises:
        UserError: where an image has no label, or a class no image.
    """
    counts = dict.fromkeys(prepared.classes, 0)
    for position in positions:
        row = prepared.table[position]
        if row.label is None:
            raise UserError(
                f"{row.image_id} of {prepared.name} has no label: give it one in the data set's "
                "table, or take it out."
            )
        counts[row.label] += 1
    empty = [name for name, count in counts.items() if not count]
    if empty:
        raise UserError(
            f"The training split of {prepared.name} has no image of {', '.join(empty)}: use more "
            "data, or another config.data.split_seed."
        )
    return tuple(count / len(positions) for count in counts.values())


def prepare_data(config: ConfigDict) -> Prepared:
    """Prepares the configuration's data set, or finds it prepared.

    Raises:
        UserError: for what is wrong with it.
    """
    cache_dir = Path(os.path.expanduser(config.data.cache_dir))
    options: dict[str, Any] = {}
    if config.data.dataset == "phantom" and config.data.num_images:
        options = {"num_images": config.data.num_images}
    if config.data.dataset == "ham10000":
        options = {"masks": config.task == "segmentation"}
    source = create_source(config.data.dataset, config.data.source or None, cache_dir, **options)
    # Where nobody publishes them, `split_data` says what that means for the scores.
    if config.data.split == "lesion" and not source.has_lesion_ids and source.lesion_ids_mend:
        raise UserError(
            f"{config.data.dataset} in {config.data.source} has no lesion ids, so that a split "
            f"by lesion cannot be made: {source.lesion_ids_mend}, or set "
            "config.data.split='image' and know that a lesion may then be on both sides."
        )
    return prepare(source, cache_dir, size=config.data.size, num_threads=config.data.num_threads)


def split_data(config: ConfigDict, prepared: Prepared) -> dict[str, list[int]]:
    """Splits the data set as the configuration says: positions by 'train', 'val' and 'test'."""
    splits = splitting.make_splits(
        prepared.table,
        unit=config.data.split,
        seed=config.data.split_seed,
        folds=config.data.folds,
        fold=config.data.fold,
    )
    if not prepared.has_lesion_ids:
        logging.warning(
            "%s has no lesion ids: lesions of the test images may be in training, nobody can "
            "tell how many. Scores on them say little about new lesions.",
            prepared.name,
        )
    elif config.data.split == "image":
        share = splitting.leaked_share(prepared.table, splits)
        logging.warning(
            "config.data.split='image': %.1f%% of the test images show a lesion that is also in "
            "training. Scores on them say little about new lesions.",
            100 * share,
        )
    empty = [name for name, positions in splits.items() if not positions]
    if empty:
        raise UserError(
            f"{config.data.dataset} has too few lesions ({len(prepared.table)} images in all): "
            f"its {empty[0]} split is empty. Use more data (config.data.source, "
            "config.data.num_images)."
        )
    return splits


def read_split(path: Path, prepared: Prepared, split: str) -> list[int]:
    """The positions of a split as a run's splits.csv has it.

    Raises:
        UserError: where there is no such split, or the data set no longer has its images.
    """
    splits = splitting.read_splits(path)
    ids = splits.get(split)
    if not ids:
        names = [name for name, members in splits.items() if members]
        raise UserError(f"--split={split}: {path} has {', '.join(names)}.")
    positions = {row.image_id: position for position, row in enumerate(prepared.table)}
    missing = [image_id for image_id in ids if image_id not in positions]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(ids)} images of the {split} split in {path} are not in "
            f"the data set (first: {missing[0]}): point config.data.source at the data that the "
            "run was trained on."
        )
    return sorted(positions[image_id] for image_id in ids)


def create_examples(
    config: ConfigDict, prepared: Prepared, positions: list[int], with_masks: bool, cache: bool
) -> Examples:
    """Creates the examples of a split, fitted to the model's input."""
    return Examples(
        prepared,
        positions,
        tuple(config.image_size),
        config.fit,
        with_masks=with_masks,
        cache=cache,
    )


@dataclasses.dataclass(frozen=True)
class Durations:
    """The configuration's durations in steps.

    Attributes:
        steps_per_epoch: may be fractional: batches go on across the epochs' borders.
        total_steps: of the training.
        eval_every_steps: between two evaluations.
    """

    steps_per_epoch: float
    total_steps: int
    eval_every_steps: int


def create_durations(config: ConfigDict, num_examples: int) -> Durations:
    """Converts epochs into steps, at least one each."""
    steps_per_epoch = num_examples / config.batch_size
    return Durations(
        steps_per_epoch=steps_per_epoch,
        total_steps=max(1, round(config.num_epochs * steps_per_epoch)),
        eval_every_steps=max(1, round(config.eval_every_epochs * steps_per_epoch)),
    )


@dataclasses.dataclass(frozen=True)
class Training:
    """What a training is made of.

    Attributes:
        task: model, loss and figures.
        durations: in steps.
        schedule: the learning rate by step.
        optimizer: SGD.
        plateau: reduces the rate when the score stalls; None where the schedule is another.
        create_state: the state at the beginning.
    """

    task: Task
    durations: Durations
    schedule: Schedule
    optimizer: optax.GradientTransformation
    plateau: optax.GradientTransformationExtraArgs | None
    create_state: Callable[[], TrainState]


def create_training(config: ConfigDict, prepared: Prepared, positions: list[int]) -> Training:
    """Creates what the configuration describes.

    Args:
        config: of the run.
        prepared: the data set.
        positions: of its training split.
    """
    trains_classes = config.task == "classification"
    shares = class_shares(prepared, positions) if trains_classes else ()
    task = create_task(config, prepared.classes, shares)
    durations = create_durations(config, len(positions))
    settings = ScheduleSettings(
        name=config.schedule.name,
        learning_rate=config.optimizer.learning_rate,
        warmup_steps=round(config.schedule.warmup_epochs * durations.steps_per_epoch),
        total_steps=durations.total_steps,
        factor=config.schedule.factor,
        decay_steps=max(1, round(config.schedule.decay_epochs * durations.steps_per_epoch)),
        patience=config.schedule.patience,
        power=config.schedule.power,
        end_fraction=config.schedule.end_fraction,
    )
    schedule = make_schedule(settings)
    optimizer = make_optimizer(
        schedule,
        momentum=config.optimizer.momentum,
        nesterov=config.optimizer.nesterov,
        weight_decay=config.optimizer.weight_decay,
        clip_norm=config.optimizer.clip_norm,
    )
    plateau = make_plateau(settings)
    create_state = make_create_state(
        task, optimizer, plateau, averaged=config.ema_decay > 0, seed=config.seed
    )
    return Training(task, durations, schedule, optimizer, plateau, create_state)
