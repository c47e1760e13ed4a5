"""Comparison: runs scored on the same images, and whether one side is shown to be better."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from skinjax.errors import UserError
from skinjax.modes.evaluations import TABLES, read_figures, read_rows
from skinjax.modes.workdir import evaluation_name, make_folder, write_text
from skinjax.tasks.comparison import Difference, compare_classes, compare_scores
from skinjax.tasks.metrics import MASK_HEADLINES, MIN_LESIONS

_LOWER_IS_BETTER = ("ece",)


def compare(
    first: Sequence[Path],
    second: Sequence[Path],
    split: str | None = None,
    dataset: str = "",
    tta: str = "",
    output: Path | None = None,
) -> dict[str, Difference]:
    """Tells by how much the second side's figures differ from the first one's, and how surely.

    Args:
        first: folders of runs: one, or those of several seeds, whose figures are averaged. The
            folder of one evaluation, as RUN/evaluate/test-tta, stands for itself: so a run's
            figures with and without views are compared, or those of an average of runs.
        second: likewise of the other side.
        split: of an evaluation that all runs have, told as to `evaluate`.
        dataset: likewise.
        tta: likewise.
        output: the folder to write comparison.json to; nothing is written without one.

    Returns:
        The difference of each headline figure.

    Raises:
        UserError: where an evaluation is missing, or they are not of the same images.
    """
    name = evaluation_name(split, dataset, tta)
    folders = [_evaluation_folder(path, name) for path in (*first, *second)]
    by_side = {"first": folders[: len(first)], "second": folders[len(first) :]}
    kind, tables = _read_alike(folders)
    images = list(tables[0])
    rows = [[table[image_id] for image_id in images] for table in tables]
    lesions = [row["lesion_id"] for row in rows[0]]
    of_masks = kind == TABLES["segmentation"]
    names = MASK_HEADLINES if of_masks else _same_classes(folders)
    values = np.stack([columns(run, names) for run in rows])
    sides = values[: len(first)], values[len(first) :]
    if of_masks:
        differences = compare_scores(*sides, names, lesions)
    else:
        labels = np.array([names.index(row["truth"]) for row in rows[0]])
        differences = compare_classes(*sides, labels, lesions, names)
    num_lesions = len(set(lesions))
    print(f"{len(images):,} images of {num_lesions:,} lesions")
    for side, of_side in zip("AB", by_side.values(), strict=True):
        named = ", ".join(f"{folder} ({_step(folder)})" for folder in of_side)
        print(f"  {side}: {named}" + " (their mean)" * (len(of_side) > 1))
    print(_table(differences, num_lesions))
    if output is not None:
        make_folder("output", output)
        written: dict[str, Any] = {side: list(map(str, named)) for side, named in by_side.items()}
        # JSON has no NaN: what is undefined is null.
        written["figures"] = {
            figure: {
                key: None if math.isnan(value) else value
                for key, value in dataclasses.asdict(difference).items()
            }
            for figure, difference in differences.items()
        }
        write_text(output / "comparison.json", json.dumps(written, indent=2) + "\n")
    return differences


def _evaluation_folder(path: Path, name: str) -> Path:
    """The folder of a run's evaluation, or the path itself where that is one.

    Raises:
        UserError: where there is no such evaluation.
    """
    is_one = (path / "metrics.json").is_file() or path.absolute().parent.name == "evaluate"
    workdir, folder = (path.parent.parent, path) if is_one else (path, path / "evaluate" / name)
    is_finished = (folder / "metrics.json").is_file()
    if is_finished and any((folder / table).is_file() for table in TABLES.values()):
        return folder
    raise UserError(
        f"{folder} holds no evaluation that was finished: run --mode=evaluate --workdir={workdir} "
        "with the same --split, --dataset and --tta first."
    )


def _read_alike(folders: Sequence[Path]) -> tuple[str, list[dict[str, dict[str, str]]]]:
    """The kind of table that the evaluations have, and the rows of each by image id.

    Raises:
        UserError: where one is not of the first one's task and images.
    """
    kind, ours = _read(folders[0])
    tables = [ours]
    for folder in folders[1:]:
        other, theirs = _read(folder)
        if other != kind:
            raise UserError(f"{folders[0]} has {kind} and {folder} {other}: name runs of one task.")
        if ours.keys() != theirs.keys():
            alone = sorted(ours.keys() ^ theirs.keys())
            raise UserError(
                f"{folders[0]} and {folder} were not scored on the same images ({len(alone):,} are "
                f"in one alone, as {alone[0]}): compare runs of one data set and one "
                "config.data.split_seed."
            )
        tables.append(theirs)
    return kind, tables


def _read(folder: Path) -> tuple[str, dict[str, dict[str, str]]]:
    """The kind of an evaluation's table, and its rows by image id."""
    kind = next(table for table in TABLES.values() if (folder / table).is_file())
    rows = read_rows((folder / kind).read_text(encoding="utf-8"))
    return kind, {row["image_id"]: row for row in rows}


def _step(folder: Path) -> str:
    """The checkpoints that an evaluation is of; a training that went on may have a better one."""
    figures = read_figures(folder)
    members = figures.get("averaged", [figures])
    return ", ".join(f"step {member['checkpoint_step']:,}" for member in members)


def _same_classes(folders: Sequence[Path]) -> list[str]:
    """The classes of the evaluations, in the order of their probabilities."""
    found: list[list[str]] = []
    for folder in folders:
        classes = read_figures(folder).get("classes")
        if classes is None:
            raise UserError(
                f"{folder / 'metrics.json'} is of an earlier version: evaluate the run again."
            )
        if found and classes != found[0]:
            raise UserError(
                f"{folders[0]} and {folder} do not tell the same classes apart "
                f"({', '.join(found[0])}; {', '.join(classes)}): compare runs of one data set."
            )
        found.append(classes)
    return found[0]


def columns(rows: list[dict[str, str]], names: Sequence[str]) -> np.ndarray:
    """Columns of an evaluation's table, float64 [N, len(names)]."""
    return np.array([[float(row[name]) for name in names] for row in rows])


def _table(differences: dict[str, Difference], num_lesions: int) -> str:
    width = max(map(len, differences))
    lines = [f"  {'':<{width}}      A      B   B - A  (95% interval)"]
    for name, d in differences.items():
        line = f"  {name:<{width}}  {d.first:.3f}  {d.second:.3f}  {d.second - d.first:+.3f}"
        lines.append(f"{line}  ({d.low:+.3f} to {d.high:+.3f})  {_verdict(name, d, num_lesions)}")
    return "\n".join(lines)


def _verdict(name: str, difference: Difference, num_lesions: int) -> str:
    if math.isnan(difference.low):
        return "undefined: too many draws leave out a class"
    if num_lesions < MIN_LESIONS:
        return f"of fewer than {MIN_LESIONS} lesions nothing can be told"
    if difference.low <= 0 <= difference.high:
        return "no difference shown"
    return "B is better" if (difference.low > 0) != (name in _LOWER_IS_BETTER) else "A is better"
