"""The devices: one mesh, and where arrays lie on it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from skinjax.errors import UserError

DATA_AXIS = "data"


def create_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Lays the devices (all there are, unless told) along one axis, `data`.

    The axis is Auto: flax's convolutions, BatchNorm and Dropout fail on Explicit axes.
    """
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (DATA_AXIS,), (AxisType.Auto,), devices=devices)


def dividing_devices(batch_size: int) -> Sequence[jax.Device]:
    """As many of the devices as divide a batch."""
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    return devices[:count]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Arrays whose first axis, the examples, is divided among the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """Arrays that each device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(batch_size: int, accumulation: int, mesh: Mesh) -> None:
    """Refuses a global batch that the devices and the accumulation do not divide.

    Raises:
        UserError: with the nearest batch sizes that would do.
    """
    unit = mesh.size * accumulation
    if batch_size < 1 or batch_size % unit:
        below, above = batch_size // unit * unit, (batch_size // unit + 1) * unit
        nearest = f"{below} or {above}" if below > 0 else f"{above}"
        raise UserError(
            f"config.batch_size={batch_size} is not divided by {mesh.size} device(s) x "
            f"config.accumulation={accumulation}: set config.batch_size to {nearest}."
        )


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Sends this process's share of a batch to its devices, without waiting."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }


def abstract(create: Callable[[], Any], sharding: NamedSharding) -> Any:
    """The shapes and dtypes of what a function would create, under a sharding."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(create),
    )
