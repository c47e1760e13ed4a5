"""end_to_end: an epoch of real training over the same epoch on one constant batch."""

import functools
import itertools
import statistics
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks.harness import Options, measure_in_turn
from skinjax.data.pipeline import prefetch, train_batches
from skinjax.engine import parallel
from skinjax.engine.resident import Resident
from skinjax.engine.steps import InFlight, make_train_step
from skinjax.modes import build, datasets
from skinjax.modes.config import segmentation_config


def measure_end_to_end(options: Options) -> list[dict[str, Any]]:
    """The share of an epoch that the input costs, for each cache, with the outlines' recipe.

    On a CPU the laptop's, else the whole one; with two threads that decode on either.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for cache in ("device", "host", "none"):
            rows.append({"cache": cache} | _measure(Path(name), cache, options))
    return rows


def _recipe(tiny: bool) -> ConfigDict:
    config = segmentation_config()
    if tiny:
        config.image_size, config.batch_size, config.model.base_features = (16, 32), 2, 4
        config.data.num_images = 60
    elif jax.default_backend() == "cpu":
        config.image_size, config.batch_size, config.model.base_features = (96, 128), 16, 16
        config.data.num_images = 600
    else:
        config.image_size, config.batch_size, config.model.base_features = (192, 256), 64, 64
        config.data.num_images = 2400
    config.data.size = max(config.image_size)
    return config


def _measure(folder: Path, cache: str, options: Options) -> dict[str, Any]:
    config = _recipe(options.tiny)
    config.data.dataset = "phantom"
    config.data.cache_dir = str(folder)
    config.data.num_threads = 2
    prepared = datasets.prepare_data(config)
    positions = datasets.split_data(config, prepared)["train"]
    examples = datasets.create_examples(config, prepared, positions, True, cache == "host")
    mesh = parallel.create_mesh(parallel.dividing_devices(config.batch_size))
    training = build.create_training(config, prepared, positions)
    sharding = parallel.replicated_sharding(mesh)
    state = jax.jit(training.create_state, out_shardings=sharding)()
    load, put = examples.batch, functools.partial(parallel.put_batch, mesh=mesh)
    if cache == "device":
        stacked = examples.stack(config.data.num_threads)
        load, put = np.asarray, Resident(stacked, mesh).batch
    real = prefetch(
        train_batches(examples, config.batch_size, 0, 0, config.data.num_threads, load=load), put
    )
    constant = itertools.repeat(next(real))
    step = (
        make_train_step(training.task, training.optimizer, training.schedule, mesh, seed=0)
        .lower(state, next(constant))
        .compile()
    )
    num_steps = max(1, len(positions) // config.batch_size)
    holder = [state]

    def epoch(batches: Any) -> None:
        in_flight = InFlight()  # as in a training
        for _ in range(num_steps):
            holder[0], figures = step(holder[0], next(batches))
            in_flight.add(figures)
        jax.block_until_ready(figures)

    measured = measure_in_turn(
        {"real": lambda: epoch(real), "constant": lambda: epoch(constant)}, options
    )
    pairs = zip(measured["real"], measured["constant"], strict=True)
    return {
        "steps": num_steps,
        "epoch, s": statistics.median(measured["real"]),
        "constant batch, s": statistics.median(measured["constant"]),
        "input's share": statistics.median((r - c) / r for r, c in pairs),
    }
