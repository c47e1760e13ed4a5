"""The ResNet's sizes, types, pooling and shapes; its values are test_pretrained's business."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skinjax.errors import UserError
from skinjax.models import cbam_resnet
from skinjax.models.cbam_resnet import CBAMResNet, max_pool_3x3

COUNTS = {
    ("cbam", 7): {18: 11_269_983, 34: 21_451_059, 50: 26_054_967, 101: 47_295_515},
    ("cbam", 1000): {18: 11_779_392, 34: 21_960_468, 50: 28_089_624, 101: 49_330_172},
    ("se", 1000): {50: 28_088_024},
    ("none", 1000): {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160},
}


def shapes(model: CBAMResNet, height: int = 32, width: int = 32) -> tuple:
    """Logits and variables of the model as shapes and types, without computing anything."""
    images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    return jax.eval_shape(
        lambda key, x: model.init_with_output(key, x, train=False), jax.random.key(0), images
    )


@pytest.fixture
def short_nets(monkeypatch):
    """One block a stage, so that what is compiled is small."""
    for depth in (18, 50):
        monkeypatch.setitem(cbam_resnet.STAGES, depth, (1, 1, 1, 1))


@pytest.mark.parametrize(
    ("attention", "num_classes", "depth", "count"),
    [(*key, depth, count) for key, row in COUNTS.items() for depth, count in row.items()],
)
def test_parameter_counts(attention, num_classes, depth, count):
    _, variables = shapes(CBAMResNet(num_classes, depth=depth, attention=attention))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


@pytest.mark.parametrize("stem", ["imagenet", "small"])
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (96, 128)])
def test_any_image_size_gives_float32_logits(short_nets, stem, size):
    logits, variables = shapes(CBAMResNet(7, depth=18, stem=stem, dtype=jnp.bfloat16), *size)
    assert logits.shape == (2, 7) and logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("stem", "kernel", "sides"), [("imagenet", 7, (8, 12)), ("small", 3, (32, 48))]
)
def test_the_small_stem_keeps_the_full_size(short_nets, stem, kernel, sides):
    model = CBAMResNet(7, depth=18, stem=stem)
    images = jax.ShapeDtypeStruct((2, 32, 48, 3), jnp.float32)
    _, variables = jax.eval_shape(
        lambda key, x: model.init_with_output(key, x, train=False, capture_intermediates=True),
        jax.random.key(0),
        images,
    )
    assert variables["params"]["stem_conv"]["kernel"].shape == (kernel, kernel, 3, 64)
    (features,) = variables["intermediates"]["stage_1_block_0"]["__call__"]
    assert features.shape == (2, *sides, 64)


def test_strict_type_promotion_holds():
    with jax.numpy_dtype_promotion("strict"):
        for attention in ("cbam", "se", "none"):
            shapes(CBAMResNet(7, depth=50, attention=attention))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_training_step_has_finite_gradients_and_moves_statistics(monkeypatch, dtype):
    monkeypatch.setitem(cbam_resnet.STAGES, 50, (1, 1))
    model = CBAMResNet(7, depth=50, dtype=dtype)
    images = jax.random.normal(jax.random.key(1), (4, 40, 56, 3))
    variables = jax.jit(lambda key: model.init(key, images, train=False))(jax.random.key(0))

    @jax.jit
    def gradients(params, stats):
        def loss(params):
            logits, new = model.apply(
                {"params": params, "batch_stats": stats},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            return -jax.nn.log_softmax(logits)[:, 0].mean(), new["batch_stats"]

        return jax.grad(loss, has_aux=True)(params)

    grads, stats = gradients(variables["params"], variables["batch_stats"])
    for path, grad in jax.tree.leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        assert bool(jnp.isfinite(grad).all()), name
        # Behind a scale of 0 nothing moves yet, and the shift moves the spatial gate at once.
        waits = "spatial_conv" in name
        assert bool((grad != 0).any()) is not waits, name
    for before, after in zip(
        jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(stats), strict=True
    ):
        assert bool((before != after).any())


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (7, 8), (9, 5)])
def test_max_pool_is_that_of_flax(height, width):
    # All values differ, so that each window has one maximum and the gradient one place to go.
    rng = np.random.default_rng(0)
    values = rng.permutation(2 * height * width * 3) - 20.0
    x = jnp.asarray(values.reshape(2, height, width, 3), jnp.float32)

    def reference(x):
        return nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])

    expected, pull_expected = jax.vjp(reference, x)
    actual, pull_actual = jax.vjp(max_pool_3x3, x)
    np.testing.assert_array_equal(actual, expected)
    upstream = jnp.asarray(rng.integers(-8, 8, expected.shape), jnp.float32)
    np.testing.assert_array_equal(pull_actual(upstream)[0], pull_expected(upstream)[0])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"depth": 19}, "depth 19 is not known: choose one of 18, 34, 50, 101"),
        ({"attention": "CBAM"}, "attention 'CBAM' is not known: choose one of cbam, se, none"),
        ({"stem": "big"}, "stem 'big' is not known: choose one of imagenet, small"),
    ],
)
def test_unknown_settings_are_told(setting, words):
    with pytest.raises(UserError, match=words):
        shapes(CBAMResNet(7, **setting))
