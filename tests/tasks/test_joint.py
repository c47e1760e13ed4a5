"""Outline and diagnosis together: the numbers are those of the two tasks by themselves."""

import functools

import jax
import numpy as np
import pytest

from skinjax.data.augment import Augmentation
from skinjax.models.pretrained import installed_weights
from skinjax.tasks.classification import create_classification
from skinjax.tasks.initialise import from_state_dict, imagenet_weights
from skinjax.tasks.joint import Joint, divide_variables
from skinjax.tasks.segmentation import create_segmentation

SHARED = dict(
    reduction=4,
    dtype="float32",
    image_size=(32, 64),
    augmentation=Augmentation(flip=True, rotate_degrees=90.0, brightness=0.1),
    encoder="efficientnet_lite0",
)


@pytest.fixture(scope="module")
def task():
    outlines = create_segmentation(base_features=4, attention="se", **SHARED)
    diagnoses = create_classification(
        ("a", "b", "c"), depth=18, attention="cbam", stem="small", label_smoothing=0.1, **SHARED
    )
    return Joint(outlines, diagnoses, diagnosis_weight=0.7)


@pytest.fixture(scope="module")
def variables(task):
    created = jax.device_get(jax.jit(task.init)(jax.random.key(0)))
    rng = np.random.default_rng(0)  # gates and statistics that are not those of the beginning
    return jax.tree.map(
        lambda leaf: leaf * np.float32(rng.uniform(0.5, 1.5)) + np.float32(0.01), created
    )


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    return {
        "images": rng.integers(0, 256, (4, 32, 64, 3), np.uint8),
        "masks": rng.integers(0, 2, (4, 32, 64, 1), np.uint8),
        "boxes": np.tile(np.int32([0, 0, 32, 64]), (4, 1)),
        "labels": np.int32([0, 2, 1, 2]),
        "valid": np.float32([1, 1, 1, 0]),
    }


def test_the_losses_are_those_of_the_two_tasks_and_so_are_the_statistics(task, variables, batch):
    augmented = jax.jit(task.augment)(batch, jax.random.key(3))
    np.testing.assert_array_equal(augmented["targets"], np.eye(3)[[0, 2, 1, 2]])

    def run(part, variables):
        lost = jax.jit(part.loss)(variables["params"], variables["batch_stats"], augmented)
        return jax.device_get(lost)

    loss, (statistics, figures) = run(task, variables)
    parts = divide_variables(variables)
    outline_loss, (outline_statistics, _) = run(task.outlines, parts["outlines"])
    diagnosis_loss, (diagnosis_statistics, _) = run(task.diagnoses, parts["diagnoses"])
    # Programs of their own: float32 sums in another order.
    assert loss == pytest.approx(outline_loss + 0.7 * diagnosis_loss, rel=1e-5)
    assert figures["loss"] == loss
    assert figures["diagnosis_loss"] == pytest.approx(diagnosis_loss, rel=1e-5)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(
        close, {"trunk": statistics["trunk"], **statistics["outlines"]}, outline_statistics
    )
    jax.tree.map(
        close, {"trunk": statistics["trunk"], **statistics["diagnoses"]}, diagnosis_statistics
    )


def test_the_figures_are_those_of_the_two_tasks(task, variables, batch):
    parts = divide_variables(variables)

    def figures(part, variables):
        sums = jax.jit(part.evaluate)(variables, batch)
        return part.summarise({name: float(value) for name, value in sums.items()})

    found = figures(task, variables)
    outlines = figures(task.outlines, parts["outlines"])
    diagnoses = figures(task.diagnoses, parts["diagnoses"])
    assert found["num_images"] == 3
    assert found["dice"] == pytest.approx(outlines["dice"], abs=1e-3)
    assert found["pixel_accuracy"] == pytest.approx(outlines["accuracy"], abs=1e-3)
    assert found["accuracy"] == diagnoses["accuracy"]
    assert found["diagnosis_loss"] == pytest.approx(diagnoses["loss"], rel=1e-5)
    expected = (outlines["jaccard"] + diagnoses["balanced_accuracy"]) / 2
    assert found["score"] == pytest.approx(expected, abs=1e-3)
    assert {name.removeprefix("val/") for name in task.headline} <= found.keys()


def test_a_classifiers_weights_go_into_the_trunk_and_the_end_of_the_diagnoses(task, variables):
    path = imagenet_weights(task)
    assert path == installed_weights("efficientnet_lite0")
    new, loaded, left = from_state_dict(task, jax.device_get(variables), path)
    alone, names, _ = from_state_dict(
        task.diagnoses, jax.device_get(divide_variables(variables)["diagnoses"]), path
    )
    jax.tree.map(np.testing.assert_array_equal, divide_variables(new)["diagnoses"], alone)
    assert len(loaded) == len(names) and "params/diagnoses/head_conv/kernel" in loaded
    assert not set(loaded) & set(left)
    assert len(loaded) + len(left) == len(jax.tree.leaves(variables)) == len(jax.tree.leaves(new))
    assert {name.split("/")[2] for name in left if "/diagnoses/" in name} == {"cbam", "head"}
    jax.tree.map(
        np.testing.assert_array_equal, new["params"]["outlines"], variables["params"]["outlines"]
    )
