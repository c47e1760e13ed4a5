"""The peak memory of a step, measured in a process of its own: one side, nothing else in it."""

import ctypes
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.cases import Case


def peak_megabytes(case: Case, side: str, train: bool) -> float | None:
    """What a side's model, optimiser and step take at their peak, without programs and libraries.

    On a CPU it is the process's peak less what it had before the model was made; compilation is
    over by then. On a GPU it is what the framework's allocator says.

    Returns:
        Megabytes; None where the system does not tell.
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    request = json.dumps({"case": dataclasses.asdict(case), "side": side, "train": train})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", request],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


def _measure(case: Case, side: str, train: bool) -> float:
    if side == "ours":
        import jax

        from benchmarks.cases import our_predict_step, our_train_step

        jax.block_until_ready(jax.numpy.ones(8) + 1)  # the runtime is up
        before = resident_kilobytes("VmRSS")
        call = (our_train_step if train else our_predict_step)(case).call
        stats = jax.devices()[0].memory_stats()
    else:
        import torch
        import torch._dynamo
        import torch._inductor.compile_fx  # what torch.compile imports when it is called

        from benchmarks.peer import peer_step

        before = resident_kilobytes("VmRSS")
        call = peer_step(case, train, tries=1).call
        stats = {} if torch.cuda.is_available() else None
    call()
    if stats is not None:
        return _device_megabytes(side, call)
    # What compiling left behind goes back to the system before the peak is counted anew.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(3):
        call()
    return (resident_kilobytes("VmHWM") - before) / 1024


def _device_megabytes(side: str, call) -> float:
    if side == "ours":
        import jax

        return jax.devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20
    import torch

    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() / 2**20


def resident_kilobytes(field: str) -> int:
    """This process's memory now ('VmRSS') or at its peak ('VmHWM'), in kB.

    Not `resource.getrusage`: the peak that it tells begins with that of the parent.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:")))


if __name__ == "__main__":
    from skinjax.process import set_up_jax

    set_up_jax()
    asked = json.loads(sys.argv[1])
    print(_measure(Case(**asked["case"]), asked["side"], asked["train"]))
