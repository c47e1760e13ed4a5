"""The losses as a configuration puts them together, against NumPy."""

import numpy as np
import pytest
from scipy.special import expit, log_softmax

from skinjax.errors import UserError
from skinjax.modes.build import create_mesh, create_task
from skinjax.modes.config import classification_config, segmentation_config

SHARES = np.array([0.6, 0.3, 0.1])
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(8, 3))
TARGETS = np.concatenate([np.eye(3)[[0, 1, 2, 2]], RNG.dirichlet(np.ones(3), 4)])


def cross_entropy(logits, targets, weights=1.0):
    return -np.sum(weights * targets * log_softmax(logits, axis=1), axis=1)


def focal(gamma):
    return cross_entropy(LOGITS, TARGETS, (1 - np.exp(log_softmax(LOGITS, axis=1))) ** gamma)


def weighed(power):
    weights = SHARES**-power
    return cross_entropy(LOGITS, TARGETS, weights / (SHARES @ weights))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, cross_entropy(LOGITS, TARGETS)),
        ({"label_smoothing": 0.2}, cross_entropy(LOGITS, 0.8 * TARGETS + 0.2 / 3)),
        ({"focal_gamma": 2.0}, focal(2.0)),
        ({"class_weights": 0.5}, weighed(0.5)),
        ({"class_weights": 1.0}, weighed(1.0)),
        ({"logit_adjustment": 0.7}, cross_entropy(LOGITS + 0.7 * np.log(SHARES), TARGETS)),
    ],
    ids=str,
)
def test_the_loss_of_a_diagnosis(options, expected):
    config = classification_config()
    config.loss.label_smoothing = 0.0
    config.loss.update(options)
    task = create_task(config, ("a", "b", "c"), tuple(SHARES))
    loss, figures = task.loss_of_logits(np.float32(LOGITS), np.float32(TARGETS))
    assert loss == pytest.approx(expected.mean(), rel=1e-5)
    correct = LOGITS.argmax(1) == TARGETS.argmax(1)
    assert figures["accuracy"] == pytest.approx(correct.mean())


@pytest.mark.parametrize("mixing", ["mixup_alpha", "cutmix_alpha"])
def test_one_picture_a_part_cannot_be_mixed(mixing):
    config = classification_config()
    config.batch_size = config.accumulation = 8
    create_mesh(config)
    config.loss[mixing] = 0.2
    with pytest.raises(UserError, match=f"{mixing} .* leaves one in each"):
        create_mesh(config)


@pytest.mark.parametrize(("bce_weight", "dice_weight"), [(1.0, 1.0), (2.0, 3.0), (0.0, 1.0)])
def test_the_loss_of_an_outline(bce_weight, dice_weight):
    logits = RNG.normal(size=(3, 4, 5, 1))
    masks, inside = (RNG.integers(0, 2, logits.shape) for _ in range(2))
    config = segmentation_config()
    config.loss.update({"bce": bce_weight, "dice": dice_weight})
    task = create_task(config, ("a", "b"))
    batch = {"masks": np.float32(masks), "inside": np.float32(inside)}
    loss, figures = task.loss_of_logits(np.float32(logits), batch)
    chances, pixels = expit(logits), (1, 2, 3)
    entropies = -np.log(np.where(masks, chances, 1 - chances)) * inside
    bce = np.mean(entropies.sum(pixels) / inside.sum(pixels))
    overlap = (chances * masks * inside).sum(pixels)
    sizes = (chances * inside).sum(pixels) + (masks * inside).sum(pixels)
    dice = np.mean(1 - (2 * overlap + 1) / (sizes + 1))
    assert figures["bce"] == pytest.approx(bce, rel=1e-5)
    assert figures["dice_loss"] == pytest.approx(dice, rel=1e-5)
    assert loss == pytest.approx(bce_weight * bce + dice_weight * dice, rel=1e-5)
