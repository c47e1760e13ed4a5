"""A run of several processes, as the command line sees it: joined, quiet but for one, left."""

import os
import sys

import jax
from absl import logging

from skinjax.engine import distributed


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> bool:
    """Joins the run's other processes; all but the first are quiet from here on.

    Args:
        coordinator: 'host:port' of process 0; like the others, None where JAX finds it.
        num_processes: of the run.
        process_id: of this one.

    Returns:
        Whether this is the one that is not quiet.

    Raises:
        UserError: where they do not find each other.
    """
    distributed.start(coordinator, num_processes, process_id)
    speaks = distributed.is_main()
    if not speaks:
        # Of the file, not of Python's alone: gloo writes there too. Errors still reach stderr.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        logging.set_verbosity(logging.ERROR)
    return speaks


def describe_failure(error: Exception) -> str | None:
    """What to tell the user where a computation failed because another process is gone, or None.

    Args:
        error: that ended this process.
    """
    words = str(error)
    lost = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "Barrier", "heartbeat", "crashed")
    if not isinstance(error, jax.errors.JaxRuntimeError) or not any(w in words for w in lost):
        return None
    return (
        "another process of this run has ended or cannot be reached any more "
        f"({words.splitlines()[0][:200]}): see what it said. Start all the processes again with "
        "the same commands; the run goes on from its last checkpoint."
    )


def leave(exit_status: int) -> None:
    """Ends this process after an error, without waiting for others that go on."""
    if jax.process_count() > 1:
        distributed.leave(exit_status)
