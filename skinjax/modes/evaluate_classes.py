"""Evaluation of diagnoses: calibrated on val, scored on the split, with its baseline."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from skinjax.data.classes import ClassMatch, match_classes
from skinjax.data.images import decode_image
from skinjax.engine.distributed import is_main, on_main
from skinjax.errors import UserError
from skinjax.modes.evaluations import begin, skin_angle, table_text
from skinjax.modes.inference import Member, TrainedRun
from skinjax.modes.workdir import calibration_path, read_calibration, write_text
from skinjax.progress import progress
from skinjax.report import classification_figures as drawing
from skinjax.report.plot import csv_text
from skinjax.tasks.calibration import apply_temperature, calibration_figures, fit_temperature
from skinjax.tasks.classification_metrics import (
    figures,
    find_melanoma,
    sensitivity_and_specificity,
    threshold_for_sensitivity,
)
from skinjax.tasks.metrics import MIN_LESIONS
from skinjax.tasks.predictions import average_calibrated
from skinjax.tasks.subgroups import mean_estimate

NUM_MISTAKES = 12  # pictures on the sheet


def evaluate_classes(
    run: TrainedRun, positions: list[int], output: Path
) -> tuple[dict[str, Any], str]:
    """Scores a classification; writes predictions.csv, reliability.csv and four pictures.

    Args:
        run: the trained run.
        positions: of the images.
        output: the folder to write to.

    Returns:
        The figures of metrics.json, and what to tell the user.

    Raises:
        UserError: where an image has no label.
    """
    match = match_classes(run.classes, run.prepared.classes)
    classes = match.names
    positions = _scorable(run, match, positions)
    what = f"evaluating {output.name}"
    if run.is_own:
        log_probabilities = _predictions(run, positions, what)
        scored = positions, log_probabilities
        calibrations = [_calibration(run, member, scored) for member in run.members]
    else:  # first what may fail: it asks for the run's own data
        calibrations = [_calibration(run, member, None) for member in run.members]
        log_probabilities = _predictions(run, positions, what)
    labels = _labels(run, match, positions)
    temperatures = [calibration["temperature"] for calibration in calibrations]
    all_calibrated = average_calibrated(log_probabilities, temperatures)
    raw = _common(average_calibrated(log_probabilities, np.ones(len(temperatures))), match)
    probabilities = _common(all_calibrated, match)
    rows = [run.prepared.table[position] for position in positions]
    lesion_ids = [row.lesion_id for row in rows]
    scores, undefined = figures(probabilities, labels, lesion_ids, classes)
    result: dict[str, Any] = dict(scores)
    uncalibrated = calibration_figures(raw, labels)
    result |= {f"{name}_uncalibrated": value for name, value in uncalibrated.items()}
    result["temperature"] = temperatures[0] if len(temperatures) == 1 else temperatures
    result["is_calibrated"] = all(c["fitted_on"] == "val" for c in calibrations)
    # A run's threshold is one for its own probabilities, not for those averaged with others'.
    threshold = calibrations[0]["melanoma_threshold"] if len(calibrations) == 1 else None
    ours, scored_as = find_melanoma(run.classes), find_melanoma(classes)
    if threshold is not None and ours is not None and scored_as is not None:
        # As the threshold was chosen: among all of the model's classes.
        melanoma = all_calibrated[:, run.classes.index(ours)]
        is_melanoma = labels == classes.index(scored_as)
        at_threshold, reasons = _at_threshold(melanoma, is_melanoma, threshold, lesion_ids)
        result |= {"melanoma_threshold_from_val": threshold, **at_threshold}
        undefined |= reasons
    result["undefined"] = undefined
    result["classes"] = list(classes)

    if is_main():
        _write(run, classes, positions, labels, raw, probabilities, output)
    summary = _summary(result)
    if run.classes != run.prepared.classes:
        told = match.describe(run.classes, run.prepared.classes)
        summary = f"classes in which both are told:\n{told}\n{summary}"
        result["class_match"] = told.split("\n")
    return result, summary


def _at_threshold(
    scores: np.ndarray, positive: np.ndarray, threshold: float, lesion_ids: Sequence[str]
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Melanoma's sensitivity and specificity at a threshold, with intervals over either's lesions.

    Returns:
        The figures, and the reason for each that is None.
    """
    lesions = np.asarray(lesion_ids, dtype=object)
    reached = scores >= threshold
    shares = sensitivity_and_specificity(scores, positive, threshold)
    found: dict[str, float | None] = {}
    undefined: dict[str, str] = {}
    for name, share, members, right in (
        ("sensitivity", shares[0], positive, reached),
        ("specificity", shares[1], ~positive, ~reached),
    ):
        low = high = None
        reason = f"{name} is of no image"
        if share is not None:
            estimate = mean_estimate(right[members], lesions[members].tolist())
            low, high = estimate.low, estimate.high
            reason = f"the {name}'s interval would be of fewer than {MIN_LESIONS} lesions"
        for end, value in (("", share), ("_low", low), ("_high", high)):
            key = f"melanoma_{name}_at_val_threshold{end}"
            found[key] = value
            if value is None:
                undefined[key] = reason
    return found, undefined


