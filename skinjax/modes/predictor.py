"""Trained models on anybody's pictures, in memory or as a stream: the public API and its core."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from absl import logging
from PIL import Image

from skinjax.data.images import (
    BrokenPicture,
    convert_image,
    decode_image,
    fit_image,
    shrink,
    unfit,
)
from skinjax.data.threads import map_in_order
from skinjax.errors import UserError
from skinjax.modes import bucket
from skinjax.modes.inference import Ensemble, Member
from skinjax.modes.workdir import read_calibration, read_config
from skinjax.process import num_cores
from skinjax.tasks.predictions import (
    ClassificationPrediction,
    SegmentationPrediction,
    average_calibrated,
    clean_mask,
)

Prediction = SegmentationPrediction | ClassificationPrediction
# A file, a picture that Pillow has opened, or an array uint8 [H, W, 3].
Picture = str | os.PathLike[str] | Image.Image | np.ndarray
Item = TypeVar("Item")

# Of a batch on a CPU: large enough to lose nothing, and one picture alone does not wait for a
# training's batch to be filled up.
_CPU_BATCH = 8
# Batches of pictures that are decoded ahead of the one that the devices work on.
_BATCHES_AHEAD = 2


@dataclasses.dataclass(frozen=True, eq=False)
class ModelOutput:
    """What the models say of one picture, at their own size.

    Attributes:
        output: one row of what `Ensemble.predict` gives.
        box: where the picture lies in the models' frame, int32 [4]: top, left, height and width.
        size: height and width of the picture itself, upright.
    """

    output: np.ndarray
    box: np.ndarray
    size: tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class _Fitted:
    """One picture at the models' size, uint8 [H, W, 3]; box and size as in `ModelOutput`."""

    image: np.ndarray
    box: np.ndarray
    size: tuple[int, int]


