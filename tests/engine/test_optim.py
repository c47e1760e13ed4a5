"""Schedules, weight decay, plateau and averages against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skinjax.engine import optim
from skinjax.errors import UserError


def settings(name, **changes):
    values = dict(learning_rate=0.1, warmup_steps=0, total_steps=100, factor=0.5, decay_steps=10)
    return optim.ScheduleSettings(name, **(values | changes))


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_warm_up_rises_to_the_peak_and_learns_from_the_first_step(name):
    schedule = optim.make_schedule(settings(name, warmup_steps=5))
    rates = [float(schedule(step)) for step in range(6)]
    np.testing.assert_allclose(rates[:5], [0.02, 0.04, 0.06, 0.08, 0.1], rtol=1e-6)
    assert rates[5] == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize(
    ("name", "step", "rate"),
    [
        ("constant", 99, 0.1),
        ("plateau", 99, 0.1),
        ("step", 19, 0.05),
        ("step", 20, 0.025),
        ("exponential", 5, 0.1 * 0.5**0.5),
        ("cosine", 50, 0.05),
        ("cosine", 100, 0.0),
        ("polynomial", 50, 0.1 * 0.5**0.9),
        ("polynomial", 100, 0.0),
    ],
)
def test_decay_has_its_closed_form(name, step, rate):
    assert float(optim.make_schedule(settings(name))(step)) == pytest.approx(rate, rel=1e-5)


def test_unknown_schedule_and_too_long_warm_up_are_refused():
    with pytest.raises(UserError, match=r"config\.schedule\.name='poly'"):
        optim.make_schedule(settings("poly"))
    with pytest.raises(UserError, match="warmup_epochs"):
        optim.make_schedule(settings("cosine", warmup_steps=100))


def test_one_update_is_nesterov_sgd_with_decay_on_kernels_alone():
    params = {"dense": {"kernel": jnp.array([[2.0]]), "bias": jnp.array([3.0])}}
    grads = {"dense": {"kernel": jnp.array([[0.5]]), "bias": jnp.array([0.5])}}
    optimizer = optim.make_optimizer(lambda step: 0.1, 0.9, True, 0.01, 0.0)
    opt_state = optimizer.init(params)
    velocity = {"kernel": 0.0, "bias": 0.0}
    for _ in range(3):
        expected = {}
        for name in ("kernel", "bias"):
            value = params["dense"][name].item()
            gradient = 0.5 + (0.01 * value if name == "kernel" else 0.0)
            velocity[name] = 0.9 * velocity[name] + gradient
            expected[name] = value - 0.1 * (gradient + 0.9 * velocity[name])
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        for name, value in expected.items():
            assert params["dense"][name].item() == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("length", [0.0, 1e-30, 0.5, 1.0, 2.0, 1e25, np.inf, np.nan])
def test_clipping_is_optaxs_by_the_global_norm(length):
    params = {"a": {"kernel": jnp.zeros(2)}, "b": {"bias": jnp.zeros(1, jnp.bfloat16)}}
    grads = {
        "a": {"kernel": jnp.array([0.6, 0.0]) * length},
        "b": {"bias": jnp.array([0.75], jnp.bfloat16) * jnp.bfloat16(length)},
    }
    optimizer = optim.make_optimizer(lambda step: 1.0, 0.0, False, 0.0, 1.0)
    state = optimizer.init(params)
    updates, _ = optimizer.update(grads, state, params)
    clip = optax.clip_by_global_norm(1.0)
    # So that a checkpoint of either is one of the other.
    assert jax.tree.structure(state[0]) == jax.tree.structure(clip.init(params))
    expected, _ = clip.update(grads, clip.init(params))
    for ours, theirs in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype
        # A product and a quotient, of numbers of eight bits in bfloat16.
        rtol = 2**-7 if ours.dtype == jnp.bfloat16 else 1e-6
        np.testing.assert_allclose(
            np.asarray(ours, np.float32), -np.asarray(theirs, np.float32), rtol=rtol
        )


def test_plateau_reduces_after_patience_evaluations_without_a_better_score():
    plateau = optim.make_plateau(settings("plateau", patience=2, end_fraction=0.2))
    state = plateau.init(jnp.float32(0))
    scales = []
    for score in (0.5, 0.6, 0.6, 0.59, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7):
        state = optim.update_plateau(plateau, state, score)
        scales.append(float(state.scale))
    assert scales == pytest.approx([1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2])
    assert optim.make_plateau(settings("cosine")) is None


def test_plateau_hears_a_score_that_rises_and_stays_still():
    plateau = optim.make_plateau(settings("plateau", patience=2))
    state = plateau.init(jnp.float32(0))
    for score in np.linspace(0.5, 0.9, 20):
        state = optim.update_plateau(plateau, state, score)
    assert float(state.scale) == 1.0


def test_average_warms_up_to_its_decay():
    decay = jax.vmap(lambda step: optim.averaging_decay(step, 0.99))(jnp.array([0, 10, 10_000]))
    np.testing.assert_allclose(decay, [0.1, 11 / 20, 0.99], rtol=1e-6)