def _write(
    run: TrainedRun,
    classes: tuple[str, ...],
    positions: list[int],
    labels: np.ndarray,
    raw: np.ndarray,
    probabilities: np.ndarray,
    output: Path,
) -> None:
    """Writes predictions.csv and four pictures of probabilities, calibrated and raw, [N, K]."""
    begin(output)
    predicted = probabilities.argmax(1)
    table = _predictions_csv(run, classes, positions, labels, probabilities)
    write_text(output / "predictions.csv", table)
    title = f"{run.workdir.name}, {output.name}"
    drawing.confusion(output / "confusion.png", labels, predicted, classes, title)
    drawing.roc(output / "roc.png", probabilities, labels, classes, title)
    drawing.reliability(output / "reliability.png", raw, probabilities, labels, title)
    bins = drawing.reliability_bins(raw, probabilities, labels)
    write_text(output / "reliability.csv", csv_text(drawing.ReliabilityBin._fields, bins))
    mistakes = drawing.most_confident_mistakes(probabilities, labels, NUM_MISTAKES)
    sheet = [_mistake(run, classes, positions[i], labels[i], probabilities[i]) for i in mistakes]
    drawing.mistake_sheet(output / "mistakes.png", sheet, title)


def _scorable(run: TrainedRun, match: ClassMatch, positions: list[int]) -> list[int]:
    """The images whose class is one that the model knows.

    Raises:
        UserError: where an image has no label, none has a class that the model knows, or there is
            but one class to tell.
    """
    classes = run.prepared.classes
    unlabelled = [p for p in positions if run.prepared.table[p].label is None]
    if unlabelled:
        raise UserError(
            f"{len(unlabelled):,} of the {len(positions):,} images have no label to be scored "
            f"against (the first is {run.prepared.table[unlabelled[0]].image_id}): give them one "
            "in the data set's table, or take them out."
        )
    known = [
        p for p in positions if match.of_data[classes.index(run.prepared.table[p].label or "")] >= 0
    ]
    if not known:
        raise UserError(
            f"No image of {run.prepared.name} has a class that the model knows: the model's are "
            f"{', '.join(run.classes)}, the data set's {', '.join(classes)}. "
            "skinjax/data/classes.py holds the table of names."
        )
    if len(match.names) < 2:
        raise UserError(
            f"The model and {run.prepared.name} have one class in common, {match.names[0]}: there "
            f"is nothing to tell apart. The model's are {', '.join(run.classes)}, the data set's "
            f"{', '.join(classes)}."
        )
    return known


def _common(probabilities: np.ndarray, match: ClassMatch) -> np.ndarray:
    """Probabilities [N, K] of the model's classes as those of the common ones, each row of sum 1.

    What the model gives to classes that the data set does not have is divided among the others in
    proportion: a set without them is known to be one.
    """
    common = np.zeros((len(probabilities), len(match.names)))
    for column, index in zip(probabilities.T, match.of_model, strict=True):
        if index >= 0:
            common[:, index] += column
    return common / common.sum(1, keepdims=True)


def _labels(run: TrainedRun, match: ClassMatch, positions: list[int]) -> np.ndarray:
    """The images' classes among the common ones, int [N]."""
    names = [run.prepared.table[position].label for position in positions]
    indices = [run.prepared.classes.index(name) for name in names if name is not None]
    return np.array([match.of_data[index] for index in indices])


def _predictions(run: TrainedRun, positions: list[int], what: str) -> np.ndarray:
    """Log probabilities float32 [N, M, K] of M models."""
    outputs = []
    with progress(what, len(positions), shown=is_main()) as update:
        for output, _, _ in run.predict(positions):
            outputs.append(output)
            update(1)
    return np.stack(outputs)


