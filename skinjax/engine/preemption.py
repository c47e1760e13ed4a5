"""Being asked to stop: SIGTERM (preemption) and Ctrl-C end the step, save, and say how to go on."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax
from jax.sharding import Mesh

from skinjax.engine.distributed import AgreedNumber
from skinjax.errors import Interrupted


def interruption(signal_number: int, place: str) -> Interrupted:
    """What to raise once all is saved up to a place, as 'step 1,200'.

    Its exit status is 75 (EX_TEMPFAIL: start me again) after SIGTERM, and 130 after Ctrl-C, as
    shells have it.
    """
    name = signal.Signals(signal_number).name
    return Interrupted(
        f"{name}: saved at {place}; the same command goes on from there.",
        exit_status=130 if signal_number == signal.SIGINT else 75,
    )


class StopRequest:
    """Which signal asked the run to stop.

    Args:
        mesh: the devices of the run.

    Attributes:
        signal_number: of the signal that this process was sent; 0 as long as it was sent none.
    """

    def __init__(self, mesh: Mesh):
        self.signal_number = 0
        self._agreed = AgreedNumber(mesh) if jax.process_count() > 1 else None

    def after_step(self) -> int:
        """The number of the signal to stop for after this step; 0 to go on.

        To be asked after each step. Where there are several processes, all of them stop at the same
        step, some steps after the signal, whichever of them it was sent to.
        """
        if self._agreed is None:
            return self.signal_number
        return self._agreed.step(self.signal_number)


_waiting: list[StopRequest] = []  # those of the loops that a signal now asks to stop


@contextlib.contextmanager
def stop_on_signals(mesh: Mesh) -> Iterator[StopRequest]:
    """Turns SIGTERM or SIGINT into a request for the loop; a second Ctrl-C ends at once.

    Where it is not the main thread that asks, Python allows no handlers and the request stays
    empty.

    Args:
        mesh: the devices of the run.
    """
    request = StopRequest(mesh)
    # What goes on after this loop, as the next fold does, may be waiting for a signal too; one that
    # came before this loop is for it as well.
    requests = [request, *_waiting]
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    request.signal_number = max(each.signal_number for each in requests)

    def handle(signal_number: int, frame: FrameType | None) -> None:
        if request.signal_number and signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        for each in requests:
            each.signal_number = signal_number

    _waiting.append(request)
    before = {s: signal.signal(s, handle) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        _waiting.remove(request)
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)
