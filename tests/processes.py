"""Several real processes of one run on loopback, for the tests that start them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from xla import xla_flags

from skinjax.modes.workdir import write_config

ROOT = Path(__file__).resolve().parent.parent

# What a failed test may have left running: for the fixture that ends it.
started: list[subprocess.Popen] = []


def as_file(config, folder):
    """Writes a configuration as a file that --config takes."""
    write_config(folder / "config.json", config)
    file = folder / "config_of_json.py"
    file.write_text(
        "from pathlib import Path\n"
        "from skinjax.modes.workdir import read_config\n"
        "get_config = lambda: read_config(Path(__file__).parent)\n"
    )
    return file


def start(num_processes, devices_each, *arguments):
    """Starts `skinjax.main` as the processes of one run, each with some CPU devices."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "skinjax.main", "--distributed"]
    command += [f"--coordinator=127.0.0.1:{port}", f"--num_processes={num_processes}"]
    processes = [
        subprocess.Popen(
            [*command, f"--process_id={index}", *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | {"XLA_FLAGS": xla_flags(devices_each)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(num_processes)
    ]
    started.extend(processes)
    return processes


def finish(processes, status=0, timeout=300):
    """Waits for the processes; returns what each wrote to stdout and stderr."""
    try:
        outputs = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == status, errors
    return outputs