def _calibration(
    run: TrainedRun, member: Member, scored: tuple[list[int], np.ndarray] | None
) -> dict[str, Any]:
    """What is chosen on val for a checkpoint, with or without views averaged; kept once made.

    Where another data set is scored and the run's own is gone, nothing is chosen, with a warning.

    Args:
        run: that is evaluated.
        member: one of its models.
        scored: of the run's own data, the positions that are evaluated, and what `_predictions`
            gives of them; where they are its val, they are not predicted a second time.
    """
    calibration = on_main(lambda: read_calibration(member.workdir, member.step, run.tta))
    if calibration is not None:
        return calibration
    alone = scored is not None and len(run.members) == 1
    try:
        own = (
            run
            if alone
            else TrainedRun(
                member.workdir, str(member.step), run.tta, source=run.own_source, split="val"
            )
        )
    except UserError as error:
        if run.is_own:
            raise
        logging.warning(
            "The own data of %s cannot be read (%s) Its probabilities are as the network gives "
            "them, at no temperature: evaluate it once where its data is.",
            member.workdir,
            error,
        )
        return {"fitted_on": "nothing", "temperature": 1.0, "melanoma_threshold": None}
    match = match_classes(own.classes, own.prepared.classes)
    positions = _scorable(own, match, own.positions("val"))
    if alone and scored is not None and positions == scored[0]:
        _, outputs = scored
    else:
        outputs = _predictions(own, positions, "calibrating on val")
    labels = np.array([_own_label(own, match, position) for position in positions])
    log_probabilities = outputs[:, 0]
    fitted_on, temperature = "val", fit_temperature(log_probabilities, labels)
    if (log_probabilities.argmax(1) == labels).all():
        # The smaller the temperature, the better these are told: without a mistake none is best.
        fitted_on, temperature = "nothing", 1.0
        logging.warning(
            "All of %s's val was told rightly, from which no temperature can be fitted: its "
            "probabilities are as the network gives them.",
            member.workdir,
        )
    threshold = None
    melanoma = find_melanoma(run.classes)
    if melanoma is not None:
        k = run.classes.index(melanoma)
        probabilities = apply_temperature(log_probabilities, temperature)
        threshold = threshold_for_sensitivity(probabilities[:, k], labels == k)
    calibration = {
        "fitted_on": fitted_on,
        "num_images": len(labels),
        "temperature": temperature,
        "melanoma_threshold": threshold,
    }
    if is_main():
        path = calibration_path(member.workdir, member.step, run.tta)
        try:
            path.parent.mkdir(exist_ok=True)
            write_text(path, json.dumps(calibration, indent=2) + "\n")
        except OSError as error:  # of a run that is averaged with one's own, and is another's
            logging.warning("%s is not kept (%s), and made anew each time.", path, error.strerror)
    return calibration


def _own_label(own: TrainedRun, match: ClassMatch, position: int) -> int:
    """An image's class among the model's, of which the run's own data may lack some by now.

    It may also name one in another way than it did.
    """
    name = own.prepared.table[position].label or ""
    if name in own.classes:
        return own.classes.index(name)
    return match.of_model.index(match.of_data[own.prepared.classes.index(name)])


def _predictions_csv(
    run: TrainedRun,
    classes: tuple[str, ...],
    positions: list[int],
    labels: np.ndarray,
    probabilities: np.ndarray,
) -> str:
    rows = [run.prepared.table[position] for position in positions]
    with ThreadPoolExecutor(run.config.data.num_threads) as pool:
        angles = list(pool.map(partial(skin_angle, run.prepared), positions))
    values = [
        [
            row.image_id,
            row.lesion_id,
            classes[label],
            classes[row_probabilities.argmax()],
            *(f"{p:.9g}" for p in row_probabilities),
            angle,
        ]
        for row, label, row_probabilities, angle in zip(
            rows, labels, probabilities, angles, strict=True
        )
    ]
    header = ["image_id", "lesion_id", "truth", "predicted", *classes, "ita"]
    return table_text(header, values, rows)


def _mistake(
    run: TrainedRun,
    classes: tuple[str, ...],
    position: int,
    label: int,
    probabilities: np.ndarray,
) -> drawing.Mistake:
    row = run.prepared.table[position]
    image_bytes, _ = run.prepared.read(position)
    predicted = int(probabilities.argmax())
    return drawing.Mistake(
        image=decode_image(image_bytes, row.image_id),
        image_id=row.image_id,
        truth=classes[label],
        predicted=classes[predicted],
        confidence=float(probabilities[predicted]),
    )


def _summary(result: dict[str, Any]) -> str:
    def interval(key: str) -> str:
        value, low, high = (result[name] for name in (key, f"{key}_low", f"{key}_high"))
        if value is None:
            return f"undefined: {result['undefined'].get(key, 'a class is absent')}"
        between = "" if low is None else f" (95% {low:.3f} to {high:.3f})"
        return f"{value:.3f}{between}"

    temperature = ", ".join(f"{t:.2f}" for t in np.atleast_1d(result["temperature"]))
    return (
        f"  AUROC              {interval('auroc')}\n"
        f"  balanced accuracy  {interval('balanced_accuracy')}\n"
        f"  accuracy           {interval('accuracy')}\n"
        f"  ECE                {interval('ece')}, at temperature {temperature}\n"
        f"  {class_baseline(result)}"
    )


def class_baseline(figures: dict[str, Any]) -> str:
    """What always saying the most frequent class scores, as a line."""
    return (
        "baseline: always saying the most frequent class has accuracy "
        f"{figures['majority_accuracy']:.3f}, and balanced accuracy "
        f"{figures['majority_balanced_accuracy']:.3f}"
    )
