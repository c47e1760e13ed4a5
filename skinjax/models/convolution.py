"""A 3x3 convolution whose weight gradient runs on CPU at the speed of a matrix product."""

import jax
import jax.numpy as jnp
from jax import lax

# Below this many pixels, or channels on either side, XLA's own weight gradient was as fast.
_MIN_PIXELS = 300
_MIN_CHANNELS = 16


@jax.custom_vjp
def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with a 3x3 kernel, stride 1, zeros outside.

    The same function as `lax.conv_general_dilated` with padding SAME. Only the gradient with
    respect to the kernel has a form of its own, and only when it is compiled for CPU, in float32
    and at the sizes where it gained; everything else is the plain convolution. It can be
    differentiated in reverse mode, as often as wanted, and not in forward mode.

    Args:
        x: [N, H, W, C] of any float type.
        kernel: [3, 3, C, F] of the same type.

    Returns:
        [N, H, W, F] of the same type.
    """
    return _convolve(x, kernel)


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(x, kernel), (x, kernel)


def _backward(
    residuals: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    _, transpose = jax.vjp(lambda x: _convolve(x, kernel), x)
    (x_grad,) = transpose(grad)
    _, height, width, channels = x.shape
    large = height * width >= _MIN_PIXELS and min(channels, grad.shape[-1]) >= _MIN_CHANNELS
    if large and x.dtype == jnp.float32:
        # Decided when compiled, not when traced: the program may be exported for other platforms,
        # or run on the CPU of a machine that has a GPU.
        kernel_grad = lax.platform_dependent(
            x, grad, cpu=_kernel_grad_by_rows, default=_kernel_grad
        )
    else:
        kernel_grad = _kernel_grad(x, grad)
    return x_grad, kernel_grad


conv3x3.defvjp(_forward, _backward)


def _kernel_grad(x: jax.Array, grad: jax.Array) -> jax.Array:
    """The [3, 3, C, F] gradient as XLA derives it from the convolution."""
    kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1], grad.shape[-1]), x.dtype)
    (kernel_grad,) = jax.linear_transpose(lambda kernel: _convolve(x, kernel), kernel)(grad)
    return kernel_grad


def _kernel_grad_by_rows(x: jax.Array, grad: jax.Array) -> jax.Array:
    """The same gradient as a one-dimensional convolution over rows.

    What XLA derives contracts height, width and batch, but walks through memory in runs of N
    floats, N the batch size. Here, a row of the whole batch (W N floats) is one run: of the two
    operands, the one with fewer channels is laid three times side by side, moved by a pixel
    to the left, not at all, and to the right; the convolution over rows then finds all nine
    gradients in a matrix product of inner size H W N, without a wasted multiplication.
    """
    batch, height, width, _ = x.shape
    swap = x.shape[-1] < grad.shape[-1]
    once, thrice = (grad, x) if swap else (x, grad)
    # Without the barrier XLA fuses what made the operands into the transposes, several times as slow.
    once, thrice = lax.optimization_barrier((once, thrice))
    num_once, num_thrice = once.shape[-1], thrice.shape[-1]
    padded = jnp.pad(thrice, ((0, 0), (0, 0), (1, 1), (0, 0)))
    thrice = jnp.concatenate([padded[:, :, 2 - j : 2 - j + width] for j in range(3)], axis=-1)
    products = lax.conv_general_dilated(
        once.transpose(3, 1, 0, 2).reshape(num_once, height, batch * width),
        thrice.transpose(1, 0, 2, 3).reshape(height, batch * width, 3 * num_thrice),
        (1,),
        ((1, 1),),
        dimension_numbers=("NHC", "HIO", "NHC"),
    ).reshape(num_once, 3, 3, num_thrice)
    if swap:  # The shifts were those of the gradient against x: mirror them.
        return products[:, ::-1, ::-1].transpose(1, 2, 3, 0)
    return products.transpose(1, 2, 0, 3)
