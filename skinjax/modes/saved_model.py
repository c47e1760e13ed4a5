"""A run's model without its data: what explaining and exporting need of a run."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from skinjax.modes import build
from skinjax.modes.inference import restore_variables
from skinjax.modes.workdir import read_classes, read_config

PyTree = Any


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A model at one of its run's checkpoints, computing in float32, on one device.

    Attributes:
        config: of the run.
        classes: that it tells apart; those of its data set, where it outlines lesions.
        task: what it was trained for.
        variables: of the checkpoint: the averaged ones where the run averages.
        step: of the checkpoint.
    """

    config: ConfigDict
    classes: tuple[str, ...]
    task: build.Task
    variables: PyTree
    step: int


def load_model(workdir: Path, checkpoint: str = "best") -> SavedModel:
    """Reads the model of a run.

    Args:
        workdir: the run's folder.
        checkpoint: 'best' by the run's metric on val, 'last', or a step.

    Raises:
        UserError: where the run or the checkpoint is not there.
    """
    config = read_config(workdir)
    # Whatever it was trained in: a file is for any machine, and a gradient wants the digits.
    config.dtype = "float32"
    classes = read_classes(workdir)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    step, _, variables = restore_variables(workdir, checkpoint, sharding)
    return SavedModel(config, classes, build.create_task(config, classes), variables, step)
