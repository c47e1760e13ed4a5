"""What a training step reads and writes: all of it, in one tree."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import struct

PyTree = Any


class Task(Protocol):
    """What the engine asks of a task; `skinjax.tasks` has them."""

    def init(self, key: jax.Array) -> PyTree:
        """Creates the variables, {'params': ..., 'batch_stats': ...}."""

    def augment(self, batch: dict[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
        """Changes a batch at random into what `loss` takes, each array's first axis the examples.

        Arrays of four axes are pictures, [N, H, W, C].
        """

    def loss(
        self, params: PyTree, batch_stats: PyTree, batch: dict[str, jax.Array]
    ) -> tuple[jax.Array, tuple[PyTree, dict[str, jax.Array]]]:
        """The mean loss of an augmented batch; beside it the new batch statistics and figures.

        One of the figures is `loss`, the same one.
        """

    def evaluate(self, variables: PyTree, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Sums over the valid examples of a batch."""

    def summarise(self, sums: dict[str, float]) -> dict[str, float]:
        """The figures of a split from the sums over all its batches."""


class TrainState(struct.PyTreeNode):
    """The state of a training.

    Attributes:
        step: int32 [], updates done.
        params: float32 parameters.
        batch_stats: BatchNorm's float32 running statistics.
        opt_state: the optimiser's.
        plateau: optax's ReduceLROnPlateauState, or None where the schedule is another.
        ema: {'params', 'batch_stats'}: the moving average of both, or None where it is off.
        skipped: int32 [], how many steps in a row, up to the last one, were skipped because their
            loss or gradient was not finite.
    """

    step: jax.Array
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    plateau: PyTree
    ema: PyTree
    skipped: jax.Array

    @property
    def variables(self) -> PyTree:
        """What is evaluated, chosen, predicted with: the average where there is one."""
        if self.ema is not None:
            return self.ema
        return {"params": self.params, "batch_stats": self.batch_stats}


def make_create_state(
    task: Task,
    optimizer: optax.GradientTransformation,
    plateau: optax.GradientTransformationExtraArgs | None,
    averaged: bool,
    seed: int,
) -> Callable[[], TrainState]:
    """Makes the function that creates a new training's state; jit it with its shardings."""

    def create() -> TrainState:
        variables = task.init(jax.random.key(seed))
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        return TrainState(
            step=jnp.int32(0),
            params=params,
            batch_stats=batch_stats,
            opt_state=optimizer.init(params),
            plateau=plateau.init(jnp.float32(0)) if plateau else None,
            # A copy: the state is donated, and one buffer cannot be given away twice.
            ema=jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats})
            if averaged
            else None,
            skipped=jnp.int32(0),
        )

    return create
