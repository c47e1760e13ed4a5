"""Device memory: what a compiled step takes, what there is, and what to do where that is less."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax

from skinjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Load:
    """What decides how much memory a step takes, for the user to read.

    Attributes:
        batch_size: examples of one update.
        image_size: height and width of the model's input in pixels.
        accumulation: parts that a batch is worked through in.
        num_parts: that the examples of a batch are divided into among the devices.
        resident_bytes: of the data that lies on each device beside the step's.
    """

    batch_size: int
    image_size: tuple[int, int]
    accumulation: int
    num_parts: int
    resident_bytes: int = 0

    def error(self, why: str) -> UserError:
        """What to raise where memory is short: how much is asked for, and how to ask for less."""
        part = max(1, self.batch_size // self.accumulation // self.num_parts)
        height, width = self.image_size
        resident = (
            f" The training images take {self.resident_bytes / 2**30:,.2f} GiB of each device, and "
            "none with config.data.cache='host'."
            if self.resident_bytes
            else ""
        )
        return UserError(
            f"Out of device memory: {why} A device works on {part} of the "
            f"config.batch_size={self.batch_size} images at once, of {height}x{width} pixels. It "
            f"takes less with a larger config.accumulation (now {self.accumulation}: parts of the "
            "batch, one after another), with config.remat=True (computes again instead of "
            "keeping), with a smaller config.batch_size or config.image_size, or divided among "
            f"more devices (config.mesh).{resident}"
        )


def needed_bytes(step: jax.stages.Compiled) -> int | None:
    """The bytes of one device that a compiled step takes; None where the backend does not tell."""
    memory = step.memory_analysis()
    if memory is None:
        return None
    # Donated arguments are given back as outputs.
    return (
        memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )


def available_bytes(device: jax.Device) -> int | None:
    """The bytes that jax may take of a device; None where the device does not tell, as a CPU."""
    return (device.memory_stats() or {}).get("bytes_limit")


def check_memory(step: jax.stages.Compiled, device: jax.Device, load: Load) -> None:
    """Refuses a compiled step that takes more memory than its devices have, beside their data.

    Raises:
        UserError: with both figures, and what would take less.
    """
    needed, available = needed_bytes(step), available_bytes(device)
    if needed is None or available is None:
        return
    if needed + load.resident_bytes > available:
        raise load.error(
            f"a step takes about {needed / 2**30:,.2f} GiB, and {device.device_kind} has "
            f"{available / 2**30:,.2f} GiB to give."
        )


@contextlib.contextmanager
def exhaustion_told(load: Load) -> Iterator[None]:
    """Turns what XLA raises where memory is short into the user's words, and nothing else."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise load.error(f"{str(error).splitlines()[0].rstrip('.')}.") from error
