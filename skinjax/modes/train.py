"""Training: the loop on one screen, and beneath it what it stands on."""

import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from skinjax.data import splits as splitting
from skinjax.data.combined import Combined
from skinjax.data.pipeline import Order, eval_batches, prefetch, train_batches
from skinjax.data.records import Prepared
from skinjax.engine import memory, optim, parallel
from skinjax.engine.checkpoint import Checkpoints
from skinjax.engine.distributed import (
    agree,
    first_on_host,
    held_by_main,
    is_main,
    num_processes_on_host,
    on_main,
)
from skinjax.engine.monitor import Monitor, duration
from skinjax.engine.preemption import interruption, stop_on_signals
from skinjax.engine.resident import Resident
from skinjax.engine.skipped import SkippedSteps
from skinjax.engine.state import TrainState
from skinjax.engine.steps import evaluate_batches, make_eval_step, make_train_step
from skinjax.errors import UserError
from skinjax.modes import bucket, build, datasets
from skinjax.modes.config import check_config
from skinjax.modes.inference import restore_variables
from skinjax.modes.joint_runs import write_parts
from skinjax.modes.workdir import (
    locked,
    open_workdir,
    read_classes,
    write_classes,
    write_config,
    write_text,
)
from skinjax.tasks.initialise import from_state_dict, from_variables, imagenet_weights


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
    mesh = build.create_mesh(config, devices)
    with (
        held_by_main(locked(workdir)),
        nullcontext(_Run(config, workdir, mesh)) as run,
        memory.exhaustion_told(run.load),
        stop_on_signals(mesh) as stop,
        Checkpoints(
            bucket.checkpoints_folder(workdir), config.keep_last, config.best_metric
        ) as checkpoints,
    ):
        state, progress = run.create_or_restore(checkpoints)
        start, total = int(state.step), run.durations.total_steps
        if start >= total:
            print(f"{workdir} is complete: {total:,} steps of {total:,} are done.")
            run.finish()
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

                signal_number = stop.after_step()
                last = step == total
                regular = run.durations.is_evaluated(step)
                evaluated = last or regular
                if evaluated or step % config.save_every_steps == 0 or signal_number:
                    monitor.flush(step)  # ends a run whose steps are all skipped, before it saves
                    with monitor.pause():
                        if evaluated:
                            metrics = run.evaluate(eval_step, state)
                            if regular:
                                # The end of a run that may go on is no evaluation of the plateau's.
                                state = run.update_plateau(state, metrics)
                            monitor.write(step, "val", metrics)
                            monitor.say(run.describe(step, metrics))
                        bucket.publish(workdir)
                        checkpoints.save(
                            step, state, monitor.progress(step), metrics if evaluated else None
                        )
                if signal_number and not last:
                    checkpoints.wait()
                    raise interruption(signal_number, f"step {step:,}")
            checkpoints.wait()
            monitor.say(
                f"Trained {total:,} steps in {duration(monitor.training_seconds)}, evaluations "
                f"aside; the best checkpoint is that of step {checkpoints.best_step():,}."
            )
            run.finish()
    return metrics


