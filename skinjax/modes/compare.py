"""Comparison: two runs scored on the same images, and whether one is shown to be better."""

import csv
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from skinjax.errors import UserError
from skinjax.modes.workdir import evaluation_name, make_folder, write_text
from skinjax.tasks.comparison import Difference, compare_classes, compare_scores

# Of per_image.csv; of predictions.csv those that have an interval.
MASK_SCORES = ("jaccard", "dice", "thresholded_jaccard", "accuracy")
_LOWER_IS_BETTER = ("ece",)


def compare(
    first: Path,
    second: Path,
    split: str | None = None,
    dataset: str = "",
    tta: bool = False,
    output: Path | None = None,
) -> dict[str, Difference]:
    """Tells by how much the second run's figures differ from the first one's, and how surely.

    Args:
        first: a run's folder.
        second: another one's.
        split: of an evaluation that both have, told as to `evaluate`.
        dataset: likewise.
        tta: likewise.
        output: the folder to write comparison.json to; nothing is written without one.

    Returns:
        The difference of each headline figure.

    Raises:
        UserError: where an evaluation is missing, or the two are not of the same images.
    """
    name = evaluation_name(split, dataset, tta)
    tables = [_read(workdir, name) for workdir in (first, second)]
    kinds = [kind for kind, _ in tables]
    if kinds[0] != kinds[1]:
        raise UserError(
            f"{first} has {kinds[0]} and {second} {kinds[1]} in evaluate/{name}: name two runs of "
            "one task."
        )
    (_, ours), (_, theirs) = tables
    if ours.keys() != theirs.keys():
        alone = sorted(ours.keys() ^ theirs.keys())
        raise UserError(
            f"{first} and {second} were not scored on the same images in evaluate/{name} "
            f"({len(alone):,} are in one alone, as {alone[0]}): compare runs of one data set and "
            "one config.data.split_seed."
        )
    rows = list(ours.values()), [theirs[image_id] for image_id in ours]
    if kinds[0] == "per_image.csv":
        differences = _compare_masks(*rows)
    else:
        classes = [_classes(workdir, name) for workdir in (first, second)]
        if classes[0] != classes[1]:
            raise UserError(
                f"The two runs do not tell the same classes apart in evaluate/{name} "
                f"({', '.join(classes[0])}; {', '.join(classes[1])}): compare runs of one data set."
            )
        differences = _compare_classes(*rows, classes[0])
    num_lesions = len({row["lesion_id"] for row in ours.values()})
    print(f"{name}: {len(ours):,} images of {num_lesions:,} lesions")
    print(f"  A: {first}\n  B: {second}")
    print(_table(differences))
    if output is not None:
        make_folder("output", output)
        written: dict[str, Any] = {"first": str(first), "second": str(second), "name": name}
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


def _read(workdir: Path, name: str) -> tuple[str, dict[str, dict[str, str]]]:
    """The file of an evaluation, and its rows by image id."""
    folder = workdir / "evaluate" / name
    for kind in ("per_image.csv", "predictions.csv"):
        if (folder / kind).is_file():
            with (folder / kind).open(encoding="utf-8", newline="") as file:
                return kind, {row["image_id"]: row for row in csv.DictReader(file)}
    raise UserError(
        f"{folder} holds no evaluation: run --mode=evaluate --workdir={workdir} with the same "
        "--split, --dataset and --tta first."
    )


def _classes(workdir: Path, name: str) -> list[str]:
    """The classes of an evaluation, in the order of its probabilities."""
    path = workdir / "evaluate" / name / "metrics.json"
    classes = json.loads(path.read_text(encoding="utf-8")).get("classes")
    if classes is None:
        raise UserError(f"{path} is of an earlier version: evaluate {workdir} again.")
    return classes


def _compare_masks(
    ours: list[dict[str, str]], theirs: list[dict[str, str]]
) -> dict[str, Difference]:
    return compare_scores(
        columns(ours, MASK_SCORES), columns(theirs, MASK_SCORES), MASK_SCORES, _lesions(ours)
    )


def _compare_classes(
    ours: list[dict[str, str]], theirs: list[dict[str, str]], classes: list[str]
) -> dict[str, Difference]:
    labels = np.array([classes.index(row["truth"]) for row in ours])
    return compare_classes(
        columns(ours, classes), columns(theirs, classes), labels, _lesions(ours), classes
    )


def columns(rows: list[dict[str, str]], names: Sequence[str]) -> np.ndarray:
    """Columns of an evaluation's table, float64 [N, len(names)]."""
    return np.array([[float(row[name]) for name in names] for row in rows])


def _lesions(rows: list[dict[str, str]]) -> list[str]:
    return [row["lesion_id"] for row in rows]


def _table(differences: dict[str, Difference]) -> str:
    width = max(map(len, differences))
    lines = [f"  {'':<{width}}      A      B   B - A  (95% interval)"]
    for name, d in differences.items():
        line = f"  {name:<{width}}  {d.first:.3f}  {d.second:.3f}  {d.second - d.first:+.3f}"
        lines.append(f"{line}  ({d.low:+.3f} to {d.high:+.3f})  {_verdict(name, d)}")
    return "\n".join(lines)


def _verdict(name: str, difference: Difference) -> str:
    if math.isnan(difference.low):
        return "undefined: too many draws leave out a class"
    if difference.low <= 0 <= difference.high:
        return "no difference shown"
    return "B is better" if (difference.low > 0) != (name in _LOWER_IS_BETTER) else "A is better"
