"""The compiled steps: one update of the state, one batch of an evaluation."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from skinjax.engine.optim import Schedule, averaging_decay
from skinjax.engine.parallel import replicated_sharding
from skinjax.engine.state import Task, TrainState

PyTree = Any
Batch = dict[str, jax.Array]


def make_train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    mesh: Mesh,
    seed: int,
    accumulation: int = 1,
    ema_decay: float = 0.0,
) -> jax.stages.Wrapped:
    """Makes one update: loss, gradients, optimiser, average of the weights.

    The state is donated. All randomness is folded from `seed` and the step, so that a resumed run
    draws what the unstopped one would have drawn.

    Args:
        task: gives the loss.
        optimizer: made by `optim.make_optimizer`.
        schedule: the learning rate by step, to be logged.
        mesh: the devices; the state stays as it lies on them, whole on each.
        seed: of augmentation and dropout.
        accumulation: parts that the batch is worked through in, one after another, for one update.
        ema_decay: of the average; not used where the state holds none.
    """

    def gradients(state: TrainState, batch: Batch, key: jax.Array) -> tuple[PyTree, PyTree, Batch]:
        grad = jax.value_and_grad(task.loss, has_aux=True)
        if accumulation == 1:
            (_, (batch_stats, figures)), grads = grad(state.params, state.batch_stats, batch, key)
            return grads, batch_stats, figures

        # Every k-th example goes to part k: each device keeps its own rows.
        parts = jax.tree.map(
            lambda x: x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1), batch
        )

        def add_part(carry: PyTree, part_and_key: PyTree) -> tuple[PyTree, Batch]:
            total, batch_stats = carry
            (_, (batch_stats, figures)), grads = grad(state.params, batch_stats, *part_and_key)
            return (jax.tree.map(jnp.add, total, grads), batch_stats), figures

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
        figures = figures | {
            "gradient_norm": optax.tree.norm(grads),
            "learning_rate": schedule(state.step) * scale,
        }
        state = state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema=ema,
        )
        return state, figures

    return jax.jit(train_step, donate_argnums=0, out_shardings=replicated_sharding(mesh))


def make_eval_step(task: Task, mesh: Mesh) -> jax.stages.Wrapped:
    """Makes the evaluation of one batch: sums over its valid examples, over all devices."""
    return jax.jit(task.evaluate, out_shardings=replicated_sharding(mesh))


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
