"""Segmentation losses against float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skinjax.tasks.losses import DICE_SMOOTH, binary_cross_entropy, dice_loss

SHAPE = (3, 5, 4, 1)
LOSSES = [binary_cross_entropy, dice_loss]


def reference_bce(logits, masks, inside):
    losses = np.logaddexp(0, logits) - masks * logits
    return (losses * inside).sum((1, 2, 3)) / np.maximum(inside.sum((1, 2, 3)), 1)


def reference_dice(logits, masks, inside):
    probabilities = inside / (1 + np.exp(-logits))
    overlap = (probabilities * masks).sum((1, 2, 3))
    total = (probabilities + masks * inside).sum((1, 2, 3))
    return 1 - (2 * overlap + DICE_SMOOTH) / (total + DICE_SMOOTH)


binary = hnp.arrays(np.float32, SHAPE, elements=st.sampled_from([0.0, 1.0]))


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float32, SHAPE, elements=st.floats(-90, 90, width=32)), binary, binary)
def test_against_float64(logits, masks, inside):
    wide = [np.float64(a) for a in (logits, masks, inside)]
    bce, dice = (loss(*map(jnp.asarray, (logits, masks, inside))) for loss in LOSSES)
    assert bce.shape == dice.shape == (3,) and bce.dtype == dice.dtype == jnp.float32
    np.testing.assert_allclose(bce, reference_bce(*wide), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dice, reference_dice(*wide), rtol=1e-5, atol=1e-6)
    assert np.all((np.asarray(dice) >= 0) & (np.asarray(dice) <= 1))


@pytest.mark.parametrize("loss", LOSSES)
def test_bfloat16_logits_are_computed_in_float32(loss):
    """At 256 x 256 a sum in bfloat16 would stop growing after 256 pixels."""
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(2, 256, 256, 1)), jnp.bfloat16)
    masks = jnp.asarray(rng.integers(0, 2, logits.shape), jnp.float32)
    inside = jnp.ones_like(masks)
    result = loss(logits, masks, inside)
    assert result.dtype == jnp.float32
    reference = reference_bce if loss is binary_cross_entropy else reference_dice
    expected = reference(*(np.asarray(a, np.float64) for a in (logits, masks, inside)))
    np.testing.assert_allclose(result, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_only_pixels_inside_count(loss):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 6, 8, 1)).astype(np.float32)
    masks = rng.integers(0, 2, logits.shape).astype(np.float32)
    inside = np.zeros_like(logits)
    inside[:, 1:5, 2:7] = 1
    cropped = loss(*(jnp.asarray(a[:, 1:5, 2:7]) for a in (logits, masks, inside)))
    whole = loss(*map(jnp.asarray, (logits, masks, inside)))
    np.testing.assert_allclose(whole, cropped, rtol=1e-6)
    gradient = jax.grad(lambda x: loss(x, masks, inside).sum())(jnp.asarray(logits))
    assert np.all((np.asarray(gradient) != 0) == (inside == 1))


@pytest.mark.parametrize("loss", LOSSES)
def test_an_example_with_nothing_inside_has_no_loss_and_no_gradient(loss):
    logits = jnp.full(SHAPE, 3.0)
    zeros = jnp.zeros(SHAPE)
    np.testing.assert_array_equal(loss(logits, zeros, zeros), np.zeros(3))
    gradient = jax.grad(lambda x: loss(x, zeros, zeros).sum())(logits)
    np.testing.assert_array_equal(gradient, np.zeros(SHAPE))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_extreme_logits_have_finite_losses_and_gradients(loss, logit):
    logits, ones = jnp.full(SHAPE, logit), jnp.ones(SHAPE)
    for masks in (ones, jnp.zeros(SHAPE)):
        value, gradient = jax.value_and_grad(lambda x, m=masks: loss(x, m, ones).sum())(logits)
        assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_dice_of_an_empty_truth_falls_with_every_pixel_claimed():
    nothing, ones = jnp.zeros((1, 4, 4, 1)), jnp.ones((1, 4, 4, 1))
    losses = []
    for claimed in range(17):
        logits = jnp.where(jnp.arange(16) < claimed, 50.0, -50.0).reshape(1, 4, 4, 1)
        losses.append(float(dice_loss(logits, nothing, ones)[0]))
    np.testing.assert_allclose(losses, [n / (n + DICE_SMOOTH) for n in range(17)], atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_strict_promotion(loss):
    logits = jnp.zeros(SHAPE, jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"):
        loss(logits, jnp.ones(SHAPE, jnp.uint8), jnp.ones(SHAPE))
