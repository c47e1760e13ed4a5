"""Device memory that is not enough: told before the first step, or when XLA finds out."""

import dataclasses
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import pytest

from skinjax.engine import memory
from skinjax.errors import UserError

LOAD = memory.Load(batch_size=32, image_size=(192, 256), accumulation=2, num_parts=4)
SWITCHES = r"config\.accumulation.*config\.remat=True.*config\.batch_size or config\.image_size"


@pytest.fixture(scope="module")
def step():
    """A step that updates 4 MiB in place."""
    update = jax.jit(lambda state, x: (state + x, x), donate_argnums=0)
    return update.lower(jnp.zeros(2**20), jnp.float32(0)).compile()


def test_a_step_needs_its_arguments_once(step):
    assert 2**22 <= memory.needed_bytes(step) < 2**22 + 2**16


def test_a_step_that_fits_passes_and_one_that_does_not_is_refused(step, monkeypatch):
    device = jax.devices()[0]
    assert memory.available_bytes(device) is None  # a CPU does not tell
    memory.check_memory(step, device, LOAD)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**23)
    memory.check_memory(step, device, LOAD)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**20)
    with pytest.raises(UserError, match=rf"about 0\.00 GiB.* 4 of the .*=32 .*192x256.*{SWITCHES}"):
        memory.check_memory(step, device, LOAD)


def test_data_that_lies_on_the_devices_counts(step, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**23)
    for megabytes, fits in ((3, True), (4, False)):
        load = dataclasses.replace(LOAD, resident_bytes=megabytes * 2**20)
        words = r"images take 0\.00 GiB of each device.* config\.data\.cache='host'"
        with nullcontext() if fits else pytest.raises(UserError, match=words):
            memory.check_memory(step, jax.devices()[0], load)


def test_what_xla_raises_is_told_in_the_same_words():
    words = rf"Out of .*memory: RESOURCE_EXHAUSTED.*{SWITCHES}"
    with pytest.raises(UserError, match=words), memory.exhaustion_told(LOAD):
        jax.block_until_ready(jnp.zeros((2**46,), jnp.uint8))


def test_other_errors_pass():
    error = jax.errors.JaxRuntimeError("INTERNAL: something else")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), memory.exhaustion_told(LOAD):
        raise error
