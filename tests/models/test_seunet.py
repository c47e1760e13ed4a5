"""SE-UNet: parameter counts, any input size, and the fast forms against flax's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skinjax.models.layers import UpConv, max_pool_2x2
from skinjax.models.seunet import EfficientNetUNet, SEUNet, UNet


@pytest.mark.parametrize(
    ("attention", "count"), [("se", 31_258_873), ("none", 31_037_633), ("scse", 31_261_826)]
)
def test_parameter_counts(attention, count):
    model = SEUNet(base_features=64, attention=attention)
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


def test_a_unet_over_a_trunk_has_its_parameters_and_those_of_the_way_up():
    model = EfficientNetUNet(base_features=16, attention="none")
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    )
    trunk, *way_up = (
        sum(leaf.size for leaf in jax.tree.leaves(tree))
        for name, tree in sorted(variables["params"].items(), key=lambda item: item[0] != "trunk")
    )
    # Of efficientnet-lite0's 4,652,008 without the last 1x1 convolution, its BatchNorm and the head
    # of 1000 classes.
    assert trunk == 4_652_008 - (320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000)
    skips, below, expected = {1: 16, 2: 24, 3: 40, 4: 112}, 320, 4 * (32 + 1)
    for level in reversed(skips):
        features = 16 * 2**level
        expected += 4 * below * features + features  # the 2x2 transposed convolution
        expected += 9 * (features + skips[level]) * features + 9 * features**2 + 2 * 2 * features
        below = features
    assert sum(way_up) == expected


@pytest.mark.parametrize("size", [(16, 16), (33, 47), (96, 128), (17, 250)])
@pytest.mark.parametrize("make_model", [SEUNet, EfficientNetUNet])
def test_any_size_keeps_its_size(make_model, size):
    model = make_model(base_features=4)
    shape = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), jnp.zeros((2, *size, 3)), train=False)[0]
    )
    assert shape.shape == (2, *size, 1)
    assert shape.dtype == jnp.float32


def test_padding_changes_nothing_where_none_is_needed_and_crops_its_own():
    model = SEUNet(base_features=4)
    images = jax.random.normal(jax.random.key(1), (1, 20, 30, 3))
    variables = jax.jit(lambda key: model.init(key, images, train=False))(jax.random.key(0))
    padded = jnp.pad(images, ((0, 0), (0, 12), (0, 2), (0, 0)), mode="edge")
    predict = jax.jit(lambda x: model.apply(variables, x, train=False))
    np.testing.assert_allclose(predict(images), predict(padded)[:, :20, :30], atol=1e-6)


def test_a_pixel_below_predicts_the_square_that_it_stands_for():
    class Head(UNet):
        @nn.compact
        def __call__(self, x):
            return self._ascend(x, (), train=False, first=1)

    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    kernel = jax.random.normal(jax.random.key(1), (1, 1, 5, 4))
    variables = {"params": {"head": {"kernel": kernel, "bias": jnp.arange(4.0)}}}
    logits = Head().apply(variables, x)
    assert logits.shape == (2, 6, 8, 1)
    for row, column in np.ndindex(2, 2):
        expected = x @ kernel[0, 0, :, 2 * row + column] + (2 * row + column)
        np.testing.assert_allclose(logits[:, row::2, column::2, 0], expected, atol=1e-5)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_where_it_matters():
    model = SEUNet(base_features=4, attention="scse", dtype=jnp.bfloat16)
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    variables = jax.jit(lambda key: model.init(key, images, train=False))(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}

    def apply(model):
        step = jax.jit(lambda x: model.apply(variables, x, train=True, mutable=["batch_stats"]))
        return step(images)

    logits, updated = apply(model)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {jnp.dtype("float32")}
    exact, _ = apply(SEUNet(base_features=4, attention="scse"))
    assert 0 < float(jnp.max(jnp.abs(exact - logits))) < 0.3


def test_a_unet_over_a_trunk_in_bfloat16_keeps_float32_where_it_matters():
    model = EfficientNetUNet(base_features=4, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 33, 64, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    logits, updated = jax.eval_shape(
        lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]), variables, images
    )
    for leaf in (logits, *jax.tree.leaves(variables), *jax.tree.leaves(updated)):
        assert leaf.dtype == jnp.float32


def test_max_pool_is_flax_max_pool():
    x = jax.random.normal(jax.random.key(0), (2, 6, 8, 3))
    np.testing.assert_array_equal(max_pool_2x2(x), nn.max_pool(x, (2, 2), strides=(2, 2)))
    weights = jax.random.normal(jax.random.key(1), (2, 3, 4, 3))
    ours = jax.grad(lambda x: jnp.sum(weights * max_pool_2x2(x)))(x)
    theirs = jax.grad(lambda x: jnp.sum(weights * nn.max_pool(x, (2, 2), strides=(2, 2))))(x)
    np.testing.assert_array_equal(ours, theirs)


def test_up_conv_is_flax_transposed_convolution():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 6))
    ours = UpConv(4)
    theirs = nn.ConvTranspose(4, (2, 2), strides=(2, 2))
    params = ours.init(jax.random.key(1), x)["params"]
    params["bias"] = jnp.arange(4.0)
    # flax lays the kernel down mirrored; ours is laid down as PyTorch's ConvTranspose2d does it.
    mirrored = params | {"kernel": params["kernel"][::-1, ::-1]}
    np.testing.assert_allclose(
        ours.apply({"params": params}, x), theirs.apply({"params": mirrored}, x), atol=1e-6
    )
