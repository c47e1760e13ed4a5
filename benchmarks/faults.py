"""faults: a training killed again and again ends as the one that was left alone."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from benchmarks.harness import Options
from skinjax.engine import parallel
from skinjax.engine.checkpoint import Checkpoints
from skinjax.engine.manifest import find_damage
from skinjax.modes import build, datasets
from skinjax.modes.workdir import read_config

ROOT = Path(__file__).resolve().parent.parent

# Steps of milliseconds, saved at every other and evaluated at every thirteenth, so that a kill
# falls into any of these.
BATCH_SIZE, NUM_IMAGES = 8, 64
FIELDS = [
    "--config=configs/quickstart.py",
    "--config.image_size=(32, 48)",
    f"--config.batch_size={BATCH_SIZE}",
    "--config.model.base_features=4",
    "--config.model.reduction=4",
    f"--config.data.num_images={NUM_IMAGES}",
    "--config.data.size=48",
    "--config.eval_every_epochs=2",
    "--config.save_every_steps=2",
    "--config.log_every_steps=1",
    "--config.schedule.name=plateau",
]
# A life goes on for a few steps; of these, all but one or two are saved.
STEPS_A_LIFE = 14


def measure_faults(options: Options) -> list[dict[str, Any]]:
    """Kills one training as often as it is told and compares its end with an unkilled one's."""
    with tempfile.TemporaryDirectory() as name:
        row = kill_repeatedly(Path(name), 3 if options.tiny else options.kills)
    print(f"{row['kills']} kills, {row['resumes']} resumes, {row['differences']} differences")
    return [row]


def kill_repeatedly(folder: Path, num_kills: int, seed: int = 0) -> dict[str, Any]:
    """Trains once undisturbed and once with kills at random moments.

    A fifth of the kills come while the process starts, prepares, restores and compiles; the others
    up to six steps and 50 ms later.

    Args:
        folder: to work in.
        num_kills: SIGKILLs.
        seed: of the moments.

    Returns:
        How many kills there were, and how often a checkpoint was gone on from; how many of the
        kills came in the middle of a save; how many checkpoints a kill left damaged, which the
        manifest told; and how many arrays of the final state and figures of the evaluations differ.

    Raises:
        RuntimeError: where a process failed, a resume did not go on from the newest whole
            checkpoint, or a step was logged twice.
    """
    num_steps = STEPS_A_LIFE * num_kills + 20
    epochs = num_steps * BATCH_SIZE / (0.8 * NUM_IMAGES)
    command = [sys.executable, "-m", "skinjax.main", *FIELDS, f"--config.num_epochs={epochs}"]
    command += [f"--config.data.cache_dir={folder / 'cache'}"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

    def start(workdir: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, f"--workdir={workdir}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    whole, killed = folder / "whole", folder / "killed"
    _finish(start(whole), None)
    rng = np.random.default_rng(seed)
    counts = {"kills": 0, "resumes": 0, "in a save": 0, "damaged": 0}
    seconds = []
    startup = 1.0  # seconds until a process trains; what the last one took
    newest: int | None = None
    half_written: set[str] = set()  # by kills until now; the next process that gets far takes them
    while counts["kills"] < num_kills:
        began = time.perf_counter()
        process = start(killed)
        if rng.random() < 0.2:
            told = ""
            time.sleep(rng.uniform(0, startup))
        else:
            told = _await_steps(process, int(rng.integers(0, 7)))
            startup = time.perf_counter() - began
            time.sleep(rng.uniform(0, 0.05))
        process.kill()
        told += process.communicate()[0]
        if process.returncode != -9:
            raise RuntimeError(f"ended by itself after {counts['kills']} kills:\n{told}")
        _check_resumed(told, newest)
        newest, num_damaged, saving = _look(killed / "checkpoints")
        counts["kills"] += 1
        counts["resumes"] += "goes on from step" in told
        counts["in a save"] += bool(saving - half_written)
        counts["damaged"] += num_damaged
        half_written = saving
        seconds.append(time.perf_counter() - began)
    _finish(start(killed), newest)
    counts["resumes"] += 1
    differing = _differences(whole, killed)
    for name in differing:
        print(f"differs: {name}", file=sys.stderr)
    return counts | {"differences": len(differing), "s a kill": float(np.median(seconds))}


def _await_steps(process: subprocess.Popen[str], num_steps: int) -> str:
    """Waits until a process trains and has told of so many steps; returns what it has told."""
    assert process.stdout is not None
    told = ""
    for line in process.stdout:
        told += line
        num_steps -= line.startswith("step ")
        if num_steps <= 0 and "compiled in" in told:
            break
    return told


def _look(checkpoints: Path) -> tuple[int | None, int, set[str]]:
    """The newest whole checkpoint, the number of damaged ones, and the half-written ones."""
    entries = list(checkpoints.iterdir()) if checkpoints.is_dir() else []
    damages = {int(e.name): find_damage(e) for e in entries if e.name.isdigit()}
    whole = [step for step, damage in damages.items() if not damage]
    saving = {
        f"{entry.name} {entry.stat().st_ino}"
        for entry in entries
        if ocp.path.step.TMP_DIR_SUFFIX in entry.name
    }
    return max(whole, default=None), len(damages) - len(whole), saving


def _check_resumed(told: str, newest: int | None) -> None:
    """Refuses a process that trains, but not from the newest whole checkpoint on."""
    expected = "" if newest is None else f"goes on from step {newest:,}."
    if "compiled in" in told and expected not in told:
        raise RuntimeError(f"did not go on from step {newest}:\n{told}")


def _finish(process: subprocess.Popen[str], newest: int | None) -> None:
    told = process.communicate()[0]
    if process.returncode:
        raise RuntimeError(f"ended with {process.returncode}:\n{told}")
    _check_resumed(told, newest)


def _differences(workdir: Path, other: Path) -> list[str]:
    """The names of what differs between two runs: arrays of the last state, evaluations."""
    state, other_state = _final_state(workdir), _final_state(other)
    leaves, other_leaves = jax.tree.leaves_with_path(state), jax.tree.leaves(other_state)
    differing = [
        jax.tree_util.keystr(path)
        for (path, leaf), other_leaf in zip(leaves, other_leaves, strict=True)
        if np.asarray(leaf).tobytes() != np.asarray(other_leaf).tobytes()
    ]
    events, other_events = _evaluations(workdir), _evaluations(other)
    steps = sorted(events.keys() | other_events.keys())
    return differing + [f"val {s}" for s in steps if events.get(s) != other_events.get(s)]


def _final_state(workdir: Path) -> Any:
    """The whole state of a run's last checkpoint, on one device."""
    config = read_config(workdir)
    prepared = datasets.prepare_data(config)
    positions = datasets.read_split(workdir / "splits.csv", prepared, "train")
    create = build.create_training(config, prepared, positions).create_state
    sharding = parallel.replicated_sharding(parallel.create_mesh(jax.devices()[:1]))
    abstract = parallel.abstract(create, sharding)
    with Checkpoints(workdir / "checkpoints", 1, config.best_metric, read_only=True) as found:
        return found.restore(found.steps()[-1], abstract)[0]


def _evaluations(workdir: Path) -> dict[int, dict[str, Any]]:
    """The evaluations that a run has logged, by their steps."""
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    logged = [(event["split"], event["step"]) for event in events]
    if len(logged) != len(set(logged)):
        raise RuntimeError(f"{workdir} has logged a step twice")
    return {event["step"]: event for event in events if event["split"] == "val"}
