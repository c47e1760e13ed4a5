"""U-Nets with squeeze-and-excitation: the SE-UNet, and one over a pretrained EfficientNet-Lite."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from skinjax.models.attention import ScSE, SqueezeExcitation
from skinjax.models.efficientnet_lite import EfficientNetLite
from skinjax.models.layers import DoubleConv, UpConv, max_pool_2x2

ATTENTIONS = ("se", "scse", "none")
NUM_LEVELS = 4  # halvings between the input and the bottleneck
_NUM_TRUNK_LEVELS = 5  # halvings of an EfficientNet-Lite


class UNet(nn.Module):
    """The way up of a U-Net, and what its kinds share.

    Attributes:
        base_features: channels of the first level; each level below doubles them.
        attention: 'se', 'scse' or 'none': what follows each double convolution.
        reduction: how many channels share a unit of the squeeze-and-excitation block's hidden
            layer.
        num_outputs: channels of the logits.
        dtype: type of the computation; parameters and BatchNorm's statistics are float32.
        remat: whether the backward pass computes each level anew instead of keeping what it needs.
    """

    base_features: int = 64
    attention: str = "se"
    reduction: int = 16
    num_outputs: int = 1
    dtype: jax.typing.DTypeLike = jnp.float32
    remat: bool = False

    @property
    def downsampling(self) -> int:
        """How many rows of the input are one row where the model is at its coarsest."""
        raise NotImplementedError

    def _pad(self, images: jax.Array) -> jax.Array:
        """The images with their last row and column repeated behind, in whole coarsest rows."""
        x, multiple = images, self.downsampling
        # Not jnp.pad, which repeats the borders of the other axes no times: in ONNX a size of 0 has
        # another meaning, and what was exported failed.
        for axis in (1, 2):
            if missing := -x.shape[axis] % multiple:
                border = jax.lax.slice_in_dim(x, x.shape[axis] - 1, None, axis=axis)
                x = jnp.concatenate([x, jnp.repeat(border, missing, axis=axis)], axis=axis)
        return x

    def _ascend(
        self, x: jax.Array, skips: Sequence[jax.Array], train: bool, first: int = 0
    ) -> jax.Array:
        """From the features below the last of the skips to float32 logits of the picture's size.

        Where the first of the skips lies `first` halvings below the picture, each of its pixels
        tells the logits of the 2**first rows and columns that it stands for (Shi et al. 2016).
        """
        for level, skip in reversed([*enumerate(skips, first)]):
            features = self.base_features * 2**level
            x = UpConv(features, dtype=self.dtype, name=f"up_{level}")(x)
            x = jnp.concatenate([skip, x], axis=-1)
            x = self._block(x, features, f"decoder_{level}", train)
        side = 2**first
        logits = nn.Conv(self.num_outputs * side**2, (1, 1), dtype=jnp.float32, name="head")(
            x.astype(jnp.float32)
        )
        num, height, width, _ = logits.shape
        logits = logits.reshape(num, height, width, side, side, self.num_outputs)
        return logits.swapaxes(2, 3).reshape(num, side * height, side * width, self.num_outputs)

    def _block(self, x: jax.Array, features: int, name: str, train: bool) -> jax.Array:
        """A double convolution and its attention, computed anew in the backward pass if wanted."""
        block = UNet._attended
        if self.remat:
            block = nn.remat(block, static_argnums=(2, 3, 4))
        return block(self, x, features, name, train)

    def _attended(self, x: jax.Array, features: int, name: str, train: bool) -> jax.Array:
        x = DoubleConv(features, dtype=self.dtype, name=name)(x, train)
        if self.attention == "none":
            return x
        attention = {"se": SqueezeExcitation, "scse": ScSE}[self.attention]
        return attention(self.reduction, dtype=self.dtype, name=f"{name}_{self.attention}")(x)


class SEUNet(UNet):
    """U-Net (Ronneberger et al. 2015) with channel attention (Hu et al. 2018; Roy et al. 2018).

    With base_features 64, three input channels and one output channel it has 31,258,873 parameters
    with 'se', 31,261,826 with 'scse' and 31,037,633 with 'none'.
    """

    @property
    def downsampling(self) -> int:
        """How many rows of the input are one row of the bottleneck."""
        return 2**NUM_LEVELS

    @property
    def blocks(self) -> list[str]:
        """The names of the double convolutions, in the order in which a picture passes them."""
        down, up = (
            [f"{part}_{level}" for level in range(NUM_LEVELS)] for part in ("encoder", "decoder")
        )
        return [*down, "bottleneck", *reversed(up)]

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Predicts a logit for each pixel.

        Args:
            images: float32 [N, H, W, 3], normalised, of any height and width (padded to a multiple
                of 16 with their own border pixels, and cropped back, inside).
            train: whether BatchNorm uses, and updates, the statistics of the batch.

        Returns:
            float32 logits [N, H, W, num_outputs].
        """
        height, width = images.shape[1:3]
        x = self._pad(images).astype(self.dtype)
        skips = []
        for level in range(NUM_LEVELS):
            x = self._block(x, self.base_features * 2**level, f"encoder_{level}", train)
            skips.append(x)
            x = max_pool_2x2(x)
        x = self._block(x, self.base_features * 2**NUM_LEVELS, "bottleneck", train)
        return self._ascend(x, skips, train)[:, :height, :width]


class EfficientNetUNet(UNet):
    """The way up of a U-Net over the features of an EfficientNet-Lite.

    The trunk's outputs take the places of the levels below the first, which has none: each pixel of
    the second predicts a square of four. That spares a sixth to a third of the time of an update;
    the trunk's first features, 16 channels of 2x2 pixels, keep what the picture has of detail. The
    double convolutions and their attention are those of a `SEUNet`, from base_features times 16
    down to base_features times 2.

    Attributes:
        variant: 0, 1 or 2, of the trunk.
    """

    variant: int = 0

    @property
    def downsampling(self) -> int:
        """How many rows of the input are one row of the trunk's last features."""
        return 2**_NUM_TRUNK_LEVELS

    @property
    def blocks(self) -> list[str]:
        """The names of the double convolutions, in the order in which a picture passes them."""
        return [f"decoder_{level}" for level in reversed(range(1, _NUM_TRUNK_LEVELS))]

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool, features: Sequence[jax.Array] | None = None
    ) -> jax.Array:
        """Predicts a logit for each pixel.

        Args:
            images: float32 [N, H, W, 3], normalised by ImageNet's means and deviations, of any
                height and width (padded to a multiple of 32 with their own border pixels, and
                cropped back, inside).
            train: whether BatchNorm uses, and updates, the statistics of the batch.
            features: what the trunk gives for the images, where another model has a trunk; of
                images that need no padding.

        Returns:
            float32 logits [N, H, W, num_outputs].
        """
        height, width = images.shape[1:3]
        images = self._pad(images)
        if features is None:
            trunk = EfficientNetLite(self.variant, self.dtype, self.remat, name="trunk")
            features = trunk(images, train)
        *skips, below = features
        return self._ascend(below, skips, train, first=1)[:, :height, :width]
