"""What every test runs under: eight devices made of the CPU, and a cache of what was compiled."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from xla import xla_flags

ROOT = Path(__file__).resolve().parent.parent

# JAX reads these once, when it is imported. Processes that tests start inherit them.
assert "jax" not in sys.modules, "jax was imported before tests/conftest.py could set its devices"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags(num_devices=8)}".strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
# With a limit, jax locks the cache and so never reads what another test process is still writing.
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**30))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

# No deadline: the first example of a test pays for a compilation.
settings.register_profile("skinjax", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("skinjax")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images, ham10000/ and others, that SKINJAX_TEST_DATA names."""
    folder = os.environ.get("SKINJAX_TEST_DATA", "")
    if not folder:
        pytest.skip("SKINJAX_TEST_DATA names no folder with real images")
    if not Path(folder, "ham10000").is_dir():
        pytest.skip(f"SKINJAX_TEST_DATA={folder} has no ham10000/")
    return Path(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MiB, in memory."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here: that takes the rights of root")
    yield folder
    # What a save that failed leaves to the garbage collector complains when it is collected: now,
    # under the filters of the test that made it, not in another one's.
    gc.collect()
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for prepared data that this test process shares among its tests."""
    return tmp_path_factory.mktemp("cache")
