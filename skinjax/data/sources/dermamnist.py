"""DermaMNIST: HAM10000's pictures reduced to 28, 64, 128 or 224 pixels, in one npz.

Yang et al., Sci Data 10:41 (2023), doi 10.1038/s41597-022-01721-8 (MedMNIST v2).
"""

import functools
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from skinjax.data.archives import unpack
from skinjax.data.sources.example import CLASSES, Example
from skinjax.data.sources.files import (
    File,
    Found,
    Tallied,
    Tally,
    fingerprint,
    require_source,
    stat_file,
)
from skinjax.errors import UserError

_PARTS = ("train", "val", "test")
_FILE = re.compile(r"dermamnist(?:_\d+)?\.npz", re.IGNORECASE)
_AGAIN = "download it again"

_SPLIT_NOTE = (
    "The official split of DermaMNIST was made by images, so that lesions of HAM10000 lie on both "
    "sides of it (Abhishek et al. 2024, arXiv:2401.14497): scores on it say less about new lesions."
)


class DermaMnistSource(Tallied):
    """DermaMNIST in one of its sizes; see `skinjax.data.sources.example.Source`.

    Attributes:
      notes: What the user should know of its split.
    """

    name = "dermamnist"
    classes = CLASSES
    has_lesion_ids = False
    # The file does not say which picture of HAM10000 is which of its own.
    lesion_ids_mend = None

    def __init__(
        self,
        source: str | Path | None,
        cache_dir: str | Path,
        *,
        masks: bool = True,
        strict: bool = True,
    ):
        """Finds the file, unpacks it once into the cache, and reads the labels, but no picture.

        Args:
          source: The npz, or a folder or zip that holds one of them.
          cache_dir: Where it is unpacked.
          masks: Whether every image needs a mask, which none has.
          strict: Whether that is an error; otherwise it is only noted.

        Raises:
          UserError: Masks are asked for; there is no file or several; or the file is damaged.
        """
        root = require_source(source, "DermaMNIST")
        self._tally = Tally(root, strict)
        if masks and strict:
            raise UserError(
                "DermaMNIST has no masks: set config.task='classification', or take another data "
                "set, for example config.data.dataset='ham10000'."
            )
        if masks:
            self._tally.notes.append("DermaMNIST has no masks.")
        self._file = _find(root, cache_dir)
        self._parts = _open(Path(self._file.path), Path(cache_dir).expanduser())
        self._tally.notes.append(_SPLIT_NOTE)
        self._tally.log()

    def fingerprint(self) -> str:
        """Digests the file's name, size and time of change."""
        return fingerprint([], [self._file])

    def examples(self) -> list[Example]:
        """Returns all examples, ordered by image id."""
        return [
            Example(
                image_id=f"dermamnist_{part}_{index:05d}",
                load=functools.partial(_load, images, index),
                image_name=f"{self._file.path}, {part}_images[{index}]",
                label=CLASSES[label],
                part=part,
            )
            for part, (images, labels) in sorted(self._parts.items())
            for index, label in enumerate(labels)
        ]


def _load(images: np.ndarray, index: int) -> tuple[bytes, None]:
    """Encodes one picture without loss."""
    buffer = io.BytesIO()
    # The fastest compression: what is prepared from it is encoded anew.
    Image.fromarray(np.ascontiguousarray(images[index])).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), None


def _find(root: Path, cache_dir: str | Path) -> File:
    """The one npz at or below a path."""
    if root.suffix.lower() == ".npz" and root.is_file():
        return stat_file(str(root), root.name)
    found = Found(_classify, cache_dir)
    found.add_source(root, "dermamnist.npz")
    files = sorted(found["npz"].values(), key=lambda file: file.relative)
    if not files:
        raise UserError(
            f"There is no dermamnist.npz (or dermamnist_64.npz, _128, _224) in {root}: set "
            "config.data.source to the file, or to the folder that holds it."
        )
    if len(files) > 1:
        raise UserError(
            f"{root} holds {', '.join(file.relative for file in files)}: set config.data.source to "
            "the one that you want."
        )
    # Alone it has the same name, and so the same fingerprint.
    path = files[0].path
    return stat_file(path, os.path.basename(path))


def _classify(path: str) -> tuple[str, str]:
    name = path.split("/")[-1]
    if _FILE.fullmatch(name):
        return "npz", ""
    return ("zip" if name.lower().endswith(".zip") else ""), ""


def _open(npz: Path, cache_dir: Path) -> Mapping[str, tuple[np.ndarray, list[int]]]:
    """Each part's pictures, uint8 [N, S, S, 3], left on disk, and their labels."""
    # An npz is a zip of arrays. Unpacked, the 1.5 GB of the largest need not lie in memory.
    folder = unpack(npz, cache_dir)
    parts = {}
    sizes = set()
    for part in _PARTS:
        images = _array(npz, folder, f"{part}_images")
        labels = _array(npz, folder, f"{part}_labels")
        shape = images.shape
        if (
            images.dtype != np.uint8
            or len(shape) != 4
            or shape[1] != shape[2]
            or shape[3] != 3
            or 0 in shape
        ):
            raise UserError(
                f"{part}_images in {npz} is {images.dtype} {list(shape)} where it must be uint8 "
                f"[N, S, S, 3]: {_AGAIN}."
            )
        if labels.dtype.kind not in "iu" or labels.shape[1:] != (1,):
            raise UserError(
                f"{part}_labels in {npz} is {labels.dtype} {list(labels.shape)} where it must be "
                f"whole numbers [N, 1]: {_AGAIN}."
            )
        if len(images) != len(labels):
            raise UserError(
                f"{npz} has {len(images)} {part}_images and {len(labels)} {part}_labels: {_AGAIN}."
            )
        if labels.min() < 0 or labels.max() >= len(CLASSES):
            raise UserError(
                f"{part}_labels in {npz} run from {labels.min()} to {labels.max()} where they must "
                f"be 0 to {len(CLASSES) - 1}: {_AGAIN}."
            )
        sizes.add(shape[1])
        parts[part] = images, labels[:, 0].tolist()
    if len(sizes) > 1:
        raise UserError(f"The pictures in {npz} have several sizes, {sorted(sizes)}: {_AGAIN}.")
    return parts


def _array(npz: Path, folder: Path, name: str) -> np.ndarray:
    """One array of the unpacked npz, left on disk."""
    path = folder / f"{name}.npy"
    if not path.is_file():
        raise UserError(f"{npz} lacks the array {name}: {_AGAIN}.")
    try:
        # What is pickled is never loaded: that could run whatever its author wanted.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"The array {name} in {npz} cannot be read ({error}): {_AGAIN}.") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise UserError(f"{name} in {npz} is no array: {_AGAIN}.")
    return array
