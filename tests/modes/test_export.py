"""Exported files: read where there is no skinjax, they compute what the model does."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from saved_runs import (
    IMAGE_SIZE,
    STEP,
    make_variables,
    predict,
    read_pictures,
    run_alone,
    write_run,
)

from skinjax.data.augment import normalise
from skinjax.data.sources.example import CLASSES
from skinjax.errors import UserError
from skinjax.models import cbam_resnet, seunet
from skinjax.modes import export_forms
from skinjax.modes.export import describe, export
from skinjax.modes.export_forms import load_safetensors
from skinjax.modes.saved_model import load_model
from skinjax.modes.workdir import read_calibration
from skinjax.tasks.initialise import from_state_dict

MODELS = {"segmentation": {"base_features": 4}, "classification": {"depth": 18}}
TEMPERATURE = 0.4
CALIBRATION = {"fitted_on": "val", "temperature": TEMPERATURE, "melanoma_threshold": 0.2}

# What somebody who has the file and jax, but no skinjax, would write.
CALL_STABLEHLO = """
import sys
import jax, numpy as np
exported = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
images = np.load(sys.argv[2])
np.save(sys.argv[3], exported.call(images))
assert exported.platforms == ("cpu", "cuda", "tpu"), exported.platforms
assert not any(name.split(".")[0] in ("skinjax", "flax") for name in sys.modules)
"""
READ_SAFETENSORS = """
import json, sys
import safetensors.numpy
arrays = safetensors.numpy.load_file(sys.argv[1])
print(json.dumps({name: [float(x.sum()), list(x.shape)] for name, x in arrays.items()}))
assert not any(name.split(".")[0] in ("skinjax", "flax", "jax") for name in sys.modules)
"""


@pytest.fixture(scope="module", autouse=True)
def short_nets():
    """One block a stage and two levels, so that what is compiled is small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cbam_resnet.STAGES, 18, (1, 1, 1, 1))
        patch.setattr(seunet, "NUM_LEVELS", 2)
        yield


@pytest.fixture(scope="module", params=MODELS)
def run(request, tmp_path_factory):
    """The folder of a run, and its model's variables."""
    workdir = tmp_path_factory.mktemp("runs") / request.param
    variables = write_run(workdir, request.param, **MODELS[request.param])
    if request.param == "classification":
        (workdir / "calibration").mkdir()
        (workdir / "calibration" / f"step{STEP}.json").write_text(json.dumps(CALIBRATION))
    return workdir, variables


@pytest.fixture(scope="module")
def images():
    return read_pictures(64)


def test_stablehlo_computes_the_same_without_skinjax(run, images, tmp_path, capsys):
    workdir, variables = run
    file = tmp_path / "new" / "model.stablehlo"
    description = export(workdir, file)
    assert "from the model at most" in capsys.readouterr().out
    assert json.loads(file.with_name("model.stablehlo.json").read_text()) == description
    output = run_alone(CALL_STABLEHLO, file, images, tmp_path)
    reference = predict(workdir, variables, images, TEMPERATURE)
    assert reference.std() > 0.01
    np.testing.assert_allclose(output, reference, atol=1e-4)


def test_the_description_tells_how_to_feed_it_and_what_comes_out(run):
    workdir, _ = run
    calibration = read_calibration(workdir, STEP, tta="")
    description = describe(load_model(workdir), calibration, ".stablehlo", tta="")
    assert description["image_size"] == list(IMAGE_SIZE) and description["fit"] == "squash"
    assert description["checkpoint_step"] == STEP and description["weights"] == "ema"
    assert description["learnt_from"] == {"phantom": "Apache-2.0, as skinjax"}
    assert "not a medical device" in description["use"]
    pixel = np.full((1, 1, 1, 3), 77, np.uint8)
    told = description["normalisation"]
    by_hand = (pixel * told["scale"] - told["mean"]) / told["std"]
    np.testing.assert_allclose(by_hand, normalise(pixel), atol=1e-5)
    if workdir.name == "segmentation":
        assert description["threshold"] == 0.5 and "classes" not in description
        assert description["included"] == ["normalisation"]
    else:
        assert description["classes"] == list(CLASSES)
        assert description["temperature"] == CALIBRATION["temperature"]
        assert description["melanoma_threshold"] == CALIBRATION["melanoma_threshold"]
        assert description["included"] == ["normalisation", "temperature"]


def test_weights_are_read_by_safetensors_alone_and_rebuilt(run, images, tmp_path):
    workdir, variables = run
    file = tmp_path / "model.safetensors"
    written = export(workdir, file)
    done = subprocess.run(
        [sys.executable, "-I", "-c", READ_SAFETENSORS, file], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    arrays = json.loads(done.stdout)
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    assert len(arrays) == len(leaves)
    for path, leaf in leaves:
        total, shape = arrays["/".join(key.key for key in path)]
        assert tuple(shape) == leaf.shape
        assert total == pytest.approx(float(np.asarray(leaf).sum()), rel=1e-5, abs=1e-4)

    task, loaded, description = load_safetensors(file)
    assert description == written and description["included"] == []
    own = load_model(workdir).task
    assert task.model == own.model
    few = normalise(images[:2])
    np.testing.assert_array_equal(
        jax.jit(task.model.apply, static_argnames="train")(loaded, few, train=False),
        jax.jit(own.model.apply, static_argnames="train")(variables, few, train=False),
    )

    # config.init_from takes such a file, of either task.
    fresh = make_variables(own, seed=5)
    new, taken, left = from_state_dict(own, fresh, file)
    assert len(taken) == len(leaves) and not left
    jax.tree.map(np.testing.assert_array_equal, new, variables)


def test_averaged_views_are_exported(tmp_path, images, capsys):
    workdir = tmp_path / "classification"
    variables = write_run(workdir, "classification", depth=18, attention="none")
    file, weights = tmp_path / "model.stablehlo", tmp_path / "model.safetensors"
    export(workdir, weights)
    description = export(workdir, file, tta="zooms")
    # The weights are in it once, not once a view.
    assert file.stat().st_size < 1.5 * weights.stat().st_size
    assert description["tta"] == "zooms" and description["calibrated_on"] is None
    assert "no temperature: evaluate the run with --tta=zooms" in capsys.readouterr().out
    output = export_forms.call_stablehlo(file.read_bytes(), images[:3])
    np.testing.assert_allclose(
        output, predict(workdir, variables, images[:3], tta="zooms"), atol=1e-4
    )


def test_what_cannot_be_exported_is_told(run, tmp_path, monkeypatch):
    workdir, _ = run
    with pytest.raises(UserError, match=r"must end in one of \.stablehlo, \.onnx, \.safetensors"):
        export(workdir, tmp_path / "model.pt")
    with pytest.raises(UserError, match="weights alone"):
        export(workdir, tmp_path / "model.safetensors", tta="flips")
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(UserError, match=r"launch/onnx\.sh"):
        export(workdir, tmp_path / "model.onnx")
    (tmp_path / "other.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        load_safetensors(tmp_path / "other.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"other.safetensors"}


def test_a_file_that_computes_something_else_is_not_written(run, tmp_path, monkeypatch):
    workdir, _ = run
    monkeypatch.setattr(export_forms, "to_stablehlo", lambda predict, size: b"")
    monkeypatch.setattr(export_forms, "call_stablehlo", lambda content, images: 2.0)
    with pytest.raises(RuntimeError, match="not written"):
        export(workdir, tmp_path / "model.stablehlo")
    assert not list(tmp_path.iterdir())
