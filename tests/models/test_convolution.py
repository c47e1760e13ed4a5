"""The 3x3 convolution and its gradients against SciPy's correlation and the plain convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy import signal

from skinjax.models.convolution import conv3x3

# Both forms of the gradient, with C < F, C == F and C > F; odd sizes, one row, one column, batch 1.
SHAPES = [
    (2, 20, 24, 16, 16),
    (1, 19, 17, 16, 24),
    (3, 17, 21, 40, 16),
    (2, 1, 301, 16, 16),
    (2, 305, 1, 16, 17),
    (2, 6, 8, 32, 32),
    (2, 20, 24, 3, 16),
]


def make_case(shape, seed=0, dtype=np.float32):
    batch, height, width, channels, features = shape
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, height, width, channels)).astype(dtype)
    kernel = rng.normal(size=(3, 3, channels, features)).astype(dtype)
    grad = rng.normal(size=(batch, height, width, features)).astype(dtype)
    return x, kernel, grad


def plain(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def grads(function, x, kernel, grad):
    return jax.vjp(function, x, kernel)[1](grad)


def reference(x, kernel, grad):
    """Output and both gradients in float64, from shifted slices and the definition alone."""
    x, kernel, grad = (np.asarray(a, np.float64) for a in (x, kernel, grad))
    _, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y, x_grad, kernel_grad = 0.0, np.zeros_like(padded), np.zeros_like(kernel)
    for i in range(3):
        for j in range(3):
            window = np.s_[:, i : i + height, j : j + width]
            y = y + padded[window] @ kernel[i, j]
            x_grad[window] += grad @ kernel[i, j].T
            kernel_grad[i, j] = np.einsum("nhwc,nhwf->cf", padded[window], grad)
    return y, x_grad[:, 1:-1, 1:-1], kernel_grad


def assert_close(actual, expected, tolerance=2e-6):
    """Equal to `tolerance` of the largest value, as float32 sums of many terms are."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_reference_is_the_correlation_of_scipy():
    x, kernel, grad = make_case((1, 7, 6, 2, 1))
    expected = sum(signal.correlate2d(x[0, ..., c], kernel[..., c, 0], "same") for c in range(2))
    assert_close(reference(x, kernel, grad)[0][0, ..., 0], expected)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_gradients_are_those_of_the_definition(shape, jit):
    x, kernel, grad = make_case(shape)
    forward, backward = conv3x3, lambda *args: grads(conv3x3, *args)
    if jit:
        forward, backward = jax.jit(forward), jax.jit(backward)
    y, x_grad, kernel_grad = reference(x, kernel, grad)
    assert_close(forward(x, kernel), y)
    actual_x_grad, actual_kernel_grad = backward(x, kernel, grad)
    assert_close(actual_x_grad, x_grad)
    assert_close(actual_kernel_grad, kernel_grad)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_bit_for_bit_the_plain_convolution(dtype):
    case = [jnp.asarray(a, dtype) for a in make_case(SHAPES[0])]
    actual = jax.jit(lambda *args: grads(conv3x3, *args))(*case)
    expected = jax.jit(lambda *args: grads(plain, *args))(*case)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


def test_vmap_over_kernels_and_over_images():
    shape = (2, 18, 17, 16, 16)
    x, kernel, grad = (
        np.stack(a) for a in zip(*(make_case(shape, s) for s in (1, 2)), strict=True)
    )
    x_grad, kernel_grad = jax.jit(jax.vmap(lambda *args: grads(conv3x3, *args)))(x, kernel, grad)
    for i in range(2):
        _, expected_x_grad, expected_kernel_grad = reference(x[i], kernel[i], grad[i])
        assert_close(x_grad[i], expected_x_grad)
        assert_close(kernel_grad[i], expected_kernel_grad)


def test_gradient_of_a_gradient():
    x, kernel, grad = make_case((1, 18, 17, 16, 16))

    def penalty(function, x):
        kernel_grad = grads(function, x, kernel, grad)[1]
        return (kernel_grad**2).sum()

    actual = jax.jit(jax.grad(lambda x: penalty(conv3x3, x)))(x)
    assert_close(actual, jax.jit(jax.grad(lambda x: penalty(plain, x)))(x), 1e-5)


def test_batch_over_devices_gives_the_same_and_gathers_no_images():
    devices = jax.devices()
    if len(devices) < 2:
        pytest.skip("needs two devices (XLA_FLAGS=--xla_force_host_platform_device_count=2)")
    mesh = Mesh(np.array(devices[:2]), ("data",))
    x, kernel, grad = make_case((4, 20, 24, 16, 16))
    shard, copy = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    case = (jax.device_put(x, shard), jax.device_put(kernel, copy), jax.device_put(grad, shard))
    backward = jax.jit(lambda *args: grads(conv3x3, *args), out_shardings=(shard, copy))
    compiled = backward.lower(*case).compile()
    assert "all-gather" not in compiled.as_text()
    assert "all-to-all" not in compiled.as_text()
    _, x_grad, kernel_grad = reference(x, kernel, grad)
    assert_close(compiled(*case)[0], x_grad)
    assert_close(compiled(*case)[1], kernel_grad)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_get_the_plain_convolution(platform):
    case = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in make_case(SHAPES[0])]

    def lowered(function):
        backward = jax.jit(lambda *args: grads(function, *args))
        return backward.trace(*case).lower(lowering_platforms=(platform,)).as_text()

    assert lowered(conv3x3).count("stablehlo.convolution") == 2
    assert "optimization_barrier" not in lowered(conv3x3)
    assert lowered(conv3x3).count("stablehlo.transpose") == lowered(plain).count(
        "stablehlo.transpose"
    )
