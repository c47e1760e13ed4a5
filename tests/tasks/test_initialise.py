"""Weights learnt elsewhere, into either task."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from skinjax.data.augment import Augmentation
from skinjax.errors import UserError
from skinjax.tasks.classification import create_classification
from skinjax.tasks.initialise import from_state_dict, from_variables
from skinjax.tasks.segmentation import create_segmentation

SHARED = dict(reduction=4, dtype="float32", image_size=(16, 16), augmentation=Augmentation())


def create_unet(base_features, attention="se"):
    return create_segmentation(base_features=base_features, attention=attention, **SHARED)


def leaves(tree):
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(key.key for key in path): np.asarray(leaf) for path, leaf in paths}


def test_a_run_begins_with_the_layers_of_another_that_fit():
    target = jax.jit(create_unet(4, "se").init)(jax.random.key(0))
    other = jax.jit(create_unet(4, "none").init)(jax.random.key(1))
    new, loaded, left = from_variables(target, other)
    assert loaded and left and not set(loaded) & set(left)
    assert all("_se" in path for path in left)
    after, before, source = leaves(new), leaves(target), leaves(other)
    assert after.keys() == before.keys() == set(loaded) | set(left)
    for path in loaded:
        np.testing.assert_array_equal(after[path], source[path])
    for path in left:
        np.testing.assert_array_equal(after[path], before[path])


def test_a_run_that_shares_no_layer_is_refused():
    target = jax.eval_shape(create_unet(4).init, jax.random.key(0))
    with pytest.raises(UserError, match="No layer"):
        from_variables(target, {"params": {"other": {"kernel": np.zeros((2, 2))}}})


def test_a_state_dict_is_no_start_for_an_se_unet(tmp_path):
    save_file({"fc.bias": np.zeros(7, np.float32)}, tmp_path / "w.safetensors")
    task = create_unet(4)
    with pytest.raises(UserError, match="an SE-UNet has none"):
        from_state_dict(task, {}, tmp_path / "w.safetensors")


def test_a_state_dict_of_another_architecture_is_refused(tmp_path):
    save_file({"fc.bias": np.zeros(7, np.float32)}, tmp_path / "w.safetensors")
    task = create_classification(
        ("a", "b"), depth=18, attention="cbam", stem="small", class_shares=(0.5, 0.5), **SHARED
    )
    variables = jax.eval_shape(lambda: task.init(jax.random.key(0)))
    with pytest.raises(UserError, match="lacks"):
        from_state_dict(task, variables, tmp_path / "w.safetensors")