class Predictor:
    """Predicts pictures of any size with the models of one or more runs, averaged.

    Every batch has one shape, the last one filled up, so that a picture gets the same answer alone
    and in any company. `skinjax.load` makes one.

    Args:
        workdirs: the runs' folders, at least one.
        checkpoint: 'best' by the run's metric on val, 'last', or a step, of each run.
        tta: what predictions are averaged over: '', 'flips' or 'zooms' (`skinjax.tasks.views`).
        min_region: of segmentation: the share of a picture, in [0, 1), that an island of lesion or
            a hole in it must have to stay; 0 leaves masks as they are.

    Attributes:
        task: 'segmentation' or 'classification'.
        classes: what is told apart: the diagnoses in the order of the probabilities, or
            'background' and 'lesion', the two values of a mask.
        workdirs: as told.
        batch_size: pictures that are predicted at once.
        temperatures: one a model, which a classifier's logits are divided by; 1 where none was
            fitted.

    Raises:
        UserError: where a run or the checkpoint is not there, runs do not go together, or
            `min_region` is out of its range.
    """

    def __init__(
        self,
        workdirs: Sequence[Path],
        checkpoint: str = "best",
        tta: str = "",
        min_region: float = 0.0,
    ):
        if not 0 <= min_region < 1:
            raise UserError(f"min_region={min_region} must be a share of the picture: 0 to 1.")
        self.workdirs = tuple(workdirs)
        self.tta, self.min_region = tta, min_region
        config = read_config(self.workdirs[0])
        self.ensemble = Ensemble(workdirs, checkpoint, tta, _batch_size(config.batch_size))
        self.batch_size = self.ensemble.batch_size
        self.task: str = config.task
        self._image_size: tuple[int, int] = tuple(config.image_size)
        self._fit_as: str = config.fit
        self._prepared_size: int = config.data.size
        self._max_pixels: int = config.data.max_pixels
        self.classes: tuple[str, ...] = ("background", "lesion")
        self.temperatures: tuple[float, ...] = ()
        if self.task == "classification":
            self.classes = self.ensemble.classes
            self.temperatures = tuple(self._temperature(m) for m in self.ensemble.members)

    def _temperature(self, member: Member) -> float:
        calibration = read_calibration(member.workdir, member.step, self.tta)
        if calibration is not None:
            return float(calibration["temperature"])
        flag = f" --tta={self.tta}" if self.tta else ""
        name = bucket.address_of(member.workdir)
        step = "" if member.is_best else f" --checkpoint={member.step}"
        logging.warning(
            "%s has no temperature for step %d%s: probabilities are as the network gives them. "
            "--mode=evaluate --workdir=%s%s%s fits one on val.",
            *(name, member.step, f" with{flag}" if flag else "", name, flag, step),
        )
        return 1.0

    @property
    def settings(self) -> dict[str, Any]:
        """All that an answer depends on beside the picture, as JSON has it."""
        return {
            "task": self.task,
            "classes": list(self.classes),
            "steps": [member.step for member in self.ensemble.members],
            "weights": [member.digest() for member in self.ensemble.members],
            "temperatures": list(self.temperatures),
            "image_size": list(self._image_size),
            "fit": self._fit_as,
            "tta": self.tta,
            "min_region": self.min_region,
        }

    def predict(self, images: Picture | Iterable[Picture]) -> Prediction | list[Prediction]:
        """Predicts one picture or several.

        Args:
            images: a picture, or an iterable of pictures, or uint8 [N, H, W, 3]. A picture is an
                array uint8 [H, W, 3] in RGB, 0 to 255; the path of a file; or a picture that Pillow
                has opened. Files and Pillow's pictures are turned upright by their EXIF tag.

        Returns:
            A `SegmentationPrediction`, whose arrays have the picture's own (upright) size, or a
            `ClassificationPrediction`; of several pictures a list of them in the same order.

        Raises:
            UserError: where a file cannot be read, or an array is no picture.
        """
        single = isinstance(images, str | os.PathLike | Image.Image)
        single = single or (isinstance(images, np.ndarray) and images.ndim != 4)
        pictures: Iterable[Any] = [images] if single else images  # type: ignore[assignment]
        predictions = []
        for picture, output in self.stream(pictures, self._read):
            if isinstance(output, OSError):
                reason = output.strerror or str(output)
                raise UserError(f"The picture {picture} cannot be read: {reason}.") from output
            if isinstance(output, Exception):
                raise output
            predictions.append(self.finish(output))
        return predictions[0] if single else predictions

    def stream(
        self, items: Iterable[Item], read: Callable[[Item], np.ndarray]
    ) -> Iterator[tuple[Item, ModelOutput | OSError | BrokenPicture]]:
        """Predicts pictures one batch after the other, while threads read those that come next.

        However many there are, some batches of them at the models' size are in memory.

        Args:
            items: that stand for pictures; taken as there is room for them.
            read: gives an item's picture, uint8 [H, W, 3], upright; called in threads.

        Yields:
            Each item in order, with what the models say of it, or with the error of its reading.
        """
        fit = functools.partial(self._fit, read)
        behind = None
        with ThreadPoolExecutor(num_cores()) as pool:
            fitted = map_in_order(pool, fit, items, _BATCHES_AHEAD * self.batch_size)
            for entries in _batches(fitted, self.batch_size):
                output = self._predict([f for _, f in entries if isinstance(f, _Fitted)])
                # The devices work on this batch while what they said of the last one is used.
                if behind is not None:
                    yield from _join(*behind)
                behind = entries, output
            if behind is not None:
                yield from _join(*behind)

    def finish(self, output: ModelOutput) -> Prediction:
        """Makes of what the models say of a picture what its user asks for.

        Args:
            output: of one picture, from `stream`.

        Returns:
            The prediction, at the picture's own size.
        """
        if self.task == "classification":
            probabilities = average_calibrated(output.output, self.temperatures)
            return ClassificationPrediction(self.classes, probabilities)
        probabilities = unfit(output.output, output.box, output.size)
        mask = clean_mask(probabilities >= 0.5, self.min_region)
        return SegmentationPrediction(probabilities, mask)

    def read_file(self, path: str | os.PathLike[str]) -> np.ndarray:
        """Reads a picture's file, uint8 [H, W, 3], upright.

        Raises:
            OSError: it cannot be read.
            BrokenPicture: it does not decode, or is larger than the run's config.data.max_pixels.
        """
        data = Path(path).expanduser().read_bytes()
        return decode_image(data, os.fspath(path), max_pixels=self._max_pixels)

    def _read(self, picture: Picture) -> np.ndarray:
        if isinstance(picture, str | os.PathLike):
            return self.read_file(picture)
        if isinstance(picture, Image.Image):
            return convert_image(picture, str(getattr(picture, "filename", "")) or "given")
        image = np.asarray(picture)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UserError(
                f"An array {image.dtype} {list(image.shape)} is no picture: give uint8 [H, W, 3] "
                "or [N, H, W, 3], RGB, 0 to 255."
            )
        return image

    def _fit(
        self, read: Callable[[Item], np.ndarray], item: Item
    ) -> _Fitted | OSError | BrokenPicture:
        """Reads one picture and brings it to the models' size, as the training saw pictures."""
        try:
            image = read(item)
        except (OSError, BrokenPicture) as error:
            return error
        reduced = shrink(image, self._prepared_size)
        fitted, box = fit_image(reduced, self._image_size, self._fit_as)
        return _Fitted(fitted, box, (image.shape[0], image.shape[1]))

    def _predict(self, fitted: Sequence[_Fitted]) -> jax.Array | None:
        """Starts the prediction of a batch, filled up to its size; None where it is empty."""
        if not fitted:
            return None
        images = np.zeros((self.batch_size, *self._image_size, 3), np.uint8)
        for row, one in zip(images, fitted, strict=False):
            row[...] = one.image
        return self.ensemble.predict(self.ensemble.put({"images": images})["images"])


def _batch_size(trained_with: int) -> int:
    """Pictures to predict at once: the training's batch, or few of them on a CPU."""
    if jax.default_backend() != "cpu":
        return trained_with
    num_devices = jax.device_count()
    return num_devices * -(-_CPU_BATCH // num_devices)


def _batches(
    fitted: Iterable[tuple[Item, Any]], batch_size: int
) -> Iterator[list[tuple[Item, Any]]]:
    """Cuts a stream so that each part holds a batch of pictures, besides those that are broken."""
    batch = []
    num_fitted = 0
    for item, one in fitted:
        batch.append((item, one))
        num_fitted += isinstance(one, _Fitted)
        if num_fitted == batch_size:
            yield batch
            batch, num_fitted = [], 0
    if batch:
        yield batch


def _join(
    entries: list[tuple[Item, Any]], output: jax.Array | None
) -> Iterator[tuple[Item, ModelOutput | OSError | BrokenPicture]]:
    """Puts the rows of a batch's output to their pictures."""
    rows = iter(() if output is None else jax.device_get(output))
    for item, one in entries:
        if isinstance(one, _Fitted):
            yield item, ModelOutput(next(rows), one.box, one.size)
        else:
            yield item, one
