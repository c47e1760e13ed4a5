"""A step's average and parts, and that one which is not finite changes nothing but the counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skinjax.engine import optim, parallel
from skinjax.engine.state import make_create_state
from skinjax.engine.steps import make_train_step

MESH = parallel.create_mesh(jax.devices()[:2])
SETTINGS = optim.ScheduleSettings("cosine", learning_rate=0.1, warmup_steps=0, total_steps=10)


class Line:
    """A line through points, with a running mean of them as a BatchNorm has it."""

    def init(self, key):
        params = {"dense": {"kernel": jnp.ones((3,)), "bias": jnp.zeros(())}}
        return {"params": params, "batch_stats": {"mean": jnp.zeros((3,))}}

    def augment(self, batch, key):
        return batch

    def loss(self, params, batch_stats, batch):
        dense = params["dense"]
        residual = batch["x"] @ dense["kernel"] + dense["bias"] - batch["y"]
        # A root has no finite slope at 0, where the loss itself is finite.
        root = jnp.mean(jnp.sqrt(jnp.abs(dense["bias"] - batch["z"])))
        loss = jnp.mean(residual**2) + root
        mean = 0.9 * batch_stats["mean"] + 0.1 * jnp.mean(batch["x"], axis=0)
        return loss, ({"mean": mean}, {"loss": loss})


def points(seed, **changes):
    rng = np.random.default_rng(seed)
    batch = {"x": rng.normal(size=(8, 3)), "y": rng.normal(size=8), "z": np.full(8, -5.0)}
    batch = {name: np.float32(changes.get(name, value)) for name, value in batch.items()}
    return parallel.put_batch(batch, MESH)


@pytest.fixture(scope="module", params=[1, 2], ids=["whole", "accumulated"])
def training(request):
    """See `make_training`."""
    return make_training(request.param)


@functools.cache
def make_training(accumulation):
    """The step, and a function that gives the state after two good steps: a step donates it."""
    schedule = optim.make_schedule(SETTINGS)
    optimizer = optim.make_optimizer(schedule, 0.9, True, 1e-4, clip_norm=1.0)
    create = make_create_state(Line(), optimizer, None, averaged=True, seed=0)
    step = make_train_step(
        Line(), optimizer, schedule, MESH, seed=0, accumulation=accumulation, ema_decay=0.9
    )

    def begin():
        state = jax.jit(create, out_shardings=parallel.replicated_sharding(MESH))()
        for seed in range(2):
            state, _ = step(state, points(seed))
        return state

    return step, begin


def test_the_average_is_of_the_new_values(training):
    step, begin = training
    before = jax.device_get(begin())
    after = jax.device_get(step(begin(), points(2))[0])
    decay = min(0.9, (1 + 2) / (10 + 2))
    new = {"params": after.params, "batch_stats": after.batch_stats}
    expected = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, before.ema, new)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), after.ema, expected)


def test_parts_of_a_batch_give_the_update_of_the_whole():
    """The loss is a mean over examples, and the parts are of one size."""
    whole, parts = (make_training(accumulation) for accumulation in (1, 2))
    begun = jax.device_get(whole[1]())  # of either: the state that the parts' step takes over
    place = lambda: jax.device_put(begun, parallel.replicated_sharding(MESH))  # noqa: E731
    (one, figures), (other, other_figures) = (
        step(place(), points(3)) for step, _ in (whole, parts)
    )
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(other_figures[name], figures[name], rtol=1e-5)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, jax.device_get(other.params), jax.device_get(one.params))


def floats(state):
    """All that a skipped step must leave alone: params, statistics, velocities, average."""
    leaves = jax.tree.leaves(jax.device_get(state))
    return [leaf for leaf in leaves if np.issubdtype(leaf.dtype, np.floating)]


NOT_FINITE = {
    "the loss is NaN": {"y": np.full(8, np.nan)},
    "the loss is infinite": {"x": np.full((8, 3), 1e30)},
    "one example is NaN": {"y": np.array([0, 0, 0, 0, 0, 0, 0, np.nan])},
}


@pytest.mark.parametrize("kind", NOT_FINITE)
def test_it_is_skipped_whole_and_counted(training, kind):
    step, begin = training
    before = begin()
    expected = floats(before)
    after, figures = step(before, points(2, **NOT_FINITE[kind]))
    assert not np.isfinite(figures["loss"])
    for leaf, value in zip(floats(after), expected, strict=True):
        np.testing.assert_array_equal(leaf, value)
    assert (int(after.step), int(after.skipped), int(figures["skipped"])) == (3, 1, 1)
    after, figures = step(after, points(2, **NOT_FINITE[kind]))
    assert (int(after.step), int(after.skipped), int(figures["skipped"])) == (4, 2, 2)
    after, figures = step(after, points(4))
    assert (int(after.step), int(after.skipped), int(figures["skipped"])) == (5, 0, 0)
    changed = [not np.array_equal(a, b) for a, b in zip(floats(after), expected, strict=True)]
    assert all(changed)


def test_a_gradient_that_is_not_finite_is_enough(training):
    step, begin = training
    state = begin()
    expected = floats(state)
    bias = float(state.params["dense"]["bias"])
    after, figures = step(state, points(2, z=np.full(8, bias)))
    assert np.isfinite(figures["loss"]) and not np.isfinite(figures["gradient_norm"])
    for leaf, value in zip(floats(after), expected, strict=True):
        np.testing.assert_array_equal(leaf, value)
    assert int(after.skipped) == 1


def test_the_learning_rate_goes_on_with_the_steps(training):
    """What the optimiser applies after a skipped step is the rate of the step, as it is logged."""
    step, begin = training
    skipped, _ = step(begin(), points(2, y=np.full(8, np.nan)))
    # The same velocities and parameters, one step earlier in the schedule.
    early, late = begin(), skipped
    early, early_figures = step(early, points(5))
    late, late_figures = step(late, points(5))
    schedule = optim.make_schedule(SETTINGS)
    np.testing.assert_allclose(early_figures["learning_rate"], schedule(2), rtol=1e-6)
    np.testing.assert_allclose(late_figures["learning_rate"], schedule(3), rtol=1e-6)
    begun = jax.device_get(begin().params)
    moved = [
        jax.device_get(state.params)["dense"]["kernel"] - begun["dense"]["kernel"]
        for state in (early, late)
    ]
    np.testing.assert_allclose(moved[1] / moved[0], schedule(3) / schedule(2), rtol=1e-4)
