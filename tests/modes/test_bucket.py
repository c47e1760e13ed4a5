"""A run whose folder is in a bucket, against a storage server on loopback."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("google.cloud.storage", reason="the extra gcs is not installed")

from fake_gcs import FakeGCS

from skinjax.errors import UserError
from skinjax.modes import bucket
from skinjax.modes.workdir import locked, read_config

ROOT = Path(__file__).resolve().parents[2]
RUN = "gs://bucket/runs/one"


@pytest.fixture(scope="module")
def only_server():
    """One for all: the library's client is made once."""
    server = FakeGCS()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def server(only_server):
    only_server.objects.clear()
    return only_server


def contents(server):
    """What the run has in the bucket."""
    return {
        name.removeprefix("runs/one/"): stored.content for name, stored in server.objects.items()
    }


def test_a_mistake_is_told_of_the_bucket_and_not_of_the_copy(server):
    told = f"^--workdir={RUN} holds no run"
    with pytest.raises(UserError, match=told), bucket.opened(RUN) as copy:
        assert bucket.address_of(copy) == RUN
        read_config(copy)


def test_what_is_written_comes_to_the_bucket_and_back(server):
    with bucket.opened(RUN + "/") as copy:
        (copy / "splits.csv").write_text("a")
        (copy / "metrics.jsonl").write_text("1\n")
        bucket.publish(copy)
        assert contents(server) == {"splits.csv": b"a", "metrics.jsonl": b"1\n"}
        with (copy / "metrics.jsonl").open("a") as file:
            file.write("2\n")
        (copy / "evaluate").mkdir()
        (copy / "evaluate" / "half.tmp").write_text("never seen")
        (copy / "evaluate" / "figures.json").write_text("{}")
    assert not copy.exists()
    expected = {"splits.csv": b"a", "metrics.jsonl": b"1\n2\n", "evaluate/figures.json": b"{}"}
    assert contents(server) == expected

    server.put("runs/one/checkpoints/4/big", b"", {})
    server.put("runs/oneself/other", b"", {})
    with bucket.opened(RUN) as copy:
        files = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
        assert files == {*expected, ".bucket"}
        assert (copy / "metrics.jsonl").read_text() == "1\n2\n"


def test_only_what_has_changed_here_is_written(server):
    """An evaluation must not bring back the log of a training that went on meanwhile."""
    server.put("runs/one/metrics.jsonl", b"1\n", {})
    with bucket.opened(RUN) as copy:
        server.put("runs/one/metrics.jsonl", b"1\n2\n", {})
        (copy / "new").write_text("n")
    assert contents(server) == {"metrics.jsonl": b"1\n2\n", "new": b"n"}


def test_an_evaluation_that_was_begun_anew_and_stopped_has_no_figures(server):
    server.put("runs/one/evaluate/test/metrics.json", b"{}", {})
    server.put("runs/one/evaluate/test/per_image.csv", b"old", {})
    server.put("runs/one/splits.csv", b"s", {})
    with bucket.opened(RUN) as copy:
        (copy / "evaluate" / "test" / "metrics.json").unlink()
        (copy / "evaluate" / "test" / "per_image.csv").write_text("new")
        (copy / "splits.csv").unlink()  # nothing else is ever deleted there
    assert contents(server) == {"evaluate/test/per_image.csv": b"new", "splits.csv": b"s"}


def test_each_process_brings_back_what_it_wrote_but_the_first_alone_publishes(server, monkeypatch):
    """Of an evaluation each writes the masks of its share into a copy of its own."""
    monkeypatch.setattr(bucket.jax, "process_index", lambda: 1)
    with bucket.opened(RUN) as copy:
        (copy / "masks").mkdir()
        (copy / "masks" / "a.png").write_text("m")
        bucket.publish(copy)
        assert contents(server) == {}
    assert contents(server) == {"masks/a.png": b"m"}


def test_what_came_before_the_lock_was_had_is_there(server):
    with bucket.opened(RUN) as copy:
        server.put("runs/one/metrics.jsonl", b"1\n2\n", {})
        with locked(copy):
            assert (copy / "metrics.jsonl").read_text() == "1\n2\n"


