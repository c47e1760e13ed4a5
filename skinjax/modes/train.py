"""Training: the loop on one screen, and beneath it what it stands on."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from skinjax.data import splits as splitting
from skinjax.data.combined import Combined
from skinjax.data.pipeline import eval_batches, prefetch, train_batches
from skinjax.data.records import Prepared
from skinjax.engine import optim, parallel
from skinjax.engine.checkpoint import Checkpoints
from skinjax.engine.monitor import Monitor, duration
from skinjax.engine.preemption import interruption, stop_on_signals
from skinjax.engine.state import TrainState
from skinjax.engine.steps import evaluate_batches, make_eval_step, make_train_step
from skinjax.errors import UserError
from skinjax.modes import build, datasets
from skinjax.modes.config import check_config
from skinjax.modes.inference import restore_variables
from skinjax.modes.workdir import locked, open_workdir, write_classes, write_config, write_text
from skinjax.tasks.initialise import from_state_dict, from_variables


def train(
    config: ConfigDict, workdir: Path, devices: Sequence[jax.Device] | None = None
) -> dict[str, float]:
    """Trains what the configuration describes, or goes on where the folder holds it.

    Args:
        config: made by one of configs/.
        workdir: the run's folder; the README lists what it will hold.
        devices: to train on; all there are, unless told.

    Returns:
        The figures of the last evaluation; empty where the run was complete already.

    Raises:
        UserError: for what the user can mend.
        Interrupted: after SIGTERM or Ctrl-C, once all is saved.
    """
    check_config(config)
    config.dtype = build.resolve_dtype(config.dtype)
    if devices is None and jax.default_backend() == "cpu":
        # A CPU's devices are its cores: some may stay idle, where GPUs and TPUs are to be used.
        devices = parallel.dividing_devices(config.batch_size // config.accumulation)
    mesh = parallel.create_mesh(devices)
    parallel.check_batch_size(config.batch_size, config.accumulation, mesh)
    with (
        locked(workdir),
        nullcontext(_Run(config, workdir, mesh)) as run,
        stop_on_signals() as stop,
        Checkpoints(workdir / "checkpoints", config.keep_last, config.best_metric) as checkpoints,
    ):
        state, progress = run.create_or_restore(checkpoints)
        start, total = int(state.step), run.durations.total_steps
        if start >= total:
            print(f"{workdir} is complete: {total:,} steps of {total:,} are done.")
            return {}
        train_step, eval_step = run.compile(state)
        batches = run.train_batches(progress["examples_seen"])
        metrics: dict[str, float] = {}
        with run.create_monitor(start, progress) as monitor:
            for step in range(start + 1, total + 1):
                state, figures = train_step(state, next(batches))
                monitor.add(figures)
                if step % config.log_every_steps == 0:
                    monitor.log_window(step)

                last = step == total
                evaluated = last or step % run.durations.eval_every_steps == 0
                if evaluated or step % config.save_every_steps == 0 or stop.signal_number:
                    monitor.flush(step)  # stops on a loss that is not finite before it is saved
                    with monitor.pause():
                        if evaluated:
                            metrics = run.evaluate(eval_step, state)
                            state = run.update_plateau(state, metrics)
                            monitor.write(step, "val", metrics)
                            monitor.say(run.describe(step, metrics))
                        checkpoints.save(
                            step, state, monitor.progress(step), metrics if evaluated else None
                        )
                if stop.signal_number and not last:
                    checkpoints.wait()
                    raise interruption(stop.signal_number, step)
            checkpoints.wait()
            monitor.say(
                f"Trained {total:,} steps in {duration(monitor.training_seconds)}, evaluations "
                f"aside; the best checkpoint is that of step {checkpoints.best_step():,}."
            )
    return metrics


class _Run:
    """What a training stands on, made once from its configuration."""

    def __init__(self, config: ConfigDict, workdir: Path, mesh: jax.sharding.Mesh):
        self.config, self.workdir, self.mesh = config, workdir, mesh
        resumed = open_workdir(workdir, config)
        prepared = datasets.prepare_data(config)
        splits = datasets.split_data(config, prepared)
        if resumed:
            _check_splits(workdir / "splits.csv", prepared, splits)
        else:
            splitting.write_splits(workdir / "splits.csv", prepared.table, splits)
        write_classes(workdir / "classes.json", prepared.classes)
        write_config(workdir / "config.json", config)
        counts = ", ".join(f"{name} {len(positions):,}" for name, positions in splits.items())
        print(f"{prepared.name}: {counts} images, split by {config.data.split}", flush=True)

        self.training = build.create_training(config, prepared, splits["train"])
        self.task, self.durations = self.training.task, self.training.durations
        keep = config.data.cache == "host"
        self.train_examples, self.val_examples = (
            datasets.create_examples(config, prepared, splits[name], self.task.uses_masks, keep)
            for name in ("train", "val")
        )

    def create_or_restore(self, checkpoints: Checkpoints) -> tuple[TrainState, dict[str, Any]]:
        """The state to begin or to go on with, and the progress noted beside it."""
        create = self.training.create_state
        replicated = parallel.replicated_sharding(self.mesh)
        step = checkpoints.latest_step()
        if step is None:
            state = jax.jit(create, out_shardings=replicated)()
            if self.config.init_from:
                state = self._initialise(state, replicated)
            print(
                parameter_overview.get_parameter_overview(
                    state.params, include_stats=False
                ).splitlines()[-1]
            )
            return state, {"examples_seen": 0, "training_seconds": 0.0}
        state, progress = checkpoints.restore(step, parallel.abstract(create, replicated))
        print(f"{self.workdir} goes on from step {step:,}.", flush=True)
        return state, progress

    def _initialise(self, state: TrainState, sharding: jax.sharding.Sharding) -> TrainState:
        """Puts weights learnt elsewhere into a new state; the average begins with them too."""
        source = Path(self.config.init_from)
        variables: dict[str, Any] = {"params": state.params, "batch_stats": state.batch_stats}
        if source.is_dir():
            _, _, other = restore_variables(source, "best", sharding)
            variables, loaded, left = from_variables(variables, other)
        else:
            variables, loaded, left = from_state_dict(self.task, variables, source)
        listing = "".join(f"loaded {path}\n" for path in loaded)
        listing += "".join(f"left {path}\n" for path in left)
        write_text(self.workdir / "init_from.txt", listing)
        print(
            f"began with {len(loaded)} arrays of {source}; {len(left)} are new (init_from.txt).",
            flush=True,
        )
        variables = jax.device_put(variables, sharding)
        ema = None if state.ema is None else jax.tree.map(jnp.copy, variables)
        return state.replace(**variables, ema=ema)

    def compile(self, state: TrainState) -> tuple[Callable, Callable]:
        """Compiles both steps ahead, tells what an update costs, checks the metric's name."""
        start = time.monotonic()
        batch = parallel.put_batch(
            self.train_examples.batch(range(1), self.config.batch_size // jax.process_count()),
            self.mesh,
        )
        eval_step = make_eval_step(self.task, self.mesh).lower(state.variables, batch).compile()
        figures = self.task.summarise(dict.fromkeys(eval_step.out_info, 1.0))
        if self.config.best_metric not in {f"val/{name}" for name in figures}:
            raise UserError(
                f"config.best_metric={self.config.best_metric!r} is unknown: choose one of "
                f"{', '.join(f'val/{name}' for name in figures)}."
            )
        train_step_to_compile = make_train_step(
            self.task,
            self.training.optimizer,
            self.training.schedule,
            self.mesh,
            seed=self.config.seed,
            accumulation=self.config.accumulation,
            ema_decay=self.config.ema_decay,
        )
        train_step = train_step_to_compile.lower(state, batch).compile()
        device = self.mesh.devices.flat[0].device_kind
        line = f"compiled in {time.monotonic() - start:.0f} s for {self.mesh.size} x {device}"
        # Not every backend tells.
        if cost := train_step.cost_analysis():
            line += f", {cost['flops'] * self.mesh.size / 1e9:,.3g} GFLOP an update"
        if memory := train_step.memory_analysis():
            size = memory.temp_size_in_bytes + memory.argument_size_in_bytes
            line += f", {size / 2**20:,.0f} MiB a device"
        print(line, flush=True)
        return train_step, eval_step

    def train_batches(self, examples_seen: int) -> Iterator[dict[str, jax.Array]]:
        """The batches from a position in the data on, on their way to the devices."""
        config = self.config
        batches = train_batches(
            self.train_examples,
            config.batch_size,
            seed=config.seed,
            start=examples_seen // config.batch_size,
            num_threads=config.data.num_threads,
            sampling=config.data.sampling,
            weights=(1.0, *(weight for _, _, weight in config.data.also)),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        return prefetch(batches, self._put)

    def create_monitor(self, start: int, progress: dict[str, Any]) -> Monitor:
        """What shows and writes the training from a step on."""
        return Monitor(
            self.workdir,
            start_step=start,
            total_steps=self.durations.total_steps,
            batch_size=self.config.batch_size,
            steps_per_epoch=self.durations.steps_per_epoch,
            training_seconds=progress["training_seconds"],
        )

    def evaluate(self, eval_step: Callable, state: TrainState) -> dict[str, float]:
        """The figures of the val split at the model's own size, 'val/...'."""
        batches = eval_batches(
            self.val_examples,
            self.config.batch_size,
            self.config.data.num_threads,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        sums = evaluate_batches(eval_step, state.variables, prefetch(batches, self._put))
        return {f"val/{name}": value for name, value in self.task.summarise(sums).items()}

    def update_plateau(self, state: TrainState, metrics: dict[str, float]) -> TrainState:
        """Tells the schedule how the evaluation came out, where it listens."""
        plateau = self.training.plateau
        if plateau is None:
            return state
        score = metrics[self.config.best_metric]
        updated = optim.update_plateau(plateau, state.plateau, score)
        updated = jax.device_put(updated, parallel.replicated_sharding(self.mesh))
        return state.replace(plateau=updated)

    def describe(self, step: int, metrics: dict[str, float]) -> str:
        """One line about an evaluation."""
        shown = "  ".join(f"{name} {metrics[name]:.4f}" for name in self.task.headline)
        weights = ", averaged weights" if self.config.ema_decay else ""
        return f"epoch {step / self.durations.steps_per_epoch:.1f}  {shown}{weights}"

    def _put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        return parallel.put_batch(batch, self.mesh)


def _check_splits(path: Path, prepared: Prepared | Combined, splits: dict[str, list[int]]) -> None:
    """Refuses to go on where the data set no longer gives the split that the run began with."""
    for name, positions in splits.items():
        if datasets.read_split(path, prepared, name) != positions:
            raise UserError(
                f"The {name} split is no longer the one in {path}: the data set has changed "
                "since the run began. "
                "Bring the old one back, or begin a new run in another --workdir."
            )
