"""What is measured, and our side of it: the models, their sizes, and a step of each."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skinjax.data.augment import Augmentation
from skinjax.data.sources.example import CLASSES
from skinjax.engine import optim, parallel
from skinjax.engine.state import TrainState, make_create_state
from skinjax.engine.steps import make_train_step
from skinjax.models.efficientnet_lite import ENCODERS
from skinjax.tasks.classification import Classification, create_classification
from skinjax.tasks.segmentation import Segmentation, create_segmentation

# Of both sides' SGD.
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, CLIP_NORM = 0.01, 0.9, 1e-4, 1.0


@dataclasses.dataclass(frozen=True)
class Case:
    """A model at a size.

    Attributes:
        model: 'seunet'; 'cbam', a ResNet; or 'lite', an EfficientNet-Lite with CBAM.
        width: base_features of the first, depth of the second, variant of the third.
        height: of the input in pixels.
        columns: its width in pixels.
        batch: images a step.
        dtype: 'float32' or 'bfloat16'.
    """

    model: str
    width: int
    height: int
    columns: int
    batch: int
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """As a table has it."""
        size = f"{self.height}x{self.columns}"
        return f"{self.model}-{self.width} {size} batch {self.batch} {self.dtype}"

    @property
    def small_stem(self) -> bool:
        """Whether a ResNet begins at full size, as for pictures of a few dozen pixels."""
        return min(self.height, self.columns) <= 32


def choose_cases(tiny: bool, wanted: Sequence[str] = ()) -> list[Case]:
    """The cases for this machine: what a laptop trains, or what fills an accelerator.

    Raises:
        ValueError: no case has any of `wanted` in its name.
    """
    cases = _all_cases(tiny)
    chosen = [case for case in cases if not wanted or any(text in case.name for text in wanted)]
    if not chosen:
        names = ", ".join(repr(case.name) for case in cases)
        raise ValueError(f"no case has one of {', '.join(wanted)} in its name; there are {names}")
    return chosen


def _all_cases(tiny: bool) -> list[Case]:
    if tiny:
        return [Case("seunet", 4, 16, 32, 2), Case("cbam", 18, 16, 16, 2)]
    if jax.default_backend() == "cpu":
        cases = [
            Case("seunet", 16, 96, 128, 16),
            Case("seunet", 16, 256, 256, 4),
            Case("seunet", 32, 128, 128, 8),
            Case("cbam", 18, 96, 128, 32),
            Case("cbam", 18, 28, 28, 32),
            Case("cbam", 50, 128, 128, 8),
            Case("lite", 0, 96, 128, 32),
        ]
        return cases + [dataclasses.replace(cases[i], dtype="bfloat16") for i in (0, 3)]
    seunets = [
        Case("seunet", base, size, size, 2**28 // (base * size * size), dtype)
        for base in (16, 32, 64)
        for size in (128, 256, 512)
        for dtype in ("bfloat16", "float32")
    ]
    resnets = [
        Case("cbam", depth, size, size, 512 if size == 28 else 256 if size == 128 else 128, dtype)
        for depth in (18, 50)
        for size in (28, 128, 224)
        for dtype in ("bfloat16", "float32")
    ]
    lites = [Case("lite", 0, 224, 224, 256, dtype) for dtype in ("bfloat16", "float32")]
    return seunets + resnets + lites


def create_task(case: Case) -> Segmentation | Classification:
    """The task of a case, without augmentation, which the peer has not got either."""
    shared: dict[str, Any] = dict(
        reduction=16,
        dtype=jnp.dtype(case.dtype),
        image_size=(case.height, case.columns),
        augmentation=Augmentation(),
    )
    if case.model == "seunet":
        return create_segmentation(base_features=case.width, attention="se", **shared)
    encoder = ENCODERS[case.width] if case.model == "lite" else "resnet"
    stem = "small" if case.small_stem else "imagenet"
    return create_classification(
        CLASSES, encoder=encoder, depth=case.width, attention="cbam", stem=stem, **shared
    )


def create_batch(case: Case) -> dict[str, np.ndarray]:
    """One batch of noise, as the pipeline makes them."""
    rng = np.random.default_rng(0)
    shape = (case.batch, case.height, case.columns)
    batch = {
        "images": rng.integers(0, 256, (*shape, 3), np.uint8),
        "boxes": np.tile(np.int32([0, 0, case.height, case.columns]), (case.batch, 1)),
        "labels": rng.integers(0, len(CLASSES), case.batch).astype(np.int32),
        "valid": np.ones(case.batch, np.float32),
    }
    if case.model == "seunet":
        batch["masks"] = rng.integers(0, 2, (*shape, 1), np.uint8)
    return batch


@dataclasses.dataclass
class OurStep:
    """A compiled step of ours, and what it costs.

    Attributes:
        call: does one step and waits for it.
        num_parameters: of the model.
        flops: of one step, over all devices; None where the backend does not tell.
        bytes_accessed: likewise.
    """

    call: Callable[[], None]
    num_parameters: int
    flops: float | None
    bytes_accessed: float | None


def our_train_step(case: Case, num_devices: int | None = None) -> OurStep:
    """An update as `skinjax.modes.train` does it, on a batch that lies on the devices."""
    task = create_task(case)
    devices = parallel.dividing_devices(case.batch)[:num_devices]
    mesh = parallel.create_mesh(devices)

    def schedule(step: jax.Array) -> jax.Array:
        return jnp.float32(LEARNING_RATE)

    optimizer = optim.make_optimizer(schedule, MOMENTUM, True, WEIGHT_DECAY, CLIP_NORM)
    create = make_create_state(task, optimizer, None, averaged=False, seed=0)
    state = jax.jit(create, out_shardings=parallel.replicated_sharding(mesh))()
    batch = parallel.put_batch(create_batch(case), mesh)
    lowered = make_train_step(task, optimizer, schedule, mesh, seed=0).lower(state, batch)
    step = lowered.compile()
    holder: list[TrainState] = [state]

    def call() -> None:
        # The state is donated: each call takes the one before's.
        holder[0], figures = step(holder[0], batch)
        jax.block_until_ready(figures)

    return OurStep(call, _count(state.params), *_cost(lowered, step, len(devices)))


def our_predict_step(case: Case) -> OurStep:
    """Predictions as `skinjax.modes.inference` makes them, on images that lie on the devices."""
    task = create_task(case)
    devices = parallel.dividing_devices(case.batch)
    mesh = parallel.create_mesh(devices)
    sharding = parallel.replicated_sharding(mesh)
    variables = jax.jit(task.init, out_shardings=sharding)(jax.random.key(0))
    images = parallel.put_batch({"images": create_batch(case)["images"]}, mesh)["images"]
    # Each device's part is fetched from where it is.
    predict = jax.jit(lambda v, i: task.predict(v, i), out_shardings=parallel.batch_sharding(mesh))
    lowered = predict.lower(variables, images)
    step = lowered.compile()

    def call() -> None:
        jax.block_until_ready(step(variables, images))

    return OurStep(call, _count(variables["params"]), *_cost(lowered, step, len(devices)))


def _count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _cost(lowered: Any, step: Any, num_devices: int) -> tuple[float | None, float | None]:
    """FLOPs and bytes of a step, over all devices.

    FLOPs as lowered: of what is compiled, GPUs leave out the convolutions, which are cuDNN's. Bytes
    as compiled, after fusion; that tells those of one device.
    """
    flops = (lowered.cost_analysis() or {}).get("flops")
    num_bytes = (step.cost_analysis() or {}).get("bytes accessed")
    return flops, num_bytes and num_bytes * num_devices
