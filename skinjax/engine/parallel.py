"""The devices: one mesh of three axes, and where arrays lie on it.

`data` divides the examples of a batch. `fsdp` divides them too, and with them the parameters, their
averages and the optimiser's state, which are fetched whole when a step needs them (ZeRO,
Rajbhandari et al. 2020, arXiv:1910.02054). `space` divides the rows of each picture: a convolution
then takes the rows at its borders from its neighbours.
"""

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from skinjax.errors import UserError

PyTree = Any

# From the slowest network to the fastest: neighbours in `space` talk in every layer.
AXES = DATA_AXIS, FSDP_AXIS, SPACE_AXIS = ("data", "fsdp", "space")
_BATCH_AXES = (DATA_AXIS, FSDP_AXIS)

# Smaller arrays (biases, BatchNorm's) are not divided: to fetch a part takes as long as the whole.
MIN_DIVIDED_SIZE = 2**12


def create_mesh(
    devices: Sequence[jax.Device] | None = None, data: int = -1, fsdp: int = 1, space: int = 1
) -> Mesh:
    """Lays the devices (all there are, unless told) along the axes `data`, `fsdp` and `space`.

    The axes are Auto: flax's convolutions, BatchNorm and Dropout fail on Explicit ones.

    Args:
        devices: in JAX's order.
        data: devices along that axis; -1 for the rest, once.
        fsdp: likewise.
        space: likewise.

    Raises:
        UserError: where the axes do not use all the devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh_sizes(len(devices), data, fsdp, space)
    return Mesh(arrange(devices, sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_sizes(num_devices: int, data: int, fsdp: int, space: int) -> tuple[int, int, int]:
    """The mesh's sizes with -1 replaced by the rest of the devices.

    Raises:
        UserError: where there is more than one -1, or the product is not the number of devices.
    """
    sizes = (data, fsdp, space)
    told = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    free = [axis for axis, size in zip(AXES, sizes, strict=True) if size == -1]
    if len(free) > 1:
        raise UserError(
            f"config.mesh ({told}) has more than one -1: only one axis can take the rest of the "
            f"devices; set config.mesh.{free[-1]}, to 1 for example."
        )
    fixed = math.prod(size for size in sizes if size != -1)
    if free and num_devices % fixed == 0:
        rest = num_devices // fixed
        data, fsdp, space = (rest if size == -1 else size for size in sizes)
        return data, fsdp, space
    if fixed != num_devices:
        axis = free[0] if free else DATA_AXIS
        raise UserError(
            f"config.mesh ({told}) does not fit {num_devices} device(s): the product of its axes "
            f"must be their number; set config.mesh.{axis} to -1 and the others to what divides "
            f"{num_devices}."
        )
    return sizes


def arrange(devices: Sequence[jax.Device], sizes: tuple[int, int, int]) -> np.ndarray:
    """The devices in the shape of a mesh, so that its last axes lie on the fastest network.

    Args:
        devices: as many as the product of the sizes.
        sizes: of the mesh.

    Returns:
        The devices, of that shape.

    Raises:
        UserError: where machines (GPU) or slices (TPU) have different numbers of devices.
    """
    counts = collections.Counter(getattr(device, "slice_index", 0) for device in devices)
    if len(counts) == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    if len(set(counts.values())) > 1:
        raise UserError(
            f"The {len(counts)} machines or slices have {', '.join(map(str, counts.values()))} "
            "devices: give each as many as the others."
        )
    # The outermost axes go from machine to machine, as far as their sizes allow.
    between, left = [], len(counts)
    for size in sizes:
        between.append(math.gcd(size, left))
        left //= between[-1]
    within = [size // outer for size, outer in zip(sizes, between, strict=True)]
    return mesh_utils.create_hybrid_device_mesh(
        within, between, devices, allow_split_physical_axes=True
    )


def dividing_devices(
    batch_size: int, data: int = -1, fsdp: int = 1, space: int = 1
) -> Sequence[jax.Device]:
    """As many of the devices as a mesh of them divides a batch with; all, where none does."""
    devices = jax.devices()
    for count in range(len(devices), 0, -1):
        try:
            sizes = mesh_sizes(count, data, fsdp, space)
        except UserError:
            continue
        if batch_size % (sizes[0] * sizes[1]) == 0:
            return devices[:count]
    return devices


def describe(mesh: Mesh) -> str:
    """The devices in words: '8 x TPU v4 (data=4, space=2), 2 processes'."""
    axes = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1)
    words = f"{mesh.size} x {mesh.devices.flat[0].device_kind}" + (axes and f" ({axes})")
    num_processes = len({device.process_index for device in mesh.devices.flat})
    return words + (f", {num_processes} processes" if num_processes > 1 else "")


def batch_sharding(mesh: Mesh, num_axes: int = 1) -> NamedSharding:
    """Where the arrays of a batch lie: the examples divided, and the rows where they are pictures.

    Args:
        mesh: the devices.
        num_axes: of the array; four make it pictures, [N, H, W, C].
    """
    rows = (SPACE_AXIS,) if num_axes == 4 else ()
    return NamedSharding(mesh, PartitionSpec(_BATCH_AXES, *rows))


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """Arrays that each device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(state: PyTree, mesh: Mesh) -> PyTree:
    """Where a training's state lies: each array divided over `fsdp`, the small ones whole.

    An array is divided along its longest axis that the devices divide.

    Args:
        state: a tree of arrays or of their shapes.
        mesh: the devices.

    Returns:
        A tree like it, of shardings.
    """
    num_parts = mesh.shape[FSDP_AXIS]

    def sharding(leaf: Any) -> NamedSharding:
        axes = [axis for axis, size in enumerate(leaf.shape) if size % num_parts == 0]
        if num_parts == 1 or not axes or math.prod(leaf.shape) < MIN_DIVIDED_SIZE:
            return replicated_sharding(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, FSDP_AXIS))

    return jax.tree.map(sharding, state)


