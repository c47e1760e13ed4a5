"""What a joint training leaves: a run of each of its two tasks, like any other."""

import shutil
from pathlib import Path

import jax
from ml_collections import ConfigDict

from skinjax.engine import parallel
from skinjax.engine.checkpoint import Checkpoints
from skinjax.modes import build, datasets
from skinjax.modes.config import PARTS
from skinjax.modes.inference import restore_variables
from skinjax.modes.workdir import make_folder, write_config
from skinjax.tasks.joint import divide_variables


def write_parts(config: ConfigDict, workdir: Path) -> None:
    """Writes workdir/segmentation and workdir/classification from a joint run's best checkpoint.

    Each is a run to `evaluate`, `predict`, `report` and the others, with that one checkpoint, which
    is written anew each time: a division that was killed is mended by the next.

    Args:
        config: of the joint run.
        workdir: its folder; its training is complete.

    Raises:
        UserError: where there is no checkpoint, or it is damaged.
    """
    sharding = parallel.replicated_sharding(parallel.create_mesh(jax.local_devices()[:1]))
    step, _, variables = restore_variables(workdir, "best", sharding)
    prepared = datasets.prepare_data(config)
    positions = datasets.read_split(workdir / "splits.csv", prepared, "train")
    for task, divided in zip(PARTS, divide_variables(variables).values(), strict=True):
        part, folder = build.part_config(config, task), workdir / task
        make_folder("workdir", folder)
        written = folder / "checkpoints.new"
        if written.exists():  # of a division that was killed
            shutil.rmtree(written)
        with Checkpoints(written, 1, part.best_metric) as checkpoints:
            create = build.create_training(part, prepared, positions).create_state
            state = jax.jit(create, out_shardings=sharding)()
            # The average, where there is one, stands in for the parameters too.
            state = state.replace(**divided, ema=None if state.ema is None else divided)
            checkpoints.save(step, state, {}, {part.best_metric: 0.0})
            checkpoints.wait()
        # What is there stays until the new one is whole.
        if (folder / "checkpoints").exists():
            shutil.rmtree(folder / "checkpoints")
        written.rename(folder / "checkpoints")
        for name in ("splits.csv", "classes.json", "metrics.jsonl"):
            shutil.copyfile(workdir / name, folder / name)
        write_config(folder / "config.json", part)
        print(f"{task}: {folder}, step {step:,}", flush=True)
