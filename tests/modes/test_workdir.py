"""A run's folder on file systems and beside processes that are not as usual."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from skinjax.modes.workdir import LOCK, locked, write_text


def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch, caplog):
    def flock(file, operation):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path):
        assert (tmp_path / LOCK).read_text() == str(os.getpid())
    assert "on a file system without locks" in caplog.text


def test_another_failure_of_a_lock_is_raised(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)), locked(tmp_path):
        pass


def test_two_processes_may_write_one_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    replace, ids = Path.replace, iter((1, 2))
    monkeypatch.setattr(os, "getpid", lambda: next(ids))

    def replace_while_another_writes(temporary, target):
        monkeypatch.setattr(Path, "replace", replace)
        write_text(path, "the other's")
        return replace(temporary, target)

    monkeypatch.setattr(Path, "replace", replace_while_another_writes)
    write_text(path, "ours")
    assert path.read_text() == "ours"
    assert list(tmp_path.iterdir()) == [path]
