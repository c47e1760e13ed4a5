"""From a configuration to the objects it names; what the modes share."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from skinjax.data.augment import Augmentation
from skinjax.data.combined import Combined
from skinjax.data.records import Prepared
from skinjax.engine import parallel
from skinjax.engine.optim import (
    Schedule,
    ScheduleSettings,
    make_optimizer,
    make_plateau,
    make_schedule,
)
from skinjax.engine.state import TrainState, make_create_state
from skinjax.errors import UserError
from skinjax.modes.config import PARTS, default_config
from skinjax.modes.datasets import class_shares
from skinjax.tasks.classification import Classification, create_classification
from skinjax.tasks.joint import Joint
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
        class_shares: of what a training draws; a classification that is trained needs them.

    Raises:
        UserError: for a joint training, which is used as the two runs that it leaves.
    """
    if config.task == "joint":
        raise UserError(
            "A joint run is used as the two that its training leaves in its folder: name "
            f"{' or '.join(f'--workdir=RUN/{part}' for part in PARTS)}."
        )
    model = config.model
    shared: dict[str, Any] = dict(
        attention=model.attention,
        reduction=model.reduction,
        dtype=jnp.dtype(resolve_dtype(config.dtype)),
        remat=config.remat,
        image_size=tuple(config.image_size),
        augmentation=Augmentation(**config.augmentation),
    )
    if config.task == "segmentation":
        return create_segmentation(
            encoder=model.encoder,
            base_features=model.base_features,
            bce_weight=config.loss.bce,
            dice_weight=config.loss.dice,
            **shared,
        )
    return create_classification(
        classes,
        encoder=model.encoder,
        depth=model.depth,
        stem=model.stem,
        class_shares=class_shares,
        **config.loss,
        **shared,
    )


def part_config(config: ConfigDict, task: str) -> ConfigDict:
    """The configuration of the run that a joint one is to one of its two tasks."""
    part = default_config(task)
    shared = {k: v for k, v in config.to_dict().items() if k not in ("task", "model", "loss")}
    with part.ignore_type():
        part.update(shared)
        for group in ("model", "loss"):
            part[group].update({k: v for k, v in config[group].items() if k in part[group]})
    if task == "classification":
        part.model.attention = config.model.class_attention
    return part


def create_trained_task(
    config: ConfigDict, classes: tuple[str, ...], class_shares: tuple[float, ...] = ()
) -> Task | Joint:
    """Creates what is to be trained: as `create_task`, or both tasks together."""
    if config.task != "joint":
        return create_task(config, classes, class_shares)
    outlines, diagnoses = (
        create_task(part_config(config, part), classes, class_shares) for part in PARTS
    )
    assert isinstance(outlines, Segmentation) and isinstance(diagnoses, Classification)
    return Joint(outlines, diagnoses, config.loss.diagnosis)


def create_mesh(
    config: ConfigDict, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
    """Creates the mesh that a training wants.

    Args:
        config: of the run.
        devices: to train on; all there are, unless told. A CPU's devices are its cores: of them
            some may stay idle, where GPUs and TPUs are to be used.

    Raises:
        UserError: where the devices, the batch or the pictures do not fit together.
    """
    part = config.batch_size // config.accumulation
    if part == 1 and config.task == "classification":
        for name in ("mixup_alpha", "cutmix_alpha"):
            if config.loss[name] > 0:
                raise UserError(
                    f"config.loss.{name} mixes the pictures of a part of the batch, and "
                    f"config.batch_size={config.batch_size} in config.accumulation="
                    f"{config.accumulation} parts leaves one in each: take a larger batch or fewer "
                    "parts, or set it to 0."
                )
    cores = jax.default_backend() == "cpu" and jax.process_count() == 1
    if devices is None and cores:
        devices = parallel.dividing_devices(part, **config.mesh)
    mesh = parallel.create_mesh(devices, **config.mesh)
    parallel.check_batch_size(config.batch_size, config.accumulation, mesh)
    downsampling = create_trained_task(config, classes=()).downsampling
    parallel.check_rows(config.image_size[0], downsampling, mesh)
    return mesh


def create_inference_mesh(
    config: ConfigDict, batch_size: int | None = None
) -> tuple[jax.sharding.Mesh, int]:
    """Creates the mesh that a trained run predicts on, whatever devices it was trained on.

    Pictures are divided as they were in the training, as far as the devices here allow.

    Args:
        config: of the run.
        batch_size: wanted; the training's, unless told.

    Returns:
        The mesh; and the size of the batches: as wanted, or the next larger that the devices
        divide.
    """
    num_devices = jax.device_count()
    divisible, left = divmod(config.image_size[0], create_task(config, classes=()).downsampling)
    space = num_devices if config.mesh.space == -1 else config.mesh.space
    space = 1 if left else math.gcd(space, num_devices, divisible)
    mesh = parallel.create_mesh(space=space)
    num_parts = num_devices // space
    return mesh, -(-(batch_size or config.batch_size) // num_parts) * num_parts


@dataclasses.dataclass(frozen=True)
class Durations:
    """The configuration's durations in steps.

    Attributes:
        steps_per_epoch: may be fractional: batches go on across the epochs' borders.
        total_steps: of the training.
        eval_every_steps: between two evaluations; may be fractional likewise, at least 1.
    """

    steps_per_epoch: float
    total_steps: int
    eval_every_steps: float

    def is_evaluated(self, step: int) -> bool:
        """Whether a regular evaluation comes after a step.

        They are where the epochs end, not a rounded number of steps apart: of a training of a whole
        number of them the last is its end, and none comes a step or two before.
        """
        number = round(step / self.eval_every_steps)
        return step == round(number * self.eval_every_steps)


def create_durations(config: ConfigDict, num_examples: int) -> Durations:
    """Converts epochs into steps, at least one each."""
    steps_per_epoch = num_examples / config.batch_size
    return Durations(
        steps_per_epoch=steps_per_epoch,
        total_steps=max(1, round(config.num_epochs * steps_per_epoch)),
        eval_every_steps=max(1.0, config.eval_every_epochs * steps_per_epoch),
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

    task: Task | Joint
    durations: Durations
    schedule: Schedule
    optimizer: optax.GradientTransformation
    plateau: optax.GradientTransformationExtraArgs | None
    create_state: Callable[[], TrainState]


def create_training(
    config: ConfigDict, prepared: Prepared | Combined, positions: list[int]
) -> Training:
    """Creates what the configuration describes.

    Args:
        config: of the run.
        prepared: the data set.
        positions: of its training split.
    """
    trains_classes = config.task != "segmentation"
    shares = class_shares(config, prepared, positions) if trains_classes else ()
    task = create_trained_task(config, prepared.classes, shares)
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
