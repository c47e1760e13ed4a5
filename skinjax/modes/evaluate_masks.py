"""Evaluation of outlines, each image at its mask's own size, as the ISIC challenge does."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from skinjax.data.combined import Combined
from skinjax.data.images import decode_image, decode_mask, unfit
from skinjax.data.records import Prepared
from skinjax.engine.distributed import is_main, on_main, tell_all
from skinjax.errors import UserError
from skinjax.modes.evaluations import begin, skin_angle, table_text, write_mask
from skinjax.modes.inference import TrainedRun
from skinjax.modes.workdir import write_text
from skinjax.progress import progress
from skinjax.report.figures import Sample, sample_sheet
from skinjax.tasks.boundary import BOUNDARY_SCORES, score_boundary, summarise_boundaries
from skinjax.tasks.metrics import JACCARD_THRESHOLD, SCORES, score_mask, summarise_masks

NUM_SAMPLES = 4  # pictures in each row of the sheet


def evaluate_masks(
    run: TrainedRun, positions: list[int], output: Path
) -> tuple[dict[str, Any], str]:
    """Scores a segmentation; writes per_image.csv, samples.png and the predicted masks.

    Args:
        run: the trained run.
        positions: of the images.
        output: the folder to write to.

    Returns:
        The figures of metrics.json, and what to tell the user.

    Raises:
        UserError: where an image has no mask.
    """
    config, prepared = run.config, run.prepared
    # Of several processes, each scores every so many-th picture.
    own = slice(jax.process_index(), None, jax.process_count())
    own_scores: list[tuple[dict[str, float], str]] = []
    on_main(lambda: begin(output))
    with (
        ThreadPoolExecutor(config.data.num_threads) as pool,
        progress(f"evaluating {output.name}", len(positions[own]), shown=is_main()) as update,
    ):
        # Threads enlarge and score masks while the devices work on the next batch.
        predictions = itertools.islice(run.predict(positions), own.start, None, own.step)
        jobs = (pool.submit(_score, prepared, output, *p) for p in predictions)
        while batch := list(itertools.islice(jobs, config.batch_size)):
            own_scores.extend(job.result() for job in batch)
            update(len(batch))
    turns = itertools.zip_longest(*tell_all(own_scores))
    told = [score for turn in turns for score in turn if score is not None]
    scores, angles = [score for score, _ in told], [angle for _, angle in told]
    rows = [prepared.table[position] for position in positions]
    lesion_ids = [row.lesion_id for row in rows]
    figures: dict[str, Any] = summarise_masks(scores, lesion_ids)
    figures |= summarise_boundaries(scores, lesion_ids)
    names = (*SCORES, *BOUNDARY_SCORES)
    values = [
        [row.image_id, row.lesion_id, row.label or "", *(f"{score[n]:.6f}" for n in names), angle]
        for row, score, angle in zip(rows, scores, angles, strict=True)
    ]
    header = ["image_id", "lesion_id", "label", *names, "ita"]
    samples = _samples(run, positions, [score["jaccard"] for score in scores])
    if is_main():
        write_text(output / "per_image.csv", table_text(header, values, rows))
        sample_sheet(output / "samples.png", samples, f"{run.workdir.name}, {output.name}")
    return figures, _summary(figures)


def _score(
    prepared: Prepared | Combined,
    output: Path,
    probabilities: np.ndarray,
    box: np.ndarray,
    position: int,
) -> tuple[dict[str, float], str]:
    """An image's scores and the angle of its skin's tone; its predicted mask is kept."""
    image_id = prepared.table[position].image_id
    truth = decode_mask(_mask(prepared, position), image_id).astype(bool)
    prediction = unfit(probabilities, box, truth.shape) >= 0.5
    write_mask(output, image_id, prediction)
    scores = score_mask(truth, prediction) | score_boundary(truth, prediction)
    return scores, skin_angle(prepared, position)


def _mask(prepared: Prepared | Combined, position: int) -> bytes:
    mask = prepared.read(position)[1]
    if mask is None:
        raise UserError(f"{prepared.table[position].image_id} has no mask to be scored against.")
    return mask


def _samples(
    run: TrainedRun, positions: list[int], jaccard: list[float]
) -> list[tuple[str, list[Sample]]]:
    """The worst, the median and the best pictures of a split, predicted again to be drawn."""
    prepared = run.prepared
    order = np.argsort(jaccard, kind="stable")
    count = min(NUM_SAMPLES, len(order) // 3)
    middle = (len(order) - count) // 2
    groups = {
        "worst": order[:count],
        "median": order[middle : middle + count],
        "best": order[len(order) - count :],
    }
    if not count:  # too few to be told apart
        groups = {"all": order}
    chosen = [int(index) for indices in groups.values() for index in indices]
    predicted = list(run.predict([positions[index] for index in chosen]))
    drawn = []
    for index, (probabilities, box, position) in zip(chosen, predicted, strict=True):
        image_bytes, _ = prepared.read(position)
        image_id = prepared.table[position].image_id
        truth = decode_mask(_mask(prepared, position), image_id).astype(bool)
        drawn.append(
            Sample(
                image=decode_image(image_bytes, image_id),
                truth=truth,
                prediction=unfit(probabilities, box, truth.shape) >= 0.5,
                caption=f"{image_id}  {jaccard[index]:.3f}",
            )
        )
    return [(name, [drawn.pop(0) for _ in indices]) for name, indices in groups.items()]


def _summary(figures: dict[str, Any]) -> str:
    def interval(key: str) -> str:
        low, high = figures[f"{key}_low"], figures[f"{key}_high"]
        return f"{figures[key]:.3f} (95% {low:.3f} to {high:.3f})"

    return (
        f"  Jaccard      {interval('jaccard')}\n"
        f"  Dice         {interval('dice')}\n"
        f"  thresholded  {interval('thresholded_jaccard')} (Jaccard, 0 below {JACCARD_THRESHOLD})\n"
        f"  accuracy     {interval('accuracy')}\n"
        f"  HD95         median {figures['hd95_median']:.1f} pixels\n"
        f"  {mask_baseline(figures)}"
    )


def mask_baseline(figures: dict[str, Any]) -> str:
    """What a mask of nothing but background scores, as a line."""
    return (
        "baseline: a mask of nothing but background has accuracy "
        f"{figures['background_accuracy']:.3f}, and Jaccard and Dice near 0"
    )
