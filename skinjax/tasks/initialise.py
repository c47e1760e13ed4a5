"""Weights learnt elsewhere: a PyTorch state dict, an exported model, or another run's variables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax.traverse_util import unflatten_dict

from skinjax.errors import UserError
from skinjax.models import pretrained
from skinjax.models.efficientnet_lite import ENCODERS, EfficientNetLiteClassifier
from skinjax.models.seunet import EfficientNetUNet, SEUNet
from skinjax.tasks.classification import Classification
from skinjax.tasks.segmentation import Segmentation


def imagenet_weights(task: Segmentation | Classification) -> Path:
    """The file of installed ImageNet weights for a task's model.

    Raises:
        UserError: where there are none for it, or they are not installed.
    """
    if isinstance(task.model, EfficientNetLiteClassifier | EfficientNetUNet):
        return pretrained.installed_weights(ENCODERS[task.model.variant])
    raise UserError(
        "config.init_from='imagenet': only the weights of EfficientNet-Lites can be installed: set "
        "config.model.encoder to 'efficientnet_lite0', or name a file of weights."
    )


def from_state_dict(
    task: Segmentation | Classification, variables: Mapping[str, Any], path: Path
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
    new, report = pretrained.import_torch(variables, state_dict, str(path))
    return new, list(report.loaded), list(report.kept)


def from_variables(
    variables: Mapping[str, Any], other: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Takes over the layers of another run that fit by name and shape; returns as above.

    Raises:
        UserError: where nothing fits.
    """
    return pretrained.warm_start(variables, other)