def test_a_folder_here_is_itself(tmp_path):
    with bucket.opened(str(tmp_path)) as folder, bucket.held(folder):
        bucket.publish(folder)
        assert folder == tmp_path
        assert bucket.checkpoints_folder(folder) == tmp_path / "checkpoints"
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_lie_in_the_bucket(server):
    with bucket.opened(RUN) as copy:
        assert str(bucket.checkpoints_folder(copy)) == f"{RUN}/checkpoints"


def test_two_runs_in_one_folder_are_refused(server, monkeypatch):
    monkeypatch.setattr(bucket, "RENEWAL_SECONDS", 0.05)
    monkeypatch.setattr(bucket, "LEASE_SECONDS", 0.5)
    with bucket.opened(RUN) as copy, bucket.opened(RUN) as other:
        with locked(copy), pytest.raises(UserError, match="is in use by process"), locked(other):
            pass
        with locked(other):
            assert ".lock" in contents(server)
    assert ".lock" not in contents(server)


def test_a_lock_whose_holder_died_is_taken_over(server, monkeypatch, capsys):
    monkeypatch.setattr(bucket, "LEASE_SECONDS", 0.1)
    server.put("runs/one/.lock", b"process 1 on a machine that is gone", {})
    with bucket.opened(RUN) as copy, locked(copy):
        assert b"that is gone" not in contents(server)[".lock"]
    assert "was in use by process 1 on a machine that is gone" in capsys.readouterr().out


def test_who_has_lost_the_lock_ends(server, monkeypatch):
    monkeypatch.setattr(bucket, "RENEWAL_SECONDS", 0.05)
    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda status: ended.set())
    with bucket.opened(RUN) as copy, locked(copy):
        server.put("runs/one/.lock", b"another", {})
        assert ended.wait(5)
    assert contents(server)[".lock"] == b"another"


@pytest.mark.parametrize(
    ("address", "words"),
    [("gs://nowhere/run", "create the bucket"), ("gs://bucket", "say gs://BUCKET/FOLDER")],
)
def test_a_mistaken_address_is_told(server, address, words):
    with pytest.raises(UserError, match=words), bucket.opened(address):
        pass


TRAIN = [
    "--config=configs/quickstart.py",
    "--config.model.base_features=4",
    "--config.image_size=(32, 32)",
    "--config.batch_size=8",
    "--config.data.num_images=160",
    "--config.data.size=32",
    "--config.num_epochs=4.0",
    "--config.eval_every_epochs=4.0",
    "--config.schedule.warmup_epochs=0",
    "--config.save_every_steps=10",
    "--config.log_every_steps=1",
]


def start(*arguments):
    command = [sys.executable, "-m", "skinjax.main", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process, status=0):
    words, errors = process.communicate(timeout=300)
    assert process.returncode == status, errors
    return words


@pytest.mark.slow
def test_a_run_in_a_bucket_trains_goes_on_and_is_evaluated(server, cache_dir):
    train = [*TRAIN, f"--config.data.cache_dir={cache_dir}"]
    stopped = start(*train, f"--workdir={RUN}")
    while not any("/checkpoints/10/" in name for name in list(server.objects)):
        assert stopped.poll() is None, stopped.communicate()
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    finish(stopped, status=75)
    there = contents(server)
    assert {"config.json", "splits.csv", "classes.json", "metrics.jsonl"} <= there.keys()
    assert any(name.startswith("tensorboard/") for name in there)
    assert ".lock" not in there

    assert "goes on from step" in finish(start(*train, f"--workdir={RUN}"))
    logged = [json.loads(line) for line in contents(server)["metrics.jsonl"].splitlines()]
    steps = [event["step"] for event in logged if event["split"] == "train"]
    assert steps == sorted({*steps}), "a step is told twice, or after a later one"
    assert logged[-1]["split"] == "val" and logged[-1]["step"] == steps[-1]

    finish(start("--mode=evaluate", f"--workdir={RUN}"))
    figures = json.loads(contents(server)["evaluate/test/metrics.json"])
    assert figures["num_images"] > 0
    assert "evaluate/test/samples.png" in contents(server)
