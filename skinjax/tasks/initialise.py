"""Weights learnt elsewhere: from a PyTorch state dict, or from another run of either task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skinjax.errors import UserError
from skinjax.models import pretrained
from skinjax.tasks.classification import Classification
from skinjax.tasks.segmentation import Segmentation


def from_state_dict(
    task: Segmentation | Classification, variables: Mapping[str, Any], path: Path
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Puts a PyTorch ResNet's weights into a classifier's variables.

    Args:
        task: whose model it is.
        variables: `params` and `batch_stats`; not changed.
        path: a .safetensors or .pth file.

    Returns:
        The new variables, and the paths of the arrays that were loaded and of those left.

    Raises:
        UserError: where the file is not one, or of another architecture.
    """
    if not isinstance(task, Classification):
        raise UserError(
            f"config.init_from={path}: state dicts are of ResNets, and this task has none; name "
            "the workdir of another run."
        )
    state_dict = pretrained.load_torch_state_dict(path)
    new, report = pretrained.import_resnet(variables, state_dict, str(path))
    return new, list(report.loaded), list(report.kept)


def from_variables(
    variables: Mapping[str, Any], other: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Takes over the layers of another run that fit by name and shape; returns as above.

    Raises:
        UserError: where nothing fits.
    """
    return pretrained.warm_start(variables, other)
