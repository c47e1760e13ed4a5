"""What an evaluation keeps in workdir/evaluate/NAME/, written by evaluate and read by report."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from skinjax.data.combined import Combined
from skinjax.data.images import BrokenPicture, decode_image, decode_mask, fit_mask
from skinjax.data.records import Prepared
from skinjax.data.table import Row
from skinjax.errors import UserError
from skinjax.tasks.skin_tone import individual_typology_angle

TABLES = {"segmentation": "per_image.csv", "classification": "predictions.csv"}
# Columns that the tables of older versions lack.
_NEEDED = {"segmentation": ("hd95", "surface_dice", "ita"), "classification": ("ita",)}


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        name: of its folder.
        folder: that holds it.
        figures: of metrics.json.
        rows: of its table, one an image, by column.
    """

    name: str
    folder: Path
    figures: dict[str, Any]
    rows: list[dict[str, str]]

    def column(self, *names: str) -> list[str]:
        """The first of some columns that the table has; empty texts where it has none."""
        name = next((name for name in names if name in self.rows[0]), None)
        return [row[name] if name else "" for row in self.rows]

    def numbers(self, name: str) -> np.ndarray:
        """A column as float64 [N], NaN where it is empty."""
        return np.array([float(value or "nan") for value in self.column(name)])

    def mask(self, image_id: str) -> np.ndarray:
        """The predicted mask of an image, bool [h, w].

        Raises:
            UserError: where it is missing or damaged.
        """
        path = mask_path(self.folder, image_id)
        try:
            return decode_mask(path.read_bytes(), str(path)).astype(bool)
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}): evaluate the run again, which writes "
                "it anew."
            ) from error


def begin(folder: Path) -> None:
    """Ends the evaluation that a folder holds, whose files are about to be replaced.

    What is stopped after it has no metrics.json, so that no figures are read beside another
    evaluation's table or masks.
    """
    (folder / "metrics.json").unlink(missing_ok=True)


def table_text(header: Sequence[str], values: Sequence[Sequence[Any]], rows: Sequence[Row]) -> str:
    """A table of images as CSV: its own columns, then what the data set says of each picture.

    Args:
        header: of the own columns.
        values: theirs, a row an image.
        rows: of the images in the data set's table.
    """
    metadata = sorted({key for row in rows for key in row.metadata})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*header, *metadata])
    for row, own in zip(rows, values, strict=True):
        writer.writerow([*own, *(row.metadata.get(key, "") for key in metadata)])
    return buffer.getvalue()


def read_rows(text: str) -> list[dict[str, str]]:
    """The rows of an evaluation's table by column; a data set's column never hides one of ours."""
    header, *lines = list(csv.reader(io.StringIO(text)))
    # A data set may name a column as we do: ours stand first.
    return [dict(reversed(list(zip(header, line, strict=True)))) for line in lines]


def mask_path(folder: Path, image_id: str) -> Path:
    """Where an evaluation keeps the predicted mask of an image."""
    return folder / "masks" / f"{image_id}.png"


def write_mask(folder: Path, image_id: str, mask: np.ndarray) -> None:
    """Keeps a predicted mask, bool [h, w], as a PNG of one bit a pixel."""
    path = mask_path(folder, image_id)
    # Images of a data set that was added to another have its name and a slash in theirs.
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path, "PNG")


def skin_angle(prepared: Prepared | Combined, position: int) -> str:
    """The individual typology angle of the skin around a lesion in degrees, as text.

    Empty where the picture has no outline, or too little skin around it.
    """
    image_bytes, mask_bytes = prepared.read(position)
    if mask_bytes is None:
        return ""
    image_id = prepared.table[position].image_id
    try:
        mask = decode_mask(mask_bytes, image_id)
    except BrokenPicture:
        # A diagnosis needs no outline: what is wrong with one, an audit tells.
        return ""
    image = decode_image(image_bytes, image_id)
    fitted = fit_mask(mask, image.shape[:2], "squash").astype(bool)
    angle = individual_typology_angle(image, fitted)
    return "" if angle is None else f"{angle:.1f}"


def read_evaluation(workdir: Path, task: str, name: str = "") -> Evaluation:
    """Reads an evaluation of a run.

    Args:
        workdir: the run's folder.
        task: of the run.
        name: of the evaluation; unless told, 'test' or else the first by name.

    Raises:
        UserError: where there is none, or it was made by an older version, or is damaged.
    """
    again = f"python -m skinjax.main --mode=evaluate --workdir={workdir}"
    names = [other for other, _ in list_evaluations(workdir)]
    if not names:
        raise UserError(f"{workdir} has not been evaluated: begin with {again}.")
    name = name or ("test" if "test" in names else names[0])
    if name not in names:
        raise UserError(f"--evaluation={name}: {workdir / 'evaluate'} has {', '.join(names)}.")
    folder = workdir / "evaluate" / name
    path = folder / TABLES[task]
    figures = dict(list_evaluations(workdir))[name]
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): evaluate again, {again}."
        ) from error
    rows = read_rows(text)
    if not rows or not set(_NEEDED[task]) <= set(rows[0]) or "split" not in figures:
        raise UserError(
            f"{folder} was written by an older version and lacks what a report needs: evaluate "
            f"again, {again}."
        )
    return Evaluation(name, folder, figures, rows)


def list_evaluations(workdir: Path) -> list[tuple[str, dict[str, Any]]]:
    """The names and figures of a run's evaluations, by name.

    Raises:
        UserError: where one is damaged.
    """
    folders = [path.parent for path in sorted((workdir / "evaluate").glob("*/metrics.json"))]
    return [(folder.name, read_figures(folder)) for folder in folders]


def read_figures(folder: Path) -> dict[str, Any]:
    """The figures of the evaluation in a folder.

    Raises:
        UserError: where they are damaged.
    """
    path = folder / "metrics.json"
    try:
        figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged: evaluate the run again ({error}).") from error
    return figures
