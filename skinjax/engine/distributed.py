"""Several processes of one run: how they find each other, agree, and tell what they have.

All of it is JAX's own distributed runtime, and with one process nothing of it happens. What is told
goes through the devices. The waiting before it goes through JAX's coordination service: it may last
as long as a data set takes to be prepared, and the devices' own networks give up long before.
"""

import collections
import contextlib
import itertools
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import multihost

from skinjax.errors import ToldElsewhere, UserError
from skinjax.process import end_at_once

T = TypeVar("T")

# After so long without a sign of life, a process counts as dead and JAX ends the others.
HEARTBEAT_SECONDS = 30
# So long may one process take for what the others wait for.
_WAIT_SECONDS = 24 * 3600
# So long a process that fails waits for the others to fail likewise.
_LEAVE_SECONDS = 5

# Each wait has a name of its own, the same in all processes.
_waits = itertools.count()


def start(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes of the run; on TPU, SLURM, GKE and Open MPI they find each other.

    Call it before anything else that uses a device.

    Args:
        coordinator: 'host:port', an address of process 0 that the others reach.
        num_processes: of the run.
        process_id: of this one, from 0 on.

    Raises:
        UserError: where nothing tells how the processes find each other, or one does not come.
    """
    # SIGTERM is `preemption`'s affair, which has all stop at one step after Ctrl-C as well.
    jax.config.update("jax_enable_preemption_service", False)
    told = None not in (coordinator, num_processes, process_id)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            # Where everything is told, nothing is looked for: that would ask the network.
            cluster_detection_method="deactivate" if told else None,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        raise UserError(
            f"--distributed: {error} Only on TPU, SLURM, GKE and Open MPI do the processes find "
            "each other by themselves; elsewhere give each --coordinator=HOST:PORT (of process 0), "
            "--num_processes=N and --process_id=0 to N-1."
        ) from error
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"--distributed: the processes did not all come together ({error}): check that "
            "--coordinator is an address of process 0 that the others reach, that its port is "
            "free, and that --num_processes of them were started."
        ) from error


def is_main() -> bool:
    """Whether this is the process that writes files and speaks: the first one."""
    return jax.process_index() == 0


def _wait_for_all(name: str, seconds: int) -> None:
    """Waits until all processes have come to a wait of that name.

    Raises:
        jax.errors.JaxRuntimeError: where one has not come in time.
    """
    multihost.get_barrier_sync_fn()(key=f"skinjax_{name}", timeout_ms=1000 * seconds)


def tell_all(value: Any) -> list[Any]:
    """Tells the other processes a value and hears theirs; all must call it.

    Args:
        value: what JSON can hold.

    Returns:
        The values by process, the same list in each.
    """
    if jax.process_count() == 1:
        return [value]
    words = np.frombuffer(json.dumps(value).encode(), np.uint8)
    _wait_for_all(str(next(_waits)), _WAIT_SECONDS)
    sizes = multihost_utils.process_allgather(np.int32(len(words)))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(words)] = words
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def agree(attempt: Callable[[], T]) -> T:
    """Does something in each process that may fail in some of them, and goes on only where in none.

    Returns:
        What this process's attempt gave.

    Raises:
        UserError: of this process.
        ToldElsewhere: where that of another process is the only one.
    """
    try:
        result = attempt()
    except UserError as error:
        tell_all(str(error))
        raise
    failures = [failure for failure in tell_all(None) if failure is not None]
    if failures:
        raise ToldElsewhere(failures[0])
    return result


def on_main(function: Callable[[], T]) -> T:
    """Does something in the main process alone, while the others wait.

    Args:
        function: returns what JSON can hold.

    Returns:
        What it returned, in each process.

    Raises:
        UserError: of the main process; in the others as `ToldElsewhere`.
    """
    told: T = tell_all(agree(lambda: function() if is_main() else None))[0]
    return told


@contextlib.contextmanager
def held_by_main(context: contextlib.AbstractContextManager[Any]) -> Iterator[None]:
    """Enters a context in the main process alone; the others wait until it has.

    Raises:
        UserError: of the main process; in the others as `ToldElsewhere`.
    """
    with contextlib.ExitStack() as stack:
        agree(lambda: stack.enter_context(context) if is_main() else None)
        yield


def _processes_on_host() -> list[int]:
    """The processes of the run on this host, this one among them, by their numbers."""
    hosts = tell_all(socket.gethostname())
    return [k for k, host in enumerate(hosts) if host == hosts[jax.process_index()]]


def num_processes_on_host() -> int:
    """How many processes of the run share this host's memory; all must call it."""
    return len(_processes_on_host())


def first_on_host(function: Callable[[], T]) -> T:
    """Does something in one process of each host, then in the others, which find it done.

    Returns:
        What this process's call gave.

    Raises:
        UserError: of this process; in the others as `ToldElsewhere`.
    """
    is_first = _processes_on_host()[0] == jax.process_index()
    result = agree(lambda: function() if is_first else None)
    return agree(lambda: function() if result is None else result)


class AgreedNumber:
    """The largest of the numbers that the processes tell step by step, the same step for all.

    The devices find it while the training goes on: what comes back is what was told some steps
    before, so that no process waits for the slowest at each step.

    Args:
        mesh: the devices of all processes.
        steps_behind: how many steps before.
    """

    def __init__(self, mesh: Mesh, steps_behind: int = 2):
        self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._num_local = len(self._sharding.addressable_devices)
        self._largest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._steps_behind = steps_behind
        self._told: collections.deque[jax.Array] = collections.deque()

    def step(self, number: int) -> int:
        """Tells this step's number; returns the largest that any told `steps_behind` steps ago."""
        numbers = np.full(self._num_local, number, np.int32)
        everyones = jax.make_array_from_process_local_data(
            self._sharding, numbers, (self._sharding.num_devices,)
        )
        self._told.append(self._largest(everyones))
        return int(self._told.popleft()) if len(self._told) > self._steps_behind else 0


def leave(exit_status: int) -> None:
    """Ends this process after an error; returns only where all the processes end alike.

    Where the others go on, waiting for them in order would never end: it is left at once, and JAX
    ends them too, after HEARTBEAT_SECONDS at the latest.
    """
    try:
        _wait_for_all("leave", _LEAVE_SECONDS)
    except jax.errors.JaxRuntimeError:
        end_at_once(exit_status)
