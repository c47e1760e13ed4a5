"""What a training shows and writes: windows, rates, and lines that a resumed run does again."""

import json

import jax
import jax.numpy as jnp
import pytest

from skinjax.engine.monitor import Monitor, cut_after, duration
from skinjax.errors import UserError


def create_monitor(workdir, start_step=0):
    return Monitor(
        workdir,
        start_step=start_step,
        total_steps=10,
        batch_size=4,
        steps_per_epoch=5.0,
        training_seconds=100.0,
    )


def figures(loss):
    return {"loss": jnp.float32(loss), "learning_rate": jnp.float32(0.1 * loss)}


def read(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_windows_are_means_and_written_when_the_device_is_done(tmp_path, capsys):
    with create_monitor(tmp_path) as monitor:
        for step, loss in enumerate([1.0, 3.0, 5.0, 7.0, 9.0], 1):
            monitor.add(jax.block_until_ready(figures(loss)))
            if step % 2 == 0:
                monitor.log_window(step)
        assert [event["step"] for event in read(tmp_path)] == [2, 4]
        monitor.flush(5)
        with monitor.pause():
            monitor.write(5, "val", {"val/jaccard": 0.5})
        assert monitor.progress(5)["examples_seen"] == 20
        assert monitor.progress(5)["training_seconds"] >= 100.0
    events = read(tmp_path)
    assert [(e["step"], e.get("train/loss")) for e in events] == [
        (2, 2.0),
        (4, 6.0),
        (5, 9.0),
        (5, None),
    ]
    assert events[1]["learning_rate"] == pytest.approx(0.7)
    assert events[1]["epoch"] == 0.8 and events[3]["split"] == "val"
    assert "step 4/10" in capsys.readouterr().out


def test_windows_that_the_device_is_not_done_with_are_written_one_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("skinjax.engine.monitor._is_ready", lambda window: False)
    with create_monitor(tmp_path) as monitor:
        for step in range(1, 8):
            monitor.add(figures(step))
            if step % 2 == 0:
                monitor.log_window(step)
        assert [event["step"] for event in read(tmp_path)] == [2, 4]
        monitor.flush(7)
    events = read(tmp_path)
    assert [event["step"] for event in events] == [2, 4, 7]
    assert [event["train/loss"] for event in events] == [1.5, 3.5, 6.0]


def test_the_rates_are_those_of_their_windows_though_written_one_behind(tmp_path, monkeypatch):
    """The host waits at each step, and yet the last one of a window is under way as it closes."""
    clock = {"now": 0.0}
    monkeypatch.setattr("skinjax.engine.monitor.time.monotonic", lambda: clock["now"])
    newest: list = []
    monkeypatch.setattr("skinjax.engine.monitor._is_ready", lambda window: window[-1] not in newest)
    with create_monitor(tmp_path) as monitor:
        for step in range(1, 9):
            clock["now"] += 2.0
            newest[:] = [figures(step)]
            monitor.add(newest[0])
            if step in (3, 6):
                monitor.log_window(step)
        monitor.flush(8)
    events = read(tmp_path)
    assert [event["step"] for event in events] == [3, 8]
    assert [event["images_per_second"] for event in events] == [2.0, 2.0]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with create_monitor(tmp_path) as monitor:
        monitor.add(figures(float("nan")))
        with pytest.raises(UserError, match="not finite between steps 0 and 1"):
            monitor.flush(1)


def test_a_resumed_run_writes_its_steps_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step}) + "\n" for step in (1, 2, 3)]
    path.write_text("".join(lines) + '{"step": 4, "tor')
    cut_after(path, 2)
    assert path.read_text() == "".join(lines[:2])
    cut_after(tmp_path / "none.jsonl", 2)
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize(
    ("seconds", "words"), [(5.2, "5 s"), (99, "99 s"), (150, "2 min"), (12_000, "3 h 20 min")]
)
def test_durations_read_as_a_person_says_them(seconds, words):
    assert duration(seconds) == words
