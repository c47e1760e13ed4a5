"""The loop: it resumes bit for bit, keeps its contract, and gives the same on many devices."""

import csv
import json
import os
import signal

import jax
import numpy as np
import pytest
from processes import as_file, finish, start
from runs import TWO, assert_same_end, call_at, events, restore, tiny_config

from skinjax.engine import parallel
from skinjax.engine.checkpoint import Checkpoints
from skinjax.errors import Interrupted, UserError
from skinjax.modes import datasets
from skinjax.modes.config import classification_config
from skinjax.modes.evaluate import evaluate
from skinjax.modes.inference import restore_variables
from skinjax.modes.train import _Run, _write_setting, train
from skinjax.modes.workdir import (
    locked,
    open_workdir,
    read_classes,
    read_config,
    write_classes,
    write_config,
)
from skinjax.tasks.metrics import MASK_HEADLINES
from skinjax.tasks.segmentation import Segmentation


@pytest.fixture
def config(cache_dir):
    return tiny_config(cache_dir)


@pytest.fixture(scope="module", autouse=True)
def windows_do_not_depend_on_the_clock():
    """Each window is waited for; else two may be written as one where the device is slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skinjax.engine.monitor._is_ready", lambda window: True)
        yield


@pytest.fixture(scope="module")
def whole_run(cache_dir, tmp_path_factory):
    """A run that was never stopped."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    train(tiny_config(cache_dir), workdir, TWO)
    return workdir


def test_a_run_leaves_its_contract(whole_run):
    state, progress = restore(whole_run)
    total = int(state.step)
    assert progress["examples_seen"] == total * 8
    assert [event["step"] for event in events(whole_run, "val")][-1] == total
    logged = events(whole_run, "train")
    assert [event["step"] for event in logged][-1] == total
    assert {"train/loss", "learning_rate", "images_per_second", "epoch"} <= logged[0].keys()
    assert read_config(whole_run).dtype == "float32"
    assert list((whole_run / "tensorboard").glob("events*"))
    scores = {event["step"]: event["val/jaccard"] for event in events(whole_run, "val")}
    with Checkpoints(whole_run / "checkpoints", 2, "val/jaccard", read_only=True) as checkpoints:
        best = checkpoints.best_step()
        assert {best, total} <= set(checkpoints.steps())
        assert scores[best] == max(scores.values())
        assert len(checkpoints.steps()) <= 3


def test_the_learning_rate_is_reduced_on_a_plateau(config, tmp_path, monkeypatch):
    summarise = Segmentation.summarise
    monkeypatch.setattr(
        Segmentation, "summarise", lambda self, sums: summarise(self, sums) | {"jaccard": 0.5}
    )
    train(config, tmp_path / "run", TWO)
    rates = {e["step"]: e["learning_rate"] for e in events(tmp_path / "run", "train")}
    # Evaluated at steps 4, 8 and 12 (and at the end, which does not count, since the run may go
    # on): the first is the best so far, each of the others is one too many.
    assert rates[8] == pytest.approx(0.1)
    assert rates[12] == pytest.approx(0.01)
    assert float(restore(tmp_path / "run")[0].plateau.scale) == pytest.approx(0.01, rel=0.1)


def test_a_crash_between_saves_changes_nothing(config, whole_run, tmp_path, monkeypatch):
    workdir = tmp_path / "run"

    class Crash(Exception):
        pass

    def crash():
        raise Crash

    with monkeypatch.context() as patch:
        call_at(patch, 8, crash)
        with pytest.raises(Crash):
            train(config, workdir, TWO)
    assert int(restore(workdir)[0].step) < 8
    train(config, workdir, TWO)
    assert_same_end(workdir, whole_run)
    scores = [[e["val/jaccard"] for e in events(w, "val")] for w in (workdir, whole_run)]
    assert scores[0] == scores[1]
    losses = [{e["step"] for e in events(w, "train")} for w in (workdir, whole_run)]
    assert losses[0] >= losses[1] - {8}


