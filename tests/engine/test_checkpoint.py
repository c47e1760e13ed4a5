"""Checkpoints: what is kept, what comes back, and what damage and a full disk leave."""

import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from runs import flip

from skinjax.engine import parallel
from skinjax.engine.checkpoint import Checkpoints
from skinjax.engine.manifest import find_damage
from skinjax.engine.state import TrainState
from skinjax.errors import UserError

SHARDING = parallel.replicated_sharding(parallel.create_mesh(jax.devices()[:2]))


def create_state(step, averaged=True, size=3):
    params = {"conv": {"kernel": jnp.full((size, 4), float(step))}}
    ema = {"params": jax.tree.map(lambda x: -x, params), "batch_stats": {}}
    state = TrainState(
        step=jnp.int32(step),
        params=params,
        batch_stats={"norm": {"mean": jnp.arange(2.0)}},
        opt_state=({"trace": params}, ()),
        plateau=None,
        ema=ema if averaged else None,
        skipped=jnp.int32(2),
    )
    return jax.device_put(state, SHARDING)


def open_checkpoints(path, **options):
    return Checkpoints(path, keep_last=2, best_metric="val/jaccard", **options)


def test_the_last_two_and_the_best_are_kept(tmp_path):
    scores = {1: 0.2, 2: 0.9, 3: 0.5, 4: None, 5: 0.6, 6: None}
    with open_checkpoints(tmp_path / "c") as checkpoints:
        for step, score in scores.items():
            metrics = None if score is None else {"val/jaccard": score}
            checkpoints.save(step, create_state(step), {"examples_seen": 8 * step}, metrics)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 5, 6]
        assert checkpoints.best_step() == 2
        assert checkpoints.latest_step() == 6
    with open_checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 5, 6]
        assert checkpoints.best_step() == 2


def test_the_newest_is_the_best_where_none_was_evaluated(tmp_path):
    with open_checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.best_step() is None
        checkpoints.save(3, create_state(3), {}, None)
        checkpoints.wait()
        assert checkpoints.best_step() == 3


@pytest.mark.parametrize("averaged", [True, False])
def test_a_state_comes_back_as_it_was(tmp_path, averaged):
    state = create_state(7, averaged)
    with open_checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(7, state, {"examples_seen": 56, "training_seconds": 1.5}, None)
        checkpoints.wait()
        abstract = parallel.abstract(lambda: create_state(0, averaged), SHARDING)
        restored, progress = checkpoints.restore(7, abstract)
        variables = checkpoints.restore_variables(7, SHARDING)
    assert progress == {"examples_seen": 56, "training_seconds": 1.5}
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    kernel = variables["params"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel, -7.0 if averaged else 7.0)


def test_a_state_saved_on_two_devices_is_read_on_one(tmp_path):
    one = parallel.replicated_sharding(parallel.create_mesh(jax.devices()[:1]))
    with open_checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, create_state(1), {}, None)
        checkpoints.wait()
        restored, _ = checkpoints.restore(1, parallel.abstract(lambda: create_state(0), one))
    assert restored.params["conv"]["kernel"].sharding == one


@pytest.mark.parametrize("is_asked_before", [True, False])
def test_a_full_disk_is_told_and_leaves_what_was_saved(small_disk, monkeypatch, is_asked_before):
    folder = small_disk / "c"
    if not is_asked_before:  # it fills while the checkpoint is written
        monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2**40))
    # Random, so that compression does not make it fit.
    noise = jax.random.normal(jax.random.key(0), (2048, 4096))
    large = create_state(2).replace(params={"conv": {"kernel": noise}})
    with open_checkpoints(folder) as checkpoints:
        checkpoints.save(1, create_state(1), {}, None)
    with (
        pytest.raises(UserError, match="The disk is full"),
        open_checkpoints(folder) as checkpoints,
    ):
        checkpoints.save(2, large, {}, None)
        checkpoints.wait()
    with open_checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [1]
        np.testing.assert_array_equal(kernel(checkpoints, 1), 1.0)
        checkpoints.save(2, create_state(2), {}, None)
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2]


def test_what_ends_a_run_is_told_though_its_checkpoint_cannot_be_finished(
    tmp_path, monkeypatch, caplog
):
    def close(manager):
        raise ValueError("No space left on device")

    monkeypatch.setattr(ocp.CheckpointManager, "close", close)
    with (
        pytest.raises(UserError, match="what the user can mend"),
        open_checkpoints(tmp_path / "c"),
    ):
        raise UserError("what the user can mend")
    assert "could not be finished (No space left on device)" in caplog.text


