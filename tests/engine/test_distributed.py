"""What several processes agree on, as far as one can show it; `tests/modes/` has real ones."""

import contextlib
import signal

import jax
import pytest

from skinjax.engine import distributed, parallel
from skinjax.engine.preemption import StopRequest
from skinjax.errors import ToldElsewhere, UserError


def test_the_largest_number_comes_back_some_steps_later():
    agreed = distributed.AgreedNumber(parallel.create_mesh(jax.devices()[:4]), steps_behind=2)
    assert [agreed.step(number) for number in (0, 15, 0, 2, 0, 0)] == [0, 0, 0, 15, 0, 2]


def test_one_process_stops_at_the_very_step():
    stop = StopRequest(parallel.create_mesh(jax.devices()[:2]))
    assert stop.after_step() == 0
    stop.signal_number = signal.SIGTERM
    assert stop.after_step() == signal.SIGTERM


def pretend_two(monkeypatch, told):
    """As if there were another process, which tells what is given."""
    monkeypatch.setattr(distributed, "tell_all", lambda value: [told.pop(0), value])
    monkeypatch.setattr(distributed, "is_main", lambda: False)


def test_the_others_hear_what_the_first_one_did_and_what_it_failed_of(monkeypatch):
    entered = []

    @contextlib.contextmanager
    def context():
        entered.append(True)
        yield

    def never():
        raise AssertionError("this is the first process's work")

    pretend_two(monkeypatch, [None, "resumed", "the disk is full", None])
    assert distributed.on_main(never) == "resumed"
    with pytest.raises(ToldElsewhere, match="the disk is full"):
        distributed.on_main(never)
    with distributed.held_by_main(context()):
        assert not entered


def test_an_own_error_is_told_and_raised(monkeypatch):
    heard = []
    monkeypatch.setattr(distributed, "tell_all", heard.append)

    def fail():
        raise UserError("no masks")

    with pytest.raises(UserError, match="no masks"):
        distributed.agree(fail)
    assert heard == ["no masks"]
