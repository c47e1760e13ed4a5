"""startup: process start to the first finished step; import time of skinjax.main."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Options

ROOT = Path(__file__).resolve().parent.parent


def measure_startup(options: Options) -> list[dict[str, Any]]:
    """Seconds of the quickstart's first step, cold and with its compiled programs at hand."""
    turns = 1 if options.tiny else 5
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Once, so that its pictures are drawn and are no part of any start.
        _first_step(folder, "prepare", folder / "first", options)
        cold = [_first_step(folder, f"c{i}", folder / f"cold{i}", options) for i in range(turns)]
        warm = [_first_step(folder, f"w{i}", folder / "first", options) for i in range(turns)]
    imported = []
    for _ in range(max(turns, 3)):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import skinjax.main"], check=True, cwd=ROOT)
        imported.append(time.perf_counter() - start)
    rows = {
        "first step, nothing compiled yet": cold,
        "first step, compiled before": warm,
        "import skinjax.main": imported,
    }
    return [
        {
            "what": what,
            "seconds": statistics.median(seconds),
            "least": min(seconds),
            "most": max(seconds),
        }
        for what, seconds in rows.items()
    ]


def _first_step(folder: Path, run: str, compiled: Path, options: Options) -> float:
    """Seconds from a process's start to the line that tells its first step."""
    command = [
        sys.executable,
        "-m",
        "skinjax.main",
        "--config=configs/quickstart.py",
        f"--workdir={folder / run}",
        f"--config.data.cache_dir={folder / 'cache'}",
        "--config.log_every_steps=1",
    ]
    if options.tiny:
        command += ["--config.model.base_features=4", "--config.image_size=(32, 32)"]
        command += ["--config.data.num_images=100", "--config.batch_size=4"]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**31),
        "PYTHONUNBUFFERED": "1",
    }
    # Each side starts as from a shell, not as a child that has inherited the setting.
    environment.pop("GLIBC_TUNABLES", None)
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step "):
                seconds = time.perf_counter() - start
                process.kill()
                return seconds
    raise RuntimeError(f"{' '.join(command)} ended without a step")
