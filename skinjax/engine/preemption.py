"""Being asked to stop: SIGTERM (preemption) and Ctrl-C end the step, save, and say how to go on."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from skinjax.errors import Interrupted


def interruption(signal_number: int, step: int) -> Interrupted:
    """What to raise once the state of `step` is saved.

    Its exit status is 75 (EX_TEMPFAIL: start me again) after SIGTERM, and 130 after Ctrl-C, as
    shells have it.
    """
    name = signal.Signals(signal_number).name
    return Interrupted(
        f"{name}: saved at step {step:,}; the same command goes on from there.",
        exit_status=130 if signal_number == signal.SIGINT else 75,
    )


class StopRequest:
    """Which signal asked the run to stop; None as long as none did."""

    signal_number: int | None = None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turns SIGTERM or SIGINT into a request for the loop; a second Ctrl-C ends at once.

    Where it is not the main thread that asks, Python allows no handlers and the request stays
    empty.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(signal_number: int, frame: FrameType | None) -> None:
        if request.signal_number is not None and signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        request.signal_number = signal_number

    before = {s: signal.signal(s, handle) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)
