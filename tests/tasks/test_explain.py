"""Explanations: Grad-CAM against references, gates against what they do, maps in their place."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from saved_runs import make_variables
from scipy.stats import spearmanr

from skinjax.data.augment import Augmentation, normalise
from skinjax.models import cbam_resnet, seunet
from skinjax.models.cbam_resnet import CBAMResNet
from skinjax.tasks.classification import create_classification
from skinjax.tasks.explain import _capture, _to_frame, explain_batch, grad_cam
from skinjax.tasks.segmentation import create_segmentation

SHARED = dict(reduction=4, image_size=(33, 47), augmentation=Augmentation())
CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module", autouse=True)
def short_nets():
    """One block a stage and two levels, so that what is compiled is small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cbam_resnet.STAGES, 18, (1, 1, 1, 1))
        patch.setattr(seunet, "NUM_LEVELS", 2)
        yield


def create_classifier(attention="cbam", dtype="float32", **settings):
    settings = SHARED | settings
    return create_classification(
        CLASSES, depth=18, attention=attention, stem="imagenet", dtype=dtype, **settings
    )


def noise(num=2, size=SHARED["image_size"]):
    return np.random.default_rng(1).integers(0, 256, (num, *size, 3), np.uint8)


def apply(task, variables, images):
    """Logits, and what each module returned."""

    @jax.jit
    def run(variables, images):
        return task.model.apply(
            variables,
            normalise(images),
            train=False,
            capture_intermediates=True,
            mutable=["intermediates"],
        )

    logits, updated = run(variables, images)
    return logits, updated["intermediates"]


def explained_names(task):
    """What a task is explained by, without computing it."""
    images = jax.ShapeDtypeStruct((1, *task.image_size, 3), jnp.uint8)
    variables = jax.eval_shape(task.init, jax.random.key(0))
    return set(jax.eval_shape(lambda v, x: explain_batch(task, v, x), variables, images))


@pytest.fixture(scope="module")
def classified():
    task = create_classifier()
    variables, images = make_variables(task), noise()
    explained = jax.jit(lambda v, x: explain_batch(task, v, x))(variables, images)
    return task, variables, images, jax.device_get(explained)


def test_grad_cam_of_the_last_block_is_the_classs_weights_over_the_features(classified):
    """After the last block come a mean and a linear layer, whose gradient is known by hand."""
    task, variables, images, explained = classified
    logits, _ = apply(task, variables, images)
    kernel = np.asarray(variables["params"]["head"]["kernel"])[:, np.argmax(logits, 1)]
    block, total = "stage_4_block_0", 0
    cam = jax.jit(lambda v, x: grad_cam(task.model, v, x, block, jnp.argmax(logits, 1)))
    for axes in ((), (1,), (2,), (1, 2)):
        view = np.flip(images, axes)
        _, seen = apply(task, variables, view)
        features = np.asarray(seen[block]["__call__"][0])
        expected = np.einsum("nhwc,cn->nhw", features, kernel)
        expected = np.maximum(expected, 0) / (features.shape[1] * features.shape[2])
        maps, _, _ = cam(variables, normalise(view))
        np.testing.assert_allclose(maps, expected, atol=1e-6 * expected.max())
        framed = _to_frame(task.model, jnp.asarray(expected), images.shape[1:3])
        total = total + np.flip(framed, axes)
    assert total.max() > 0
    peaks = total.max((1, 2), keepdims=True)
    np.testing.assert_allclose(explained["grad_cam"], total / peaks, atol=1e-5)
    np.testing.assert_allclose(
        explained["log_probabilities"], jax.nn.log_softmax(logits), atol=1e-5
    )


def test_grad_cam_of_the_first_block_is_what_differences_of_logits_give():
    """In float64: a channel's weight is what the logit gains when all its pixels gain a little."""
    with jax.enable_x64(True):
        task = create_classifier("se", "float64", image_size=(16, 24))
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), make_variables(task))
        images = normalise(jnp.asarray(noise(1, (16, 24)))).astype(jnp.float64)
        block = "stage_1_block_0"
        jitted = jax.jit(lambda v, x, t: grad_cam(task.model, v, x, block, t))
        _, _, captured = jitted(variables, images, jnp.array([0]))
        features = np.asarray(captured[(block, "__call__")][0])[0]

        def predict(change):
            def add(call, args, kwargs, context):
                output = call(*args, **kwargs)
                return output + change if context.module.name == block else output

            with nn.intercept_methods(add):
                return task.model.apply(variables, images, train=False)[0]

        steps = 1e-6 * jnp.eye(features.shape[2])
        gains = jax.jit(jax.vmap(lambda step: predict(step) - predict(-step)))(steps) / 2e-6
        expected = np.maximum(features @ np.asarray(gains), 0) / features[..., 0].size
        target = int(expected.max((0, 1)).argmax())  # one whose map is not all 0
        maps, _, _ = jitted(variables, images, jnp.array([target]))
    assert expected[..., target].max() > 0
    np.testing.assert_allclose(
        maps[0], expected[..., target], atol=1e-6 * expected[..., target].max()
    )


