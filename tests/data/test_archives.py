"""Zips are unpacked once, safely; folders in the cache are whole or not there."""

import os
import stat
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from skinjax.data import archives
from skinjax.errors import UserError


def make_zip(path, files, **options):
    with zipfile.ZipFile(path, "w", **options) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return path


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def test_unpacks_once_without_junk(tmp_path):
    files = {"a/b.txt": b"b", "c.txt": b"c"}
    junk = {"__MACOSX/a/._b.txt": b"x", "a/.DS_Store": b"x", "Thumbs.db": b"x"}
    archive = make_zip(tmp_path / "set.zip", files | junk)
    folder = archives.unpack(archive, tmp_path / "cache")
    assert contents(folder) == files
    assert archives.zip_names(archive) == ["a/b.txt", "c.txt"]
    (folder / "c.txt").write_bytes(b"still the first")
    assert archives.unpack(archive, tmp_path / "cache") == folder
    assert (folder / "c.txt").read_bytes() == b"still the first"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_dot_before_each_path_hides_nothing(tmp_path):
    archive = make_zip(tmp_path / "set.zip", {"./a/b.txt": b"b", "./.hidden": b"x"})
    assert archives.zip_names(archive) == ["a/b.txt"]
    assert contents(archives.unpack(archive, tmp_path / "cache")) == {"a/b.txt": b"b"}


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    archive = make_zip(tmp_path / "set.zip", {"a": b"1"})
    monkeypatch.setattr(archives.zipfile, "ZipFile", refuse)
    for use in (archives.zip_names, lambda path: archives.unpack(path, tmp_path / "cache")):
        with pytest.raises(UserError, match=r"Cannot read .*set\.zip \(Permission denied\)"):
            use(archive)


def test_a_changed_zip_is_unpacked_anew(tmp_path):
    archive = make_zip(tmp_path / "set.zip", {"a": b"1"})
    first = archives.unpack(archive, tmp_path / "cache")
    make_zip(archive, {"a": b"2"})
    os.utime(archive, (1, 1))
    second = archives.unpack(archive, tmp_path / "cache")
    assert second != first
    assert contents(second) == {"a": b"2"}


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati"])
def test_files_keep_the_times_in_the_zip_whatever_the_time_zone(tmp_path, monkeypatch, zone):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(zipfile.ZipInfo("a", (2001, 2, 3, 4, 5, 6)), b"a")
        opened.writestr(zipfile.ZipInfo("b", (1980, 0, 0, 0, 0, 0)), b"b")
    folder = archives.unpack(archive, tmp_path / "cache")
    monkeypatch.undo()
    time.tzset()
    assert time.gmtime((folder / "a").stat().st_mtime)[:6] == (2001, 2, 3, 4, 5, 6)


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", "..\\out", "C:/out"])
def test_paths_that_lead_out_are_refused(tmp_path, name):
    archive = make_zip(tmp_path / "evil.zip", {"good": b"g", name: b"x"})
    with pytest.raises(UserError, match=r"evil\.zip holds the path .*out of it"):
        archives.unpack(archive, tmp_path / "deep" / "cache")
    assert not list(tmp_path.rglob("out"))
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("name", ["images\\1.jpg", "scan 12:30.jpg"])
def test_paths_that_other_systems_read_otherwise_are_refused(tmp_path, name):
    archive = make_zip(tmp_path / "set.zip", {"good": b"g", name: b"x"})
    with pytest.raises(UserError, match=r"set\.zip holds the path .*colon.*unpack it yourself"):
        archives.unpack(archive, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_links_are_refused(tmp_path):
    archive = tmp_path / "link.zip"
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(link, "/etc")
    with pytest.raises(UserError, match="holds the link 'link'"):
        archives.unpack(archive, tmp_path / "cache")


def test_what_is_too_large_is_refused(tmp_path):
    bomb = make_zip(tmp_path / "bomb.zip", {"a": bytes(10_000)}, compression=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 1000
    with pytest.raises(UserError, match=r"bomb\.zip would unpack to 10,000 bytes"):
        archives.unpack(bomb, tmp_path / "cache", max_bytes=9_999)
    assert contents(archives.unpack(bomb, tmp_path / "cache", max_bytes=10_000)) == {
        "a": bytes(10_000)
    }


def test_an_understated_size_does_not_unpack_more(tmp_path):
    archive = make_zip(
        tmp_path / "liar.zip", {"a": bytes(100_000)}, compression=zipfile.ZIP_DEFLATED
    )
    content = archive.read_bytes()
    archive.write_bytes(
        content.replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    )
    with pytest.raises(UserError, match=r"liar\.zip cannot be unpacked"):
        archives.unpack(archive, tmp_path / "cache", max_bytes=1000)
    assert contents(tmp_path / "cache") == {}


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "encrypted", "name", "lzma"])
def test_damaged_zips_are_named_and_leave_nothing(tmp_path, damage):
    archive = make_zip(tmp_path / "bad.zip", {"a": b"content" * 50, "b": b"b"})
    if damage == "lzma":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_LZMA) as opened:
            opened.writestr("a", os.urandom(1000))
    elif damage == "name":
        make_zip(archive, {"\N{LATIN SMALL LETTER E WITH ACUTE}": b"a"})
    content = bytearray(archive.read_bytes())
    if damage == "lzma":
        content[35] = 255  # the first of the coder's properties, which go up to 224
    elif damage == "name":
        content = content.replace("\N{LATIN SMALL LETTER E WITH ACUTE}".encode(), b"\xff\xff")
    elif damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[content.index(b"content")] ^= 1
    elif damage == "text":
        content = b"<html>please log in</html>"
    else:
        content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r"The zip .*bad\.zip"):
        archives.unpack(archive, tmp_path / "cache")
    assert contents(tmp_path / "cache") == {}
    if damage in ("cut", "text", "name"):
        with pytest.raises(UserError, match=r"The zip .*bad\.zip"):
            archives.zip_names(archive)


