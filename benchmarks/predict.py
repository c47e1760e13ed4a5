"""predict: a folder of pictures from files to masks and tables, beside the model alone."""

import contextlib
import io
import math
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks.harness import Options, measure_in_turn
from benchmarks.input import Originals
from skinjax.data import splits as splitting
from skinjax.data.pictures import find_pictures
from skinjax.data.sources.files import File
from skinjax.engine.checkpoint import Checkpoints
from skinjax.engine.state import TrainState
from skinjax.modes import build, datasets
from skinjax.modes.config import classification_config, segmentation_config
from skinjax.modes.predict import ClassWriter, MaskWriter, predict_pictures
from skinjax.modes.predictor import Predictor
from skinjax.modes.workdir import write_classes, write_config


def measure_predict(options: Options) -> list[dict[str, Any]]:
    """Pictures a second of a folder and of the model, for the laptop's two recipes.

    The pictures are all those of HAM10000 where SKINJAX_TEST_DATA names a folder with them, else
    400 phantoms of their size, of whose time more is what each start costs.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        real = Path(os.environ.get("SKINJAX_TEST_DATA", ""), "ham10000")
        where = str(real / "HAM10000_images_part_*" / "*.jpg")
        if options.tiny or not real.is_dir():
            Originals(folder, 150, 200, 10 if options.tiny else 400)
            where = str(folder / "*.jpg")
        pictures = find_pictures([where], folder)
        for task in ("segmentation", "classification"):
            rows.append(_measure(_laptop_recipe(task, folder, options.tiny), pictures, options))
    return rows


def _laptop_recipe(task: str, folder: Path, tiny: bool) -> ConfigDict:
    """What configs/ has for two cores, on few phantoms."""
    if task == "segmentation":
        config = segmentation_config()
        config.model.base_features = 4 if tiny else 16
    else:
        config = classification_config()
        config.model.depth = 18
    config.image_size = (32, 32) if tiny else (96, 128)
    config.batch_size = 16
    config.data.dataset = "phantom"
    config.data.num_images = 60
    config.data.size = 128
    config.data.cache_dir = str(folder / "cache")
    return config


def _measure(config: ConfigDict, pictures: list[File], options: Options) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        untrained_run(config, folder / "run")
        predictor = Predictor([folder / "run"])
        num_batches = math.ceil(len(pictures) / predictor.batch_size)
        shape = (predictor.batch_size, *config.image_size, 3)
        noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        images = predictor.ensemble.put({"images": noise})["images"]
        outputs = (folder / f"output{number}" for number in range(10**9))

        def predict_folder() -> None:
            output = next(outputs)
            writer: MaskWriter | ClassWriter = (
                MaskWriter(
                    predictor,
                    output,
                    overlay=False,
                    probabilities=False,
                    isic=False,
                    explains=False,
                )
                if config.task == "segmentation"
                else ClassWriter(predictor, output, isic=False, explains=False)
            )
            told = io.StringIO()
            with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
                predict_pictures(predictor, pictures, output, writer)

        def predict_batches() -> None:
            for _ in range(num_batches):
                jax.block_until_ready(predictor.ensemble.predict(images))

        measured = measure_in_turn({"folder": predict_folder, "model": predict_batches}, options)
    size = "x".join(map(str, config.image_size))
    pairs = zip(measured["folder"], measured["model"], strict=True)
    return {
        "case": f"{config.task} {size} batch {predictor.batch_size}",
        "pictures": len(pictures),
        "folder": len(pictures) / statistics.median(measured["folder"]),
        "model": num_batches * predictor.batch_size / statistics.median(measured["model"]),
        "of the model": statistics.median(model / folder for folder, model in pairs),
    }


def untrained_run(config: ConfigDict, workdir: Path, state: TrainState | None = None) -> TrainState:
    """Writes what a training leaves that has done no step.

    Args:
        config: of the run.
        workdir: the folder to write to.
        state: with which it begins; unless told, that of the configuration's seed.

    Returns:
        The state.
    """
    workdir.mkdir(parents=True)
    prepared = datasets.prepare_data(config)
    splits = datasets.split_data(config, prepared)
    splitting.write_splits(workdir / "splits.csv", prepared.table, splits)
    write_classes(workdir / "classes.json", prepared.classes)
    write_config(workdir / "config.json", config)
    training = build.create_training(config, prepared, splits["train"])
    state = state or jax.jit(training.create_state)()
    with Checkpoints(workdir / "checkpoints", 1, config.best_metric) as checkpoints:
        checkpoints.save(1, state, {}, {config.best_metric: 0.0})
        checkpoints.wait()
    return state
