"""One trunk, two answers: the outline of a lesion and its diagnosis."""

import flax.linen as nn
import jax

from skinjax.models.efficientnet_lite import EfficientNetLite, EfficientNetLiteClassifier
from skinjax.models.seunet import EfficientNetUNet


class JointNet(nn.Module):
    """An EfficientNet-Lite with the way up of a U-Net and the end of a classifier.

    Attributes:
        outlines: the U-Net, whose variant, types and rematerialisation are the trunk's.
        diagnoses: the classifier, of the same variant.
    """

    outlines: EfficientNetUNet
    diagnoses: EfficientNetLiteClassifier

    @property
    def downsampling(self) -> int:
        """How many rows of the input are one row of the trunk's last features."""
        return self.outlines.downsampling

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Predicts a logit for each pixel, and one for each class.

        Args:
            images: float32 [N, H, W, 3], normalised by ImageNet's means and deviations; H and W
                multiples of 32.
            train: whether BatchNorm uses, and updates, the statistics of the batch.

        Returns:
            float32 logits [N, H, W, num_outputs] and [N, num_classes].
        """
        unet = self.outlines
        trunk = EfficientNetLite(unet.variant, unet.dtype, unet.remat, name="trunk")
        features = trunk(images, train)
        return unet(images, train, features), self.diagnoses(images, train, features)
