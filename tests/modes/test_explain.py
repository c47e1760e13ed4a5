"""Explanations of pictures: a sheet each, at their own shape, whatever that is."""

import numpy as np
import pytest
from PIL import Image
from saved_runs import write_run

import skinjax
from skinjax.data.sources.files import stat_file
from skinjax.data.sources.phantom import render
from skinjax.models import cbam_resnet, seunet
from skinjax.modes import explain as mode
from skinjax.modes.explain import explain

SHAPES = [(75, 100), (90, 60), (48, 64), (300, 400)]  # the last above config.data.size


@pytest.fixture(scope="module", autouse=True)
def short_nets():
    """One block a stage and two levels, so that what is compiled is small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cbam_resnet.STAGES, 18, (1, 1, 1, 1))
        patch.setattr(seunet, "NUM_LEVELS", 2)
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for index, shape in enumerate(SHAPES):
        Image.fromarray(render(0, index, *shape)[0]).save(folder / f"{index}.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize(
    ("task", "model"),
    [("segmentation", {"base_features": 4}), ("classification", {"depth": 18})],
)
def test_each_picture_gets_a_sheet_of_its_own_shape(task, model, pictures, tmp_path, monkeypatch):
    write_run(tmp_path / "run", task, **model)
    drawn = {}
    name = "outline_sheet" if task == "segmentation" else "class_sheet"
    draw = getattr(mode.drawing, name)

    def keep(path, image, title, *rest):
        drawn[title] = image, rest
        draw(path, image, title, *rest)

    monkeypatch.setattr(mode.drawing, name, keep)
    monkeypatch.setattr(mode, "_BATCH_SIZE", 3)  # two batches, the last not full
    sheets = [tmp_path / "out" / "sub" / picture.name for picture in pictures]
    files = [stat_file(str(p), p.name) for p in pictures]
    told = None
    if task == "classification":
        model_of_run = skinjax.load(tmp_path / "run")
        told = np.array([model_of_run.predict(picture).probabilities for picture in pictures])
        told[2] = np.roll(told[2], 1)  # not what this model alone would say
    explain(tmp_path / "run", files, sheets, probabilities=told)
    assert all(sheet.read_bytes().startswith(b"\x89PNG") for sheet in sheets)
    for index, (picture, shape) in enumerate(zip(pictures, SHAPES, strict=True)):
        image, rest = drawn[picture.name]
        np.testing.assert_array_equal(image, np.asarray(Image.open(picture)))
        if told is None:
            predicted = skinjax.load(tmp_path / "run").predict(picture)
            np.testing.assert_allclose(rest[0], predicted.probabilities, atol=1e-5)
        else:
            np.testing.assert_array_equal(rest[1], told[index])
        maps = rest[:2] if task == "segmentation" else rest[2:3]
        assert [m.shape for m in maps] == [shape] * len(maps)
        gates = rest[-1]
        assert [name for name, _ in gates][:2] == (
            ["encoder 0", "encoder 1"] if task == "segmentation" else ["stage 1.0", "stage 2.0"]
        )

    # Alone, a picture is explained as it is in a batch.
    together = drawn[pictures[2].name][1]
    alone = stat_file(str(pictures[2]), pictures[2].name)
    chances = None if told is None else told[2:3]
    explain(tmp_path / "run", [alone], [tmp_path / "again.png"], probabilities=chances)
    alone = drawn[pictures[2].name][1]
    index = 1 if task == "segmentation" else 2
    np.testing.assert_allclose(alone[index], together[index], atol=1e-5)
    if told is not None:  # the likeliest class is the one that is explained
        explain(tmp_path / "run", files[2:3], sheets[2:3], probabilities=np.roll(chances, -1))
        assert np.abs(drawn[pictures[2].name][1][2] - together[2]).max() > 0.01
