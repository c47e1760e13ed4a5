"""ONNX as launch/onnx.sh makes it; slow, since the script installs its converter once."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from saved_runs import predict, read_pictures, run_alone, write_run

ROOT = Path(__file__).resolve().parents[2]
MODELS = {"segmentation": {"base_features": 16}, "classification": {"depth": 18}}

# What somebody who has the file and ONNX Runtime, but neither jax nor skinjax, would write.
CALL_ONNX = """
import sys
sys.path.insert(0, sys.argv[4])
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
images = np.load(sys.argv[2])
parts = [session.run(["probabilities"], {"images": x})[0] for x in (images[:1], images[1:])]
np.save(sys.argv[3], np.concatenate(parts))
assert "image_size" in session.get_modelmeta().custom_metadata_map["skinjax"]
assert not any(name.split(".")[0] in ("skinjax", "flax", "jax") for name in sys.modules)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    Path(sys.prefix) != ROOT / ".venv", reason="needs the environment that launch/ makes"
)
@pytest.mark.parametrize(
    ("task", "tta"),
    [(task, "") for task in MODELS] + [("classification", "flips"), ("segmentation", "zooms")],
)
def test_onnx_computes_the_same_without_jax(task, tta, tmp_path):
    workdir, file = tmp_path / task, tmp_path / "model.onnx"
    variables = write_run(workdir, task, **MODELS[task])
    made = subprocess.run(
        [
            *(ROOT / "launch" / "onnx.sh", f"--workdir={workdir}", f"--output={file}"),
            *([f"--tta={tta}"] if tta else []),
        ],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    images = read_pictures(64)
    output = run_alone(CALL_ONNX, file, images, tmp_path, ROOT / ".venv-onnx")
    reference = predict(workdir, variables, images, tta=tta)
    assert reference.std() > 0.01
    np.testing.assert_allclose(output, reference, atol=1e-4)
