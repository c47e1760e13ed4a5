"""train_step and predict_step: images a second, beside the peer and beside what the chip can do."""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.cases import choose_cases, our_predict_step, our_train_step
from benchmarks.harness import Options, measure_in_turn, summarise
from benchmarks.memory import peak_megabytes


def measure_train_step(options: Options) -> list[dict[str, Any]]:
    """An update of each case: loss, gradients, clipping and SGD on one batch on the devices."""
    return _measure(options, train=True)


def measure_predict_step(options: Options) -> list[dict[str, Any]]:
    """Probabilities of each case from uint8 images on the devices."""
    return _measure(options, train=False)


def _measure(options: Options, train: bool) -> list[dict[str, Any]]:
    rows = []
    peaks: dict[str, float] = {}
    for case in choose_cases(options.tiny, options.cases):
        ours = (our_train_step if train else our_predict_step)(case)
        sides = {"ours": ours.call}
        row: dict[str, Any] = {"case": case.name, "parameters": ours.num_parameters}
        if options.peer:
            from benchmarks.peer import peer_step

            peer = peer_step(case, train)
            if peer.num_parameters != ours.num_parameters:
                raise AssertionError(
                    f"{case.name}: {ours.num_parameters:,} parameters, the peer's "
                    f"{peer.num_parameters:,}: not the same model"
                )
            sides["peer"] = peer.call
            row["peer is"] = peer.form
        row |= summarise(measure_in_turn(sides, options), case.batch)
        if ours.flops:
            peak = peaks.setdefault(case.dtype, matrix_product_flops(case.dtype, options))
            row["of matmul"] = ours.flops * row["ours"] / case.batch / peak
        if ours.bytes_accessed and jax.default_backend() != "cpu":
            row["GB/s"] = ours.bytes_accessed * row["ours"] / case.batch / 1e9
        for side in sides:
            if megabytes := peak_megabytes(case, side, train):
                row[f"{side} MB"] = megabytes
        rows.append(row)
        print(f"{case.name}: {row['ours']:,.1f} images/s", flush=True)
    return rows


def matrix_product_flops(dtype: str, options: Options) -> float:
    """FLOP/s of a large square matrix product, on all devices at once.

    Of random numbers: GPUs are faster with constants, which cost them less power.
    """
    size = 128 if options.tiny else 2048 if jax.default_backend() == "cpu" else 8192
    devices = jax.devices()
    numbers = jax.random.normal(jax.random.key(0), (size, size), dtype)
    copies = [jax.device_put(numbers, device) for device in devices]
    multiply = jax.jit(jnp.matmul)
    jax.block_until_ready([multiply(a, a) for a in copies])
    seconds = []
    for _ in range(options.pairs):
        start = time.perf_counter()
        jax.block_until_ready([multiply(a, a) for a in copies])
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 * len(devices) / statistics.median(seconds)
