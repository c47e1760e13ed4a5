"""SE-UNet on HAM10000.

python -m skinjax.main --config=configs/seunet_ham10000.py --config.data.source=FOLDER --workdir=RUN
python -m skinjax.main --config=configs/seunet_ham10000.py:laptop --config.data.source=FOLDER
--workdir=RUN
"""

from ml_collections import ConfigDict

from skinjax.modes.config import segmentation_config


def get_config(variant: str = "") -> ConfigDict:
    """The experiment's configuration; '' is for an accelerator, 'laptop' for two CPU cores."""
    config = segmentation_config()
    if variant == "laptop":
        config.image_size = (96, 128)
        config.batch_size = 16
        config.num_epochs = 6.0
        config.eval_every_epochs = 1.5
        config.ema_decay = 0.995
        config.schedule.warmup_epochs = 0.5
        config.data.size = 128
        config.data.num_threads = 2
        config.model.base_features = 16
    elif variant:
        raise ValueError(f"variant {variant!r} is unknown: it is '' or 'laptop'")
    return config
