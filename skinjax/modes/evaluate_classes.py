"""Evaluation of diagnoses: calibrated on val, scored on the split, with its baseline."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from skinjax.data.images import decode_image
from skinjax.errors import UserError
from skinjax.modes.inference import TrainedRun
from skinjax.modes.workdir import write_text
from skinjax.progress import progress
from skinjax.report import classification_figures as drawing
from skinjax.tasks.calibration import apply_temperature, calibration_figures, fit_temperature
from skinjax.tasks.classification_metrics import (
    figures,
    sensitivity_and_specificity,
    threshold_for_sensitivity,
)

NUM_MISTAKES = 12  # pictures on the sheet
MELANOMA = "mel"


def evaluate_classes(
    run: TrainedRun, positions: list[int], output: Path
) -> tuple[dict[str, Any], str]:
    """Scores a classification; writes predictions.csv and four pictures.

    Args:
        run: the trained run.
        positions: of the images.
        output: the folder to write to.

    Returns:
        The figures of metrics.json, and what to tell the user.

    Raises:
        UserError: where an image has no label.
    """
    classes = run.prepared.classes
    calibration = _calibration(run)
    log_probabilities, labels = _predictions(run, positions, f"evaluating {output.name}")
    raw = np.exp(log_probabilities)
    probabilities = apply_temperature(log_probabilities, calibration["temperature"])
    rows = [run.prepared.table[position] for position in positions]
    lesion_ids = [row.lesion_id for row in rows]
    scores, undefined = figures(probabilities, labels, lesion_ids, classes)
    result: dict[str, Any] = dict(scores)
    uncalibrated = calibration_figures(raw / raw.sum(1, keepdims=True), labels)
    result |= {f"{name}_uncalibrated": value for name, value in uncalibrated.items()}
    result["temperature"] = calibration["temperature"]
    threshold = calibration["melanoma_threshold"]
    if threshold is not None and MELANOMA in classes:
        k = classes.index(MELANOMA)
        sensitivity, specificity = sensitivity_and_specificity(
            probabilities[:, k], labels == k, threshold
        )
        result["melanoma_threshold_from_val"] = threshold
        result["melanoma_sensitivity_at_val_threshold"] = sensitivity
        result["melanoma_specificity_at_val_threshold"] = specificity
    result["undefined"] = undefined

    predicted = probabilities.argmax(1)
    write_text(output / "predictions.csv", _predictions_csv(run, positions, labels, probabilities))
    title = f"{run.workdir.name}, {output.name}"
    drawing.confusion(output / "confusion.png", labels, predicted, classes, title)
    drawing.roc(output / "roc.png", probabilities, labels, classes, title)
    drawing.reliability(output / "reliability.png", raw, probabilities, labels, title)
    mistakes = drawing.most_confident_mistakes(probabilities, labels, NUM_MISTAKES)
    sheet = [_mistake(run, positions[i], labels[i], probabilities[i]) for i in mistakes]
    drawing.mistake_sheet(output / "mistakes.png", sheet, title)
    return result, _summary(result, classes)


def _predictions(run: TrainedRun, positions: list[int], what: str) -> tuple[np.ndarray, np.ndarray]:
    """Log probabilities float32 [N, K] and labels int [N] of the images at some positions."""
    labels = []
    for position in positions:
        row = run.prepared.table[position]
        if row.label is None:
            raise UserError(f"{row.image_id} has no label to be scored against.")
        labels.append(run.prepared.classes.index(row.label))
    outputs = []
    with progress(what, len(positions)) as update:
        for output, _, _ in run.predict(positions):
            outputs.append(output)
            update(1)
    return np.stack(outputs), np.array(labels)


def _calibration(run: TrainedRun) -> dict[str, Any]:
    """What is chosen on val for this checkpoint, with or without views averaged; kept once made."""
    name = f"step{run.step}" + ("-tta" if run.tta else "")
    path = run.workdir / "calibration" / f"{name}.json"
    if path.exists():
        calibration: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return calibration
    log_probabilities, labels = _predictions(run, run.positions("val"), "calibrating on val")
    temperature = fit_temperature(log_probabilities, labels)
    threshold = None
    if MELANOMA in run.prepared.classes:
        k = run.prepared.classes.index(MELANOMA)
        probabilities = apply_temperature(log_probabilities, temperature)
        threshold = threshold_for_sensitivity(probabilities[:, k], labels == k)
    calibration = {
        "fitted_on": "val",
        "num_images": len(labels),
        "temperature": temperature,
        "melanoma_threshold": threshold,
    }
    path.parent.mkdir(exist_ok=True)
    write_text(path, json.dumps(calibration, indent=2) + "\n")
    return calibration


def _predictions_csv(
    run: TrainedRun, positions: list[int], labels: np.ndarray, probabilities: np.ndarray
) -> str:
    classes = run.prepared.classes
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["image_id", "lesion_id", "truth", "predicted", *classes])
    for position, label, row_probabilities in zip(positions, labels, probabilities, strict=True):
        row = run.prepared.table[position]
        named = [classes[label], classes[row_probabilities.argmax()]]
        columns = [f"{p:.6f}" for p in row_probabilities]
        writer.writerow([row.image_id, row.lesion_id, *named, *columns])
    return buffer.getvalue()


def _mistake(
    run: TrainedRun, position: int, label: int, probabilities: np.ndarray
) -> drawing.Mistake:
    row, classes = run.prepared.table[position], run.prepared.classes
    image_bytes, _ = run.prepared.read(position)
    predicted = int(probabilities.argmax())
    return drawing.Mistake(
        image=decode_image(image_bytes, row.image_id),
        image_id=row.image_id,
        truth=classes[label],
        predicted=classes[predicted],
        confidence=float(probabilities[predicted]),
    )


def _summary(result: dict[str, Any], classes: tuple[str, ...]) -> str:
    def interval(key: str) -> str:
        value, low, high = (result[name] for name in (key, f"{key}_low", f"{key}_high"))
        if value is None:
            return f"undefined: {result['undefined'].get(key, 'a class is absent')}"
        between = "" if low is None else f" (95% {low:.3f} to {high:.3f})"
        return f"{value:.3f}{between}"

    return (
        f"  AUROC              {interval('auroc')}\n"
        f"  balanced accuracy  {interval('balanced_accuracy')}\n"
        f"  accuracy           {interval('accuracy')}\n"
        f"  ECE                {interval('ece')}, at temperature {result['temperature']:.2f}\n"
        f"  baseline: always saying the most frequent class has accuracy "
        f"{result['majority_accuracy']:.3f}, and "
        f"balanced accuracy {1 / len(classes):.3f}"
    )
