"""The convolutional pieces of the models, written in the forms that XLA differentiates quickly."""

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from skinjax.models.kn2row import convolve_by_taps
from skinjax.models.winograd import convolve_3x3, is_faster

SPACE_AXIS = "space"  # of a mesh, along which its devices divide the rows of pictures


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


def wide_type(dtype: jax.typing.DTypeLike) -> jax.typing.DTypeLike:
    """The type of parameters and sums where `dtype` computes: float32, but float64 for float64."""
    return jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """A convolution with a square kernel and half of it as zeros around, as PyTorch pads.

    On a CPU, unless rows are divided among devices, wide 3x3 convolutions in float32 are Winograd's
    (`skinjax.models.winograd`), in half the time. Where a 3x3 kernel gives no more than three
    outputs on a side, or takes many channels with a stride, it is a matrix product for each of the
    kernel's pixels (`skinjax.models.kn2row`): XLA's fast convolution is not for such small images,
    and a step of a ResNet-18 at 48x64 pixels, whose last stage has 2x2, took nine times as long.

    Args:
        x: [N, H, W, C] of any float type.
        kernel: [K, K, C, F] of the same type, K odd.
        stride: of the windows, along both axes.

    Returns:
        [N, ceil(H / stride), ceil(W / stride), F] of the same type.
    """
    size, _, channels, _ = kernel.shape
    if _is_on_cpu(x):
        if stride == 1 and x.dtype == jnp.float32 and is_faster(x.shape, kernel.shape):
            return convolve_3x3(x, kernel)
        takes_taps = min(x.shape[1:3]) <= size * stride
        if stride > 1:
            takes_taps = (takes_taps or channels >= 64) and not _is_exported(x)
        if size == 3 and takes_taps:
            return convolve_by_taps(x, kernel, stride)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(size // 2, size // 2)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def multiply_pixels(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """The product of each pixel's channels with a matrix.

    On a CPU as a product of two matrices: of the sum over three axes, which the kernel's gradient
    is otherwise, XLA makes a transposed copy first, at the price of several products. Elsewhere,
    and in an export, it is a convolution where it has a stride: XLA's GPU compiler (jax 0.11.2)
    aborts at some products of strided slices.

    Args:
        x: [N, H, W, C] of any float type.
        kernel: [C, F] of the same type.
        stride: of the pixels taken, along both axes.

    Returns:
        [N, ceil(H / stride), ceil(W / stride), F] of the same type.
    """
    if _is_on_cpu(x) and (stride == 1 or not _is_exported(x)):
        taken = x[:, ::stride, ::stride]
        product = taken.reshape(-1, taken.shape[-1]) @ kernel
        return product.reshape(*taken.shape[:-1], kernel.shape[-1])
    return x @ kernel if stride == 1 else convolve(x, kernel[None, None], stride)


def _is_on_cpu(x: jax.Array) -> bool:
    """Whether images are on a CPU, and their rows not divided among devices.

    Where they are, neighbours exchange few rows for XLA's convolutions; the forms that are faster
    on a CPU would gather them.
    """
    whole_rows = jax.typeof(x).sharding.mesh.shape.get(SPACE_AXIS, 1) == 1
    return whole_rows and jax.default_backend() == "cpu"


def _is_exported(x: jax.Array) -> bool:
    """Whether a program is made for any number of images, and so for every platform."""
    return not isinstance(x.shape[0], int)


class Conv(nn.Module):
    """A square convolution without bias, with the same padding on either side.

    Attributes:
        features: number of output channels.
        size: rows and columns of the kernel; odd.
        stride: of the windows, along both axes.
        dtype: type of the computation; parameters are float32.
        kernel_init: draws the kernel.
    """

    features: int
    size: int = 3
    stride: int = 1
    dtype: jax.typing.DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to [N, ceil(H / stride), ceil(W / stride), features]."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, wide_type(self.dtype))
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)


class PointwiseConv(nn.Module):
    """A convolution of single pixels without bias: a matrix product (`multiply_pixels`).

    As that, its weight gradient took 19 ms of CPU time, where XLA's convolution took 71 ms
    (32x24x32 pixels, 256 to 64 channels), and the step of a ResNet-50 a sixth less.

    Attributes:
        features: number of output channels.
        stride: of the pixels taken, along both axes.
        dtype: type of the computation; parameters are float32.
        kernel_init: draws the kernel.
    """

    features: int
    stride: int = 1
    dtype: jax.typing.DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to [N, ceil(H / stride), ceil(W / stride), features]."""
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, wide_type(self.dtype))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return multiply_pixels(x, kernel, self.stride)


def convolve_depthwise(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolves each channel by itself, with TensorFlow's SAME padding: less before than after.

    On a CPU it is a sum of shifted products, which XLA makes one loop of: forward it took a tenth
    to a fortieth of the time of XLA's grouped convolution. Its gradients are written by hand there
    (`benchmarks/NOTES.md`).

    Args:
        x: [N, H, W, C] of any float type.
        kernel: [K, K, 1, C] of the same type.
        stride: of the windows, along both axes.

    Returns:
        [N, ceil(H / stride), ceil(W / stride), C] of the same type.
    """
    if jax.default_backend() == "cpu":  # also where rows are divided, which XLA's would gather
        return _sum_shifted(x, kernel, stride)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=kernel.shape[-1],
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _sum_shifted(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`convolve_depthwise` as a sum over the kernel's pixels."""
    padded, spans, _ = _pad(x, kernel.shape[0], stride)
    wide = kernel.astype(padded.dtype)
    return _sum_windows(padded, wide, spans, stride).astype(x.dtype)


def _sum_shifted_forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, Any]:
    return _sum_shifted(x, kernel, stride), (x, kernel)


