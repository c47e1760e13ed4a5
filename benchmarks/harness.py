"""How a benchmark is run and told: sides in turn, medians and spreads, hardware and versions."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

MIN_SECONDS = 0.3  # of one measurement, so that the clock and the dispatch are lost in it
PAIRS = 7

_VERSIONS = ("jax", "jaxlib", "flax", "optax", "grain", "numpy", "pillow", "torch", "torchvision")


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        peer: whether the same work is done by a PyTorch program in turn.
        tiny: whether everything is made so small that it only shows that it runs.
        kills: how often `faults` kills a training.
        cases: the steps measured are those whose name has one of these in it; all, where empty.
    """

    peer: bool = False
    tiny: bool = False
    kills: int = 50
    cases: tuple[str, ...] = ()

    @property
    def pairs(self) -> int:
        """How often each side is measured."""
        return 2 if self.tiny else PAIRS


def measure_in_turn(
    sides: Mapping[str, Callable[[], None]], options: Options
) -> dict[str, list[float]]:
    """Seconds of one call of each side, measured A B A B ..., after a call to warm up.

    Args:
        sides: what to call; each waits until its work is done.
        options: of the command line.

    Returns:
        The seconds a call of each side, one a turn.
    """
    repeats = {}
    for name, call in sides.items():
        call()
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
        repeats[name] = 1 if options.tiny else max(1, round(MIN_SECONDS / max(seconds, 1e-6)))
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.pairs):
        for name, call in sides.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            measured[name].append((time.perf_counter() - start) / repeats[name])
    return measured


def summarise(measured: Mapping[str, Sequence[float]], images: int) -> dict[str, float]:
    """Images a second of each side, its spread, and the ratio of ours to the peer's.

    Args:
        measured: seconds by side, 'ours' and perhaps 'peer', one a turn.
        images: of one call.

    Returns:
        SIDE, images a second at the median; SIDE_spread, the range of the middle half over the
        median; 'ratio', the median over the turns of peer's seconds over ours.
    """
    figures: dict[str, float] = {}
    for name, seconds in measured.items():
        middle = statistics.median(seconds)
        quarters = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [middle] * 3
        figures[name] = images / middle
        figures[f"{name}_spread"] = (quarters[2] - quarters[0]) / middle
    if "peer" in measured:
        pairs = zip(measured["ours"], measured["peer"], strict=True)
        figures["ratio"] = statistics.median(peer / ours for ours, peer in pairs)
    return figures


def show(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rows as a table; a column is there where some row has it."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [
        max(len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(columns)
    ]
    print(f"\n{name}")
    print("  ".join(column.ljust(width) for column, width in zip(columns, widths, strict=True)))
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


def write_json(path: Path, name: str, rows: Sequence[Mapping[str, Any]], options: Options) -> None:
    """Writes the rows with what they were measured on and with."""
    report = {
        "benchmark": name,
        "options": dataclasses.asdict(options),
        "hardware": hardware(),
        "versions": versions(),
        "rows": list(rows),
    }
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def hardware() -> dict[str, Any]:
    """The machine in words."""
    import jax

    from skinjax.process import num_cores

    model = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (OSError, StopIteration, ValueError):  # not Linux
        memory = None
    return {
        "processor": model,
        "cores": num_cores(),
        "memory_gib": memory and round(memory),
        "devices": [f"{len(jax.devices())} x {jax.devices()[0].device_kind}"],
        "huge_pages": "glibc.malloc.hugetlb" in os.environ.get("GLIBC_TUNABLES", ""),
    }


def versions() -> dict[str, str]:
    """The versions of what was measured, as far as it is there."""
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
