"""SGD, the ways its learning rate decays, what is decayed, and the average of the weights."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from skinjax.errors import UserError

PyTree = Any
Schedule = Callable[[jax.typing.ArrayLike], jax.Array]

SCHEDULES = ("constant", "plateau", "step", "exponential", "cosine", "polynomial")
# Schedules that give the same rate at a step however long the training is to be.
OPEN_ENDED_SCHEDULES = ("constant", "plateau", "step", "exponential")


@dataclasses.dataclass(frozen=True)
class ScheduleSettings:
    """How the learning rate goes on after its warm-up.

    Attributes:
        name: one of SCHEDULES.
        learning_rate: the peak, reached at the end of the warm-up.
        warmup_steps: steps of a linear rise from 0.
        total_steps: steps of the whole training.
        factor: plateau, step and exponential: what the rate is multiplied by at a decay.
        decay_steps: step: steps between two decays; exponential: steps in which one decay is
            spread.
        patience: plateau: evaluations without a better score before a decay.
        power: polynomial: the exponent.
        end_fraction: cosine, polynomial: the last rate as a share of the peak; plateau: the lowest.
    """

    name: str
    learning_rate: float
    warmup_steps: int
    total_steps: int
    factor: float = 0.1
    decay_steps: int = 1
    patience: int = 3
    power: float = 0.9
    end_fraction: float = 0.0


def make_schedule(settings: ScheduleSettings) -> Schedule:
    """Makes the learning rate as a function of the step (plateau's reductions come on top of it).

    Raises:
        UserError: for an unknown name or a warm-up that leaves no step.
    """
    s = settings
    if s.name not in SCHEDULES:
        raise UserError(
            f"config.schedule.name={s.name!r} is unknown: choose one of {', '.join(SCHEDULES)}."
        )
    decay_span = s.total_steps - s.warmup_steps
    if decay_span <= 0:
        raise UserError(
            f"config.schedule.warmup_epochs is {s.warmup_steps} steps, but the training has "
            f"only {s.total_steps}: "
            "shorten the warm-up or raise config.num_epochs."
        )
    if s.name in ("constant", "plateau"):
        decay = optax.constant_schedule(s.learning_rate)
    elif s.name == "step":
        decay = optax.exponential_decay(s.learning_rate, s.decay_steps, s.factor, staircase=True)
    elif s.name == "exponential":
        decay = optax.exponential_decay(s.learning_rate, s.decay_steps, s.factor)
    elif s.name == "cosine":
        decay = optax.cosine_decay_schedule(s.learning_rate, decay_span, s.end_fraction)
    else:
        decay = optax.polynomial_schedule(
            s.learning_rate, s.learning_rate * s.end_fraction, s.power, decay_span
        )
    if s.warmup_steps == 0:
        return decay
    # One above zero, so that the first step of a warm-up already learns.
    warmup = optax.linear_schedule(
        s.learning_rate / s.warmup_steps, s.learning_rate, max(s.warmup_steps - 1, 1)
    )
    return optax.join_schedules([warmup, decay], [s.warmup_steps])


def is_kernel(params: PyTree) -> PyTree:
    """True for each kernel of a convolution or a Dense layer: what weight decay acts on."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make_optimizer(
    schedule: Schedule,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    clip_norm: float,
) -> optax.GradientTransformation:
    """SGD with momentum, clipped by global norm, with weight decay on kernels alone.

    The decay is added to the gradient before the momentum (L2, as PyTorch's SGD has it).

    Args:
        schedule: learning rate by step.
        momentum: of the velocity, in [0, 1).
        nesterov: whether to look ahead.
        weight_decay: share of a kernel that is added to its gradient.
        clip_norm: largest global norm of the gradient; 0 does not clip.
    """

    def clip(grads: PyTree, _: PyTree) -> PyTree:
        # optax's own divides by the norm, which XLA for CPUs does in a pass over the gradients of
        # its own (a twelfth of a ResNet-18's update); a factor becomes part of the next one.
        factor = jnp.minimum(1.0, clip_norm / optax.tree.norm(grads))
        return jax.tree.map(lambda grad: grad * factor.astype(grad.dtype), grads)

    return optax.chain(
        optax.stateless(clip) if clip_norm else optax.identity(),
        optax.add_decayed_weights(weight_decay, mask=is_kernel),
        optax.sgd(schedule, momentum=momentum, nesterov=nesterov),
    )


def make_plateau(settings: ScheduleSettings) -> optax.GradientTransformationExtraArgs | None:
    """Reduces the learning rate when the score stalls; None where the schedule is another.

    Its state belongs to the training's; `update_plateau` feeds it.
    """
    if settings.name != "plateau":
        return None
    return contrib.reduce_on_plateau(
        factor=settings.factor,
        patience=settings.patience,
        rtol=1e-4,
        min_scale=settings.end_fraction,
    )


def update_plateau(
    plateau: optax.GradientTransformationExtraArgs, state: PyTree, score: jax.typing.ArrayLike
) -> PyTree:
    """One evaluation's score (higher is better, at most 1) into the plateau's state.

    optax minimises with a tolerance relative to the value, so that a negated score would never
    fire: it is told 1 - score.
    """
    _, state = plateau.update(jnp.float32(0), state, value=jnp.float32(1.0) - score)
    return state


def averaging_decay(step: jax.Array, decay: float) -> jax.Array:
    """The decay of the weights' moving average at a step: min(decay, (1 + step) / (10 + step)).

    The warm-up (as in TensorFlow's ExponentialMovingAverage and timm) keeps the random start out.
    """
    step = step.astype(jnp.float32)
    return jnp.minimum(jnp.float32(decay), (1.0 + step) / (10.0 + step))