def abstract(create: Callable[[], Any], shardings: PyTree) -> Any:
    """The shapes and dtypes of what a function would create, under one sharding or a tree of them.

    Args:
        create: without arguments.
        shardings: a sharding, or a tree like what would be created.
    """
    shapes = jax.eval_shape(create)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        jax.tree.broadcast(shardings, shapes),
    )


def place_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Inside a compiled step: has the arrays lie as those of a batch do."""
    return jax.tree.map(
        lambda x: jax.lax.with_sharding_constraint(x, batch_sharding(mesh, x.ndim)), batch
    )


def gather(tree: PyTree, mesh: Mesh) -> PyTree:
    """Inside a compiled step: has each device hold the arrays whole."""
    if mesh.shape[FSDP_AXIS] == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, replicated_sharding(mesh))


def scatter(tree: PyTree, mesh: Mesh) -> PyTree:
    """Inside a compiled step: has the arrays lie as those of a state do."""
    if mesh.shape[FSDP_AXIS] == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, state_shardings(tree, mesh))


def check_batch_size(batch_size: int, accumulation: int, mesh: Mesh) -> None:
    """Refuses a global batch that the devices and the accumulation do not divide.

    Raises:
        UserError: with the nearest batch sizes that would do.
    """
    num_parts = batch_parts(mesh)
    unit = num_parts * accumulation
    if batch_size < 1 or batch_size % unit:
        raise UserError(
            f"config.batch_size={batch_size} is not divided by {num_parts} device(s) x "
            f"config.accumulation={accumulation}: "
            f"set config.batch_size to {_nearest(batch_size, unit)}."
        )


def batch_parts(mesh: Mesh) -> int:
    """The number of parts that the examples of a batch are divided into."""
    return mesh.shape[DATA_AXIS] * mesh.shape[FSDP_AXIS]


def check_rows(height: int, downsampling: int, mesh: Mesh) -> None:
    """Refuses pictures whose rows the devices along `space` do not divide in each layer.

    Args:
        height: of the model's input.
        downsampling: rows of the input that are one row where the model is at its coarsest.
        mesh: the devices.

    Raises:
        UserError: with the nearest heights that would do.
    """
    num_parts = mesh.shape[SPACE_AXIS]
    unit = num_parts * downsampling
    if num_parts > 1 and height % unit:
        raise UserError(
            f"config.image_size has {height} rows, which config.mesh.space={num_parts} devices "
            f"cannot share: the model makes one row of {downsampling}, so that each device needs "
            f"a multiple of that; set the rows to {_nearest(height, unit)}."
        )


def _nearest(size: int, unit: int) -> str:
    """The multiples of a unit that are next to a size, in words."""
    below = size // unit * unit
    return f"{below} or {below + unit}" if below > 0 else f"{below + unit}"


def local_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """Which rows of a global batch lie on this process's devices, int [n], ascending.

    Processes whose devices share pictures (`space`) have rows in common.
    """
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    rows = [np.arange(batch_size)[index] for index in indices if index is not None]
    return np.unique(np.concatenate(rows))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Sends this process's rows of a batch (`local_rows`) to its devices, without waiting.

    Args:
        batch: arrays [n, ...]; pictures with all their rows of pixels.
        mesh: the devices.

    Returns:
        The global arrays, [N, ...].
    """
    num_parts = batch_parts(mesh)
    share = num_parts // len(local_rows(num_parts, mesh))
    return {
        name: jax.make_array_from_process_local_data(
            batch_sharding(mesh, array.ndim), array, (len(array) * share, *array.shape[1:])
        )
        for name, array in batch.items()
    }


def put_whole(tree: PyTree, shardings: PyTree) -> PyTree:
    """Sends arrays that each process has whole to the devices, each its part."""

    def put(array: Any, sharding: NamedSharding) -> jax.Array:
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree, shardings)
