"""One training, many meshes: the same numbers, and no picture gathered where its rows are divided.

Equal within float32: a sum over a batch, or over the rows of a picture, is added up in another
order on another mesh. That moves a loss by some 1e-7 of it, and each step builds on the last.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skinjax.data.augment import Augmentation
from skinjax.engine import optim, parallel
from skinjax.engine.state import make_create_state
from skinjax.engine.steps import make_train_step
from skinjax.models.cbam_resnet import STAGES
from skinjax.tasks.classification import create_classification
from skinjax.tasks.segmentation import create_segmentation

NUM_STEPS = 4
NUM_EXAMPLES = 8
MESHES = [(8, 1, 1), (1, 8, 1), (1, 1, 4), (2, 2, 2)]  # each axis alone, and all together
AUGMENTATION = Augmentation(
    flip=True, rotate_degrees=15.0, scale=0.1, translate=0.05, brightness=0.1, contrast=0.1
)


@pytest.fixture(scope="module", autouse=True)
def a_resnet_of_one_block_a_stage():
    """The layers of a ResNet-18 at half its compilation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STAGES, 10, (1, 1, 1, 1))
        yield


@functools.cache
def create_task(name, height=64, width=32, attention=""):
    shared = dict(
        dtype=jnp.float32, image_size=(height, width), augmentation=AUGMENTATION, reduction=4
    )
    if name.startswith("efficientnet"):
        return create_segmentation(base_features=4, attention="se", encoder=name, **shared)
    if name == "segmentation":
        return create_segmentation(base_features=4, attention=attention or "se", **shared)
    return create_classification(
        ("a", "b", "c"),
        depth=10,
        attention=attention or "cbam",
        stem=name,
        class_shares=(0.5, 0.3, 0.2),
        mixup_alpha=0.2,
        **shared,
    )


def create_batch(task, seed):
    height, width = task.image_size
    rng = np.random.default_rng(seed)
    return {
        "images": rng.integers(0, 256, (NUM_EXAMPLES, height, width, 3), np.uint8),
        "masks": rng.integers(0, 2, (NUM_EXAMPLES, height, width, 1), np.uint8),
        "boxes": np.tile(np.int32([0, 0, height, width]), (NUM_EXAMPLES, 1)),
        "labels": rng.integers(0, 3, NUM_EXAMPLES).astype(np.int32),
        "valid": np.ones(NUM_EXAMPLES, np.float32),
    }


@functools.cache
def train(name, sizes, accumulation=1):
    """The losses of some steps, and the state after the first of them."""
    task = create_task(name)
    mesh = parallel.create_mesh(jax.devices()[: math.prod(sizes)], *sizes)

    def schedule(step):
        return jnp.float32(0.02)

    optimizer = optim.make_optimizer(schedule, 0.9, True, 1e-4, 1.0)
    create = make_create_state(task, optimizer, None, averaged=True, seed=0)
    shardings = parallel.state_shardings(jax.eval_shape(create), mesh)
    state = jax.jit(create, out_shardings=shardings)()
    train_step = make_train_step(
        task, optimizer, schedule, mesh, 0, accumulation, ema_decay=0.9, shardings=shardings
    )
    losses: list[float] = []
    first = None
    for seed in range(NUM_STEPS):
        state, figures = train_step(state, parallel.put_batch(create_batch(task, seed), mesh))
        losses.append(float(figures["loss"]))
        first = first or jax.device_get(state)
    for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    return losses, first


def assert_equal_within_float32(found, wanted):
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-4)
    np.testing.assert_allclose(found[0][0], wanted[0][0], rtol=1e-5)
    # Of the first step: after some more, a bias that began at 0 differs by more than a hundredth,
    # where a pixel fell on the other side of a ReLU.
    leaves = jax.tree_util.tree_leaves_with_path(found[1])
    for (path, leaf), other in zip(leaves, jax.tree.leaves(wanted[1]), strict=True):
        scale = np.abs(other).max() + 1e-6
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(leaf / scale, other / scale, atol=1e-2, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes"),
    [("segmentation", sizes) for sizes in MESHES] + [("small", (2, 2, 2)), ("small", (1, 1, 4))],
)
def test_any_mesh_gives_the_losses_and_the_state_of_one_device(name, sizes):
    assert_equal_within_float32(train(name, sizes), train(name, (1, 1, 1)))


@pytest.mark.slow
def test_accumulation_on_a_mesh_is_that_of_one_device():
    found = train("segmentation", (2, 2, 2), accumulation=2)
    assert_equal_within_float32(found, train("segmentation", (1, 1, 1), accumulation=2))


def compile_model(task, mesh):
    """The program of the model's loss and gradient, augmentation aside, as text."""
    whole = parallel.replicated_sharding(mesh)
    variables = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
        jax.eval_shape(task.init, jax.random.key(0)),
    )
    raw = {name: jnp.asarray(array) for name, array in create_batch(task, 0).items()}
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=parallel.batch_sharding(mesh, x.ndim)
        ),
        jax.eval_shape(task.augment, raw, jax.random.key(0)),
    )

    def gradient(variables, batch):
        grad = jax.value_and_grad(task.loss, has_aux=True)
        return grad(variables["params"], variables["batch_stats"], batch)

    return jax.jit(gradient, out_shardings=whole).lower(variables, batch).compile().as_text()


def collectives(program, kind):
    """The shapes that the collectives of a kind give, as tuples."""
    lines = re.findall(rf"= (.*?) {kind}(?:-start)?\(", program)
    shapes = [shape for line in lines for shape in re.findall(r"\w+\[([\d,]*)\]", line)]
    return [tuple(int(size) for size in shape.split(",") if size) for shape in shapes]


def gathered(program):
    """The shapes of whole activations that a program collects on one device."""
    shapes = [s for kind in ("all-gather", "all-to-all") for s in collectives(program, kind)]
    # A gather that is written as a sum; sums of gradients have kernels' shapes, and those of
    # BatchNorm and of the channel gates have no rows.
    sums = [s for s in collectives(program, "all-reduce") if len(s) > 2 and s[0] == NUM_EXAMPLES]
    return [s for s in shapes + sums if math.prod(s) > NUM_EXAMPLES * 512]


@pytest.mark.parametrize(
    ("name", "height", "attention"),
    [
        ("segmentation", 64, "se"),
        pytest.param("segmentation", 64, "scse", marks=pytest.mark.slow),
        pytest.param("efficientnet_lite0", 128, "", marks=pytest.mark.slow),
        pytest.param("small", 32, "cbam", marks=pytest.mark.slow),
        pytest.param("imagenet", 128, "cbam", marks=pytest.mark.slow),
    ],
)
def test_divided_rows_are_exchanged_by_neighbours_and_never_gathered(name, height, attention):
    # As few rows as there may be: one on each device where the model is at its coarsest.
    task = create_task(name, height, 64, attention)
    mesh = parallel.create_mesh(jax.devices()[:4], 1, 1, 4)
    program = compile_model(task, mesh)
    assert collectives(program, "collective-permute")
    assert gathered(program) == []


def test_what_does_gather_rows_is_seen():
    """The augmentation may read any row of a picture: the reading of programs finds it."""
    task = create_task("segmentation")
    mesh = parallel.create_mesh(jax.devices()[:4], 1, 1, 4)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=parallel.batch_sharding(mesh, x.ndim)
        ),
        create_batch(task, 0),
    )
    augment = jax.jit(lambda batch: task.augment(batch, jax.random.key(0))["images"])
    assert gathered(augment.lower(batch).compile().as_text())
