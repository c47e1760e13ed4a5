"""The forms that a model is exported in: bytes from a function or from arrays, and back."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open

from skinjax.data.augment import Augmentation
from skinjax.errors import UserError
from skinjax.modes.build import Task
from skinjax.tasks.classification import create_classification
from skinjax.tasks.segmentation import create_segmentation

PyTree = Any
Predict = Callable[[jax.Array], jax.Array]

PLATFORMS = ("cpu", "cuda", "tpu")
INPUT, OUTPUT = "images", "probabilities"
DESCRIPTION_KEY = "skinjax"  # in the files that have room for a description
# The first in which the axes of means are inputs, as jax2onnx writes them; older runtimes read it.
_ONNX_OPSET = 18


def to_stablehlo(predict: Predict, image_size: tuple[int, int]) -> bytes:
    """A function of a model, with its weights in it, as jax.export writes it.

    Args:
        predict: uint8 images [N, H, W, 3] to float32 probabilities.
        image_size: H and W.

    Returns:
        What `jax.export.deserialize` reads: StableHLO for any N and each of `PLATFORMS`, computing
        in the whole of float32 on each.
    """
    # Unasked, a GPU would round products to TF32 and a TPU to bfloat16.
    with jax.default_matmul_precision("highest"):
        exported = jax.export.export(jax.jit(predict), platforms=PLATFORMS)(_images(image_size))
    return bytes(exported.serialize())


def to_onnx(predict: Predict, image_size: tuple[int, int], description: str) -> bytes:
    """A function of a model, with its weights in it, as an ONNX graph.

    Args:
        predict: uint8 images [N, H, W, 3] to float32 probabilities.
        image_size: H and W.
        description: kept in the file, as the metadata `DESCRIPTION_KEY`.

    Returns:
        A graph from `INPUT` to `OUTPUT`, for any N.

    Raises:
        UserError: where jax2onnx is not there.
    """
    try:
        # By name: they live in a folder of their own, where no type checker looks.
        jax2onnx = importlib.import_module("jax2onnx")
        onnx_ir = importlib.import_module("onnx_ir")
        passes = importlib.import_module("onnx_ir.passes.common")
    except ImportError as error:
        raise UserError(
            "An .onnx file is made with jax2onnx, which cannot be installed beside skinjax's "
            "Orbax by its own account: call launch/onnx.sh --workdir=RUN --output=FILE.onnx, which "
            "lays what it needs beside .venv."
        ) from error
    converted = jax2onnx.to_onnx(
        predict,
        [_images(image_size)],
        model_name=DESCRIPTION_KEY,
        opset=_ONNX_OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
    )
    # Each view of an averaged prediction has its own copy of the weights, until here.
    graph = onnx_ir.from_proto(converted)
    passes.DeduplicateHashedInitializersPass()(graph)
    model = onnx_ir.to_proto(graph)
    # What it notes of the shapes within the graph is of before it moved its transpositions, and a
    # runtime that reads it complains; every runtime finds the shapes by itself.
    del model.graph.value_info[:]
    model.metadata_props.add(key=DESCRIPTION_KEY, value=description)
    content: bytes = model.SerializeToString()
    return content


def to_safetensors(variables: PyTree, description: str) -> bytes:
    """The variables by their paths, 'params/head/kernel' and the like.

    Args:
        variables: `params` and `batch_stats`.
        description: kept in the file, as the metadata `DESCRIPTION_KEY`.
    """
    arrays = {path: np.asarray(array) for path, array in flatten_dict(variables, sep="/").items()}
    return safetensors.numpy.save(arrays, {DESCRIPTION_KEY: description})


def load_safetensors(path: str | Path) -> tuple[Task, PyTree, dict[str, Any]]:
    """Reads a model that was exported as .safetensors; needs nothing else of its run.

    Args:
        path: the file.

    Returns:
        The task with its model, computing in float32; its variables, NumPy arrays; and the
        description that lies in the file and beside it.

    Raises:
        UserError: where there is no such file, or it is damaged or of another kind.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} cannot be read as safetensors ({error}): export the run again."
        ) from error
    if DESCRIPTION_KEY not in metadata:
        raise UserError(f"{path} was not exported by skinjax: it does not describe its model.")
    description = json.loads(metadata[DESCRIPTION_KEY])
    return create_described_task(description), unflatten_dict(arrays, sep="/"), description


def create_described_task(description: dict[str, Any]) -> Task:
    """Creates the task that an exported model's description tells of, without its weights."""
    settings: dict[str, Any] = dict(
        **description["architecture"],
        dtype=jnp.dtype("float32"),
        image_size=tuple(description["image_size"]),
        augmentation=Augmentation(),
    )
    if description["task"] == "segmentation":
        return create_segmentation(**settings)
    return create_classification(tuple(description["classes"]), **settings)


def call_stablehlo(content: bytes, images: np.ndarray) -> np.ndarray:
    """Computes with what `to_stablehlo` gave, as anybody who has the file alone would."""
    return np.asarray(jax.export.deserialize(bytearray(content)).call(images))


def call_onnx(content: bytes, images: np.ndarray) -> np.ndarray:
    """Computes with what `to_onnx` gave, in ONNX Runtime on the CPU."""
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (output,) = session.run([OUTPUT], {INPUT: images})
    return np.asarray(output)


def _images(image_size: tuple[int, int]) -> jax.ShapeDtypeStruct:
    """Any number of pictures."""
    (number,) = jax.export.symbolic_shape("batch")
    return jax.ShapeDtypeStruct((number, *image_size, 3), jnp.uint8)