def test_cbams_gates_are_what_its_output_was_multiplied_by(classified):
    task, variables, images, explained = classified
    _, seen = apply(task, variables, images)
    for stage, stride in ((1, 4), (3, 16)):
        block = f"stage_{stage}_block_0"
        before = np.asarray(seen[block]["norm_2"]["__call__"][0])
        after = np.asarray(seen[block]["cbam"]["__call__"][0])
        channel = explained[f"channel/{block}"][:, None, None]
        # A map has the gate itself at every stride-th pixel.
        spatial = explained[f"spatial/stage_{stage}"][:, ::stride, ::stride, None]
        assert spatial.std() > 0.01 and channel.std() > 0.01
        np.testing.assert_allclose(after, before * channel * spatial, atol=1e-4)


def create_outliner(attention, encoder="unet"):
    settings = SHARED | {"image_size": (10, 13), "encoder": encoder}
    return create_segmentation(base_features=4, attention=attention, dtype="float32", **settings)


def test_an_outlines_gates_are_what_was_multiplied_and_its_spread_that_of_flips():
    task = create_outliner("se")
    variables, images = make_variables(task), noise(2, task.image_size)
    explained = jax.jit(lambda v, x: explain_batch(task, v, x))(variables, images)
    logits, seen = apply(task, variables, images)
    np.testing.assert_allclose(explained["probabilities"], nn.sigmoid(logits[..., 0]), atol=1e-6)
    predict = jax.jit(lambda v, x: task.predict(v, x))
    views = [
        np.flip(predict(variables, np.flip(images, axes)), axes)
        for axes in ((), (1,), (2,), (1, 2))
    ]
    assert explained["spread"].max() > 0.01
    np.testing.assert_allclose(explained["spread"], np.std(views, axis=0), atol=1e-5)
    for block in ("encoder_0", "bottleneck", "decoder_1"):
        before = np.asarray(seen[block]["__call__"][0])
        after = np.asarray(seen[f"{block}_se"]["__call__"][0])
        gate = np.asarray(explained[f"channel/{block}"])[:, None, None]
        np.testing.assert_allclose(after, before * gate, atol=1e-5)


@pytest.mark.parametrize(
    ("attention", "encoder"),
    [("se", "unet"), ("scse", "unet"), ("none", "unet"), ("se", "efficientnet_lite0")],
)
def test_each_block_of_an_outlines_model_has_its_gate_if_any(attention, encoder):
    task = create_outliner(attention, encoder)
    gates = {f"channel/{block}" for block in task.model.blocks}
    assert explained_names(task) == {"probabilities", "spread"} | (
        set() if attention == "none" else gates
    )


@pytest.mark.parametrize("attention", ["cbam", "se", "none"])
def test_each_block_of_a_classifier_has_its_gates_if_any(attention):
    task = create_classifier(attention)
    expected = {"log_probabilities", "grad_cam"}
    if attention != "none":
        expected |= {f"channel/{block}" for block in task.model.blocks}
    if attention == "cbam":
        expected |= {f"spatial/stage_{stage}" for stage in range(1, 5)}
    assert explained_names(task) == expected


def test_blocks_are_in_the_order_in_which_a_picture_passes_them():
    unet = create_outliner("se").model
    assert unet.blocks == ["encoder_0", "encoder_1", "bottleneck", "decoder_1", "decoder_0"]
    assert CBAMResNet(7, depth=34).blocks[:4] == [
        *(f"stage_1_block_{i}" for i in range(3)),
        "stage_2_block_0",
    ]


def test_a_feature_is_drawn_where_the_pixels_are_that_it_sees():
    """Features lie at every eighth pixel from the first: a mirror shows where their middle is."""
    model = create_classifier("none").model.clone(stem="small")
    # Kernels that average, and so know neither left nor right.
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full(
            leaf.shape,
            {"kernel": 1 / np.prod(leaf.shape[:-1]), "scale": 1, "var": 1}.get(path[-1].key, 0),
            jnp.float32,
        ),
        jax.eval_shape(
            lambda: model.init(jax.random.key(0), jnp.ones((1, 32, 32, 3)), train=False)
        ),
    )

    # The variables as arguments: as constants, all of one value, XLA's CPU compiler makes zeros of
    # what a convolution gives.
    @jax.jit
    def run(variables, images):
        _, captured = _capture(model, variables, images, "stage_4_block_0")
        return captured[("stage_4_block_0", "__call__")][0].mean(3)

    def features(images):
        return run(variables, images)

    # Of 65 pixels the middle is the 32nd, where feature 4 of 9 lies; of 64 it is none's.
    rows, columns = np.linspace(0, 1, 65)[:, None, None], np.linspace(0, 1, 64)[:, None]
    pixels = np.random.default_rng(0).random((1, 65, 64, 3))
    images = jnp.asarray(pixels + rows + columns, jnp.float32)
    grid, upside_down = features(images), features(images[:, ::-1])
    assert grid.shape == (1, 9, 8) and grid.min() > 0
    np.testing.assert_allclose(upside_down[:, ::-1], grid, rtol=1e-4)
    assert not np.allclose(features(images[:, :, ::-1])[:, :, ::-1], grid, rtol=1e-2)
    one = np.zeros((1, 9, 8), np.float32)
    one[0, 4, 5] = 1
    drawn = np.asarray(_to_frame(model, jnp.asarray(one), (65, 64)))[0]
    assert np.unravel_index(drawn.argmax(), drawn.shape) == (32, 40)


