"""Evaluation: a saved checkpoint over a whole split, each image at its mask's own size."""

import csv
import io
import itertools
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from skinjax.data.images import decode_image, decode_mask, fit_image, unfit
from skinjax.data.pipeline import eval_batches, prefetch
from skinjax.data.records import Prepared, Row
from skinjax.engine import parallel
from skinjax.engine.checkpoint import Checkpoints
from skinjax.errors import UserError
from skinjax.modes import build
from skinjax.modes.workdir import read_config, write_text
from skinjax.progress import progress
from skinjax.report.figures import Sample, sample_sheet
from skinjax.tasks.metrics import SCORES, score_mask, summarise_masks
from skinjax.tasks.segmentation import Segmentation

PyTree = Any
NUM_SAMPLES = 4  # pictures in each row of the sheet


def evaluate(
    workdir: Path, split: str = "test", checkpoint: str = "best", tta: bool = False
) -> dict[str, Any]:
    """Scores a checkpoint of a run on a split and writes workdir/evaluate/NAME/.

    Args:
        workdir: the run's folder; its config.json and splits.csv say what there is to know.
        split: 'train', 'val' or 'test'.
        checkpoint: 'best' by the run's metric on val, 'last', or a step.
        tta: whether predictions are averaged over flips (and turns of a square input).

    Returns:
        The figures of metrics.json.

    Raises:
        UserError: where the run, the checkpoint, the split or the data is not there.
    """
    config = read_config(workdir)
    prepared = build.prepare_data(config)
    positions = build.read_split(workdir / "splits.csv", prepared, split)
    num_train = len(build.read_split(workdir / "splits.csv", prepared, "train"))
    mesh = parallel.create_mesh()
    training = build.create_training(config, num_train)
    step, best_step, variables = restore_variables(config, workdir, training, checkpoint, mesh)
    name = split + ("" if step == best_step else f"-step{step}") + ("-tta" if tta else "")

    predictor = Predictor(config, prepared, training.task, variables, mesh, tta)
    start = time.monotonic()
    scores: list[dict[str, float]] = []
    with ThreadPoolExecutor(config.data.num_threads) as pool:
        # Masks are enlarged and scored by threads while the devices work on the next batch.
        jobs = (
            pool.submit(_score, prepared, *prediction)
            for prediction in predictor.predict(positions)
        )
        with progress(f"evaluating {name}", len(positions)) as update:
            while batch := list(itertools.islice(jobs, config.batch_size)):
                scores.extend(job.result() for job in batch)
                update(len(batch))
    seconds = time.monotonic() - start

    rows = [prepared.table[position] for position in positions]
    figures: dict[str, Any] = summarise_masks(scores, [row.lesion_id for row in rows])
    figures |= {"checkpoint_step": step, "weights": "ema" if config.ema_decay else "raw"}
    output = workdir / "evaluate" / name
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "per_image.csv", _per_image_csv(rows, scores))
    samples = _samples(prepared, predictor, positions, [s["jaccard"] for s in scores])
    sample_sheet(output / "samples.png", samples, f"{workdir.name}, {name}")
    write_text(output / "metrics.json", json.dumps(figures, indent=2) + "\n")
    print(_summary(figures, name, rows, output, seconds))
    return figures


