"""Checkpoints: what is kept, what comes back, and what a full disk leaves."""

import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skinjax.engine import parallel
from skinjax.engine.checkpoint import Checkpoints
from skinjax.engine.state import TrainState
from skinjax.errors import UserError

SHARDING = parallel.replicated_sharding(parallel.create_mesh(jax.devices()[:2]))


def create_state(step, averaged=True, size=3):
    params = {"conv": {"kernel": jnp.full((size, 4), float(step))}}
    ema = {"params": jax.tree.map(lambda x: -x, params), "batch_stats": {}}
    state = TrainState(
        step=jnp.int32(step),
        params=params,
        batch_stats={"norm": {"mean": jnp.arange(2.0)}},
        opt_state=({"trace": params}, ()),
        plateau=None,
        ema=ema if averaged else None,
    )
    return jax.device_put(state, SHARDING)


def open_checkpoints(path, **options):
    return Checkpoints(path, keep_last=2, best_metric="val/jaccard", **options)


def test_the_last_two_and_the_best_are_kept(tmp_path):
    scores = {1: 0.2, 2: 0.9, 3: 0.5, 4: None, 5: 0.6, 6: None}
    with open_checkpoints(tmp_path / "c") as checkpoints:
        for step, score in scores.items():
            metrics = None if score is None else {"val/jaccard": score}
            checkpoints.save(step, create_state(step), {"examples_seen": 8 * step}, metrics)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 5, 6]
        assert checkpoints.best_step() == 2
        assert checkpoints.latest_step() == 6
    with open_checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 5, 6]
        assert checkpoints.best_step() == 2


def test_the_newest_is_the_best_where_none_was_evaluated(tmp_path):
    with open_checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.best_step() is None
        checkpoints.save(3, create_state(3), {}, None)
        checkpoints.wait()
        assert checkpoints.best_step() == 3


@pytest.mark.parametrize("averaged", [True, False])
def test_a_state_comes_back_as_it_was(tmp_path, averaged):
    state = create_state(7, averaged)
    with open_checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(7, state, {"examples_seen": 56, "training_seconds": 1.5}, None)
        checkpoints.wait()
        abstract = parallel.abstract(lambda: create_state(0, averaged), SHARDING)
        restored, progress = checkpoints.restore(7, abstract)
        variables = checkpoints.restore_variables(7, SHARDING)
    assert progress == {"examples_seen": 56, "training_seconds": 1.5}
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    kernel = variables["params"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel, -7.0 if averaged else 7.0)


def test_a_state_saved_on_two_devices_is_read_on_one(tmp_path):
    one = parallel.replicated_sharding(parallel.create_mesh(jax.devices()[:1]))
    with open_checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, create_state(1), {}, None)
        checkpoints.wait()
        restored, _ = checkpoints.restore(1, parallel.abstract(lambda: create_state(0), one))
    assert restored.params["conv"]["kernel"].sharding == one


def test_a_full_disk_is_told_and_leaves_what_was_saved(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here: that takes the rights of root")
    try:
        with open_checkpoints(disk / "c") as checkpoints:
            checkpoints.save(1, create_state(1), {}, None)
            checkpoints.wait()
            # Random, so that compression does not make it fit.
            large = create_state(2)
            noise = jax.random.normal(jax.random.key(0), (1024, 1024))
            large = large.replace(params={"conv": {"kernel": noise}})
            with pytest.raises(UserError, match="The disk is full"):
                checkpoints.save(2, large, {}, None)
                checkpoints.wait()
        with open_checkpoints(disk / "c") as checkpoints:
            assert checkpoints.steps() == [1]
            abstract = parallel.abstract(lambda: create_state(0), SHARDING)
            restored, _ = checkpoints.restore(1, abstract)
            np.testing.assert_array_equal(restored.params["conv"]["kernel"], 1.0)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