@pytest.mark.parametrize("size", [(33, 47), (96, 128), (31, 64)])
def test_a_flat_map_stays_flat_to_the_frames_edge(size):
    grid = jnp.ones((1, *(-(-side // 32) for side in size)))
    np.testing.assert_allclose(_to_frame(CBAMResNet(7), grid, size), np.ones((1, *size)), atol=1e-6)


def test_an_efficientnet_is_explained_by_its_features_and_their_attention():
    task = create_classifier(encoder="efficientnet_lite0", image_size=(32, 64))
    assert explained_names(task) == {
        "log_probabilities",
        "grad_cam",
        "spatial/features",
        "channel/cbam",
    }
    assert explained_names(create_classifier("none", encoder="efficientnet_lite0")) == {
        "log_probabilities",
        "grad_cam",
    }


def test_a_feature_of_an_efficientnet_is_drawn_where_it_lies():
    one = np.zeros((1, 3, 4), np.float32)
    one[0, 1, 2] = 1
    model = create_classifier(encoder="efficientnet_lite0").model
    drawn = np.asarray(_to_frame(model, jnp.asarray(one), (96, 128)))[0]
    # All of the border is behind: output i of five halvings lies about input 32i + 31.
    assert np.unravel_index(drawn.argmax(), drawn.shape) == (63, 95)
    np.testing.assert_allclose(
        _to_frame(model, jnp.ones((1, 2, 1)), (33, 1)), np.ones((1, 33, 1)), atol=1e-6
    )


@pytest.mark.slow
def test_random_weights_give_another_map_than_what_was_learnt():
    """The sanity check of Adebayo 2018 (arXiv:1810.03292), on a task whose evidence is known.

    Each picture has two small spots near the middles of two of the last stage's features: the
    colour of one is its class, and the other, which is brighter, says nothing.
    """
    size = (96, 96)
    task = create_classifier(image_size=size)
    rng = np.random.default_rng(0)

    def make(num):
        images = rng.integers(90, 130, (num, *size, 3), np.uint8)
        labels = rng.integers(0, 3, num)
        cells = np.array([rng.choice(9, 2, replace=False) for _ in range(num)])
        middles = 16 + 32 * np.stack(np.divmod(cells, 3), axis=-1)
        places, others = np.moveaxis(middles + rng.integers(-6, 7, middles.shape), 1, 0)
        for image, label, (y, x), (v, u) in zip(images, labels, places, others, strict=True):
            image[y - 5 : y + 6, x - 5 : x + 6, label] = 250
            image[v - 5 : v + 6, u - 5 : u + 6] = 250
        return images, labels, places

    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(variables, state, images, labels):
        def loss(params):
            logits, updated = task.model.apply(
                {"params": params, "batch_stats": variables["batch_stats"]},
                normalise(images),
                train=True,
                mutable=["batch_stats"],
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), updated["batch_stats"]

        grads, statistics = jax.grad(loss, has_aux=True)(variables["params"])
        updates, state = optimizer.update(grads, state)
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, "batch_stats": statistics}, state

    learnt = jax.jit(task.init)(jax.random.key(0))
    state = optimizer.init(learnt["params"])
    for _ in range(120):
        images, labels, _ = make(32)
        learnt, state = step(learnt, state, images, labels)

    images, labels, places = make(64)
    explain_them = jax.jit(lambda v, x: explain_batch(task, v, x))
    true, random = (explain_them(v, images) for v in (learnt, make_variables(task, seed=7)))
    accuracy = np.mean(np.argmax(true["log_probabilities"], 1) == labels)
    assert accuracy > 0.95

    def share_near(maps):
        """The share of maps whose peak is nearer to the spot than to any other feature."""
        peaks = [np.unravel_index(m.argmax(), m.shape) for m in np.asarray(maps)]
        return np.mean(np.abs(np.array(peaks) - places).max(1) <= 24)

    near, near_at_random = share_near(true["grad_cam"]), share_near(random["grad_cam"])
    assert near > 0.9 and near > near_at_random + 0.2, (near, near_at_random)
    pairs = zip(np.asarray(true["grad_cam"]), np.asarray(random["grad_cam"]), strict=True)
    ranks = [
        spearmanr(a.ravel(), b.ravel()).statistic for a, b in pairs if a.std() > 0 and b.std() > 0
    ]
    assert abs(np.mean(ranks)) < 0.5  # both see spots: 0.4; the same map has 1