def kernel(checkpoints, step):
    """What `create_state` fills with the step."""
    abstract = parallel.abstract(lambda: create_state(0), SHARDING)
    return checkpoints.restore(step, abstract)[0].params["conv"]["kernel"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The checkpoints of steps 1 to 3, of which 2 is the best."""
    folder = tmp_path_factory.mktemp("saved") / "c"
    with open_checkpoints(folder) as checkpoints:
        for step, score in {1: 0.2, 2: 0.9, 3: 0.5}.items():
            checkpoints.save(step, create_state(step), {}, {"val/jaccard": score})
    with open_checkpoints(folder) as checkpoints:
        checkpoints.save(4, create_state(4), {}, {"val/jaccard": 0.6})
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3", "4"]
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of `saved`, to be damaged."""
    return shutil.copytree(saved, tmp_path / "c")


def files(checkpoint):
    return sorted(p.relative_to(checkpoint) for p in checkpoint.rglob("*") if p.is_file())


def largest(checkpoint):
    """The file that holds most of the arrays."""
    return max((checkpoint / "state").rglob("d/*"), key=lambda path: path.stat().st_size)


def test_whatever_is_done_to_a_file_is_found_and_named(folder):
    checkpoint = folder / "4"
    assert find_damage(checkpoint) is None
    names = [str(name) for name in files(checkpoint)]
    assert {"manifest.json", "_CHECKPOINT_METADATA", "metrics/metrics"} < set(names)
    for name in names:
        if name == "commit_success.txt":  # says nothing that is read
            continue
        path = checkpoint / name
        content = path.read_bytes()
        path.unlink()
        assert find_damage(checkpoint) == f"{name} is missing"
        path.write_bytes(content[:-1])
        assert find_damage(checkpoint).startswith(f"{name} has ")
        path.write_bytes(content)
        if name not in ("manifest.json", "_CHECKPOINT_METADATA"):
            flip(path)
            assert find_damage(checkpoint) == f"{name} has changed"
            path.write_bytes(content)
    assert find_damage(checkpoint) is None


@pytest.mark.parametrize("name", ["manifest.json", "_CHECKPOINT_METADATA"])
def test_a_flip_in_what_describes_a_checkpoint_is_found_or_does_no_harm(folder, name):
    path = folder / "2" / name
    content = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(content), 60):
        flip(path, place)
        if find_damage(folder / "2") is None:
            with open_checkpoints(folder, read_only=True) as checkpoints:
                assert checkpoints.best_step() == 2
                np.testing.assert_array_equal(kernel(checkpoints, 2), 2.0)
        path.write_bytes(content)


def test_the_newest_is_damaged_and_the_one_before_is_used(folder, caplog):
    flip(largest(folder / "4"))
    with open_checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [2, 3]
        name = largest(folder / "damaged-4").relative_to(folder / "damaged-4")
        assert f"step 4 in {folder} is damaged ({name} has changed)" in caplog.text
        np.testing.assert_array_equal(kernel(checkpoints, 3), 3.0)
        # The step is done, and saved, again.
        checkpoints.save(4, create_state(4), {}, {"val/jaccard": 0.6})
        checkpoints.wait()
        np.testing.assert_array_equal(kernel(checkpoints, 4), 4.0)
    assert find_damage(folder / "4") is None


def test_where_none_is_whole_none_is_touched(folder):
    for step in (2, 3, 4):
        largest(folder / str(step)).unlink()
    with pytest.raises(UserError, match=r"No checkpoint in .* is whole: of step 2, .* is missing"):
        open_checkpoints(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3", "4"]


def test_readers_refuse_a_damaged_one_and_move_nothing(folder):
    flip(largest(folder / "2"))
    with open_checkpoints(folder, read_only=True) as checkpoints:
        assert checkpoints.best_step() == 2
        for read in (kernel, lambda found, step: found.restore_variables(step, SHARDING)):
            with pytest.raises(UserError, match=r"c/2 is damaged: .* has changed.*there are 3, 4"):
                read(checkpoints, 2)
        np.testing.assert_array_equal(kernel(checkpoints, 3), 3.0)
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3", "4"]


def test_readers_do_without_one_whose_scores_cannot_be_read(folder):
    (folder / "2" / "metrics" / "metrics").write_text("{")
    with open_checkpoints(folder, read_only=True) as checkpoints:
        assert checkpoints.steps() == [3, 4]
        assert checkpoints.unreadable == {2: "metrics/metrics has 1 of its 20 bytes"}
        np.testing.assert_array_equal(kernel(checkpoints, 4), 4.0)


def test_a_checkpoint_gets_its_name_with_its_manifest_or_not_at_all(tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def die(folder):
        raise Killed

    monkeypatch.setattr("skinjax.engine.manifest.write_manifest", die)
    with pytest.raises(Killed), open_checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, create_state(1), {}, None)
        checkpoints.wait()
    monkeypatch.undo()
    with open_checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.steps() == []
        checkpoints.save(1, create_state(1), {}, None)
    assert find_damage(tmp_path / "c" / "1") is None


@pytest.mark.parametrize("counts_skipped", [True, False])
def test_checkpoints_of_older_versions_are_read_with_a_warning(
    tmp_path, monkeypatch, caplog, counts_skipped
):
    """They have no manifest, and the first ones did not count skipped steps."""
    state = create_state(5)
    older = state if counts_skipped else {k: v for k, v in vars(state).items() if k != "skipped"}
    with monkeypatch.context() as patch:
        patch.setattr("skinjax.engine.manifest.write_manifest", lambda folder: None)
        patch.setattr("skinjax.engine.manifest.description", dict)
        with open_checkpoints(tmp_path / "c") as checkpoints:
            checkpoints.save(5, older, {"examples_seen": 40}, None)
    abstract = parallel.abstract(lambda: create_state(0), SHARDING)
    with open_checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        restored, progress = checkpoints.restore(5, abstract)
        variables = checkpoints.restore_variables(5, SHARDING)
    assert "cannot be checked" in caplog.text
    assert progress == {"examples_seen": 40}
    expected = state.replace(skipped=jnp.int32(2 if counts_skipped else 0))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, expected)
    np.testing.assert_array_equal(variables["params"]["conv"]["kernel"], -5.0)
