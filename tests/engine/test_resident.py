"""A data set on the devices: the rows that are asked for, divided as any batch is."""

import jax
import numpy as np

from skinjax.engine import parallel
from skinjax.engine.resident import Resident


def test_a_batch_is_the_rows_at_its_places_divided_among_the_devices():
    mesh = parallel.create_mesh(jax.devices()[:4])
    rng = np.random.default_rng(0)
    arrays = {
        "images": rng.integers(0, 256, (10, 3, 5, 3), np.uint8),
        "labels": np.arange(10, dtype=np.int32),
    }
    places = np.array([9, 0, 3, 3, 1, 7, 8, 2])
    batch = Resident(arrays, mesh).batch(places)
    sent = parallel.put_batch({name: array[places] for name, array in arrays.items()}, mesh)
    for name, array in sent.items():
        np.testing.assert_array_equal(batch[name], array)
        assert batch[name].dtype == array.dtype and batch[name].sharding == array.sharding
