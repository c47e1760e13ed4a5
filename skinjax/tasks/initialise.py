"""Weights learnt elsewhere: a PyTorch state dict, an exported model, or another run's variables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from skinjax.errors import UserError
from skinjax.models import pretrained
from skinjax.models.efficientnet_lite import ENCODERS, EfficientNetLiteClassifier
from skinjax.models.seunet import EfficientNetUNet, SEUNet
from skinjax.tasks.classification import Classification
from skinjax.tasks.joint import Joint, divide_variables
from skinjax.tasks.segmentation import Segmentation

Task = Segmentation | Classification | Joint


def imagenet_weights(task: Task) -> Path:
    """The file of installed ImageNet weights for a task's model.

    Raises:
        UserError: where there are none for it, or they are not installed.
    """
    model = task.outlines.model if isinstance(task, Joint) else task.model
    if isinstance(model, EfficientNetLiteClassifier | EfficientNetUNet):
        return pretrained.installed_weights(ENCODERS[model.variant])
    raise UserError(
        "config.init_from='imagenet': only the weights of EfficientNet-Lites can be installed: set "
        "config.model.encoder to 'efficientnet_lite0', or name a file of weights."
    )


def from_state_dict(
    task: Task, variables: Mapping[str, Any], path: Path
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Puts the weights of a file into a model's variables.

    Args:
        task: whose model it is.
        variables: `params` and `batch_stats`; not changed.
        path: a .safetensors or .pth file: a PyTorch ResNet's or EfficientNet-Lite's, or a model of
            skinjax that was exported, of which each layer that fits is taken.

    Returns:
        The new variables, and the paths of the arrays that were loaded and of those left.

    Raises:
        UserError: where the file is not one, or of another architecture.
    """
    state_dict = pretrained.load_torch_state_dict(path)
    if pretrained.is_exported(state_dict):
        return from_variables(variables, unflatten_dict(state_dict, sep="/"))
    if isinstance(task.model, SEUNet):
        raise UserError(
            f"config.init_from={path}: state dicts are of classifiers, and an SE-UNet has none: "
            "name the workdir of another run, or its model exported as .safetensors, or set "
            "config.model.encoder to 'efficientnet_lite0'."
        )
    if isinstance(task, Joint):
        return _from_classifier(variables, state_dict, path)
    new, report = pretrained.import_torch(variables, state_dict, str(path))
    return new, list(report.loaded), list(report.kept)


def _from_classifier(
    variables: Mapping[str, Any], state_dict: Mapping[str, np.ndarray], path: Path
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Puts a classifier's weights into a joint net: the trunk, and what its diagnoses share."""
    diagnoses = divide_variables(variables)["diagnoses"]
    new, report = pretrained.import_torch(diagnoses, state_dict, str(path))
    whole = {
        kind: {**tree, "trunk": new[kind].pop("trunk"), "diagnoses": new[kind]}
        for kind, tree in variables.items()
    }

    def place(name: str) -> str:
        kind, module, *_ = name.split("/")
        return name if module == "trunk" else name.replace(kind, f"{kind}/diagnoses", 1)

    loaded = [place(name) for name in report.loaded]
    left = [name for name in flatten_dict(whole, sep="/") if name not in set(loaded)]
    return whole, loaded, left


def from_variables(
    variables: Mapping[str, Any], other: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Takes over the layers of another run that fit by name and shape; returns as above.

    Raises:
        UserError: where nothing fits.
    """
    return pretrained.warm_start(variables, other)
