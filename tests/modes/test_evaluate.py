"""An evaluation is not replaced by one of something else that has its name."""

import json

import pytest

from skinjax.errors import UserError
from skinjax.modes.evaluate import _check_replaced


@pytest.fixture
def runs(tmp_path):
    return [tmp_path / "A" / "seed0", tmp_path / "B" / "seed1"]


@pytest.fixture
def output(tmp_path, runs):
    """The average of two runs, of images a and b."""
    folder = tmp_path / "A" / "seed0" / "evaluate" / "all-folder-with-seed1"
    folder.mkdir(parents=True)
    averaged = [{"workdir": str(run), "checkpoint_step": 9} for run in runs]
    (folder / "metrics.json").write_text(json.dumps({"averaged": averaged}))
    (folder / "predictions.csv").write_text("image_id,truth\na,nv\nb,mel\n")
    return folder


@pytest.mark.parametrize("images", [{"a", "b"}, {"a", "b", "c"}])
def test_the_same_is_replaced_also_where_its_data_has_grown(output, runs, images):
    _check_replaced(output, images, runs)


def test_one_of_other_images_is_named(output, runs):
    with pytest.raises(
        UserError, match=r"with-seed1 is an evaluation of other images .1 .* as b.: move"
    ):
        _check_replaced(output, {"a", "c"}, runs)


def test_one_of_other_runs_is_named(output, runs, tmp_path):
    with pytest.raises(UserError, match=r"the average of .*A/seed0 and .*B/seed1: move"):
        _check_replaced(output, {"a", "b"}, [runs[0], tmp_path / "A" / "seed1"])


def test_one_that_was_not_finished_is_replaced_by_anything(output, runs):
    (output / "metrics.json").unlink()
    _check_replaced(output, {"c"}, runs[:1])
    _check_replaced(output / "missing", {"c"}, runs[:1])
