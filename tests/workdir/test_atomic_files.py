"""Whole files, and sums that find every change."""

import errno
import os
import random
import shutil
import subprocess

import disk_calls
import pytest

from convmesh.workdir import atomic_files, checksums


@pytest.fixture
def summed(tmp_path):
    folder = tmp_path / "summed"
    (folder / "a" / "b").mkdir(parents=True)
    for name, data in (("x", b"one"), ("a/y", b""), ("a/b/ü z", bytes(range(256)))):
        (folder / name).write_bytes(data)
    checksums.write_checksums(folder)
    return folder


def test_unchanged_files_verify_and_sha256sum_agrees(summed):
    assert checksums.verify_checksums(summed) == ""
    if shutil.which("sha256sum"):
        done = subprocess.run(
            ["sha256sum", "-c", checksums.CHECKSUMS], cwd=summed, capture_output=True
        )
        assert done.returncode == 0


def test_every_flipped_bit_is_found(summed):
    for path in [p for p in summed.rglob("*") if p.is_file()]:
        data = path.read_bytes()
        for bit in range(8 * len(data)):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            assert checksums.verify_checksums(summed) != "", (path, bit)
        path.write_bytes(data)
    assert checksums.verify_checksums(summed) == ""


def test_every_truncation_of_the_checksums_is_found(summed):
    path = summed / checksums.CHECKSUMS
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert checksums.verify_checksums(summed) != "", length


def test_what_is_wrong_is_named(summed):
    (summed / "a/y").unlink()
    assert checksums.verify_checksums(summed) == "a/y: missing"
    (summed / "a/y").write_text("no longer empty")
    assert checksums.verify_checksums(summed) == "a/y: its content has changed"
    (summed / checksums.CHECKSUMS).unlink()
    assert checksums.verify_checksums(summed) == f"{checksums.CHECKSUMS}: No such file or directory"


def test_added_files_are_no_damage_and_are_listed(summed):
    for name in ("new", "a/.DS_Store", "a (copy)/y", f"a/{checksums.CHECKSUMS}"):
        (summed / name).parent.mkdir(exist_ok=True)
        (summed / name).write_text("x")
    assert checksums.verify_checksums(summed) == ""
    added = ["a (copy)/y", "a/.DS_Store", f"a/{checksums.CHECKSUMS}", "new"]
    assert checksums.added_files(summed) == added
    for path in [path for path in summed.rglob("*") if path.is_file()]:
        data = path.read_bytes()
        path.write_bytes(data + b"x")
        named = path.relative_to(summed).as_posix() not in added
        assert (checksums.verify_checksums(summed) != "") == named, path
        path.write_bytes(data)


def test_every_truncation_of_the_checksums_is_found_among_added_files(summed):
    (summed / "zzz").write_text("")
    test_every_truncation_of_the_checksums_is_found(summed)


def test_checksums_of_earlier_versions_do_not_say_how_many_they_are(summed):
    path = summed / checksums.CHECKSUMS
    path.write_bytes(path.read_bytes().partition(b"\n")[2])
    assert checksums.verify_checksums(summed) == ""
    # So they may have been cut short, and names are sorted. No file of a checkpoint is hidden.
    last = max(line[66:] for line in path.read_text().splitlines())
    for name in ("a/.DS_Store", "a/ copy", "zz/.nfs1", "zz copy"):
        (summed / name).parent.mkdir(exist_ok=True)
        (summed / name).write_text("")
        assert checksums.verify_checksums(summed) == "", name
    (summed / "zz/b").write_text("")
    assert last < "zz/b"
    said = f"zz/b: not in {checksums.CHECKSUMS}, which may have been cut short"
    assert checksums.verify_checksums(summed) == said


def test_links_to_the_named_files_alone(summed, tmp_path):
    (summed / "a/new").write_text("x")
    named = [path.relative_to(summed) for path in summed.rglob("*") if path.name in ("x", "y", "z")]
    checksums.link_named_files(summed, tmp_path / "links" / "9")
    links = tmp_path / "links" / "9"
    assert {p.relative_to(links) for p in links.rglob("*") if p.is_file()} >= set(named)
    assert not (links / "a/new").exists()
    assert all((links / name).read_bytes() == (summed / name).read_bytes() for name in named)


def test_a_file_is_written_whole_or_left_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic_files.write_atomically(path, "first")
    atomic_files.write_atomically(path, b"second")
    assert path.read_text() == "second"

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/"):
        atomic_files.write_atomically(path, "third" * random.randint(1, 9))
    assert path.read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    atomic_files.write_atomically(
        path, "second"
    )  # what is there already costs nothing, and needs no room


def test_a_file_is_on_the_disk_before_it_gets_its_name_and_the_name_after(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("old")
    calls = disk_calls.record(monkeypatch, tmp_path)
    atomic_files.write_atomically(tmp_path / "file", "new")
    beside = calls[0][1]
    assert beside != "file"
    assert calls == [("fsync", beside, b"new"), ("rename", beside, "file"), ("fsync", ".", None)]


def test_write_checksums_fsyncs_every_file_and_every_folder(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    content = {"x": b"one", "a/y": b"", "a/b/z": b"three"}
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    calls = disk_calls.record(monkeypatch, tmp_path)
    checksums.write_checksums(tmp_path)
    folders = {".": None, "a": None, "a/b": None, "c": None}
    sums = (tmp_path / checksums.CHECKSUMS).read_bytes()
    assert disk_calls.synced(calls) == {**content, **folders, checksums.CHECKSUMS: sums}
    [named] = [at for at, call in enumerate(calls) if call[0] == "rename"]
    assert ("fsync", ".", None) in calls[named:]


def test_temporary_files_of_a_killed_write_are_removed_at_every_depth(tmp_path):
    (tmp_path / "eval" / "val").mkdir(parents=True)
    left = [tmp_path / ".config.json.7.new", tmp_path / "eval" / "val" / ".metrics.json.8.new"]
    for path in (*left, tmp_path / "mine.new", tmp_path / ".lock"):
        path.write_text("x")
    (tmp_path / ".folder.new").mkdir()  # cannot be unlinked
    atomic_files.remove_temporary_files(tmp_path)
    assert not any(path.exists() for path in left)
    assert {path.name for path in tmp_path.iterdir()} == {
        "eval",
        "mine.new",
        ".lock",
        ".folder.new",
    }


def test_the_temporary_file_is_this_process_alone(tmp_path, monkeypatch):
    calls = disk_calls.record(monkeypatch, tmp_path)
    atomic_files.write_atomically(tmp_path / "file", "x")
    assert calls[0][1] == f".file.{os.getpid()}.new"


def test_a_line_of_the_checksums_without_a_name_is_their_own_fault(summed):
    path = summed / checksums.CHECKSUMS
    path.write_bytes(path.read_bytes() + b"0\n")
    assert checksums.verify_checksums(summed) == f"{checksums.CHECKSUMS}: missing"


def test_an_error_that_says_nothing_of_the_files_is_raised(summed, monkeypatch):
    def failing(path):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checksums, "sha256", failing)
    number = errno.EIO
    assert checksums.verify_checksums(summed) == "a/b/ü z: Input/output error"
    number = errno.EMFILE
    with pytest.raises(OSError, match="Too many open files"):
        checksums.verify_checksums(summed)