def test_no_room_is_said_before_unpacking(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "set.zip", {"a": b"a" * 1000})
    monkeypatch.setattr(
        archives.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 999})()
    )
    with pytest.raises(UserError, match="free some space"):
        archives.unpack(archive, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "unpacked").iterdir())


def test_a_cache_that_cannot_be_made_is_named(tmp_path):
    archive = make_zip(tmp_path / "set.zip", {"a": b"a"})
    (tmp_path / "cache").write_text("a file in its place")
    with pytest.raises(
        UserError, match=r"Cannot write to .*cache/unpacked .*config\.data\.cache_dir"
    ):
        archives.unpack(archive, tmp_path / "cache")


def test_an_error_leaves_no_folder(tmp_path):
    target = tmp_path / "cache" / "made"
    with pytest.raises(RuntimeError, match="half-way"), archives.build_folder(target) as folder:
        (folder / "a").write_text("a")
        raise RuntimeError("half-way")
    assert not list(target.parent.iterdir())


def test_the_loser_takes_the_winners(tmp_path):
    target = tmp_path / "made"
    with archives.build_folder(target) as slow:
        (slow / "who").write_text("slow")
        with archives.build_folder(target) as quick:
            assert slow.is_dir(), "a living folder was taken for a leftover"
            (quick / "who").write_text("quick")
    assert (target / "who").read_text() == "quick"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_are_not(tmp_path):
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from skinjax.data.archives import build_folder\n"
        "with build_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').write_text('half')\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(60)\n"
    )
    target = tmp_path / "made"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "begun\n"
        with archives.build_folder(tmp_path / "other"):
            pass
        (living,) = tmp_path.glob(".*.tmp")
        assert (living / "half").exists()
    finally:
        process.kill()
        process.communicate()
    assert living.exists()
    assert not target.exists()
    with archives.build_folder(target) as folder:
        (folder / "whole").write_text("whole")
    assert contents(target) == {"whole": b"whole"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "other"]


def test_folders_of_another_host_are_left_alone_for_a_day(tmp_path):
    theirs = tmp_path / ".made-elsewhere-0123456789ab.tmp"
    theirs.mkdir()
    with archives.build_folder(tmp_path / "made"):
        assert theirs.exists()
    long_ago = time.time() - 25 * 60 * 60
    os.utime(theirs, (long_ago, long_ago))
    with archives.build_folder(tmp_path / "other"):
        assert not theirs.exists()


def test_many_at_once_give_one_folder(tmp_path):
    archive = make_zip(tmp_path / "set.zip", {f"{i}.txt": bytes([i]) * 5000 for i in range(40)})
    expected = {f"{i}.txt": bytes([i]) * 5000 for i in range(40)}
    found = []

    def unpack():
        found.append(contents(archives.unpack(archive, tmp_path / "cache")))

    threads = [threading.Thread(target=unpack) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 6
    assert len(list((tmp_path / "cache" / "unpacked").iterdir())) == 1
