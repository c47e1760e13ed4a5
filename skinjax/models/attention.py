"""Attention blocks that scale feature maps by gates in (0, 1): SE, scSE and CBAM.

Pools, hidden layers and gates are computed in float32 whatever the type of the feature maps: they
are small, a mean over many pixels loses digits in bfloat16, and the gate is rounded once, where it
is applied.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from skinjax.models.layers import Conv, wide_type

ATTENTIONS = ("cbam", "se", "none")  # what `attend` knows


class GateMLP(nn.Module):
    """Two dense layers with biases and a ReLU between, C -> C / reduction -> C.

    Attributes:
        reduction: how many channels share a unit of the hidden layer (which has one unit at least).
        dtype: type of computation and parameters.
    """

    reduction: int
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., C] to logits [..., C] of type `dtype`."""
        channels = x.shape[-1]
        hidden = max(channels // self.reduction, 1)
        x = nn.Dense(hidden, dtype=self.dtype, param_dtype=self.dtype, name="squeeze")(x)
        x = nn.relu(x)
        return nn.Dense(channels, dtype=self.dtype, param_dtype=self.dtype, name="excite")(x)


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate made of all channels' global means (Hu et al. 2018, section 3).

    Attributes:
        reduction: how many channels share a unit of the hidden layer.
        dtype: type of the feature maps; parameters are float32.
    """

    reduction: int = 16
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to [N, H, W, C] of type `dtype`."""
        wide = wide_type(self.dtype)
        x = x.astype(self.dtype)
        means = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=wide)
        gate = nn.sigmoid(GateMLP(self.reduction, wide, name="mlp")(means))
        return x * gate.astype(self.dtype)


class ScSE(nn.Module):
    """Concurrent channel and spatial squeeze-and-excitation, added (Roy et al. 2018).

    Attributes:
        reduction: how many channels share a unit of the channel gate's hidden layer.
        dtype: type of the feature maps; parameters are float32.
    """

    reduction: int = 16
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to [N, H, W, C] of type `dtype`."""
        wide = wide_type(self.dtype)
        x = x.astype(self.dtype)
        by_channel = SqueezeExcitation(self.reduction, dtype=self.dtype, name="channel")(x)
        pixel_logits = nn.Dense(1, dtype=self.dtype, param_dtype=wide, name="spatial")(x)
        return by_channel + x * nn.sigmoid(pixel_logits.astype(wide)).astype(self.dtype)


class CBAM(nn.Module):
    """The convolutional block attention module: channel gate, then spatial gate (Woo et al. 2018).

    The spatial gate's BatchNorm is that of the authors' code: its scale starts at 0, so that the
    gate is 1/2 everywhere until training moves it, and its statistics move by 1% a step.

    Attributes:
        reduction: how many channels share a unit of the channel gate's hidden layer.
        dtype: type of the feature maps; parameters and BatchNorm's statistics are float32.
    """

    reduction: int = 16
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to the same, of type `dtype`; `train` uses batch statistics."""
        wide = wide_type(self.dtype)
        x = x.astype(self.dtype)
        mean = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=wide)
        peak = jnp.max(x, axis=(1, 2), keepdims=True).astype(wide)
        mlp = GateMLP(self.reduction, wide, name="mlp")
        x = x * nn.sigmoid(mlp(mean) + mlp(peak)).astype(self.dtype)

        peak = jnp.max(x, axis=3, keepdims=True).astype(wide)
        mean = jnp.mean(x, axis=3, keepdims=True, dtype=wide)
        pixel_logits = Conv(
            1,
            size=7,
            dtype=wide,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            name="spatial_conv",
        )(jnp.concatenate([peak, mean], axis=3))
        pixel_logits = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.99,
            dtype=wide,
            param_dtype=wide,
            scale_init=nn.initializers.zeros_init(),
            force_float32_reductions=False,  # `wide` already; this would hold float64 down
            name="spatial_norm",
        )(pixel_logits)
        return x * nn.sigmoid(pixel_logits).astype(self.dtype)


def attend(
    attention: str, x: jax.Array, train: bool, reduction: int, dtype: jax.typing.DTypeLike
) -> jax.Array:
    """A classifier's attention block, of its name in the module that calls; x as it is for 'none'.

    Args:
        attention: one of `ATTENTIONS`.
        x: [N, H, W, C].
        train: whether BatchNorm uses, and updates, the statistics of the batch.
        reduction: how many channels share a hidden unit of the channel gate.
        dtype: type of the computation.

    Returns:
        [N, H, W, C].
    """
    if attention == "cbam":
        return CBAM(reduction, dtype=dtype, name="cbam")(x, train)
    if attention == "se":
        return SqueezeExcitation(reduction, dtype=dtype, name="se")(x)
    return x
