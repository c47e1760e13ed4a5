"""The convolutional pieces of the U-Net, written in the forms that XLA differentiates quickly."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def max_pool_2x2(x: jax.Array) -> jax.Array:
    """Halves height and width by the maximum of each 2x2 window.

    Pairwise maxima of strided slices: the same values as `nn.max_pool`, whose backward pass
    (select-and-scatter) took some twenty times as long on CPU. Where two pixels tie, the gradient
    is shared between them.

    Args:
        x: [N, H, W, C] of any float type; H and W even.

    Returns:
        [N, H/2, W/2, C] of the same type.
    """
    rows = jnp.maximum(x[:, 0::2], x[:, 1::2])
    return jnp.maximum(rows[:, :, 0::2], rows[:, :, 1::2])


class UpConv(nn.Module):
    """A 2x2, stride-2 transposed convolution with bias, as one matrix product and a reshape.

    The windows do not overlap, so that each input pixel makes its own 2x2 output pixels. The
    function is that of PyTorch's ConvTranspose2d, and of `nn.ConvTranspose` with its kernel
    mirrored; the parameters have `nn.ConvTranspose`'s shapes. The backward pass, a matrix product,
    took a fifteenth of the time on CPU.

    Attributes:
        features: number of output channels.
        dtype: type of the computation; parameters are float32.
    """

    features: int
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to [N, 2H, 2W, features]."""
        n, height, width, channels = x.shape
        kernel = self.param(
            "kernel", nn.initializers.he_normal(), (2, 2, channels, self.features), jnp.float32
        )
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        x = x.astype(self.dtype)
        y = jnp.einsum("nhwc,ijco->nhiwjo", x, kernel.astype(self.dtype))
        return y.reshape(n, 2 * height, 2 * width, self.features) + bias.astype(self.dtype)


class DoubleConv(nn.Module):
    """Twice a 3x3 convolution without bias, BatchNorm and ReLU (Ronneberger et al. 2015).

    Attributes:
        features: number of output channels of both convolutions.
        dtype: type of the computation; parameters and BatchNorm's statistics are float32.
    """

    features: int
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to [N, H, W, features]; `train` uses and updates batch statistics."""
        for _ in range(2):
            x = nn.Conv(
                self.features,
                (3, 3),
                use_bias=False,
                dtype=self.dtype,
                kernel_init=nn.initializers.he_normal(),
            )(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype)(x)
            x = nn.relu(x)
        return x
