"""Evaluation: a saved checkpoint over a whole split, written to the run's folder."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skinjax.engine.distributed import is_main, on_main
from skinjax.errors import UserError
from skinjax.modes import bucket
from skinjax.modes.evaluate_classes import evaluate_classes
from skinjax.modes.evaluate_masks import evaluate_masks
from skinjax.modes.evaluations import TABLES, read_rows
from skinjax.modes.inference import TrainedRun
from skinjax.modes.workdir import evaluation_name, write_text
from skinjax.tasks.metrics import MIN_LESIONS


def evaluate(
    workdir: Path,
    split: str | None = None,
    checkpoint: str = "best",
    tta: str = "",
    dataset: str = "",
    source: str = "",
    others: Sequence[Path] = (),
) -> dict[str, Any]:
    """Scores a checkpoint of a run on a split and writes workdir/evaluate/NAME/.

    Args:
        workdir: the run's folder; its config.json and splits.csv say what there is to know.
        split: 'train', 'val' or 'test', or 'all' of another data set; unless told, 'test' of the
            run's own data and 'all' of another set.
        checkpoint: 'best' by the run's metric on val, 'last', or a step.
        tta: what predictions are averaged over: '', 'flips' or 'zooms' (`skinjax.tasks.views`).
        dataset: the name of a data set that the run was not trained on; empty for its own data.
        source: the folder or zip of that data set; without one, where the run's own data lies now.
        others: the folders of runs whose probabilities are averaged with this one's.

    Returns:
        The figures of metrics.json.

    Raises:
        UserError: where a run, the checkpoint, the split or the data is not there, runs do not go
            together, one has learnt from the images, or an evaluation of others would be replaced.
    """
    part = split or ("all" if dataset else "test")
    run = TrainedRun(workdir, checkpoint, tta, dataset, source, others, split=part)
    positions = run.positions(part)
    name = evaluation_name(split, dataset, tta, None if run.is_best else run.step)
    name += "".join(f"-with-{_tell_apart(other, workdir)}" for other in others)
    output = workdir / "evaluate" / name
    image_ids = {run.prepared.table[position].image_id for position in positions}
    averaged = [bucket.address_of(member.workdir) for member in run.members]
    on_main(lambda: _make_folder(output, image_ids, averaged))
    score = evaluate_masks if run.config.task == "segmentation" else evaluate_classes
    figures, summary = score(run, positions, output)
    weights = "ema" if run.config.ema_decay else "raw"
    figures |= {"checkpoint_step": run.step, "weights": weights}
    figures |= {"split": part}
    figures |= {"dataset": dataset or run.config.data.dataset, "is_own_data": run.is_own}
    figures |= {"is_best": run.is_best, "source": source, "tta": tta}
    if others:
        figures["averaged"] = [
            {
                "workdir": address,
                "name": _tell_apart(member.workdir, workdir),
                "checkpoint_step": member.step,
            }
            for member, address in zip(run.members, averaged, strict=True)
        ]
    if is_main():
        write_text(output / "metrics.json", json.dumps(figures, indent=2) + "\n")
    print(
        f"{name}: {_count(figures, len(positions))}, step {run.step:,}, {weights} weights\n"
        f"{summary}\n{_warning(run, figures['num_lesions'])}figures and pictures: {output}/"
    )
    return figures


def _count(figures: dict[str, Any], num_asked: int) -> str:
    """How many images and lesions were scored, and of how many."""
    num_images = figures["num_images"]
    counts = f"{num_images:,} images of {figures['num_lesions']:,} lesions"
    if num_images < num_asked:
        counts += f" (of {num_asked:,} images; the others have no class that the model knows)"
    return counts


def _warning(run: TrainedRun, num_lesions: int) -> str:
    """What makes the intervals narrower than they should be, as a line; else empty."""
    prepared = run.prepared
    if not prepared.has_lesion_ids:
        return (
            f"  where {prepared.name} tells no lesions, each picture counts as one, and the "
            "intervals are too narrow where pictures show the same\n"
        )
    if num_lesions < MIN_LESIONS:
        return f"  of fewer than {MIN_LESIONS} lesions, intervals are much too narrow\n"
    return ""


def _make_folder(output: Path, image_ids: set[str], averaged: Sequence[str] = ()) -> None:
    """Makes an evaluation's folder, unless one of other images or runs is there, which keeps it.

    One of some of these images is replaced: the data set has grown.

    Raises:
        UserError: with what the folder holds, or that it cannot be written.
    """
    if (output / "metrics.json").is_file():
        for run in _averaged_with(output):
            in_bucket = run.startswith(bucket.SCHEME)
            address = run if in_bucket else str(Path(run).resolve())
            # One that is gone may be one of these, moved.
            if address not in averaged and (in_bucket or Path(run).exists()):
                raise UserError(
                    f"{output} is an average with another run ({run}): move the folder away, so "
                    "that it is not replaced."
                )
        tables = [output / table for table in TABLES.values() if (output / table).is_file()]
        rows = [row for table in tables for row in read_rows(table.read_text(encoding="utf-8"))]
        others = [row["image_id"] for row in rows if row["image_id"] not in image_ids]
        if others:
            raise UserError(
                f"{output} is an evaluation of other images ({len(others):,} that are not among "
                f"these, as {others[0]}): move the folder away, so that it is not replaced."
            )
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise UserError(
            f"{output} cannot be written ({error.strerror}): copy the run to a folder of your own."
        ) from error


def _averaged_with(output: Path) -> list[str]:
    """The runs that an evaluation averages beside its own; none of one that is damaged."""
    try:
        figures = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return []  # to evaluate again is the mend
    return [member["workdir"] for member in figures.get("averaged", [])[1:]]


def _tell_apart(other: Path, workdir: Path) -> str:
    """The last part of a run's path that another's has not in its place.

    The runs of a joint training, and folds, have the same names in folders that differ.
    """
    theirs, ours = (reversed(path.resolve().parts) for path in (other, workdir))
    pairs = zip(theirs, ours, strict=False)
    return next((part for part, own in pairs if part != own), other.resolve().name)
