"""Cross-validation by one command: each fold trained and scored, and all scored as one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from skinjax.engine.checkpoint import Checkpoints
from skinjax.engine.preemption import interruption, stop_on_signals
from skinjax.errors import UserError
from skinjax.modes import bucket, build
from skinjax.modes.compare import columns
from skinjax.modes.config import PARTS, check_config
from skinjax.modes.evaluate import evaluate
from skinjax.modes.evaluate_classes import class_baseline
from skinjax.modes.evaluate_masks import mask_baseline
from skinjax.modes.evaluations import Evaluation, read_evaluation
from skinjax.modes.train import train
from skinjax.modes.workdir import (
    evaluation_name,
    make_folder,
    read_classes,
    read_config,
    tta_suffix,
    write_text,
)
from skinjax.report.plot import csv_text
from skinjax.tasks import classification_metrics
from skinjax.tasks.metrics import MASK_HEADLINES, estimate_means

HEADLINES = {
    "segmentation": MASK_HEADLINES,
    "classification": ("auroc", "balanced_accuracy", "accuracy", "ece"),
}


def train_folds(config: ConfigDict, workdir: Path, tta: str = "") -> dict[str, dict[str, Any]]:
    """Trains each fold of a cross-validation in workdir/foldK, scores it, and pools the scores.

    A fold that is complete is not trained or scored again, so that the same command goes on where
    it was stopped. Every image is in the test part of one fold: the pooled figures are those of all
    images, each predicted by the one model that has not seen its lesion.

    Args:
        config: of the runs; `data.folds` says how many, `data.fold` is set to each in turn.
        workdir: holds their folders, and folds.json and folds.csv beside them; of a joint training
            these lie in its segmentation/ and classification/, as each fold's two runs do.
        tta: what predictions are averaged over: '', 'flips' or 'zooms' (`skinjax.tasks.views`).

    Returns:
        The pooled figures of each task.

    Raises:
        UserError: where there are fewer than three folds, and for what ends a training.
        Interrupted: as a training.
    """
    check_config(config)
    num_folds = config.data.folds
    if num_folds < 3:
        raise UserError(
            f"config.data.folds={num_folds}: --mode=folds wants three or more, as "
            "--config.data.folds=5."
        )
    if bucket.is_copy(workdir):
        raise UserError("--mode=folds writes to a folder: --workdir cannot be a bucket's.")
    name = evaluation_name("test", tta=tta)
    # Where the runs of each task lie in a fold's folder, and its table in the workdir.
    places = {task: task for task in PARTS} if config.task == "joint" else {config.task: "."}
    evaluations: dict[str, list[Evaluation]] = {task: [] for task in places}
    with stop_on_signals(build.create_mesh(config)) as stop:
        for fold in range(num_folds):
            one = config.copy_and_resolve_references()
            one.data.fold = fold
            folder = workdir / f"fold{fold}"
            print(f"fold {fold + 1} of {num_folds}: {folder}", flush=True)
            train(one, folder)
            for task, place in places.items():
                if not stop.signal_number and not _is_scored(folder / place, name):
                    evaluate(folder / place, "test", tta=tta)
                if stop.signal_number:
                    raise interruption(stop.signal_number, f"fold {fold + 1} of {num_folds}")
                evaluations[task].append(read_evaluation(folder / place, task, name))
    pooled = {}
    for task, place in places.items():
        classes = read_classes(workdir / "fold0" / place)
        pooled[task] = _write_pooled(workdir / place, task, evaluations[task], classes, tta)
    return pooled


def _is_scored(workdir: Path, name: str) -> bool:
    """Whether an evaluation of a run is that of its best checkpoint, and need not be made again."""
    path = workdir / "evaluate" / name / "metrics.json"  # which an evaluation writes last
    if not path.is_file():
        return False
    scored = json.loads(path.read_text(encoding="utf-8"))["checkpoint_step"]
    config = read_config(workdir)
    directory = bucket.checkpoints_folder(workdir)
    with Checkpoints(directory, config.keep_last, config.best_metric, read_only=True) as found:
        return bool(scored == found.best_step() and not found.unreadable)


def _write_pooled(
    folder: Path, task: str, evaluations: list[Evaluation], classes: tuple[str, ...], tta: str
) -> dict[str, Any]:
    """Writes and shows a table of the folds and of all images; the pooled figures."""
    pooled = pool(task, evaluations, classes)
    headlines = HEADLINES[task]
    rows = [
        [f"fold{fold}", e.figures["num_images"], *(e.figures[key] for key in headlines)]
        for fold, e in enumerate(evaluations)
    ]
    rows.append(["all", pooled["num_images"], *(pooled[key] for key in headlines)])
    make_folder("workdir", folder)
    stem = f"folds{tta_suffix(tta)}"
    write_text(folder / f"{stem}.csv", csv_text(("part", "num_images", *headlines), rows))
    write_text(folder / f"{stem}.json", json.dumps(pooled, indent=2) + "\n")
    print(_table(rows, pooled, headlines))
    print(mask_baseline(pooled) if task == "segmentation" else class_baseline(pooled))
    print(f"figures: {folder / stem}.json and .csv", flush=True)
    return pooled


def pool(task: str, evaluations: list[Evaluation], classes: tuple[str, ...]) -> dict[str, Any]:
    """The figures of several evaluations' images taken together, with 95% intervals.

    Args:
        task: 'segmentation' or 'classification'.
        evaluations: of models of one kind, on images of which each is in one of them.
        classes: of a classification, in the order of its probabilities.

    Returns:
        Of a segmentation 'num_images', 'num_lesions', the headline scores and
        'background_accuracy'; of a classification the figures of `classification_metrics.figures`.
        Intervals are by a bootstrap over lesions.

    Raises:
        UserError: where an image is in two of them.
    """
    rows = [row for evaluation in evaluations for row in evaluation.rows]
    ids = [row["image_id"] for row in rows]
    if len(set(ids)) < len(ids):
        twice = next(image_id for image_id in ids if ids.count(image_id) > 1)
        raise UserError(f"{twice} is scored in two folds: their scores cannot be pooled.")
    lesion_ids = [row["lesion_id"] for row in rows]
    if task == "classification":
        probabilities = columns(rows, classes)
        probabilities /= probabilities.sum(axis=1, keepdims=True)  # written with nine digits
        labels = np.array([classes.index(row["truth"]) for row in rows])
        found, undefined = classification_metrics.figures(
            probabilities, labels, lesion_ids, classes
        )
        return {**found, "undefined": undefined}
    names = (*MASK_HEADLINES, "background_accuracy")
    scores = estimate_means(columns(rows, names), names, lesion_ids)
    return {"num_images": len(rows), "num_lesions": len(set(lesion_ids)), **scores}


def _table(rows: list[list[Any]], pooled: dict[str, Any], names: tuple[str, ...]) -> str:
    def shown(value: float | None) -> str:
        return "undefined" if value is None else f"{value:.3f}"

    width = max(len(name) for name in names)
    lines = [f"{'':8}{'images':>8}" + "".join(f"  {name:>{width}}" for name in names)]
    for part, num_images, *values in rows:
        cells = "".join(f"  {shown(value):>{width}}" for value in values)
        lines.append(f"{part:8}{num_images:>8,}{cells}")
    intervals = [
        f"  {name} {shown(pooled[f'{name}_low'])} to {shown(pooled[f'{name}_high'])}"
        for name in names
    ]
    return "\n".join([*lines, "95% intervals over all lesions:", *intervals])
