"""Explanations of single pictures: what a prediction rests on, drawn over the picture."""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from skinjax.data.images import decode_image, fit_image, shrink, unfit
from skinjax.data.sources.files import File
from skinjax.modes.saved_model import SavedModel, load_model
from skinjax.modes.workdir import make_folder
from skinjax.progress import progress
from skinjax.report import explanations as drawing
from skinjax.tasks.explain import explain_batch

_BATCH_SIZE = 8
_SHORTER_SIDE = 512  # of a picture as it is drawn, in pixels


def explain(
    workdir: Path,
    pictures: Sequence[File],
    sheets: Sequence[Path],
    checkpoint: str = "best",
    probabilities: np.ndarray | None = None,
) -> None:
    """Explains pictures, a sheet each.

    Args:
        workdir: the run's folder.
        pictures: that can be read.
        sheets: the PNG to write for each.
        checkpoint: 'best' by the run's metric on val, 'last', or a step.
        probabilities: needed for a classification, [N, K]: what was predicted of each picture,
            averaged and calibrated as it may be. The likeliest class is the one that is explained.

    Raises:
        UserError: where the run is not there, or a picture cannot be read any more.
    """
    model = load_model(workdir, checkpoint)
    height, width = model.config.image_size
    size = (height, width)
    explain_fitted = jax.jit(functools.partial(explain_batch, model.task))
    with progress("explaining", len(pictures)) as update:
        for start in range(0, len(pictures), _BATCH_SIZE):
            batch = pictures[start : start + _BATCH_SIZE]
            decoded = [_read(file.path, model.config.data.max_pixels) for file in batch]
            # As the prediction sees them (`Predictor`).
            reduced = [shrink(picture, model.config.data.size) for picture in decoded]
            fitted = [fit_image(picture, size, model.config.fit) for picture in reduced]
            images = np.zeros((_BATCH_SIZE, *size, 3), np.uint8)  # one shape, compiled once
            images[: len(batch)] = [image for image, _ in fitted]
            told = None if probabilities is None else probabilities[start : start + _BATCH_SIZE]
            targets = np.zeros(_BATCH_SIZE, np.int32)
            if told is not None:
                targets[: len(batch)] = np.argmax(told, axis=1)
            explained = jax.device_get(explain_fitted(model.variables, images, targets))
            for index, (file, picture) in enumerate(zip(batch, decoded, strict=True)):
                one = {name: values[index] for name, values in explained.items()}
                chances = None if told is None else told[index]
                sheet = sheets[start + index]
                make_folder("output", sheet.parent)
                draw(sheet, model, chances, picture, fitted[index][1], one, file.relative)
                update(1)


def draw(
    file: Path,
    model: SavedModel,
    probabilities: np.ndarray | None,
    picture: np.ndarray,
    box: np.ndarray,
    explained: dict[str, np.ndarray],
    title: str,
) -> None:
    """Draws the sheet of one picture.

    Args:
        file: the PNG to write.
        model: that was asked.
        probabilities: of a classification, [K].
        picture: uint8 [h, w, 3].
        box: int32 [4], where it lies in the frame of the model's input.
        explained: what `explain_batch` gave for it, without the batch's axis.
        title: of the sheet.
    """
    picture = shrink(picture, _SHORTER_SIDE)

    def own_size(name: str) -> np.ndarray:
        return unfit(explained[name], box, picture.shape[:2])

    channel_gates = [
        (name.replace("_", " ").replace(" block ", "."), explained[f"channel/{name}"])
        for name in model.task.model.blocks
        if f"channel/{name}" in explained
    ]
    if model.config.task == "segmentation":
        drawing.outline_sheet(
            file, picture, title, own_size("probabilities"), own_size("spread"), channel_gates
        )
        return
    assert probabilities is not None
    spatial = sorted(name for name in explained if name.startswith("spatial/"))
    drawing.class_sheet(
        file,
        picture,
        title,
        model.classes,
        probabilities,
        own_size("grad_cam"),
        [(name.removeprefix("spatial/").replace("_", " "), own_size(name)) for name in spatial],
        channel_gates,
    )


def _read(path: str, max_pixels: int) -> np.ndarray:
    return decode_image(Path(path).read_bytes(), path, max_pixels=max_pixels)
