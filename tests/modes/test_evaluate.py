"""An evaluation is not replaced by one of other images that has its name."""

import json

import pytest

from skinjax.errors import UserError
from skinjax.modes.evaluate import _make_folder


@pytest.fixture
def output(tmp_path):
    """An evaluation of the images a and b."""
    folder = tmp_path / "run" / "evaluate" / "all-folder"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("{}")
    (folder / "predictions.csv").write_text("image_id,truth\na,nv\nb,mel\n")
    return folder


@pytest.mark.parametrize("images", [{"a", "b"}, {"a", "b", "c"}])
def test_the_same_is_replaced_also_where_its_data_has_grown(output, images):
    before = sorted(output.iterdir())
    _make_folder(output, images)
    assert sorted(output.iterdir()) == before


def test_one_of_other_images_is_named(output):
    with pytest.raises(UserError, match=r"all-folder is an evaluation of other images .* as b\)"):
        _make_folder(output, {"a", "c"})


def test_an_average_with_another_run_is_not_replaced(output):
    ours, other = output.parents[1], output.parents[2] / "lite" / "s1"
    averaged = [{"workdir": "/wherever/it/was"}, {"workdir": str(other)}]
    (output / "metrics.json").write_text(json.dumps({"averaged": averaged}))
    now = [str(ours), str(output.parents[2] / "scse" / "s1")]
    _make_folder(output, {"a", "b"}, now)  # the other is gone: it may be the same, moved
    other.mkdir(parents=True)
    with pytest.raises(UserError, match=r"average with another run \(.*lite/s1\): move"):
        _make_folder(output, {"a", "b"}, now)
    _make_folder(output, {"a", "b"}, [str(ours), str(other)])
    averaged[1]["workdir"] = "gs://b/lite/s1"
    (output / "metrics.json").write_text(json.dumps({"averaged": averaged}))
    with pytest.raises(UserError, match=r"another run \(gs://b/lite/s1\)"):
        _make_folder(output, {"a", "b"}, now)


def test_an_average_by_relative_paths_and_a_damaged_one_are_replaced(output, monkeypatch):
    other = output.parents[2] / "lite"
    other.mkdir()
    monkeypatch.chdir(output.parents[2])  # as an earlier version wrote them
    averaged = [{"workdir": "run"}, {"workdir": "lite"}]
    (output / "metrics.json").write_text(json.dumps({"averaged": averaged}))
    _make_folder(output, {"a", "b"}, [str(output.parents[1]), str(other)])
    (output / "metrics.json").write_text('{"averaged": [')
    _make_folder(output, {"a", "b"})


def test_one_that_was_not_finished_is_replaced_by_anything(output):
    (output / "metrics.json").unlink()
    _make_folder(output, {"c"})


def test_a_folder_is_made_or_the_mend_told(output, monkeypatch):
    _make_folder(output.parent / "other", {"c"})
    assert (output.parent / "other").is_dir()

    def refuse(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    for folder in (output, output / "metrics.json" / "below"):
        with pytest.raises(UserError, match=r"cannot be written \(.*\): copy the run to a folder"):
            _make_folder(folder, {"a", "b"})