def _sum_shifted_backward(stride: int, kept: Any, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The gradients: to the image a sum of the mirrored kernel, to the kernel by columns of pixels.

    Automatic differentiation gives a sum of padded arrays and a sum over the images for each of the
    kernel's pixels, which XLA fuses into their neighbours and computes several times.
    """
    x, kernel = kept
    size, sides = kernel.shape[0], x.shape[1:3]
    padded, spans, before = _pad(x, size, stride)
    grad = grad.astype(padded.dtype)
    # Zeros between the pixels of a stride, and around them as far as the mirrored kernel reaches.
    borders = [
        (size - 1 - first, side + first - span, stride - 1)
        for side, span, first in zip(sides, spans, before, strict=True)
    ]
    spread = jax.lax.pad(grad, jnp.zeros((), grad.dtype), [(0, 0, 0), *borders, (0, 0, 0)])
    to_image = _sum_windows(spread, kernel[::-1, ::-1].astype(grad.dtype), sides, 1)

    places = list(itertools.product(range(size), repeat=2))

    def add_column(column: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
        # A column of outputs at a time, whose pixels stay in the processor's cache for all of the
        # kernel's. Rows and images are summed at the end: not one by one, and devices that have a
        # part of the images each need not agree before. (Where rows are divided, neighbours
        # exchange those at their border for each column: few, and nothing is gathered.)
        pixels = jax.lax.dynamic_slice_in_dim(padded, column * stride, size, axis=2)
        outputs = jax.lax.dynamic_index_in_dim(grad, column, axis=2, keepdims=False)
        return [
            total + pixels[:, row : row + spans[0] : stride, i] * outputs
            for total, (row, i) in zip(sums, places, strict=True)
        ]

    zeros = jnp.zeros_like(grad[:, :, 0])
    sums = jax.lax.fori_loop(0, grad.shape[2], add_column, [zeros] * len(places))
    to_kernel = jnp.stack([jnp.sum(total, axis=(0, 1)) for total in sums]).reshape(kernel.shape)
    return to_image.astype(x.dtype), to_kernel.astype(kernel.dtype)


_sum_shifted.defvjp(_sum_shifted_forward, _sum_shifted_backward)


def _pad(x: jax.Array, size: int, stride: int) -> tuple[jax.Array, list[int], list[int]]:
    """Images with SAME's zeros around, in the type of sums (as XLA's convolutions sum bfloat16).

    Beside it, for rows and columns: from the first window to the last, and the zeros before.
    """
    spans, borders = [], [(0, 0)]
    for side in x.shape[1:3]:
        spans.append((-(-side // stride) - 1) * stride + 1)
        missing = max(spans[-1] - 1 + size - side, 0)
        borders.append((missing // 2, missing - missing // 2))
    padded = jnp.pad(x, [*borders, (0, 0)]).astype(wide_type(x.dtype))
    return padded, spans, [first for first, _ in borders[1:]]


def _sum_windows(
    padded: jax.Array, kernel: jax.Array, spans: Sequence[int], stride: int
) -> jax.Array:
    """The sum, over the kernel's pixels, of each one's window of padded images times its weight."""
    products = [
        padded[:, row : row + spans[0] : stride, column : column + spans[1] : stride]
        * kernel[row, column, 0]
        for row, column in itertools.product(range(kernel.shape[0]), repeat=2)
    ]
    return functools.reduce(jnp.add, products)


class DepthwiseConv(nn.Module):
    """A convolution of each channel by itself, without bias (`convolve_depthwise`).

    Attributes:
        size: rows and columns of the kernel.
        stride: of the windows, along both axes.
        dtype: type of the computation; parameters are float32.
        kernel_init: draws the kernel.
    """

    size: int
    stride: int = 1
    dtype: jax.typing.DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to [N, ceil(H / stride), ceil(W / stride), C]."""
        shape = (self.size, self.size, 1, x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape, wide_type(self.dtype))
        return convolve_depthwise(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)


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
        matrix = kernel.astype(self.dtype).transpose(2, 0, 1, 3).reshape(channels, -1)
        y = multiply_pixels(x.astype(self.dtype), matrix)
        y = y.reshape(n, height, width, 2, 2, self.features).swapaxes(2, 3)
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
            x = Conv(self.features, dtype=self.dtype)(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype)(x)
            x = nn.relu(x)
        return x


def batch_norm(
    train: bool,
    dtype: jax.typing.DTypeLike,
    name: str,
    momentum: float = 0.9,
    epsilon: float = 1e-5,
) -> nn.BatchNorm:
    """BatchNorm, unless told with torchvision's numbers: its statistics move by 10% a step."""
    wide = wide_type(dtype)
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=momentum,
        epsilon=epsilon,
        dtype=dtype,
        param_dtype=wide,
        # Lifts bfloat16 to float32, and would hold the statistics of float64 down to it.
        force_float32_reductions=wide == jnp.float32,
        name=name,
    )


def block_names(nums_blocks: Iterable[int]) -> list[str]:
    """The names of the blocks of a model in stages, by the number of blocks in each."""
    return [
        f"stage_{stage}_block_{block}"
        for stage, num_blocks in enumerate(nums_blocks, 1)
        for block in range(num_blocks)
    ]
