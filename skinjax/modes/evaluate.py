"""Evaluation: a saved checkpoint over a whole split, written to the run's folder."""

import json
from pathlib import Path
from typing import Any

from skinjax.modes.evaluate_classes import evaluate_classes
from skinjax.modes.evaluate_masks import evaluate_masks
from skinjax.modes.inference import TrainedRun
from skinjax.modes.workdir import write_text


def evaluate(
    workdir: Path,
    split: str | None = None,
    checkpoint: str = "best",
    tta: bool = False,
    dataset: str = "",
    source: str = "",
) -> dict[str, Any]:
    """Scores a checkpoint of a run on a split and writes workdir/evaluate/NAME/.

    Args:
        workdir: the run's folder; its config.json and splits.csv say what there is to know.
        split: 'train', 'val' or 'test', or 'all' of another data set; unless told, 'test' of the
            run's own data and 'all' of another set.
        checkpoint: 'best' by the run's metric on val, 'last', or a step.
        tta: whether predictions are averaged over flips (and turns of a square input).
        dataset: the name of a data set that the run was not trained on; empty for its own data.
        source: the folder or zip of that data set; without one, where the run's own data lies now.

    Returns:
        The figures of metrics.json.

    Raises:
        UserError: where the run, the checkpoint, the split or the data is not there.
    """
    split = split or ("all" if dataset else "test")
    run = TrainedRun(workdir, checkpoint, tta, dataset, source)
    positions = run.positions(split)
    name = split + (f"-{dataset}" if dataset else "")
    name += ("" if run.is_best else f"-step{run.step}") + ("-tta" if tta else "")
    output = workdir / "evaluate" / name
    output.mkdir(parents=True, exist_ok=True)
    score = evaluate_masks if run.config.task == "segmentation" else evaluate_classes
    figures, summary = score(run, positions, output)
    weights = "ema" if run.config.ema_decay else "raw"
    figures |= {"checkpoint_step": run.step, "weights": weights}
    write_text(output / "metrics.json", json.dumps(figures, indent=2) + "\n")
    num_lesions = len({run.prepared.table[position].lesion_id for position in positions})
    print(
        f"{name}: {len(positions):,} images of {num_lesions:,} lesions, step {run.step:,}, "
        f"{weights} weights\n{summary}\nfigures and pictures: {output}/"
    )
    return figures
