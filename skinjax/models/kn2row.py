"""A convolution as one matrix product for each of the kernel's pixels, for small images on CPUs.

Each product takes the pixels of the image that its place in the kernel meets, and none of the
zeros around, with which a third of all products would be for 3x4 pixels under a 3x3 kernel. They
are summed where they belong ("kn2row", Vasudevan et al. 2017, https://arxiv.org/abs/1704.04428).
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class _Span(NamedTuple):
    """Along one side: the pixels that one of the kernel's meets, and the outputs they add to.

    Beside each, how many there are before the first and after the last.
    """

    inputs: slice
    inputs_around: tuple[int, int]
    outputs: slice
    outputs_around: tuple[int, int]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_by_taps(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """A convolution with a square kernel and half of it as zeros around.

    Not for forward-mode differentiation (`jax.jvp`): its gradients are written by hand.

    Args:
        x: [N, H, W, C] of any float type; N may be a symbol of `jax.export`.
        kernel: [K, K, C, F] of the same type, K odd.
        stride: of the windows, along both axes.

    Returns:
        [N, ceil(H / stride), ceil(W / stride), F] of the same type, summed in float32 at least.
    """
    parts = []
    for place, rows, columns in _meetings(x.shape[1:3], kernel.shape[0], stride):
        product = _multiply(x[:, rows.inputs, columns.inputs], kernel[place], [3], [0])
        around = [(0, 0), rows.outputs_around, columns.outputs_around, (0, 0)]
        parts.append(jnp.pad(product, around))
    return functools.reduce(jnp.add, parts).astype(x.dtype)


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, Any]:
    return convolve_by_taps(x, kernel, stride), (x, kernel)


def _backward(stride: int, kept: Any, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The gradients, a product each for every pixel of the kernel.

    Written by hand: automatic differentiation gives the kernel's gradient transposed, and XLA
    copies it.
    """
    x, kernel = kept
    to_image = []
    to_kernel: dict[tuple[int, ...], jax.Array] = {}
    for place, rows, columns in _meetings(x.shape[1:3], kernel.shape[0], stride):
        inputs, outputs = x[:, rows.inputs, columns.inputs], grad[:, rows.outputs, columns.outputs]
        # As matrices: XLA would copy transposed what it sums over three axes.
        pixels = inputs.reshape(-1, inputs.shape[-1])
        to_kernel[place] = _multiply(pixels, outputs.reshape(-1, outputs.shape[-1]), [0], [0])
        product = _multiply(outputs, kernel[place], [3], [1])
        around = [(*span.inputs_around, stride - 1) for span in (rows, columns)]
        zero = jnp.zeros((), product.dtype)
        to_image.append(jax.lax.pad(product, zero, [(0, 0, 0), *around, (0, 0, 0)]))
    # In an image of one row, the kernel's first and last meet nothing.
    nothing = jnp.zeros_like(next(iter(to_kernel.values())))
    places = itertools.product(range(kernel.shape[0]), repeat=2)
    stacked = jnp.stack([to_kernel.get(place, nothing) for place in places])
    return (
        functools.reduce(jnp.add, to_image).astype(x.dtype),
        stacked.reshape(kernel.shape).astype(kernel.dtype),
    )


convolve_by_taps.defvjp(_forward, _backward)


def _meetings(
    sides: Sequence[int], size: int, stride: int
) -> Iterator[tuple[tuple[int, ...], _Span, _Span]]:
    """The kernel's pixels that meet any of an image's, and which rows and columns of these."""
    spans = [[_meet(side, tap - size // 2, stride) for tap in range(size)] for side in sides]
    for place in itertools.product(range(size), repeat=2):
        rows, columns = (of_side[tap] for of_side, tap in zip(spans, place, strict=True))
        if rows is not None and columns is not None:
            yield place, rows, columns


def _meet(side: int, shift: int, stride: int) -> _Span | None:
    """The outputs along a side whose window has an image's pixel `shift` off its middle."""
    number = -(-side // stride)
    outputs = [i for i in range(number) if 0 <= i * stride + shift < side]
    if not outputs:
        return None
    first, last = (i * stride + shift for i in (outputs[0], outputs[-1]))
    return _Span(
        slice(first, last + 1, stride),
        (first, side - 1 - last),
        slice(outputs[0], outputs[-1] + 1),
        (outputs[0], number - 1 - outputs[-1]),
    )


def _multiply(
    a: jax.Array, b: jax.Array, axes: Sequence[int], axes_of_b: Sequence[int]
) -> jax.Array:
    """The products over these axes of each, summed in float32 at least."""
    wide = jnp.float64 if a.dtype == jnp.float64 else jnp.float32
    return jnp.tensordot(a, b, (axes, axes_of_b), preferred_element_type=wide)