class _Run:
    """What a training stands on, made once from its configuration."""

    def __init__(self, config: ConfigDict, workdir: Path, mesh: jax.sharding.Mesh):
        self.config, self.workdir, self.mesh = config, workdir, mesh
        if config.task == "joint" and bucket.is_copy(workdir):
            raise UserError(
                "--workdir: a joint training leaves two runs in its folder, which cannot be a "
                "bucket's; name a folder, and copy the two when it is done."
            )
        resumed = on_main(lambda: open_workdir(workdir, config))
        if config.init_from and not resumed:
            agree(lambda: _find_weights(config))  # before anything is prepared or written
        prepared = first_on_host(lambda: datasets.prepare_data(config))
        splits = datasets.split_data(config, prepared)
        on_main(lambda: _write_setting(workdir, config, prepared, splits, resumed))
        counts = ", ".join(f"{name} {len(positions):,}" for name, positions in splits.items())
        print(f"{prepared.name}: {counts} images, split by {config.data.split}", flush=True)

        if config.task != "segmentation":
            datasets.check_labels(prepared, splits["val"])
        self.table = prepared.table
        self.training = build.create_training(config, prepared, splits["train"])
        self.task, self.durations = self.training.task, self.training.durations
        masks = self.task.uses_masks
        self.cache = datasets.choose_cache(
            config,
            len(splits["train"]),
            len(splits["val"]),
            masks,
            memory.available_bytes(jax.local_devices()[0]),
            num_processes_on_host(),
        )
        train_bytes = datasets.decoded_bytes(config, len(splits["train"]), masks)
        self.load = memory.Load(
            config.batch_size,
            tuple(config.image_size),
            config.accumulation,
            parallel.batch_parts(mesh),
            resident_bytes=train_bytes if self.cache == "device" else 0,
        )
        self.train_examples, self.val_examples = (
            datasets.create_examples(config, prepared, splits[name], masks, self.cache in kept)
            for name, kept in (("train", ("host",)), ("val", ("host", "device")))
        )
        where = {"device": "on each device", "host": "in memory", "none": "nowhere"}
        print(f"decoded images are kept {where[self.cache]}.", flush=True)
        self.rows = parallel.local_rows(config.batch_size, mesh)
        create = self.training.create_state
        self.shardings = parallel.state_shardings(jax.eval_shape(create), mesh)

    def create_or_restore(self, checkpoints: Checkpoints) -> tuple[TrainState, dict[str, Any]]:
        """The state to begin or to go on with, and the progress noted beside it."""
        create = self.training.create_state
        step = checkpoints.latest_step()
        if step is None:
            state = jax.jit(create, out_shardings=self.shardings)()
            if self.config.init_from:
                state = self._initialise(state)
            print(
                parameter_overview.get_parameter_overview(
                    state.params, include_stats=False
                ).splitlines()[-1]
            )
            return state, {"examples_seen": 0, "training_seconds": 0.0}
        state, progress = checkpoints.restore(step, parallel.abstract(create, self.shardings))
        print(f"{self.workdir} goes on from step {step:,}.", flush=True)
        return state, progress

    def _initialise(self, state: TrainState) -> TrainState:
        """Puts weights learnt elsewhere into a new state; the average begins with them too."""
        source = _find_weights(self.config)
        whole = parallel.replicated_sharding(self.mesh)
        variables: dict[str, Any] = {"params": state.params, "batch_stats": state.batch_stats}
        shardings = {name: getattr(self.shardings, name) for name in variables}
        variables = jax.device_get(jax.jit(lambda x: x, out_shardings=whole)(variables))
        if source.is_dir():
            _, _, other = restore_variables(source, "best", whole)
            variables, loaded, left = from_variables(variables, other)
        else:
            variables, loaded, left = from_state_dict(self.task, variables, source)
        listing = "".join(f"loaded {path}\n" for path in loaded)
        listing += "".join(f"left {path}\n" for path in left)
        if is_main():
            write_text(self.workdir / "init_from.txt", listing)
        print(
            f"began with {len(loaded)} arrays of {source}; {len(left)} are new (init_from.txt).",
            flush=True,
        )
        # Twice: the state is donated, and one buffer cannot be given away twice.
        ema = None if state.ema is None else parallel.put_whole(variables, shardings)
        return state.replace(**parallel.put_whole(variables, shardings), ema=ema)

    def compile(self, state: TrainState) -> tuple[Callable, Callable]:
        """Compiles both steps ahead, tells what an update costs, checks the metric's name."""
        start = time.monotonic()
        batch = self._put(self.train_examples.batch(range(1), len(self.rows)))
        eval_step = make_eval_step(self.task, self.mesh).lower(state.variables, batch).compile()
        figures = self.task.summarise(dict.fromkeys(eval_step.out_info, 1.0))
        # The best checkpoint is the one that has the most of it.
        scores = [f"val/{n}" for n in figures if n != "num_images" and not n.endswith("loss")]
        if self.config.best_metric not in scores:
            raise UserError(
                f"config.best_metric={self.config.best_metric!r} is no score of which more is "
                f"better: choose one of {', '.join(scores)}."
            )
        train_step_to_compile = make_train_step(
            self.task,
            self.training.optimizer,
            self.training.schedule,
            self.mesh,
            seed=self.config.seed,
            accumulation=self.config.accumulation,
            ema_decay=self.config.ema_decay,
            shardings=self.shardings,
        )
        lowered = train_step_to_compile.lower(state, batch)
        train_step = lowered.compile()
        line = f"compiled in {time.monotonic() - start:.0f} s for {parallel.describe(self.mesh)}"
        # Not every backend tells. As lowered: of what is compiled, GPUs leave the convolutions out,
        # which are cuDNN's. The parts of a batch are one loop, whose body is counted once.
        if cost := lowered.cost_analysis():
            flops = cost["flops"] * self.config.accumulation
            line += f", {flops / 1e9:,.3g} GFLOP an update"
        if size := memory.needed_bytes(train_step):
            line += f", {size / 2**20:,.0f} MiB a device"
        print(line, flush=True)
        memory.check_memory(train_step, jax.local_devices()[0], self.load)
        return train_step, eval_step

    def train_batches(self, examples_seen: int) -> Iterator[dict[str, jax.Array]]:
        """The batches from a position in the data on, on their way to the devices."""
        config = self.config
        load: Callable[[np.ndarray], Any] = self.train_examples.batch
        put: Callable[[Any], dict[str, jax.Array]] = self._put
        if self.cache == "device":
            stacked = self.train_examples.stack(config.data.num_threads)
            load, put = np.asarray, Resident(stacked, self.mesh).batch
        batches = train_batches(
            self.train_examples,
            config.batch_size,
            seed=config.seed,
            start=examples_seen // config.batch_size,
            num_threads=config.data.num_threads,
            load=load,
            sampling=config.data.sampling,
            weights=datasets.set_weights(config),
            rows=self.rows,
        )
        return prefetch(batches, put)

    def image_ids(self, step: int) -> list[str]:
        """The images of a step's batch, those of all processes."""
        config, examples = self.config, self.train_examples
        weights = datasets.set_weights(config)
        order = Order(examples.labels, config.data.sampling, config.seed, examples.sets, weights)
        drawn = order.draws((step - 1) * config.batch_size, config.batch_size)
        return [self.table[examples.positions[index]].image_id for index in drawn]

    def create_monitor(self, start: int, progress: dict[str, Any]) -> Monitor:
        """What shows and writes the training from a step on."""
        return Monitor(
            self.workdir,
            start_step=start,
            total_steps=self.durations.total_steps,
            batch_size=self.config.batch_size,
            steps_per_epoch=self.durations.steps_per_epoch,
            training_seconds=progress["training_seconds"],
            note_skipped=SkippedSteps(
                self.workdir, start, self.config.max_skipped_steps, self.image_ids
            ).note,
            writes=is_main(),
        )

    def evaluate(self, eval_step: Callable, state: TrainState) -> dict[str, float]:
        """The figures of the val split at the model's own size, 'val/...'."""
        batches = eval_batches(
            self.val_examples, self.config.batch_size, self.config.data.num_threads, self.rows
        )
        sums = evaluate_batches(eval_step, state.variables, prefetch(batches, self._put))
        return {f"val/{name}": value for name, value in self.task.summarise(sums).items()}

    def update_plateau(self, state: TrainState, metrics: dict[str, float]) -> TrainState:
        """Tells the schedule how the evaluation came out, where it listens."""
        plateau = self.training.plateau
        if plateau is None:
            return state
        update = jax.jit(
            functools.partial(optim.update_plateau, plateau),
            out_shardings=parallel.replicated_sharding(self.mesh),
        )
        score = np.float32(metrics[self.config.best_metric])
        return state.replace(plateau=update(state.plateau, score))

    def describe(self, step: int, metrics: dict[str, float]) -> str:
        """One line about an evaluation."""
        shown = "  ".join(f"{name} {metrics[name]:.4f}" for name in self.task.headline)
        weights = ", averaged weights" if self.config.ema_decay else ""
        return f"epoch {step / self.durations.steps_per_epoch:.1f}  {shown}{weights}"

    def finish(self) -> None:
        """Leaves what is used of a complete run; of most that is the run itself."""
        if self.config.task != "joint":
            return
        if jax.process_count() == 1:
            write_parts(self.config, self.workdir)
        elif is_main():
            print(
                "Start the same command as one process, with --config.dtype="
                f"{self.config.dtype} and a config.mesh of its devices: it leaves a run of each "
                "task."
            )

    def _put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        return parallel.put_batch(batch, self.mesh)


