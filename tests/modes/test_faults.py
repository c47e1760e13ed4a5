"""What goes wrong from outside: bad disks, full ones, bad numbers, odd surroundings, kills."""

import errno
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import (
    TWO,
    assert_same_end,
    call_at,
    events,
    fill,
    flip,
    restore,
    tiny_config,
)

from skinjax.data.archives import cache_folder
from skinjax.data.records import Prepared
from skinjax.engine import memory, parallel
from skinjax.engine.manifest import find_damage
from skinjax.errors import UserError
from skinjax.modes import datasets
from skinjax.modes.evaluate import evaluate
from skinjax.modes.train import _Run, train
from skinjax.modes.workdir import make_folder
from skinjax.process import host_bytes, num_cores, set_up_jax
from skinjax.tasks.segmentation import Segmentation

ROOT = Path(__file__).resolve().parent.parent.parent


class Crash(Exception):
    """What ends a run in the middle."""


def crash():
    raise Crash


@pytest.fixture
def config(cache_dir):
    return tiny_config(cache_dir)


@pytest.fixture(scope="module")
def whole_run(cache_dir, tmp_path_factory):
    """A run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    train(tiny_config(cache_dir), workdir, TWO)
    return workdir


@pytest.fixture(scope="module")
def crashed_run(cache_dir, tmp_path_factory):
    """A run that ended at step 11, between the saves of steps 9 and 12."""
    workdir = tmp_path_factory.mktemp("runs") / "crashed"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):
        call_at(patch, 11, crash)
        train(tiny_config(cache_dir), workdir, TWO)
    return workdir


def checkpoints(workdir):
    """The checkpoint folders by their steps."""
    return {int(p.name): p for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()}


def largest_file(checkpoint):
    """The file that holds most of the arrays."""
    return max((checkpoint / "state").rglob("d/*"), key=lambda path: path.stat().st_size)


def test_training_goes_on_from_before_a_damaged_checkpoint(
    config, whole_run, crashed_run, tmp_path, caplog, capsys
):
    workdir = shutil.copytree(crashed_run, tmp_path / "run")
    newest, before = max(checkpoints(workdir)), sorted(checkpoints(workdir))[-2]
    flip(largest_file(checkpoints(workdir)[newest]))
    train(config, workdir, TWO)
    assert f"The checkpoint of step {newest} " in caplog.text and "has changed" in caplog.text
    assert f"goes on from step {before}." in capsys.readouterr().out
    assert_same_end(workdir, whole_run)
    assert all(find_damage(folder) is None for folder in checkpoints(workdir).values())


def test_evaluation_refuses_a_damaged_checkpoint_and_takes_no_other_unasked(whole_run, tmp_path):
    workdir = shutil.copytree(whole_run, tmp_path / "run")
    best = evaluate(workdir)["checkpoint_step"]
    other = next(step for step in checkpoints(workdir) if step != best)
    flip(largest_file(checkpoints(workdir)[best]))
    with pytest.raises(UserError, match=rf"checkpoints/{best} is damaged: .*there are.* {other}"):
        evaluate(workdir)
    assert evaluate(workdir, checkpoint=str(other))["checkpoint_step"] == other
    # Where its scores cannot be read either, nobody knows that it was the best.
    (checkpoints(workdir)[best] / "metrics" / "metrics").unlink()
    with pytest.raises(UserError, match=f"checkpoint=best: the one of step {best} .* is damaged"):
        evaluate(workdir)
    with pytest.raises(UserError, match=f"the one of step {best} .* is damaged"):
        evaluate(workdir, checkpoint=str(best))
    assert evaluate(workdir, checkpoint=str(other))["checkpoint_step"] == other


def not_finite_at(monkeypatch, steps):
    """Makes the pictures of these steps NaN; a step is known by its random key."""
    keys = [jax.random.fold_in(jax.random.key(0), step - 1) for step in steps]
    keys = jnp.stack([jax.random.key_data(key) for key in keys])
    augment = Segmentation.augment

    def augment_badly(self, batch, key):
        batch = augment(self, batch, key)
        is_bad = jnp.any(jnp.all(keys == jax.random.key_data(key), axis=1))
        return batch | {"images": jnp.where(is_bad, jnp.nan, batch["images"])}

    monkeypatch.setattr(Segmentation, "augment", augment_badly)


def skipped(workdir):
    lines = (workdir / "skipped_steps.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_steps_that_are_not_finite_are_skipped_up_to_a_limit(config, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    config.max_skipped_steps = 2
    not_finite_at(monkeypatch, [2, 5, 6, 9, 10, 11])
    with pytest.raises(UserError, match=r"Step 11: .*3 times in a row.*max_skipped_steps \(2\)"):
        train(config, workdir, TWO)
    lines = skipped(workdir)
    assert [line["step"] for line in lines] == [2, 5, 6, 9, 10, 11]
    assert {len(line["image_ids"]) for line in lines} == {config.batch_size}
    assert sum(event["train/skipped_steps"] for event in events(workdir, "train")) == 6
    # The last good one is kept, and finite.
    state, _ = restore(workdir)
    assert 8 <= int(state.step) < 11
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    # The user bears it: the run goes on to its end.
    config.max_skipped_steps = 3
    train(config, workdir, TWO)
    state, _ = restore(workdir)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert skipped(workdir) == lines


def test_the_image_ids_of_a_step_are_those_of_its_batch(config, tmp_path):
    run = _Run(config, tmp_path / "run", parallel.create_mesh(TWO))
    positions = {row.image_id: position for position, row in enumerate(run.table)}
    batches = run.train_batches(0)
    for step in range(1, 9):  # across the border of an epoch
        batch = next(batches)
        ids = run.image_ids(step)
        indices = [run.train_examples.positions.index(positions[image_id]) for image_id in ids]
        expected = np.stack([run.train_examples[index]["images"] for index in indices])
        np.testing.assert_array_equal(batch["images"], expected)


def test_a_step_larger_than_the_memory_is_refused_before_it_is_tried(config, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**20)
    with pytest.raises(UserError, match=r"about .* 4 of the config\.batch_size=8 .* 32x48"):
        train(config, tmp_path / "run", TWO)
    assert not checkpoints(tmp_path / "run")


# What a full disk does to Orbax's threads, if it comes while they write.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_fills_while_it_trains_harms_nothing(
    config, whole_run, small_disk, monkeypatch
):
    workdir = small_disk / "run"
    with monkeypatch.context() as patch:
        call_at(patch, 7, lambda: fill(small_disk))
        with pytest.raises((UserError, OSError)) as raised:
            train(config, workdir, TWO)
    error = raised.value
    assert "The disk is full" in str(error) or getattr(error, "errno", None) == errno.ENOSPC
    assert all(find_damage(folder) is None for folder in checkpoints(workdir).values())
    (small_disk / "filler").unlink()
    train(config, workdir, TWO)
    assert_same_end(workdir, whole_run)


def test_a_disk_that_is_full_when_figures_are_written_is_told(whole_run, small_disk):
    workdir = shutil.copytree(whole_run, small_disk / "run")
    filler = fill(small_disk)
    command = [sys.executable, "-m", "skinjax.main", "--mode=evaluate", f"--workdir={workdir}"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 2, told.stderr
    assert "the disk is full" in told.stderr and str(workdir) in told.stderr
    assert "Traceback" not in told.stderr
    assert all(find_damage(folder) is None for folder in checkpoints(workdir).values())
    filler.unlink()
    assert evaluate(workdir)["num_images"] > 0


def damaged_records(folder, positions):
    """Those of the positions that cannot be read."""
    prepared = Prepared(folder)
    for position in positions:
        try:
            prepared.read(position)
        except UserError:
            yield position


def test_a_record_that_is_damaged_ends_the_training_by_name(config, cache_dir, tmp_path):
    prepared = datasets.prepare_data(config)
    positions = datasets.split_data(config, prepared)["train"]
    config.data.cache_dir = str(tmp_path / "cache")
    shutil.copytree(cache_dir / "prepared", tmp_path / "cache" / "prepared")
    folder = tmp_path / "cache" / "prepared" / prepared.directory.name
    (shard,) = folder.glob("*array_record*")
    for place in range(1000, shard.stat().st_size, 500):
        flip(shard, place)
        damaged = list(damaged_records(folder, positions))
        if damaged:
            break
        flip(shard, place)
    position, name = damaged[0], prepared.table[damaged[0]].image_id
    with pytest.raises(UserError, match=rf"Record {position} of .*{shard.name} \(image {name}\)"):
        train(config, tmp_path / "run", TWO)


@pytest.mark.slow
def test_a_clock_that_jumps_and_another_time_zone_change_nothing(
    config, whole_run, tmp_path, monkeypatch
):
    clock, year = time.time, 365 * 24 * 3600
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Pacific/Kiritimati")
        time.tzset()
        call_at(patch, 5, lambda: patch.setattr(time, "time", lambda: clock() - year))
        call_at(patch, 7, crash)
        with pytest.raises(Crash):
            train(config, workdir, TWO)
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/St_Johns")
        time.tzset()
        call_at(patch, 2, lambda: patch.setattr(time, "time", lambda: clock() + year))
        train(config, workdir, TWO)
    time.tzset()
    assert_same_end(workdir, whole_run)


FIELDS = [
    "--config.image_size=(32, 48)",
    "--config.batch_size=8",
    "--config.model.base_features=4",
    "--config.data.num_images=64",
    "--config.data.size=48",
    "--config.num_epochs=0.5",
    "--config.schedule.warmup_epochs=0",
]


def run_in(folder, *arguments, **variables):
    """A process that has little: an ASCII locale, of the environment what jax needs in tests."""
    kept = {k: v for k, v in os.environ.items() if k.startswith(("JAX_", "XLA_")) or k == "PATH"}
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "skinjax.main", *arguments]
    environment = kept | plain | variables
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_it_works_without_a_home_in_an_ascii_locale_and_a_relative_path_with_spaces(tmp_path):
    folder = tmp_path / "my runs"
    folder.mkdir()
    fields = [f"--config={ROOT / 'configs' / 'quickstart.py'}", *FIELDS, "--workdir=first run"]
    fields += [f"--config.data.cache_dir={tmp_path / 'its cache'}"]
    assert "Trained" in run_in(folder, *fields).stdout
    assert checkpoints(folder / "first run")
    run_in(folder, "--mode=evaluate", "--workdir=first run", HOME="/proc", TMPDIR=str(tmp_path))
    assert (folder / "first run" / "evaluate" / "test" / "metrics.json").is_file()
    assert [path.name for path in folder.iterdir()] == ["first run"]


@pytest.mark.parametrize("home", ["/proc", "/dev/null", None])
def test_without_a_home_to_write_to_the_cache_is_a_temporary_folder(
    home, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    if home is None:

        def unknown(uid):
            raise KeyError(uid)

        monkeypatch.delenv("HOME")
        monkeypatch.setattr(pwd, "getpwuid", unknown)
    else:
        monkeypatch.setenv("HOME", home)
    assert cache_folder("~/.cache/skinjax") == tmp_path / f"skinjax-{os.getuid()}"
    assert "cannot be written" in caplog.text
    assert cache_folder("data/cache") == Path("data/cache")


def test_without_a_home_programs_are_compiled_anew(monkeypatch):
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_COMPILATION_CACHE_MAX_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # and set back, as the others
    monkeypatch.setenv("HOME", "/proc")
    set_up_jax()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_the_memory_is_that_of_the_container_or_the_job(tmp_path):
    whole = host_bytes(tmp_path / "none")
    assert whole > 2**28
    groups = tmp_path / "groups"
    groups.write_text("1:cpu:/job\n2:cpuacct,memory:/job/step\n0::/here/below\n")
    assert host_bytes(groups, tmp_path) == whole
    for folder, text in (("here/below", "max"), ("here", "3000"), ("memory/job/step", "2000")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        name = "memory.limit_in_bytes" if folder.startswith("memory") else "memory.max"
        (tmp_path / folder / name).write_text(f"{text}\n")
    assert host_bytes(groups, tmp_path) == 2000
    (tmp_path / "memory/job/step/memory.limit_in_bytes").write_text(str(2**63 - 4096))
    assert host_bytes(groups, tmp_path) == 3000


def test_the_cores_are_those_of_the_container_or_the_job(tmp_path):
    whole = num_cores(tmp_path / "none")
    assert whole >= 1
    groups = tmp_path / "groups"
    groups.write_text("1:cpu,cpuacct:/job\n2:memory:/job\n0::/here/below\n")

    def limit(file, text):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(f"{text}\n")

    limit("here/below/cpu.max", "max 100000")
    limit("cpu/job/cpu.cfs_quota_us", "-1")
    limit("cpu/job/cpu.cfs_period_us", "100000")
    assert num_cores(groups, tmp_path) == whole
    limit("here/cpu.max", "50000 100000")
    assert num_cores(groups, tmp_path) == 1
    limit("here/cpu.max", "max 100000")
    limit("cpu/job/cpu.cfs_quota_us", "90000")
    assert num_cores(groups, tmp_path) == 1


def test_a_folder_that_cannot_be_written_is_told_before_the_work(tmp_path):
    make_folder("output", tmp_path / "new" / "folder")
    assert not list((tmp_path / "new" / "folder").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--output=.*file/below cannot be made"):
        make_folder("output", tmp_path / "file" / "below")
    with pytest.raises(UserError, match=r"--output=/proc cannot be written"):
        make_folder("output", Path("/proc"))


def test_a_home_that_can_be_written_is_used(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("~/.cache/skinjax") == tmp_path / ".cache" / "skinjax"
    assert not caplog.text


@pytest.mark.slow
def test_sigterm_saves_within_the_grace_time_and_the_exit_status_says_go_on(tmp_path, cache_dir):
    command = [sys.executable, "-m", "skinjax.main", "--config=configs/quickstart.py", *FIELDS]
    command += [f"--config.data.cache_dir={cache_dir}", f"--workdir={tmp_path / 'run'}"]
    command += ["--config.num_epochs=500", "--config.log_every_steps=1"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout:
            if line.startswith("step "):
                break
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert second.returncode == 2
        assert f"in use by process {process.pid}" in second.stderr
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "SIGTERM: saved at step" in told
    # Clouds give 30 seconds.
    assert time.monotonic() - start < 20
    assert checkpoints(tmp_path / "run")
