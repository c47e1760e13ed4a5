"""3x3 convolutions with a third to a quarter of the products, for CPUs (Lavin and Gray 2016).

Winograd's minimal filtering, in two dimensions: a tile of the image, of m + 2 pixels a side, and
the kernel are each brought to (m + 2)^2 values, multiplied value by value (summed over the
channels: a matrix product for each of the values), and the products brought to m pixels a side. For
m = 4 these are 36 products where the convolution has 144. What is added is sums over pixels, cheap
where there are many channels. https://arxiv.org/abs/1509.09308
"""

import fractions
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

SIZE = 3  # of the kernel's sides
# Where the polynomials are evaluated, beside infinity, by the outputs of a tile: they round to some
# 1.3e-6 of the result's standard deviation in float32, where a plain convolution has 4e-7 and the
# usual 0, 1, -1, 2, -2 have 2.4e-6.
_HALF, _QUARTER = fractions.Fraction(1, 2), fractions.Fraction(1, 4)
_POINTS = {
    2: (0, 1, -1),
    3: (0, 1, -1, 2),
    4: (0, 3 * _QUARTER, -3 * _QUARTER, 3 * _HALF, -3 * _HALF),
}


def is_faster(shape: Sequence[int], kernel_shape: Sequence[int]) -> bool:
    """Whether `convolve_3x3` beats XLA's convolution on a CPU, as measured there.

    Args:
        shape: of the images, [N, H, W, C]; N may be a symbol of `jax.export`.
        kernel_shape: [K, K, C, F].
    """
    number, height, width, _ = shape
    size, _, channels, features = kernel_shape
    # An export is for every platform and any number of images: it keeps the plain convolution.
    if size != SIZE or min(height, width) <= SIZE or not isinstance(number, int):
        return False
    # Few channels do not pay for the sums, few tiles not for the kernel's transformation, and what
    # takes less than a millisecond not for what has to be compiled.
    tiles = number * _count_tiles(height)[1] * _count_tiles(width)[1]
    products = number * height * width * SIZE**2 * channels * features
    wide = channels * features >= 32 * 64
    return wide and tiles * 8 >= max(channels, features) and products >= 25e6


@jax.custom_vjp
def convolve_3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 3x3 convolution with a pixel of zeros around, up to rounding.

    Args:
        x: [N, H, W, C], float32 or float64.
        kernel: [3, 3, C, F] of the same type.

    Returns:
        [N, H, W, F] of the same type.
    """
    height, width = x.shape[1:3]
    spectra = _transform_kernel(kernel, height, width)
    products = jnp.einsum("atc,acf->atf", _transform_image(x), spectra)
    return _gather_outputs(products, x.shape[:3])


def _convolve_forward(
    x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolve_3x3(x, kernel), (x, kernel)


def _convolve_backward(
    kept: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The gradients: to the image a convolution with the mirrored kernel, to the kernel by parts.

    Written by hand, since the transpose of a sum over strided pixels is a sum of padded arrays.
    """
    x, kernel = kept
    height, width = x.shape[1:3]
    mirrored = _transform_kernel(kernel[::-1, ::-1], height, width)
    products = jnp.einsum("atf,acf->atc", _transform_image(grad), mirrored)
    to_image = _gather_outputs(products, x.shape[:3])
    spectra = jnp.einsum("atc,atf->acf", _transform_image(x), _spread_outputs(grad))
    by_pixel = jnp.asarray(_kernel_matrix(height, width).T, kernel.dtype)
    to_kernel = by_pixel @ spectra.reshape(len(spectra), -1)
    return to_image, to_kernel.reshape(kernel.shape)


convolve_3x3.defvjp(_convolve_forward, _convolve_backward)


