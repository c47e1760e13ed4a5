"""ResNet classifiers with CBAM or squeeze-and-excitation in every residual block."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from skinjax.errors import UserError
from skinjax.models.attention import ATTENTIONS, attend
from skinjax.models.layers import Conv, PointwiseConv, batch_norm, block_names, wide_type

# Blocks in each of the four stages (He et al. 2016, table 1); bottlenecks from 50 layers on.
STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STEMS = ("imagenet", "small")
BOTTLENECK_EXPANSION = 4  # output channels of a bottleneck over those of its 3x3 convolution


def is_bottleneck(depth: int) -> bool:
    """Whether a ResNet of that depth is built of bottlenecks, with three convolutions a block."""
    return depth >= 50


def max_pool_3x3(x: jax.Array) -> jax.Array:
    """3x3, stride-2 max-pooling with a border of one pixel, as after a ResNet's stem.

    Maxima of strided slices, first over rows and then over columns: the values of `nn.max_pool`, at
    a quarter of the CPU time forward and backward. Where pixels tie, the gradient is shared between
    them.

    Args:
        x: [N, H, W, C] of any float type and any height and width.

    Returns:
        [N, ceil(H / 2), ceil(W / 2), C] of the same type.
    """
    for axis in (1, 2):
        span = x.shape[axis] - 1
        span -= span % 2  # between the first and the last window
        border = [(0, 0)] * 4
        border[axis] = (1, 1)
        x = jnp.pad(x, border, constant_values=-jnp.inf)
        a, b, c = (jax.lax.slice_in_dim(x, i, i + span + 1, 2, axis) for i in range(3))
        x = jnp.maximum(jnp.maximum(a, b), c)
    return x


class ResidualBlock(nn.Module):
    """A basic or a bottleneck block with attention on its branch (He et al. 2016; Woo et al. 2018).

    The stride is in the first 3x3 convolution (ResNet v1.5), the attention after the last BatchNorm
    and before the addition.

    Attributes:
        features: output channels of the 3x3 convolutions.
        bottleneck: 1x1, 3x3, 1x1 convolutions and four times the channels out, instead of two 3x3.
        stride: 1, or 2 to halve height and width.
        attention: 'cbam', 'se' or 'none'.
        reduction: how many channels share a hidden unit of the channel gate.
        dtype: type of the computation.
    """

    features: int
    bottleneck: bool
    stride: int
    attention: str
    reduction: int
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to [N, ceil(H / stride), ceil(W / stride), features or 4 features]."""
        widths: tuple[int, ...]
        sizes: tuple[int, ...]
        strides: tuple[int, ...]
        if self.bottleneck:
            widths = (self.features, self.features, self.features * BOTTLENECK_EXPANSION)
            sizes, strides = (1, 3, 1), (1, self.stride, 1)
        else:
            widths, sizes, strides = (self.features,) * 2, (3, 3), (self.stride, 1)

        branch = x
        for i, (width, size, stride) in enumerate(zip(widths, sizes, strides, strict=True), 1):
            branch = convolution(width, size, stride, self.dtype, f"conv_{i}")(branch)
            branch = batch_norm(train, self.dtype, f"norm_{i}")(branch)
            if i < len(widths):
                branch = nn.relu(branch)
        branch = attend(self.attention, branch, train, self.reduction, self.dtype)

        if self.stride != 1 or x.shape[-1] != widths[-1]:
            x = convolution(widths[-1], 1, self.stride, self.dtype, "shortcut_conv")(x)
            x = batch_norm(train, self.dtype, "shortcut_norm")(x)
        return nn.relu(branch + x)


class CBAMResNet(nn.Module):
    """A ResNet with an attention block in every residual block (Woo et al. 2018; Hu et al. 2018).

    The layout is torchvision's, so that its weights give its logits (`skinjax.models.pretrained`):
    the stride in the bottleneck's 3x3 convolution, and as many pixels of zero padding on either
    side. With 1000 classes, ResNet-50 has 28,089,624 parameters with 'cbam', 28,088,024 with 'se'
    and 25,557,032 with 'none'.

    Attributes:
        num_classes: number of logits.
        depth: 18, 34, 50 or 101.
        attention: 'cbam', 'se' or 'none'.
        stem: 'imagenet', a 7x7 convolution and a pooling that leave a quarter of the sides, or
            'small', a 3x3 convolution at full size, for images of a few dozen pixels.
        reduction: how many channels share a hidden unit of the channel gate.
        dtype: type of the computation; parameters and BatchNorm's statistics are float32.
        remat: whether the backward pass computes each block anew instead of keeping what it needs.
    """

    num_classes: int
    depth: int = 50
    attention: str = "cbam"
    stem: str = "imagenet"
    reduction: int = 16
    dtype: jax.typing.DTypeLike = jnp.float32
    remat: bool = False

    @property
    def downsampling(self) -> int:
        """How many rows of the input are one row of the last stage."""
        return 32 if self.stem == "imagenet" else 8

    @property
    def blocks(self) -> list[str]:
        """The names of the residual blocks, in the order in which a picture passes them."""
        return block_names(STAGES[self.depth])

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Predicts one logit for each class.

        Args:
            images: float32 [N, H, W, 3], normalised, of any height and width.
            train: whether BatchNorm uses, and updates, the statistics of the batch.

        Returns:
            float32 logits [N, num_classes].

        Raises:
            UserError: an unknown depth, attention or stem.
        """
        for name, known in (("depth", tuple(STAGES)), ("attention", ATTENTIONS), ("stem", STEMS)):
            if (value := getattr(self, name)) not in known:
                choices = ", ".join(str(choice) for choice in known)
                raise UserError(f"{name} {value!r} is not known: choose one of {choices}.")
        wide = wide_type(self.dtype)
        x = images.astype(self.dtype)
        size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = convolution(64, size, stride, self.dtype, "stem_conv")(x)
        x = batch_norm(train, self.dtype, "stem_norm")(x)
        if self.stem == "imagenet":
            x = max_pool_3x3(x)  # before the ReLU: the same values, and a quarter of its work
        x = nn.relu(x)
        # `train` is the block's second argument after itself.
        make_block = nn.remat(ResidualBlock, static_argnums=(2,)) if self.remat else ResidualBlock
        for stage, num_blocks in enumerate(STAGES[self.depth], 1):
            for block in range(num_blocks):
                x = make_block(
                    features=64 * 2 ** (stage - 1),
                    bottleneck=is_bottleneck(self.depth),
                    stride=2 if stage > 1 and block == 0 else 1,
                    attention=self.attention,
                    reduction=self.reduction,
                    dtype=self.dtype,
                    name=f"stage_{stage}_block_{block}",
                )(x, train)
        x = jnp.mean(x, axis=(1, 2), dtype=wide)
        return nn.Dense(self.num_classes, dtype=wide, param_dtype=wide, name="head")(x)


def convolution(
    features: int, size: int, stride: int, dtype: jax.typing.DTypeLike, name: str
) -> nn.Module:
    """A square convolution without bias, drawn as He et al. 2015 do for what comes out."""
    kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    if size > 1:
        return Conv(features, size, stride, dtype, kernel_init, name=name)
    return PointwiseConv(features, stride, dtype, kernel_init, name=name)
