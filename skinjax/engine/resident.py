"""A data set that lies on the devices, where it fits: a batch is then a list of places in it."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from skinjax.engine.parallel import batch_sharding, put_batch, put_whole, replicated_sharding


class Resident:
    """Examples that each device holds whole, as uint8, so that a step waits for no transfer.

    Args:
        arrays: each of shape [N, ...], one row an example.
        mesh: the devices.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], mesh: Mesh):
        self._mesh = mesh
        self._arrays = put_whole(arrays, dict.fromkeys(arrays, replicated_sharding(mesh)))
        self._take = jax.jit(
            lambda arrays, places: {name: array[places] for name, array in arrays.items()},
            out_shardings={
                name: batch_sharding(mesh, array.ndim) for name, array in arrays.items()
            },
        )

    def batch(self, places: np.ndarray) -> dict[str, jax.Array]:
        """A batch on the devices, without waiting.

        Args:
            places: int [n], the examples of this process's share.

        Returns:
            The arrays' rows there, divided among the devices as `parallel.put_batch` does it.
        """
        sent = put_batch({"places": places.astype(np.int32)}, self._mesh)
        return self._take(self._arrays, sent["places"])