def _count_tiles(side: int) -> tuple[int, int]:
    """Outputs of a tile and tiles along a side: those with the fewest products."""
    counts = [(outputs, -(-side // outputs)) for outputs in _POINTS]
    return min(counts, key=lambda count: (count[1] * (count[0] + SIZE - 1), count[1]))


@functools.cache
def _matrices(outputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The transformations of one dimension, float64, by the Toom-Cook method, exact until the end.

    A product of two polynomials is interpolated from its values at `_POINTS` and at infinity (its
    leading coefficient); a correlation is the transpose of that (Lavin and Gray's A^T, G and B^T).

    Args:
        outputs: m, those of a tile.

    Returns:
        [m, m + 2] from products to outputs, [m + 2, 3] of the kernel, [m + 2, m + 2] of the image.
    """
    points = [fractions.Fraction(point) for point in _POINTS[outputs]]
    values = outputs + SIZE - 1
    to_outputs = np.zeros((outputs, values))
    of_kernel = np.zeros((values, SIZE))
    of_image = np.zeros((values, values))
    for i, point in enumerate(points):
        others = points[:i] + points[i + 1 :]
        weight = math.prod(point - other for other in others)
        to_outputs[:, i] = [point**power for power in range(outputs)]
        of_kernel[i] = [point**power / weight for power in range(SIZE)]
        of_image[i, :-1] = _expand(others)
    # Infinity has the highest power alone.
    to_outputs[-1, -1] = of_kernel[-1, -1] = 1
    of_image[-1] = _expand(points)
    return to_outputs, of_kernel, of_image


def _expand(roots: Sequence[fractions.Fraction]) -> list[fractions.Fraction]:
    """The coefficients of the polynomial with these roots, from the lowest power up."""
    coefficients = [fractions.Fraction(1)]
    for root in roots:
        shifted = [fractions.Fraction(0), *coefficients]
        scaled = [*(root * coefficient for coefficient in coefficients), fractions.Fraction(0)]
        coefficients = [one - other for one, other in zip(shifted, scaled, strict=True)]
    return coefficients


def _kernel_matrix(height: int, width: int) -> np.ndarray:
    """[values of a tile, 9]: a kernel's transformation along both sides at once, float64."""
    rows, columns = (_matrices(_count_tiles(side)[0])[1] for side in (height, width))
    return np.asarray(np.kron(rows, columns))


def _transform_kernel(kernel: jax.Array, height: int, width: int) -> jax.Array:
    """[3, 3, C, F] to [values of a tile, C, F], for images of `height` and `width` pixels."""
    matrix = jnp.asarray(_kernel_matrix(height, width), kernel.dtype)
    return (matrix @ kernel.reshape(SIZE**2, -1)).reshape(-1, *kernel.shape[2:])


def _transform_image(x: jax.Array) -> jax.Array:
    """[N, H, W, C] to [values of a tile, tiles, C], of tiles that overlap by two pixels."""
    sides = []
    for side in x.shape[1:3]:
        outputs, tiles = _count_tiles(side)
        last = (tiles - 1) * outputs + 1
        slices = [slice(i, i + last, outputs) for i in range(outputs + SIZE - 1)]
        sides.append(((1, tiles * outputs - side + 1), slices, _matrices(outputs)[2]))
    return _to_values(x, sides)


def _spread_outputs(grad: jax.Array) -> jax.Array:
    """[N, H, W, F] to [values of a tile, tiles, F]: the transpose of `_gather_outputs`."""
    sides = []
    for side in grad.shape[1:3]:
        outputs, tiles = _count_tiles(side)
        slices = [slice(i, None, outputs) for i in range(outputs)]
        sides.append(((0, tiles * outputs - side), slices, _matrices(outputs)[0].T))
    return _to_values(grad, sides)


def _to_values(
    x: jax.Array, sides: Sequence[tuple[tuple[int, int], Sequence[slice], np.ndarray]]
) -> jax.Array:
    """[N, H, W, C] to [values of a tile, tiles, C].

    Args:
        x: images.
        sides: for rows and columns the zeros around, the tiles' pixels, one slice for the first of
            each tile and so on, and the matrix from a tile's pixels to its values.
    """
    (row_border, rows, of_rows), (column_border, columns, of_columns) = sides
    x = jnp.pad(x, [(0, 0), row_border, column_border, (0, 0)])
    x = jnp.stack(_combine(of_rows, [x[:, row] for row in rows]))
    x = jnp.stack(_combine(of_columns, [x[:, :, :, column] for column in columns]), axis=1)
    return x.reshape(x.shape[0] * x.shape[1], -1, x.shape[-1])


def _gather_outputs(products: jax.Array, shape: Sequence[int]) -> jax.Array:
    """[values of a tile, tiles, F] to [N, H, W, F], for N, H, W in `shape`."""
    number, height, width = shape
    (rows, row_tiles), (columns, column_tiles) = _count_tiles(height), _count_tiles(width)
    values = (rows + SIZE - 1, columns + SIZE - 1)
    y = products.reshape(*values, number, row_tiles, column_tiles, -1)
    # A tile's rows go beside its place among the tiles, then its columns, and are one side then.
    y = jnp.stack(_combine(_matrices(rows)[0], list(y)), axis=3)
    y = jnp.stack(_combine(_matrices(columns)[0], list(y)), axis=4)
    y = y.reshape(number, row_tiles * rows, column_tiles * columns, -1)
    return y[:, :height, :width]


def _combine(matrix: np.ndarray, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """The products of a matrix with a vector of arrays: their sums with each row's weights."""
    return [
        functools.reduce(
            jnp.add,
            [float(w) * array for w, array in zip(row, arrays, strict=True) if w != 0],
        )
        for row in matrix
    ]
