"""The compiled steps: one update of the state, one batch of an evaluation."""

import collections
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from skinjax.engine.optim import Schedule, averaging_decay
from skinjax.engine.parallel import gather, place_batch, replicated_sharding, scatter
from skinjax.engine.state import Task, TrainState

PyTree = Any
Batch = dict[str, jax.Array]

# Steps that the host may be ahead of the devices: enough to keep them busy, and no more batches on
# them than that. At 32 XLA's CPU client makes a launch wait, in one of as few threads as there are
# devices, for the end of a computation that may itself need one: two devices waited for good.
MAX_AHEAD = 8


class InFlight:
    """The steps that were sent to the devices and may not be done; at most MAX_AHEAD."""

    def __init__(self) -> None:
        self._figures: collections.deque[PyTree] = collections.deque()

    def add(self, figures: PyTree) -> None:
        """Takes what a step gives; waits for the one that was sent MAX_AHEAD steps before it."""
        self._figures.append(figures)
        if len(self._figures) > MAX_AHEAD:
            jax.block_until_ready(self._figures.popleft())


def make_train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    mesh: Mesh,
    seed: int,
    accumulation: int = 1,
    ema_decay: float = 0.0,
    shardings: PyTree | None = None,
) -> jax.stages.Wrapped:
    """Makes one update: loss, gradients, optimiser, average of the weights.

    Where the loss or the gradient is not finite, the step is skipped whole: it counts, so that the
    data, the random keys and the learning rate go on, and changes nothing else. The figures then
    have a `skipped` above 0: how many it was in a row.

    The state is donated. All randomness is folded from `seed` and the step, so that a resumed run
    draws what the unstopped one would have drawn.

    Args:
        task: gives the loss.
        optimizer: made by `optim.make_optimizer`.
        schedule: the learning rate by step, to be logged.
        mesh: the devices.
        seed: of augmentation and dropout.
        accumulation: parts that the batch is worked through in, one after another, for one update.
        ema_decay: of the average; not used where the state holds none.
        shardings: of the state (`parallel.state_shardings`); whole on each device, unless told.
    """

    def loss(params: PyTree, batch_stats: PyTree, batch: Batch, key: jax.Array) -> Any:
        # An augmentation may read any row of a picture; the model gets them divided again.
        return task.loss(params, batch_stats, place_batch(task.augment(batch, key), mesh))

    def gradients(state: TrainState, batch: Batch, key: jax.Array) -> tuple[PyTree, PyTree, Batch]:
        grad = jax.value_and_grad(loss, has_aux=True)
        params = gather(state.params, mesh)
        if accumulation == 1:
            (_, (batch_stats, figures)), grads = grad(params, state.batch_stats, batch, key)
            return scatter(grads, mesh), batch_stats, figures

        # Every k-th example goes to part k: each device keeps its own rows.
        parts = jax.tree.map(
            lambda x: x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1), batch
        )

        def add_part(carry: PyTree, part_and_key: PyTree) -> tuple[PyTree, Batch]:
            total, batch_stats = carry
            (_, (batch_stats, figures)), grads = grad(params, batch_stats, *part_and_key)
            total = scatter(jax.tree.map(jnp.add, total, grads), mesh)
            return (total, batch_stats), figures

        zeros = jax.tree.map(jnp.zeros_like, state.params)
        keys = jax.random.split(key, accumulation)
        (total, batch_stats), figures = jax.lax.scan(
            add_part, (zeros, state.batch_stats), (parts, keys)
        )
        grads = jax.tree.map(lambda g: g / accumulation, total)
        return grads, batch_stats, jax.tree.map(jnp.mean, figures)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Batch]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        grads, batch_stats, figures = gradients(state, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        scale = jnp.float32(1) if state.plateau is None else state.plateau.scale
        updates = jax.tree.map(lambda u: u * scale, updates)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            decay = averaging_decay(state.step, ema_decay)
            ema = jax.tree.map(
                lambda old, new: decay * old + (1 - decay) * new,
                ema,
                {"params": params, "batch_stats": batch_stats},
            )
        # The norm is infinite or NaN where any element of the gradient is.
        gradient_norm = optax.tree.norm(grads)
        is_finite = jnp.isfinite(figures["loss"]) & jnp.isfinite(gradient_norm)
        skipped = jnp.where(is_finite, 0, state.skipped + 1)
        figures = figures | {
            "gradient_norm": gradient_norm,
            "learning_rate": schedule(state.step) * scale,
            "skipped": skipped,
        }
        updated = state.replace(
            params=params, batch_stats=batch_stats, opt_state=opt_state, ema=ema
        )
        state = _choose(is_finite, updated, state)
        return state.replace(step=state.step + 1, skipped=skipped), figures

    whole = replicated_sharding(mesh)
    return jax.jit(train_step, donate_argnums=0, out_shardings=(shardings or whole, whole))


def _choose(is_finite: jax.Array, updated: TrainState, before: TrainState) -> TrainState:
    """The updated state, or the one before where the update is not finite."""

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        # The optimiser's own count of steps, by which it knows the learning rate, goes on.
        return new if jnp.issubdtype(new.dtype, jnp.integer) else jnp.where(is_finite, new, old)

    return jax.tree.map(choose, updated, before)


def make_eval_step(task: Task, mesh: Mesh) -> jax.stages.Wrapped:
    """Makes the evaluation of one batch: sums over its valid examples, over all devices."""

    def evaluate(variables: PyTree, batch: Batch) -> dict[str, jax.Array]:
        return task.evaluate(gather(variables, mesh), batch)

    return jax.jit(evaluate, out_shardings=replicated_sharding(mesh))


def evaluate_batches(
    eval_step: Callable[[PyTree, Batch], dict[str, jax.Array]],
    variables: PyTree,
    batches: Iterable[Batch],
) -> dict[str, float]:
    """Adds up the sums of `eval_step` in float64, fetching one while the next is computed."""
    totals: dict[str, float] = {}

    def add(sums: dict[str, jax.Array]) -> None:
        for name, value in jax.device_get(sums).items():
            totals[name] = totals.get(name, 0.0) + float(value)

    behind = None
    for batch in batches:
        sums = eval_step(variables, batch)
        if behind is not None:
            add(behind)
        behind = sums
    if behind is not None:
        add(behind)
    return totals
