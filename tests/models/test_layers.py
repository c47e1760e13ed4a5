"""The forms that are chosen for their speed give what the plain ones give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skinjax.models.layers import convolve


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (2, 5), (3, 4), (4, 3), (6, 8)])
def test_a_convolution_is_that_of_xla_with_its_gradients(height, width, size, stride):
    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(size // 2, size // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    x = jax.random.normal(jax.random.key(0), (2, height, width, 5))
    kernel = jax.random.normal(jax.random.key(1), (size, size, 5, 4))
    ours, pull_ours = jax.vjp(lambda x, kernel: convolve(x, kernel, stride), x, kernel)
    theirs, pull_theirs = jax.vjp(plain, x, kernel)
    # float32 sums of up to 245 products of numbers of size 1.
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    out = jax.random.normal(jax.random.key(2), ours.shape)
    for mine, other in zip(pull_ours(out), pull_theirs(out), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)


def test_small_images_are_convolved_without_xlas_slow_convolution():
    x, kernel = jnp.ones((1, 2, 2, 8)), jnp.ones((3, 3, 8, 8))
    assert "conv_general_dilated" not in str(jax.make_jaxpr(convolve)(x, kernel))
    x = jnp.ones((1, 3, 3, 8))
    assert "conv_general_dilated" in str(jax.make_jaxpr(convolve)(x, kernel))
