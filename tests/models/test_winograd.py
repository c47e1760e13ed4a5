"""Winograd's form of a 3x3 convolution computes what the plain one does, where it is chosen."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from skinjax.engine import parallel
from skinjax.models import layers
from skinjax.models.layers import convolve
from skinjax.models.winograd import convolve_3x3, is_faster


def plain(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def draw(height, width, channels=7, features=5, number=2, dtype="float64"):
    rng = np.random.default_rng(height * 100 + width)
    x = rng.normal(size=(number, height, width, channels)).astype(dtype)
    return x, rng.normal(size=(3, 3, channels, features)).astype(dtype)


# Tiles of 2, 3 and 4 pixels a side, whole ones and those that reach over the border.
@pytest.mark.parametrize(
    ("height", "width"), [(1, 2), (2, 2), (3, 4), (4, 5), (6, 8), (7, 9), (13, 16)]
)
def test_it_is_the_plain_convolution_with_its_gradients(height, width):
    with jax.enable_x64(True):
        x, kernel = draw(height, width)
        ours, pull_ours = jax.vjp(convolve_3x3, x, kernel)
        theirs, pull_theirs = jax.vjp(plain, x, kernel)
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
        grad = np.random.default_rng(1).normal(size=ours.shape)
        for one, another in zip(pull_ours(grad), pull_theirs(grad), strict=True):
            np.testing.assert_allclose(one, another, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (12, 16)])
def test_float32_rounds_to_a_millionth_and_a_half(height, width):
    x, kernel = draw(height, width, 64, 64, dtype="float32")
    ours = convolve_3x3(x, kernel)
    assert ours.dtype == jnp.float32
    with jax.enable_x64(True):
        exact = np.asarray(plain(x.astype(np.float64), kernel.astype(np.float64)))
    error = np.sqrt(np.mean((np.asarray(ours) - exact) ** 2)) / np.std(exact)
    assert error < 1.5e-6


def test_wide_convolutions_of_a_cpu_take_it(monkeypatch):
    def is_plain(x, kernel, **settings):
        # A function of its own: traces are kept by function.
        return "conv_general" in str(jax.make_jaxpr(lambda *a: convolve(*a, **settings))(x, kernel))

    wide, kernel = jnp.ones((8, 12, 16, 64)), jnp.ones((3, 3, 64, 64))
    assert not is_plain(wide, kernel)
    assert is_plain(wide[..., :32], kernel[:, :, :32], stride=2)
    assert is_plain(wide.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert is_plain(wide[..., :16], kernel[:, :, :16])
    assert is_plain(wide[:1], kernel)  # too little to do
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert is_plain(wide, kernel)


def test_an_export_for_any_number_of_images_keeps_the_plain_form():
    (number,) = jax.export.symbolic_shape("batch")
    assert is_faster((8, 12, 16, 64), (3, 3, 64, 64))
    assert not is_faster((number, 12, 16, 64), (3, 3, 64, 64))


def test_a_batch_that_is_divided_among_devices_has_the_same_gradients():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), "data")
    by_image = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x, kernel = draw(6, 8, 16, 16, number=4, dtype="float32")

    def loss(x, kernel):
        return jnp.sum(convolve_3x3(x, kernel) ** 2)

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))
    whole = gradients(x, kernel)
    divided = gradients(jax.device_put(x, by_image), kernel)
    assert divided[0].sharding.is_equivalent_to(by_image, 4)
    for one, another in zip(whole, divided, strict=True):
        # Sums of a half each, in another order.
        np.testing.assert_allclose(one, another, rtol=1e-5, atol=1e-3)


def test_rows_that_are_divided_among_devices_keep_the_plain_form():
    assert layers.SPACE_AXIS == parallel.SPACE_AXIS
    kernel = jnp.ones((3, 3, 64, 64))
    for space in (1, 2):
        mesh = parallel.create_mesh(jax.devices()[:2], -1, 1, space)
        shape = jax.ShapeDtypeStruct(
            (8, 12, 16, 64), jnp.float32, sharding=parallel.batch_sharding(mesh, 4)
        )
        program = jax.jit(lambda *a: convolve(*a)).lower(shape, kernel).as_text()
        assert ("stablehlo.convolution" in program) == (space == 2)
