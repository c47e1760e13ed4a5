"""The mesh: its sizes, what it refuses, and where arrays lie on it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinjax.engine import parallel
from skinjax.engine.checkpoint import Checkpoints
from skinjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Device:
    """A GPU of one of several machines."""

    id: int
    slice_index: int
    platform: str = "gpu"
    device_kind: str = "GPU"


@pytest.mark.parametrize(
    ("told", "sizes"),
    [
        ((-1, 1, 1), (8, 1, 1)),
        ((4, 2, 1), (4, 2, 1)),
        ((2, -1, 2), (2, 2, 2)),
        ((1, 1, -1), (1, 1, 8)),
        ((8, -1, 1), (8, 1, 1)),
    ],
)
def test_one_axis_takes_the_rest_of_the_devices(told, sizes):
    assert parallel.mesh_sizes(8, *told) == sizes
    mesh = parallel.create_mesh(jax.devices()[:8], *told)
    assert tuple(mesh.shape.values()) == sizes
    assert mesh.axis_names == ("data", "fsdp", "space")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ((-1, -1, 1), r"more than one -1.*config\.mesh\.fsdp"),
        ((-1, 3, 1), r"data=-1, fsdp=3, space=1\) does not fit 8 device"),
        ((2, 2, 1), r"does not fit 8 device.*config\.mesh\.data to -1"),
        ((4, 4, 1), "does not fit 8 device"),
    ],
)
def test_a_mesh_that_does_not_use_the_devices_is_refused(told, words):
    with pytest.raises(UserError, match=words):
        parallel.mesh_sizes(8, *told)


@given(
    num_machines=st.sampled_from([1, 2, 4]),
    sizes=st.tuples(*[st.sampled_from([1, 2, 4])] * 3),
)
def test_neighbours_in_a_picture_are_of_one_machine_where_that_can_be(num_machines, sizes):
    total = int(np.prod(sizes))
    if total % num_machines:
        return
    each = total // num_machines
    devices = [Device(i, i // each) for i in range(total)]
    arranged = parallel.arrange(devices, sizes)
    assert arranged.shape == sizes
    assert {device.id for device in arranged.flat} == set(range(total))
    machines = np.vectorize(lambda device: device.slice_index)(arranged)
    if sizes[0] * sizes[1] % num_machines == 0:
        assert (machines == machines[:, :, :1]).all()
    if sizes[0] % num_machines == 0:
        assert (machines == machines[:, :1, :1]).all()


def test_machines_with_different_numbers_of_devices_are_refused():
    devices = [Device(i, index) for i, index in enumerate([0] * 5 + [1] * 4 + [2] * 3)]
    with pytest.raises(UserError, match=r"3 machines or slices have 5, 4, 3 devices"):
        parallel.arrange(devices, (2, 2, 3))


def test_a_cpu_leaves_devices_idle_only_where_the_batch_wants_it():
    assert len(parallel.dividing_devices(8)) == 8
    assert len(parallel.dividing_devices(6)) == 6
    assert len(parallel.dividing_devices(7)) == 7
    assert len(parallel.dividing_devices(6, fsdp=2)) == 6
    assert len(parallel.dividing_devices(2, space=4)) == 8
    assert len(parallel.dividing_devices(1, space=3)) == 3
    assert len(parallel.dividing_devices(9, data=2)) == 8  # which is then refused, with the nearest


def test_a_batch_that_does_not_divide_is_refused_with_the_nearest():
    mesh = parallel.create_mesh(jax.devices()[:8], 2, 2, 2)
    parallel.check_batch_size(12, 3, mesh)
    with pytest.raises(UserError, match="batch_size to 8 or 12"):
        parallel.check_batch_size(10, 1, mesh)
    with pytest.raises(UserError, match=r"batch_size to 8\."):
        parallel.check_batch_size(3, 2, mesh)


def test_rows_that_do_not_divide_are_refused_with_the_nearest():
    mesh = parallel.create_mesh(jax.devices()[:8], 2, 1, 4)
    parallel.check_rows(192, 16, mesh)
    with pytest.raises(UserError, match=r"200 rows.*space=4.*to 192 or 256"):
        parallel.check_rows(200, 16, mesh)
    with pytest.raises(UserError, match=r"to 128\."):
        parallel.check_rows(96, 32, mesh)
    parallel.check_rows(97, 32, parallel.create_mesh(jax.devices()[:8]))


def create_state():
    return {
        "kernel": jnp.arange(3.0 * 3 * 32 * 64).reshape(3, 3, 32, 64),
        "dense": jnp.ones((512, 12)),
        "odd": jnp.ones((999, 9)),
        "bias": jnp.ones(64),
        "step": jnp.int32(7),
    }


def test_a_state_is_created_divided_and_its_small_arrays_whole():
    mesh = parallel.create_mesh(jax.devices()[:8], 2, 4, 1)
    shardings = parallel.state_shardings(jax.eval_shape(create_state), mesh)
    state = jax.jit(create_state, out_shardings=shardings)()
    shapes = {name: leaf.addressable_shards[0].data.shape for name, leaf in state.items()}
    assert shapes == {
        "kernel": (3, 3, 32, 16),
        "dense": (128, 12),
        "odd": (999, 9),
        "bias": (64,),
        "step": (),
    }


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 1, 4)])
def test_a_state_comes_back_on_another_mesh(tmp_path, sizes):
    saved_on = parallel.create_mesh(jax.devices()[:8], 2, 4, 1)
    shardings = parallel.state_shardings(jax.eval_shape(create_state), saved_on)
    state = jax.jit(create_state, out_shardings=shardings)()
    mesh = parallel.create_mesh(jax.devices()[:8], *sizes)
    shardings = parallel.state_shardings(state, mesh)
    with Checkpoints(tmp_path / "c", 1, "val/jaccard") as checkpoints:
        checkpoints.save(1, state, {}, None)
        checkpoints.wait()
        restored, _ = checkpoints.restore(1, parallel.abstract(create_state, shardings))
    for name, leaf in restored.items():
        assert leaf.sharding.is_equivalent_to(shardings[name], leaf.ndim)
        np.testing.assert_array_equal(leaf, state[name])


def test_a_batch_lies_divided_by_examples_and_rows():
    mesh = parallel.create_mesh(jax.devices()[:8], 2, 2, 2)
    batch = {
        "images": np.arange(8 * 4 * 6 * 3, dtype=np.uint8).reshape(8, 4, 6, 3),
        "labels": np.arange(8, dtype=np.int32),
    }
    put = parallel.put_batch(batch, mesh)
    assert put["images"].dtype == jnp.uint8
    assert put["images"].addressable_shards[0].data.shape == (2, 2, 6, 3)
    assert put["labels"].addressable_shards[0].data.shape == (2,)
    for name, array in batch.items():
        np.testing.assert_array_equal(put[name], array)
    np.testing.assert_array_equal(parallel.local_rows(8, mesh), np.arange(8))


def test_what_each_process_has_whole_is_put_in_parts():
    mesh = parallel.create_mesh(jax.devices()[:8], 2, 4, 1)
    state = jax.device_get(create_state())
    shardings = parallel.state_shardings(state, mesh)
    put = parallel.put_whole(state, shardings)
    for name, leaf in put.items():
        assert leaf.sharding == shardings[name]
        np.testing.assert_array_equal(leaf, state[name])


def test_a_mesh_is_told_in_words():
    mesh = parallel.create_mesh(jax.devices()[:8], 4, 1, 2)
    assert parallel.describe(mesh) == "8 x cpu (data=4, space=2)"
    assert parallel.describe(parallel.create_mesh(jax.devices()[:1])) == "1 x cpu"
