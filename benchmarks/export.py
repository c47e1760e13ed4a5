"""What an exported model weighs and how fast it is, beside the model in its own program."""

import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.cases import Case, choose_cases, create_batch, create_task
from benchmarks.harness import Options, measure_in_turn, summarise
from skinjax.modes import export_forms as forms


def measure_export(options: Options) -> list[dict[str, Any]]:
    """Measures the first case of each model, on one device as a deployed file has it."""
    cases = choose_cases(options.tiny)
    firsts = [next(case for case in cases if case.model == model) for model in ("seunet", "cbam")]
    return [row for case in firsts for row in _measure(case, options)]


def _measure(case: Case, options: Options) -> list[dict[str, Any]]:
    task = create_task(case)
    variables = jax.jit(task.init)(jax.random.key(0))

    def predict(images: jax.Array) -> jax.Array:
        output = task.predict(variables, images)
        return output if case.model == "seunet" else jax.nn.softmax(output)

    size = (case.height, case.columns)
    stablehlo = forms.to_stablehlo(predict, size)
    weights = forms.to_safetensors(variables, "{}")
    calls: dict[str, Callable[[np.ndarray], Any]] = {
        "in its own program": jax.jit(predict),
        ".stablehlo": jax.jit(jax.export.deserialize(bytearray(stablehlo)).call),
    }
    num_bytes = {".stablehlo": len(stablehlo), ".safetensors": len(weights)}
    if importlib.util.find_spec("jax2onnx"):
        import onnxruntime

        graph = forms.to_onnx(predict, size, "{}")
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        calls[".onnx"] = lambda images: session.run(None, {forms.INPUT: images})
        num_bytes[".onnx"] = len(graph)
    rows = []
    images = create_batch(case)["images"]
    rates = {number: _rates(calls, images[:number], options) for number in sorted({1, case.batch})}
    for form in dict.fromkeys([*calls, *num_bytes]):
        row: dict[str, Any] = {"case": case.name, "form": form}
        row["MiB"] = num_bytes[form] / 2**20 if form in num_bytes else None
        row["images/s one at a time"] = rates[1].get(form)
        row["images/s in the case's batches"] = rates[case.batch].get(form)
        rows.append(row)
    return rows


def _rates(
    calls: dict[str, Callable[[np.ndarray], Any]], images: np.ndarray, options: Options
) -> dict[str, float]:
    sides = {
        name: (lambda call=call: jax.block_until_ready(call(images)))
        for name, call in calls.items()
    }
    return summarise(measure_in_turn(sides, options), len(images))
