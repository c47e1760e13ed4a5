"""Runs as they lie on disk, made without a training; and what their models are tried with."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from skinjax.data.images import decode_image, fit_image
from skinjax.data.sources.example import CLASSES
from skinjax.data.sources.phantom import render
from skinjax.engine.checkpoint import Checkpoints
from skinjax.engine.state import TrainState
from skinjax.modes.build import create_task
from skinjax.modes.config import classification_config, segmentation_config
from skinjax.modes.saved_model import load_model
from skinjax.modes.workdir import write_classes, write_config
from skinjax.tasks.calibration import apply_temperature

STEP = 3
IMAGE_SIZE = (40, 56)  # which no level of a U-Net divides


def write_run(workdir, task, **model):
    """Writes a run with one checkpoint; `model` are fields of config.model. Returns its variables.

    The weights are those of `make_variables`.
    """
    config = segmentation_config() if task == "segmentation" else classification_config()
    config.image_size = IMAGE_SIZE
    config.dtype = "float32"
    config.ema_decay = 0.9
    config.data.dataset = "phantom"
    config.model.reduction = 4
    config.model.update(model)
    workdir.mkdir(parents=True)
    write_config(workdir / "config.json", config)
    write_classes(workdir / "classes.json", CLASSES)
    variables = make_variables(create_task(config, CLASSES))
    rest = dict(opt_state={}, plateau=None, ema=variables, skipped=jnp.int32(0))
    state = TrainState(step=jnp.int32(STEP), **variables, **rest)
    with Checkpoints(workdir / "checkpoints", 1, config.best_metric) as checkpoints:
        checkpoints.save(STEP, state, {}, None)
    return variables


def make_variables(task, seed=0):
    """Variables of noise in the sizes that initialisers give; scales and statistics differ too."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name, noise = path[-1].key, rng.standard_normal(leaf.shape)
        if name == "kernel":
            values = noise * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        elif name == "scale":
            values = 1 + 0.1 * noise
        else:
            values = np.exp(0.2 * noise) if name == "var" else 0.1 * noise
        return jnp.asarray(values, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(task.init, jax.random.key(0)))


def read_pictures(num):
    """Pictures at the runs' size: real ones where SKINJAX_TEST_DATA has some, else drawn ones."""
    folder = Path(os.environ.get("SKINJAX_TEST_DATA", "nowhere"), "ham10000")
    paths = sorted(folder.rglob("*.jpg"))[:num]
    pictures = [decode_image(path.read_bytes(), path.name) for path in paths]
    pictures = pictures or [render(0, index, 75, 100)[0] for index in range(num)]
    return np.stack([fit_image(picture, IMAGE_SIZE, "squash")[0] for picture in pictures])


def predict(workdir, variables, images, temperature=1.0, tta=""):
    """What the run's model predicts, computed where the file's user would not be."""
    task = load_model(workdir).task
    output = jax.device_get(jax.jit(lambda x: task.predict(variables, x, tta=tta))(images))
    return output if output.ndim == 3 else apply_temperature(output, temperature)


def run_alone(script, file, images, folder, *arguments):
    """Runs a script in a process that does not see this repository; returns what it saved."""
    np.save(folder / "images.npy", images)
    done = subprocess.run(
        [
            *(sys.executable, "-I", "-c", script, file),
            *(folder / "images.npy", folder / "output.npy", *arguments),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return np.load(folder / "output.npy")