class Predictor:
    """A run's model over prepared examples, in batches of one shape."""

    def __init__(
        self,
        config: ConfigDict,
        prepared: Prepared,
        task: Segmentation,
        variables: PyTree,
        mesh: jax.sharding.Mesh,
        tta: bool,
    ):
        self._config, self._prepared, self._variables, self._mesh = (
            config,
            prepared,
            variables,
            mesh,
        )
        self._predict = jax.jit(
            lambda variables, images: task.predict(variables, images, tta=tta),
            out_shardings=parallel.replicated_sharding(mesh),
        )

    def predict(self, positions: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """Yields probabilities (float32 [H, W]), content box (int32 [4]) and position."""
        config = self._config
        examples = build.create_examples(
            config, self._prepared, positions, with_masks=False, cache=False
        )
        batches = eval_batches(examples, config.batch_size, config.data.num_threads)
        left = iter(positions)
        behind = None
        for batch in prefetch(batches, self._put):
            output = self._predict(self._variables, batch["images"]), batch["boxes"]
            if behind is not None:
                yield from zip(*jax.device_get(behind), left, strict=False)
            behind = output
        if behind is not None:
            # The last batch is filled up: `left` ends before it does. It stands last in the zip,
            # which would else take one from it at the end of each batch.
            yield from zip(*jax.device_get(behind), left, strict=False)

    def _put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        return parallel.put_batch(batch, self._mesh)


def restore_variables(
    config: ConfigDict,
    workdir: Path,
    training: build.Training,
    checkpoint: str,
    mesh: jax.sharding.Mesh,
) -> tuple[int, int, PyTree]:
    """Reads the variables of a run's checkpoint: the averaged ones where the run averages.

    Returns:
        The checkpoint's step, the best checkpoint's step, and the variables.

    Raises:
        UserError: where there is no such checkpoint.
    """
    directory = workdir / "checkpoints"
    if not directory.is_dir():
        raise UserError(
            f"{directory} is missing: the run has saved no checkpoint yet; train it first."
        )
    abstract = parallel.abstract(training.create_state, parallel.replicated_sharding(mesh))
    with Checkpoints(
        directory, config.keep_last, config.best_metric, read_only=True
    ) as checkpoints:
        steps, best_step = checkpoints.steps(), checkpoints.best_step()
        if best_step is None:
            raise UserError(f"{directory} holds no whole checkpoint: train the run first.")
        step = {"best": best_step, "last": steps[-1]}.get(checkpoint)
        if step is None:
            step = int(checkpoint) if checkpoint.isdecimal() else -1
        if step not in steps:
            raise UserError(
                f"--checkpoint={checkpoint}: {directory} has those of steps "
                f"{', '.join(map(str, steps))}; say one of "
                "them, 'best' or 'last'."
            )
        state, _ = checkpoints.restore(step, abstract)
    return step, best_step, state.variables


def _score(
    prepared: Prepared, probabilities: np.ndarray, box: np.ndarray, position: int
) -> dict[str, float]:
    truth = decode_mask(_mask(prepared, position), prepared.table[position].image_id)
    prediction = unfit(probabilities, box, truth.shape) >= 0.5
    return score_mask(truth.astype(bool), prediction)


def _mask(prepared: Prepared, position: int) -> bytes:
    mask = prepared.read(position)[1]
    if mask is None:
        raise UserError(f"{prepared.table[position].image_id} has no mask to be scored against.")
    return mask


def _per_image_csv(rows: list[Row], scores: list[dict[str, float]]) -> str:
    metadata = sorted({key for row in rows for key in row.metadata})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["image_id", "lesion_id", "label", *SCORES, *metadata])
    for row, score in zip(rows, scores, strict=True):
        figures = [f"{score[name]:.6f}" for name in SCORES]
        values = [row.metadata.get(key, "") for key in metadata]
        writer.writerow([row.image_id, row.lesion_id, row.label or "", *figures, *values])
    return buffer.getvalue()


def _samples(
    prepared: Prepared, predictor: Predictor, positions: list[int], jaccard: list[float]
) -> list[tuple[str, list[Sample]]]:
    """The worst, the median and the best pictures of a split, predicted again to be drawn."""
    order = np.argsort(jaccard, kind="stable")
    count = min(NUM_SAMPLES, max(1, len(order) // 3))
    middle = (len(order) - count) // 2
    groups = {
        "worst": order[:count],
        "median": order[middle : middle + count],
        "best": order[-count:],
    }
    chosen = [int(index) for indices in groups.values() for index in indices]
    predicted = list(predictor.predict([positions[index] for index in chosen]))
    drawn = []
    for index, (probabilities, box, position) in zip(chosen, predicted, strict=True):
        image_bytes, _ = prepared.read(position)
        image_id = prepared.table[position].image_id
        truth = decode_mask(_mask(prepared, position), image_id).astype(bool)
        drawn.append(
            Sample(
                image=fit_image(decode_image(image_bytes, image_id), truth.shape, "squash")[0],
                truth=truth,
                prediction=unfit(probabilities, box, truth.shape) >= 0.5,
                caption=f"{image_id}  {jaccard[index]:.3f}",
            )
        )
    return [(name, [drawn.pop(0) for _ in indices]) for name, indices in groups.items()]


def _summary(
    figures: dict[str, Any], name: str, rows: list[Row], output: Path, seconds: float
) -> str:
    def interval(key: str) -> str:
        return (
            f"{figures[key]:.3f} (95% {figures[key + '_low']:.3f} to {figures[key + '_high']:.3f})"
        )

    num_lesions = len({row.lesion_id for row in rows})
    return (
        f"{name}: {figures['num_images']:,} images of {num_lesions:,} lesions, step "
        f"{figures['checkpoint_step']:,}, "
        f"{figures['weights']} weights, {len(rows) / seconds:,.0f} images/s\n"
        f"  Jaccard   {interval('jaccard')}\n"
        f"  Dice      {interval('dice')}\n"
        f"  accuracy  {interval('accuracy')}; a mask of nothing but background has "
        f"{figures['background_accuracy']:.3f}, and a Jaccard near 0\n"
        f"figures and pictures: {output}/ (metrics.json, per_image.csv, samples.png)"
    )
