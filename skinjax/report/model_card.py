"""The words of a model card: what a model is, what it was made of, what it is not for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skinjax.report.page import NO_VALUE, Block, Facts, Listing, Table, Text

WARNING = (
    "Not a medical device: for research and teaching only. Do not diagnose, reassure, refer or "
    "treat anybody with it."
)

_UNETS = {
    "se": "SE-UNet (Ronneberger 2015, arXiv:1505.04597, with squeeze-and-excitation, Hu 2018, "
    "arXiv:1709.01507)",
    "scse": "scSE-UNet (Ronneberger 2015, arXiv:1505.04597, with spatial and channel "
    "squeeze-and-excitation, Roy 2018, arXiv:1803.02579)",
    "none": "U-Net (Ronneberger 2015, arXiv:1505.04597)",
}
_RESNETS = {
    "cbam": "CBAM-ResNet-{} (He 2016, arXiv:1512.03385, with CBAM, Woo 2018, arXiv:1807.06521)",
    "se": "SE-ResNet-{} (He 2016, arXiv:1512.03385, with squeeze-and-excitation, Hu 2018, "
    "arXiv:1709.01507)",
    "none": "ResNet-{} (He 2016, arXiv:1512.03385)",
}
_EFFICIENTNETS = {
    "cbam": "EfficientNet-Lite{} (Tan 2019, arXiv:1905.11946) with CBAM on its last features (Woo "
    "2018, arXiv:1807.06521)",
    "se": "EfficientNet-Lite{} (Tan 2019, arXiv:1905.11946) with squeeze-and-excitation on its "
    "last features (Hu 2018, arXiv:1709.01507)",
    "none": "EfficientNet-Lite{} (Tan 2019, arXiv:1905.11946)",
}

_FITS = {
    "squash": "the picture squashed into them",
    "letterbox": "the picture within them, with black bars",
}
# Settings that name folders of somebody's machine: a page may be passed on.
_PLACES = ("data.source", "data.cache_dir", "data.also", "init_from", "data.table.table")

Settings = Mapping[str, Any]


def describe_model(settings: Settings, num_parameters: int) -> str:
    """One sentence on the architecture.

    Args:
      settings: the configuration's fields by their dotted keys.
      num_parameters: of the model.
    """
    height, width = settings["image_size"]
    attention = settings["model.attention"]
    if settings["task"] == "segmentation":
        name = f"{_UNETS[attention]}, {settings['model.base_features']} channels at first"
        if settings["model.encoder"] != "unet":
            variant = settings["model.encoder"].removeprefix("efficientnet_lite")
            name += f", whose way down is an {_EFFICIENTNETS['none'].format(variant)}"
    elif settings["model.encoder"] == "resnet":
        name = _RESNETS[attention].format(settings["model.depth"])
    else:
        variant = settings["model.encoder"].removeprefix("efficientnet_lite")
        name = _EFFICIENTNETS[attention].format(variant)
    return f"{name}; {num_parameters:,} parameters; input {height} x {width} pixels"


def not_for(settings: Settings, classes: Sequence[str], licences: Sequence[str]) -> list[str]:
    """What the model must not be used for.

    Args:
      settings: the configuration's fields by their dotted keys.
      classes: that a classifier tells apart.
      licences: of the data that it learnt from.
    """
    sentences = [
        "Not for decisions about a person: no regulator has seen it, and no study with patients "
        "was made.",
        "Not for pictures taken without a dermatoscope, of mucosa, nails or scalp under hair, or "
        "of many lesions: it has learnt from none, or few.",
    ]
    if settings["task"] == "segmentation":
        sentences += [
            "Not for finding out whether there is a lesion: in each picture that it learnt from "
            "there was one, near the middle.",
            "Not for measuring in millimetres: the pictures have no scale.",
        ]
    else:
        sentences += [
            f"Not for diagnoses outside {', '.join(classes)}: it always answers with one of them, "
            "whatever it sees.",
            "Not for ruling anything out: its probabilities are those of the shares in its data.",
        ]
    if any("NC" in licence for licence in licences):
        sentences.append("Not for commercial use: its data's licence forbids that.")
    return sentences


def recipe(settings: Settings) -> list[Block]:
    """The recipe's settings that a reader looks for, and all of them folded away.

    Args:
      settings: the configuration's fields by their dotted keys.
    """

    def value(key: str) -> Any:
        return settings[key]

    rows = [
        (
            "input",
            f"{' x '.join(map(str, value('image_size')))} pixels, {_FITS[value('fit')]}; RGB, "
            "normalised by ImageNet's means and deviations",
        ),
        ("prepared at", f"{value('data.size')} pixels on the shorter side, at most"),
        ("batch", f"{value('batch_size')} images, {value('num_epochs'):g} epochs"),
        (
            "optimiser",
            f"SGD, momentum {value('optimizer.momentum')}"
            f"{', Nesterov' if value('optimizer.nesterov') else ''}, weight decay "
            f"{value('optimizer.weight_decay'):g}, gradients "
            + (f"clipped at {clip:g}" if (clip := value("optimizer.clip_norm")) else "not clipped"),
        ),
        (
            "learning rate",
            f"{value('optimizer.learning_rate'):g}, {value('schedule.name')}, "
            f"warm-up of {value('schedule.warmup_epochs'):g} epoch(s)",
        ),
        ("loss", _group(settings, "loss")),
        ("augmentation", _group(settings, "augmentation")),
        (
            "rare classes",
            f"drawn more often, by their rarity to the power {value('data.sampling'):g}"
            if value("data.sampling")
            else "drawn as often as they are",
        ),
        (
            "average of weights",
            f"exponential, decay {value('ema_decay'):g}" if value("ema_decay") else "none",
        ),
        ("first weights", Path(value("init_from")).name or f"drawn, seed {value('seed')}"),
        ("numbers", str(value("dtype"))),
    ]
    listing = "\n".join(f"{key} = {v!r}" for key, v in settings.items() if key not in _PLACES)
    return [Facts(rows), Listing("all settings (config.json), but for folders", listing)]


def split_words(
    settings: Settings, tells_lesions: bool, leaked: float, num_test: int
) -> list[Block]:
    """How the data were divided, and what that means for the scores.

    Args:
      settings: the configuration's fields by their dotted keys.
      tells_lesions: whether the data say which pictures show the same lesion.
      leaked: the share of test images whose lesion is in training too, 0 to 1.
      num_test: images of the test part.
    """
    unit = settings["data.split"]
    how = f"Divided by {unit}, stratified by diagnosis, seed {settings['data.split_seed']}"
    if settings["data.folds"]:
        how += f"; fold {settings['data.fold']} of {settings['data.folds']}"
    how += "; official parts are kept where the data have them."
    if not tells_lesions:
        meaning = (
            "The data do not say which pictures show the same lesion or patient: lesions of the "
            "test part may be in training, and nobody can tell how many."
        )
    elif leaked:
        meaning = (
            f"{leaked:.1%} of the {num_test:,} test images show a lesion that is in training too: "
            "the scores are too good for new lesions."
        )
    else:
        meaning = "No lesion of the test part is in training."
    return [Text(f"{how} {meaning}")]


def split_table(counts: Mapping[str, Mapping[str, int]], classes: Sequence[str]) -> Table:
    """Images, lesions and classes of each part.

    Args:
      counts: by part: 'images', 'lesions', and the images of each class; without those that are
        not known.
      classes: the columns.
    """

    def cell(part: Mapping[str, int], key: str) -> str:
        return f"{part[key]:,}" if key in part else NO_VALUE

    shown = [name for name in classes if any(part.get(name) for part in counts.values())]
    return Table(
        ("part", "images", "lesions", *shown),
        [
            [name, *(cell(part, key) for key in ("images", "lesions", *shown))]
            for name, part in counts.items()
        ],
    )


def _group(settings: Settings, prefix: str) -> str:
    """The settings of a group that are not off, as words."""
    members = {
        key.split(".", 1)[1]: value
        for key, value in settings.items()
        if key.startswith(f"{prefix}.") and value
    }
    said = [
        name.replace("_", " ") if value is True else f"{name.replace('_', ' ')} {value:g}"
        for name, value in members.items()
    ]
    return ", ".join(said) or ("cross-entropy" if prefix == "loss" else "none")
