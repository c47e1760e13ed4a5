"""A training so small that it takes a second, and what tests look at in its folder."""

import errno
import json

import jax
import numpy as np

from skinjax.engine import parallel
from skinjax.engine.checkpoint import Checkpoints
from skinjax.engine.monitor import Monitor
from skinjax.modes import build, datasets
from skinjax.modes.config import segmentation_config
from skinjax.modes.workdir import read_config

# As on a machine of two cores, whose devices they are.
TWO = jax.devices()[:2]


def tiny_config(cache_dir):
    """A phantom so small that a step takes milliseconds: 13 steps or so, evaluated every 4."""
    config = segmentation_config()
    config.image_size = (32, 48)
    config.batch_size = 8
    config.model.base_features = 4
    config.model.reduction = 4
    config.data.dataset = "phantom"
    config.data.num_images = 64
    config.data.size = 48
    config.data.cache_dir = str(cache_dir)
    config.data.num_threads = 2
    config.num_epochs = 2.0
    config.eval_every_epochs = 0.6
    config.save_every_steps = 3
    config.log_every_steps = 2
    config.ema_decay = 0.9
    config.schedule.name = "plateau"
    config.schedule.patience = 1
    config.schedule.warmup_epochs = 0.5
    return config


def restore(workdir, step=None):
    """The whole state of a checkpoint, and its progress."""
    config = read_config(workdir)
    prepared = datasets.prepare_data(config)
    positions = datasets.read_split(workdir / "splits.csv", prepared, "train")
    create = build.create_training(config, prepared, positions).create_state
    sharding = parallel.replicated_sharding(parallel.create_mesh(TWO))
    directory = workdir / "checkpoints"
    with Checkpoints(directory, 2, config.best_metric, read_only=True) as checkpoints:
        return checkpoints.restore(
            step or checkpoints.latest_step(), parallel.abstract(create, sharding)
        )


def assert_same_end(workdir, other):
    (state, progress), (other_state, other_progress) = restore(workdir), restore(other)
    assert progress["examples_seen"] == other_progress["examples_seen"]
    leaves = jax.tree_util.tree_leaves_with_path(state)
    for (path, leaf), other_leaf in zip(leaves, jax.tree.leaves(other_state), strict=True):
        np.testing.assert_array_equal(leaf, other_leaf, err_msg=jax.tree_util.keystr(path))


def events(workdir, split):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["split"] == split]


def call_at(monkeypatch, step, action):
    """Does something in the middle of a training, between a step and its save."""
    add, count = Monitor.add, iter(range(1, 10_000))

    def add_and_act(self, figures):
        add(self, figures)
        if next(count) == step:
            action()

    monkeypatch.setattr(Monitor, "add", add_and_act)


def fill(disk):
    """Writes a disk full; returns the file to delete for room."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(2**16))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    return path


def flip(path, place=None):
    """Flips a bit in the middle of a file, or at a place."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 1
    path.write_bytes(content)