def _find_weights(config: ConfigDict) -> Path:
    """The file or the run that the weights to begin with are read from.

    Raises:
        UserError: where it is missing.
    """
    if config.init_from == "imagenet":
        return imagenet_weights(build.create_trained_task(config, classes=()))
    source = Path(os.path.expanduser(config.init_from))
    if not source.exists() or (source.is_dir() and not (source / "config.json").exists()):
        missing = "holds no run" if source.is_dir() else "is missing"
        raise UserError(
            f"config.init_from={source} {missing}: name a .safetensors or .pth file of weights, "
            "or the workdir of another run."
        )
    return source


def _write_setting(
    workdir: Path,
    config: ConfigDict,
    prepared: Prepared | Combined,
    splits: dict[str, list[int]],
    resumed: bool,
) -> None:
    """Writes what tells the run apart from others; its config.json, which makes it one, last."""
    if resumed:
        _check_splits(workdir / "splits.csv", prepared, splits)
        if config.task != "segmentation":
            _check_classes(workdir, prepared.classes)
    else:
        splitting.write_splits(workdir / "splits.csv", prepared.table, splits)
    write_classes(workdir / "classes.json", prepared.classes)
    write_config(workdir / "config.json", config)


def _check_classes(workdir: Path, classes: tuple[str, ...]) -> None:
    """Refuses to go on where the outputs, which are in the classes' order, would change meaning."""
    if (workdir / "classes.json").exists() and (known := read_classes(workdir)) != classes:
        raise UserError(
            f"The classes are no longer those of {workdir / 'classes.json'}: {', '.join(known)} "
            f"then, {', '.join(classes)} now. Name them as they were, or begin a new run in "
            "another --workdir."
        )


def _check_splits(path: Path, prepared: Prepared | Combined, splits: dict[str, list[int]]) -> None:
    """Refuses to go on where the data set no longer gives the split that the run began with."""
    for name, positions in splits.items():
        if datasets.read_split(path, prepared, name) != positions:
            raise UserError(
                f"The {name} split is no longer the one in {path}: the data set has changed "
                "since the run began. "
                "Bring the old one back, or begin a new run in another --workdir."
            )
