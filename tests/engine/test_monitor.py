"""What a training shows and writes: windows, rates, and lines that a resumed run does again."""

import json
import struct

import jax
import jax.numpy as jnp
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from skinjax.engine.monitor import Monitor, cut_after, duration
from skinjax.engine.skipped import SkippedSteps
from skinjax.engine.steps import MAX_AHEAD
from skinjax.errors import UserError


def create_monitor(workdir, start_step=0, note_skipped=None):
    return Monitor(
        workdir,
        start_step=start_step,
        total_steps=10,
        batch_size=4,
        steps_per_epoch=5.0,
        training_seconds=100.0,
        note_skipped=note_skipped,
    )


def figures(loss, skipped=0):
    return {
        "loss": jnp.float32(loss),
        "learning_rate": jnp.float32(0.1 * loss),
        "skipped": jnp.int32(skipped),
    }


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


def test_a_window_that_is_left_and_one_that_is_done_are_written_apart(tmp_path, monkeypatch):
    done = iter([False, True, True])  # the first window; the second, and then the first again
    monkeypatch.setattr("skinjax.engine.monitor._is_ready", lambda window: next(done))
    with create_monitor(tmp_path) as monitor:
        for step in range(1, 5):
            monitor.add(figures(step))
            if step % 2 == 0:
                monitor.log_window(step)
    assert [(e["step"], e["train/loss"]) for e in read(tmp_path)] == [(2, 1.5), (4, 3.5)]


def test_the_host_waits_for_the_step_that_lies_furthest_back_alone(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(jax, "block_until_ready", waited.append)
    steps = [figures(float(loss)) for loss in range(MAX_AHEAD + 3)]
    with create_monitor(tmp_path) as monitor:
        for number, step in enumerate(steps, 1):
            monitor.add(step)
            assert len(waited) == max(0, number - MAX_AHEAD)
    assert all(one is other for one, other in zip(waited, steps[:3], strict=True))


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


def test_skipped_steps_are_left_out_of_the_means_and_told(tmp_path, capsys):
    noted = []
    with create_monitor(tmp_path, note_skipped=lambda *told: noted.append(told)) as monitor:
        for loss, skipped in [(1.0, 0), (float("nan"), 1), (float("inf"), 2), (3.0, 0)]:
            monitor.add(jax.block_until_ready(figures(loss, skipped)))
        monitor.log_window(4)
        monitor.add(figures(float("nan"), 1))
        monitor.flush(5)
    first, second = read(tmp_path)
    assert (first["train/loss"], first["train/skipped_steps"]) == (2.0, 2)
    assert "train/loss" not in second and second["train/skipped_steps"] == 1
    assert "train/skipped" not in first
    assert noted == [([2, 3], [1, 2]), ([5], [1])]
    told = capsys.readouterr().out
    assert "2 of the steps 1 to 4 skipped" in told and "loss not finite" in told


def test_skipped_steps_are_written_with_their_images_and_end_the_run_above_the_limit(tmp_path):
    path = tmp_path / "skipped_steps.jsonl"
    path.write_text('{"step": 3, "image_ids": []}\n{"step": 8, "image_ids": []}\n')
    skipped = SkippedSteps(tmp_path, 7, limit=2, image_ids=lambda step: [f"a{step}", f"b{step}"])
    skipped.note([9, 12, 13], [1, 1, 2])
    with pytest.raises(UserError, match=r"Step 14: .* 3 times in a row.*max_skipped_steps"):
        skipped.note([14, 15], [3, 4])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 9, 12, 13, 14, 15]
    assert lines[1]["image_ids"] == ["a9", "b9"]


def test_tensorboard_reads_what_was_written(tmp_path):
    for start_step, steps in [(0, (1, 2, 3)), (2, (3, 4))]:
        (tmp_path / str(start_step)).mkdir()
        with create_monitor(tmp_path / str(start_step), start_step) as monitor:
            for step in steps:
                monitor.write(step, "val", {"val/jaccard": 0.25 * step})
    (file,) = (tmp_path / "2" / "tensorboard").iterdir()
    events = [Event.FromString(record) for record in records(file)]
    assert events[0].file_version == "brain.Event:2"
    assert (events[1].step, events[1].session_log.status) == (3, SessionLog.START)
    shown = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert shown == [(3, "val/jaccard", 0.75), (4, "val/jaccard", 1.0)]


def records(path):
    """The records of a TFRecord file: length, its checksum, data, its checksum."""
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield content[12 : 12 + length]
        content = content[16 + length :]


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
