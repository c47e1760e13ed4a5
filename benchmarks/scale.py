"""scale: how time and memory grow with batch, image size, devices, and the number of images."""

import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from benchmarks.cases import Case, our_train_step
from benchmarks.harness import Options, measure_in_turn, summarise
from benchmarks.memory import peak_megabytes, resident_kilobytes


def measure_scale(options: Options) -> list[dict[str, Any]]:
    """Updates by batch, size and devices; preparation and audit by the number of images."""
    return [*_by_model(options), *_by_devices(options), *_by_images(options)]


def _by_model(options: Options) -> list[dict[str, Any]]:
    base = Case("seunet", 16, 96, 128, 16)
    cases = [dataclasses.replace(base, batch=batch) for batch in (2, 4, 8, 16, 32)]
    cases += [
        dataclasses.replace(base, batch=4, height=size, columns=size)
        for size in (64, 128, 256, 384)
    ]
    if options.tiny:
        cases = [Case("seunet", 4, 16, 32, 2)]
    rows = []
    for case in cases:
        measured = measure_in_turn({"ours": our_train_step(case).call}, options)
        row = {"what": case.name, "images/s": summarise(measured, case.batch)["ours"]}
        row["ms"] = 1000 * statistics.median(measured["ours"])
        rows.append(row | {"MB": peak_megabytes(case, "ours", train=True)})
    return rows


def _by_devices(options: Options) -> list[dict[str, Any]]:
    case = Case("seunet", 4, 16, 32, 8) if options.tiny else Case("seunet", 16, 96, 128, 16)
    rows = []
    count = 1
    while count <= len(jax.devices()) and case.batch % count == 0:
        measured = measure_in_turn({"ours": our_train_step(case, count).call}, options)
        row = {"what": f"{case.name}, {count} of {len(jax.devices())} devices"}
        row["ms"] = 1000 * statistics.median(measured["ours"])
        rows.append(row | {"images/s": summarise(measured, case.batch)["ours"]})
        count *= 2
    return rows


def _by_images(options: Options) -> list[dict[str, Any]]:
    """In processes of their own, whose peak memory is theirs alone."""
    rows = []
    for count in (20,) if options.tiny else (1_000, 10_000, 100_000):
        with tempfile.TemporaryDirectory() as name:
            for what in ("prepare", "audit"):
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.scale", what, str(count), name],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                seconds, megabytes = map(float, done.stdout.splitlines()[-1].split())
                row = {"what": f"{what} {count:,} images of 200x150", "ms": 1000 * seconds}
                rows.append(row | {"images/s": count / seconds, "MB": megabytes})
                print(f"{row['what']}: {seconds:.1f} s, {megabytes:,.0f} MB", flush=True)
    return rows


def _work(what: str, count: int, folder: Path) -> None:
    from benchmarks.input import Originals
    from skinjax.data.audit import audit_source, find_duplicates
    from skinjax.data.records import prepare
    from skinjax.process import num_cores

    (folder / what).mkdir()
    source = Originals(folder / what, 150, 200, count)
    start = time.perf_counter()
    if what == "prepare":
        prepare(source, folder / "cache", 128)
    else:
        audited = audit_source(
            source, source.examples(), str(folder), num_cores(), 2**26, lambda n: None
        )
        find_duplicates([audited], lambda n: None)
    seconds = time.perf_counter() - start
    print(seconds, resident_kilobytes("VmHWM") / 1024)


if __name__ == "__main__":
    _work(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