@pytest.mark.parametrize(("signal_number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_saves_and_changes_nothing(
    config, whole_run, tmp_path, monkeypatch, signal_number, status
):
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        call_at(patch, 5, lambda: os.kill(os.getpid(), signal_number))
        with pytest.raises(Interrupted, match="saved at step 5") as raised:
            train(config, workdir, TWO)
    assert raised.value.exit_status == status
    assert int(restore(workdir)[0].step) == 5
    train(config, workdir, TWO)
    assert_same_end(workdir, whole_run)


@pytest.mark.parametrize("cache", ["device", "none"])
def test_where_images_are_kept_changes_nothing(
    config, whole_run, tmp_path, monkeypatch, capsys, cache
):
    workdir = tmp_path / "run"
    config.data.cache = cache
    with monkeypatch.context() as patch:
        call_at(patch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(config, workdir, TWO)
    assert f"kept {'on each device' if cache == 'device' else 'nowhere'}" in capsys.readouterr().out
    config.data.cache = "device"
    train(config, workdir, TWO)
    assert_same_end(workdir, whole_run)


def test_images_are_kept_where_they_fit(config, monkeypatch):
    config.data.cache = "auto"
    size = 32 * 48 * 4  # bytes of an image and its mask
    assert datasets.choose_cache(config, 10, 1, True, 40 * size) == "device"
    assert datasets.choose_cache(config, 11, 1, True, 40 * size) == "host"
    assert datasets.choose_cache(config, 13, 1, False, 40 * size) == "device"
    assert datasets.choose_cache(config, 10, 1, True, None) == "host"
    memory = {"SC_PHYS_PAGES": 20 * size, "SC_PAGE_SIZE": 1}
    monkeypatch.setattr(os, "sysconf", memory.get)
    assert datasets.choose_cache(config, 9, 1, True, 10 * size) == "host"
    assert datasets.choose_cache(config, 9, 2, True, 10 * size) == "none"
    assert datasets.choose_cache(config, 9, 1, True, 10 * size, num_processes=2) == "none"
    assert datasets.choose_cache(config, 4, 1, True, 10 * size, num_processes=2) == "host"
    assert datasets.choose_cache(config, 9, 11, True, 40 * size) == "none"
    config.data.cache = "device"
    assert datasets.choose_cache(config, 10**9, 1, True, None) == "device"


def test_a_complete_run_stays_as_it_is(config, whole_run, capsys):
    before = (whole_run / "metrics.jsonl").read_bytes()
    assert train(config, whole_run, TWO) == {}
    assert "complete" in capsys.readouterr().out
    assert (whole_run / "metrics.jsonl").read_bytes() == before


def test_a_changed_config_is_refused_by_name_and_a_longer_one_goes_on(
    config, whole_run, cache_dir, tmp_path
):
    config.optimizer.learning_rate = 0.2
    config.seed = 1
    with pytest.raises(UserError, match=r"config\.optimizer\.learning_rate: 0\.1.*config\.seed"):
        train(config, whole_run, TWO)
    workdir = tmp_path / "run"
    longer = tiny_config(cache_dir)
    longer.num_epochs = 1.0
    train(longer, workdir, TWO)
    longer.num_epochs = 2.0  # the schedule, plateau, does not depend on it
    longer.log_every_steps = 5
    train(longer, workdir, TWO)
    assert int(restore(workdir)[0].step) == int(restore(whole_run)[0].step)
    longer.schedule.name = "cosine"
    with pytest.raises(UserError, match=r"config\.schedule\.name"):
        train(longer, workdir, TWO)


@pytest.mark.parametrize("num_devices", [1, 8])
def test_any_number_of_devices_gives_the_same_losses(config, whole_run, tmp_path, num_devices):
    if jax.device_count() < num_devices:
        pytest.skip(f"needs {num_devices} devices, there are {jax.device_count()}")
    config.num_epochs = 1.2
    train(config, tmp_path / "run", jax.devices()[:num_devices])
    many = events(tmp_path / "run", "train")[:4]
    two = events(whole_run, "train")[:4]
    # Sums over the batch are added in another order: float32, and each step builds on the last.
    np.testing.assert_allclose(
        [e["train/loss"] for e in many], [e["train/loss"] for e in two], rtol=2e-3
    )
    np.testing.assert_allclose(many[0]["train/loss"], two[0]["train/loss"], rtol=1e-5)


@pytest.mark.slow
def test_two_processes_give_what_one_gives_and_one_of_them_writes(config, whole_run, tmp_path):
    """On a mesh that divides parameters and rows, both across the processes."""
    workdir = tmp_path / "run"
    config.mesh.update(fsdp=2, space=2)
    config.num_epochs = 0.6
    config.log_every_steps = 1
    file = as_file(config, tmp_path)
    processes = start(2, 2, f"--config={file}", f"--workdir={workdir}")
    (spoken, _), (silence, _) = finish(processes)
    assert "4 x cpu (fsdp=2, space=2), 2 processes" in spoken and "Trained 4 steps" in spoken
    assert silence == ""
    found = {e["step"]: e["train/loss"] for e in events(workdir, "train")}
    wanted = {e["step"]: e["train/loss"] for e in events(whole_run, "train")}
    assert (found[1] + found[2]) / 2 == pytest.approx(wanted[2], rel=1e-4)
    assert found[3] == pytest.approx(wanted[3], rel=5e-3)
    scores = [events(run, "val")[0]["val/accuracy"] for run in (workdir, whole_run)]
    assert scores[0] == pytest.approx(scores[1], abs=5e-3)
    assert {path.name for path in workdir.iterdir()} == {path.name for path in whole_run.iterdir()}
    assert len(list((workdir / "tensorboard").iterdir())) == 1


def test_accumulation_sees_the_same_examples_and_learns_alike(config, tmp_path):
    config.schedule.name = "constant"
    config.num_epochs = 0.6
    losses = []
    for accumulation in (1, 2):
        config.accumulation = accumulation
        workdir = tmp_path / str(accumulation)
        train(config, workdir, TWO)
        losses.append(events(workdir, "train")[0]["train/loss"])
    # BatchNorm sees half the batch at a time: alike, not equal.
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


def test_a_batch_that_devices_do_not_divide_is_refused_with_the_nearest(config, tmp_path):
    config.batch_size = 9
    with pytest.raises(UserError, match="8 or 12"):
        train(config, tmp_path / "run", jax.devices()[:4])


def test_an_unknown_metric_is_refused_before_the_first_step(config, tmp_path):
    for metric in ("val/jacard", "val/num_images"):
        config.best_metric = metric
        with pytest.raises(UserError, match=r"choose one of .*val/jaccard"):
            train(config, tmp_path / "run", TWO)
    # Nothing was learnt, so that the folder is not the refused configuration's for good.
    config.best_metric = "val/jaccard"
    config.num_epochs = 1.0
    assert train(config, tmp_path / "run", TWO)
    assert read_config(tmp_path / "run").best_metric == "val/jaccard"


def test_a_config_that_no_refused_run_left_is_not_written_over(config, tmp_path):
    record = config.copy_and_resolve_references()
    record.batch_size = 16
    write_config(tmp_path / "config.json", record)
    with pytest.raises(UserError, match=r"config\.batch_size: 16 there, 8 now"):
        open_workdir(tmp_path, config)
    for name in ("splits.csv", "classes.json"):
        (tmp_path / name).touch()
    assert not open_workdir(tmp_path, config)
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(UserError, match=r"thesis\.doc"):
        open_workdir(tmp_path, config)
    (tmp_path / "config.json").write_text('{"architectures": []}')
    with pytest.raises(UserError, match=r"config\.task"):
        open_workdir(tmp_path, config)


def test_a_workdir_that_cannot_be_made_is_told(config, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file cannot be made"):
        train(config, tmp_path / "file", TWO)


@pytest.mark.parametrize(
    ("init_from", "message"),
    [("imagenet", "only the weights of EfficientNet-Lites"), ("w.pth", "w.pth is missing")],
)
def test_first_weights_that_are_not_there_are_told_before_a_run_is_made(
    config, tmp_path, init_from, message
):
    config.init_from = init_from
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "run", TWO)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_run_to_begin_with_gives_the_weights_and_their_average(config, whole_run, tmp_path):
    config.init_from = str(whole_run)
    mesh = parallel.create_mesh(TWO)
    with locked(tmp_path / "run"):
        run = _Run(config, tmp_path / "run", mesh)
    new = jax.jit(run.training.create_state, out_shardings=run.shardings)()
    state = jax.device_get(run._initialise(new))
    _, _, learnt = restore_variables(whole_run, "best", parallel.replicated_sharding(mesh))
    for found in ({"params": state.params, "batch_stats": state.batch_stats}, state.ema):
        jax.tree.map(np.testing.assert_array_equal, found, jax.device_get(learnt))


def test_a_folder_that_is_no_run_and_one_in_use_are_refused(config, tmp_path):
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(UserError, match=r"thesis\.doc"):
        train(config, tmp_path, TWO)
    workdir = tmp_path / "run"
    with locked(workdir), pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        train(config, workdir, TWO)


def test_a_data_set_that_changed_is_refused(config, whole_run):
    config.data.num_images = 48
    changed = read_config(whole_run)
    changed.data.num_images = 48
    original = (whole_run / "config.json").read_text()
    write_config(whole_run / "config.json", changed)
    try:
        with pytest.raises(UserError, match=r"not in the data set|has changed"):
            train(config, whole_run, TWO)
    finally:
        (whole_run / "config.json").write_text(original)


def test_classes_in_another_order_are_refused(config, tmp_path):
    prepared = datasets.prepare_data(config)
    splits = datasets.split_data(config, prepared)
    diagnoses = classification_config()
    _write_setting(tmp_path, diagnoses, prepared, splits, resumed=False)
    classes = read_classes(tmp_path)
    write_classes(tmp_path / "classes.json", classes[::-1])
    with pytest.raises(UserError, match=f"{classes[-1]}.* then, {classes[0]}.* now"):
        _write_setting(tmp_path, diagnoses, prepared, splits, resumed=True)
    assert read_classes(tmp_path) == classes[::-1]
    _write_setting(tmp_path, config, prepared, splits, resumed=True)  # outlines have none
    assert read_classes(tmp_path) == classes


def test_evaluation_counts_each_image_once_whatever_the_batch_size(whole_run, tmp_path):
    figures = evaluate(whole_run)
    with (whole_run / "splits.csv").open() as file:
        test_ids = [row["image_id"] for row in csv.DictReader(file) if row["split"] == "test"]
    with (whole_run / "evaluate" / "test" / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["image_id"] for row in rows) == sorted(test_ids)
    assert figures["num_images"] == len(test_ids)
    assert figures["jaccard"] == pytest.approx(np.mean([float(r["jaccard"]) for r in rows]))
    written = json.loads((whole_run / "evaluate" / "test" / "metrics.json").read_text())
    assert written == figures
    expected = {"dice", "thresholded_jaccard", "accuracy", "sensitivity", "specificity"}
    expected |= {"jaccard_pooled", "dice_pooled", "background_accuracy", "checkpoint_step"}
    expected |= {f"{name}_{end}" for name in MASK_HEADLINES for end in ("low", "high")}
    assert expected <= written.keys()
    assert written["weights"] == "ema"
    assert (whole_run / "evaluate" / "test" / "samples.png").stat().st_size > 10_000

    # Another batch size: other padding, the same scores.
    original = (whole_run / "config.json").read_text()
    changed = read_config(whole_run)
    changed.batch_size = 16
    # The steps are counted in batches: as many epochs as make the same total.
    write_config(whole_run / "config.json", changed)
    try:
        again = evaluate(whole_run)
    finally:
        (whole_run / "config.json").write_text(original)
    assert again["num_images"] == figures["num_images"]
    assert again["jaccard"] == pytest.approx(figures["jaccard"], abs=1e-6)


def test_no_evaluation_overwrites_anothers(whole_run):
    evaluate(whole_run, split="val")
    evaluate(whole_run, tta="flips")
    evaluate(whole_run, tta="zooms")
    with pytest.raises(UserError, match="--tta=zoom is not known"):
        evaluate(whole_run, tta="zoom")
    with Checkpoints(whole_run / "checkpoints", 2, "val/jaccard", read_only=True) as checkpoints:
        other = next(s for s in checkpoints.steps() if s != checkpoints.best_step())
    evaluate(whole_run, checkpoint=str(other))
    names = {path.name for path in (whole_run / "evaluate").iterdir()}
    assert {"val", "test-tta", "test-tta-zooms", f"test-step{other}"} <= names


def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(whole_run, tmp_path):
    with pytest.raises(UserError, match="has those of steps"):
        evaluate(whole_run, checkpoint="7777")
    with pytest.raises(UserError, match="holds no run"):
        evaluate(tmp_path)
