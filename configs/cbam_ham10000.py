"""CBAM-ResNet on HAM10000: seven diagnoses.

    python -m skinjax.main --config=configs/cbam_ham10000.py --config.data.source=FOLDER \
        --workdir=RUN
    python -m skinjax.main --config=configs/cbam_ham10000.py:laptop --config.data.source=FOLDER \
        --workdir=RUN
"""

from ml_collections import ConfigDict

from skinjax.modes.config import classification_config


def get_config(variant: str = "") -> ConfigDict:
    """The experiment's configuration; '' is for an accelerator, 'laptop' for two CPU cores."""
    config = classification_config()
    config.data.sampling = 0.5
    if variant == "laptop":
        config.image_size = (96, 128)
        config.batch_size = 32
        config.num_epochs = 20.0
        config.ema_decay = 0.998
        config.data.size = 128
        config.data.num_threads = 2
        config.model.depth = 18
    elif variant:
        raise ValueError(f"variant {variant!r} is unknown: it is '' or 'laptop'")
    return config
