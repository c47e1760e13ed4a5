"""Losses against float64 numpy and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import logsumexp
from sklearn.metrics import log_loss

from skinjax.tasks.losses import (
    DICE_SMOOTH,
    adjust_logits,
    binary_cross_entropy,
    cross_entropy,
    dice_loss,
    focal_loss,
    weigh_targets,
)

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


class_logits = hnp.arrays(np.float32, (4, 5), elements=st.floats(-30, 30, width=32))
class_shares = hnp.arrays(np.float64, (4, 5), elements=st.floats(0.01, 1)).map(
    lambda a: (a / a.sum(1, keepdims=True)).astype(np.float32)
)
one_hot = st.lists(st.integers(0, 4), min_size=4, max_size=4).map(
    lambda i: np.eye(5, dtype=np.float32)[i]
)
targets_of_any_kind = st.one_of(class_shares, one_hot)


def log_softmax(logits):
    return logits - logsumexp(logits, axis=1, keepdims=True)


@given(class_logits, targets_of_any_kind, st.sampled_from([0.0, 0.1, 1.0]))
def test_cross_entropy_against_float64(logits, targets, label_smoothing):
    result = cross_entropy(jnp.asarray(logits), jnp.asarray(targets), label_smoothing)
    smooth = np.float64(targets) * (1 - label_smoothing) + label_smoothing / 5
    expected = -(smooth * log_softmax(np.float64(logits))).sum(1)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_cross_entropy_against_scikit_learn():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 7)), rng.integers(0, 7, 50)
    expected = log_loss(labels, np.exp(log_softmax(logits)), labels=range(7))
    result = cross_entropy(jnp.asarray(logits, jnp.float32), jax.nn.one_hot(labels, 7))
    assert float(result.mean()) == pytest.approx(expected, rel=1e-6)


@given(class_logits, targets_of_any_kind, st.sampled_from([0.0, 0.5, 2.0, 5.0]))
def test_focal_loss_against_float64(logits, targets, gamma):
    result = focal_loss(jnp.asarray(logits), jnp.asarray(targets), gamma)
    log_probabilities = log_softmax(np.float64(logits))
    rest = (1 - np.exp(log_probabilities)) ** gamma
    expected = -(np.float64(targets) * rest * log_probabilities).sum(1)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    if gamma == 0:
        plain = cross_entropy(jnp.asarray(logits), jnp.asarray(targets))
        np.testing.assert_allclose(result, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("logit", [-1e4, -100.0, 100.0, 1e4])
def test_focal_loss_has_finite_gradients_at_certainty(gamma, logit):
    logits = jnp.zeros((1, 5)).at[0, 0].set(logit)
    gradient = jax.grad(lambda x: focal_loss(x, jnp.eye(5)[:1], gamma).sum())(logits)
    assert np.all(np.isfinite(gradient))


def test_adjusted_logits_make_the_prior_right_when_the_model_says_nothing():
    priors = np.array([0.7, 0.2, 0.1], np.float32)
    adjusted = adjust_logits(jnp.zeros((1, 3), jnp.bfloat16), jnp.asarray(priors))
    assert adjusted.dtype == jnp.float32
    np.testing.assert_allclose(jax.nn.softmax(adjusted)[0], priors, rtol=1e-6)
    half = adjust_logits(jnp.ones((1, 3)), jnp.asarray(priors), tau=0.5)
    np.testing.assert_allclose(half[0], 1 + 0.5 * np.log(priors), rtol=1e-6)


def test_class_weights_against_scikit_learn():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4)), rng.integers(0, 4, 50)
    weights = np.array([0.5, 1, 2, 4])
    targets = jax.nn.one_hot(labels, 4)
    targets, factors = weigh_targets(targets, jnp.asarray(weights, jnp.float32))
    np.testing.assert_array_equal(targets, np.eye(4)[labels])
    weighed = factors * cross_entropy(jnp.asarray(logits, jnp.float32), targets)
    probabilities = np.exp(log_softmax(logits))
    expected = log_loss(
        labels, probabilities, labels=range(4), sample_weight=weights[labels], normalize=False
    )
    assert float(weighed.sum()) == pytest.approx(expected, rel=1e-5)


def test_a_mixed_targets_classes_have_their_own_weights():
    """As the two pictures apart would have them: the loss is linear in the targets."""
    weights, logits = jnp.array([0.5, 1, 2, 4]), jnp.array([[1.0, -0.5, 0.2, 2.0]])
    targets, factors = weigh_targets(jnp.array([[0.25, 0, 0, 0.75]]), weights)
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
    ours = factors * cross_entropy(logits, targets)
    apart = [float(cross_entropy(logits, jax.nn.one_hot(jnp.array([k]), 4))[0]) for k in (0, 3)]
    assert float(ours[0]) == pytest.approx(0.25 * 0.5 * apart[0] + 0.75 * 4 * apart[1], rel=1e-5)


def test_strict_promotion_of_the_losses_over_classes():
    logits, targets = jnp.zeros((2, 3), jnp.bfloat16), jnp.eye(3)[:2]
    with jax.numpy_dtype_promotion("strict"):
        losses = cross_entropy(adjust_logits(logits, jnp.ones(3) / 3), targets, 0.1)
        _, factors = weigh_targets(targets, jnp.ones(3))
        factors * (losses + focal_loss(logits, targets, 2.0))
