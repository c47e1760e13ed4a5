"""The forms that are chosen for their speed give what the plain ones give."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from skinjax.models.kn2row import convolve_by_taps
from skinjax.models.layers import PointwiseConv, convolve, convolve_depthwise, multiply_pixels


def plain(x, kernel, stride):
    border = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(border, border)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def assert_same_with_gradients(ours, theirs, x, kernel):
    mine, pull_mine = jax.vjp(ours, x, kernel)
    other, pull_other = jax.vjp(theirs, x, kernel)
    np.testing.assert_allclose(mine, other, atol=1e-4)
    out = jax.random.normal(jax.random.key(2), mine.shape)
    for one, another in zip(pull_mine(out), pull_other(out), strict=True):
        np.testing.assert_allclose(one, another, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (2, 5), (3, 4), (4, 3), (6, 8)])
def test_a_convolution_is_that_of_xla_with_its_gradients(height, width, size, stride):
    x = jax.random.normal(jax.random.key(0), (2, height, width, 5))
    kernel = jax.random.normal(jax.random.key(1), (size, size, 5, 4))
    # float32 sums of up to 245 products of numbers of size 1.
    assert_same_with_gradients(
        lambda *a: convolve(*a, stride), lambda *a: plain(*a, stride), x, kernel
    )


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("height", "width"), [(1, 2), (7, 9), (12, 16)])
def test_taps_of_any_size_are_the_plain_convolution(height, width, stride, size):
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (2, height, width, 5), "float64")
        kernel = jax.random.normal(jax.random.key(1), (size, size, 5, 4), "float64")
        ours, pull_ours = jax.vjp(lambda *a: convolve_by_taps(*a, stride), x, kernel)
        theirs, pull_theirs = jax.vjp(lambda *a: plain(*a, stride), x, kernel)
        for one, another in zip(
            (ours, *pull_ours(ours)), (theirs, *pull_theirs(ours)), strict=True
        ):
            np.testing.assert_allclose(one, another, atol=1e-11)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_small_convolution_of_bfloat16_is_summed_in_float32(stride):
    """As XLA's is: rounded once, at the end (at most half of the last of eight bits)."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, 3, 4, 256)), jnp.bfloat16)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 256, 32)), jnp.bfloat16)
    # Products must be told their type where promotion is strict, and their sums are wide.
    with jax.numpy_dtype_promotion("strict"):
        ours, pull = jax.vjp(lambda *a: convolve_by_taps(*a, stride), x, kernel)
        grads = pull(ours)
    exact, pull_exact = jax.vjp(
        lambda *a: convolve_by_taps(*a, stride), x.astype(jnp.float32), kernel.astype(jnp.float32)
    )
    expected = (exact, *pull_exact(ours.astype(jnp.float32)))
    for one, another in zip((ours, *grads), expected, strict=True):
        assert one.dtype == jnp.bfloat16
        error = jnp.abs(one.astype(jnp.float32) - another)
        assert jnp.all(error <= 2**-8 * jnp.abs(another) + 1e-4)


def test_small_images_are_convolved_without_xlas_slow_convolution_on_a_cpu(monkeypatch):
    small, kernel = jnp.ones((1, 3, 4, 8)), jnp.ones((3, 3, 8, 8))
    assert "conv_general_dilated" not in str(jax.make_jaxpr(convolve)(small, kernel))
    large = jnp.ones((1, 4, 4, 8))
    assert "conv_general_dilated" in str(jax.make_jaxpr(convolve)(large, kernel))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    # A function of its own: traces are kept by function.
    assert "conv_general_dilated" in str(jax.make_jaxpr(lambda *a: convolve(*a))(small, kernel))


def test_a_convolution_of_single_pixels_is_the_matrix_product_of_those_taken(monkeypatch):
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
    for stride in (1, 2):
        layer = PointwiseConv(4, stride)
        variables = layer.init(jax.random.key(1), x)
        kernel = variables["params"]["kernel"]
        assert kernel.shape == (3, 4)
        expected = np.einsum("nhwc,cf->nhwf", x[:, ::stride, ::stride], kernel)
        np.testing.assert_allclose(layer.apply(variables, x), expected, rtol=1e-5, atol=1e-6)
        assert "conv_general_dilated" not in str(jax.make_jaxpr(layer.apply)(variables, x))
    # With a stride of 2: XLA's GPU compiler aborts at a product of a strided slice.
    layer = PointwiseConv(4, stride=2)
    (number,) = jax.export.symbolic_shape("batch")
    for_any = jax.ShapeDtypeStruct((number, 5, 6, 3), jnp.float32)
    exported = str(jax.make_jaxpr(lambda *a: layer.apply(*a))(variables, for_any))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    # A function of its own: traces are kept by function.
    on_gpu = str(jax.make_jaxpr(lambda *a: layer.apply(*a))(variables, x))
    for program in (exported, on_gpu):
        assert "conv_general_dilated" in program
        assert "dot_general" not in program


def test_kernels_gradients_transpose_no_pictures():
    """Which XLA's CPU client does with what is summed over more than one axis of it."""
    x, kernel = jnp.ones((2, 8, 8, 16)), jnp.ones((16, 16))

    def loss(kernel):
        return jnp.sum(multiply_pixels(x, kernel) ** 2)

    program = str(jax.make_jaxpr(jax.grad(loss))(kernel))
    assert "dimension_numbers=(([0], [0]), ([], []))" in program
    assert "[0, 1, 2]" not in program


@pytest.mark.parametrize("channels", [32, 64])
def test_many_channels_with_a_stride_are_a_product_for_each_of_the_kernels_pixels(channels):
    x, kernel = jnp.ones((2, 12, 16, channels)), jnp.ones((3, 3, channels, 8))
    program = str(jax.make_jaxpr(lambda *a: convolve(*a, 2))(x, kernel))
    assert ("conv_general_dilated" in program) == (channels < 64)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 5), (6, 8), (7, 4)])
def test_a_depthwise_convolution_is_that_of_xla_with_its_gradients(height, width, size, stride):
    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=5,
        )

    x = jax.random.normal(jax.random.key(0), (2, height, width, 5))
    kernel = jax.random.normal(jax.random.key(1), (size, size, 1, 5))
    # float32 sums of up to 96 products of numbers of size 1.
    assert_same_with_gradients(lambda *a: convolve_depthwise(*a, stride), plain, x, kernel)


def test_a_depthwise_convolution_in_bfloat16_is_rounded_once():
    x = jax.random.normal(jax.random.key(0), (2, 7, 9, 5)).astype(jnp.bfloat16)
    kernel = jax.random.normal(jax.random.key(1), (5, 5, 1, 5)).astype(jnp.bfloat16)
    found = convolve_depthwise(x, kernel)
    assert found.dtype == jnp.bfloat16
    exact = convolve_depthwise(x.astype(jnp.float32), kernel.astype(jnp.float32))
    np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))


def test_depthwise_convolutions_are_xlas_on_an_accelerator_alone(monkeypatch):
    x, kernel = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 1, 4))
    assert "conv_general_dilated" not in str(jax.make_jaxpr(convolve_depthwise)(x, kernel))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    # A function of its own: traces are kept by function.
    program = str(jax.make_jaxpr(lambda *a: convolve_depthwise(*a))(x, kernel))
    assert "conv_general_dilated" in program
