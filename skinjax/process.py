"""How the process begins and ends: what must be set before jax is imported, or before Python."""

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

# Of compiled programs: some hundreds of steps, kept by when they were last used.
_MAX_COMPILED_BYTES = 2**31


def use_huge_pages() -> None:
    """Begins the process anew where glibc's malloc would give XLA memory in pages of 4 KiB.

    XLA allocates a step's temporaries anew each time, on CPU: 100,000 page faults of an update of
    SE-UNet at 96x128, which took 0.56 s and takes 0.47 s without them (a CBAM-ResNet-18's 0.90 and
    0.67 s). glibc reads this setting once, before any of our code runs.
    """
    try:
        offered = "[madvise]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:  # not Linux, or a kernel without them
        return
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if not offered or "glibc.malloc.hugetlb" in tunables:
        return
    os.environ["GLIBC_TUNABLES"] = f"{tunables}:glibc.malloc.hugetlb=1".lstrip(":")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def set_up_jax() -> None:
    """Sets what jax reads when it is imported, where the user has not set it."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        # XLA's CPU convolutions use one core each: with a device a core, the batch's parts run side
        # by side. (A step of SE-UNet took 0.56 s instead of 1.00 s on two cores.) GPUs and TPUs
        # are not concerned.
        os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(num_cores()))
    # Unless the user wants it, JAX is not to take three quarters of a GPU's memory at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # Compiled once, a step is read from disk the next time. With a limit, jax also locks the cache
    # and so never reads what another process is still writing. No home, no cache.
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    with contextlib.suppress(OSError, RuntimeError):
        cache = Path("~/.cache/skinjax/compiled").expanduser()
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK):
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
            os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(_MAX_COMPILED_BYTES)


_GROUPS = Path("/proc/self/cgroup")
_MOUNTED = Path("/sys/fs/cgroup")


def num_cores(groups: Path = _GROUPS, mounted: Path = _MOUNTED) -> int:
    """The cores that this process may use: the machine's, or what a container or a job has of them.

    Args:
        groups: the control groups of the process (https://docs.kernel.org/admin-guide/cgroup-v2.html).
        mounted: where their limits lie.
    """
    on_macos = not hasattr(os, "sched_getaffinity")
    limits: list[float] = [os.cpu_count() or 1 if on_macos else len(os.sched_getaffinity(0))]
    for folder in _limiting_folders("cpu", groups, mounted):
        # Time on all cores, and in how much time; without a limit it says 'max', or -1 (version 1).
        with contextlib.suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            limits.append(int(quota) / int(period))
        with contextlib.suppress(OSError, ValueError):
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            of_version_1, period_1 = (int((folder / name).read_text()) for name in names)
            if of_version_1 > 0:
                limits.append(of_version_1 / period_1)
    return max(1, math.ceil(min(limits)))


def host_bytes(groups: Path = _GROUPS, mounted: Path = _MOUNTED) -> int:
    """The memory that this process may use: the machine's, or what a container or a job has of it.

    Args:
        groups: as in `num_cores`.
        mounted: likewise.
    """
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for folder in _limiting_folders("memory", groups, mounted):
        for name in ("memory.max", "memory.limit_in_bytes"):  # the second of version 1
            with contextlib.suppress(OSError, ValueError):  # without a limit it says 'max'
                limits.append(int((folder / name).read_text()))
    return min(limits)


def _limiting_folders(controller: str, groups: Path, mounted: Path) -> Iterator[Path]:
    """The folders that may limit what a controller of control groups counts."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):  # those of version 1
            continue
        # Those above have limits, too; in a container the path may be the machine's, and not here.
        group = Path(path.lstrip("/"))
        for above in (group, *group.parents):
            yield (mounted / controller if controllers else mounted) / above


def end_at_once(exit_status: int) -> NoReturn:
    """Ends the process with what it has printed, but without what else is done in order at an exit.

    Where one of several processes is lost, the exits of the others would wait for it; where a run's
    folder is now another process's, nothing more may be written there.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_status)
