"""SE-UNet on the built-in phantom: everything once, in minutes, on a laptop.

    launch/local.sh

Two to four minutes on two CPU cores: a Jaccard of 0.79 on 58 of its pictures that it never saw.
"""

from ml_collections import ConfigDict

from skinjax.modes.config import segmentation_config


def get_config() -> ConfigDict:
    """The experiment's configuration."""
    config = segmentation_config()
    config.image_size = (96, 128)
    config.batch_size = 16
    config.num_epochs = 4.0
    config.ema_decay = 0.99
    config.log_every_steps = 10
    config.data.dataset = "phantom"
    config.data.num_images = 600
    config.data.size = 96
    config.data.num_threads = 2
    config.model.base_features = 8
    return config
