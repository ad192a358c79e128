"""Whole files, and sums that find every change."""

import os
import random
import shutil
import subprocess

import disk_calls
import pytest

from convmesh import durable


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "sealed"
    (folder / "a" / "b").mkdir(parents=True)
    for name, data in (("x", b"one"), ("a/y", b""), ("a/b/ü z", bytes(range(256)))):
        (folder / name).write_bytes(data)
    durable.seal(folder)
    return folder


def test_what_was_sealed_is_whole_and_sha256sum_agrees(sealed):
    assert durable.fault(sealed) == ""
    if shutil.which("sha256sum"):
        done = subprocess.run(["sha256sum", "-c", durable.SUMS], cwd=sealed, capture_output=True)
        assert done.returncode == 0


def test_every_flipped_bit_is_found(sealed):
    for path in [p for p in sealed.rglob("*") if p.is_file()]:
        data = path.read_bytes()
        for bit in range(8 * len(data)):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            assert durable.fault(sealed) != "", (path, bit)
        path.write_bytes(data)
    assert durable.fault(sealed) == ""


def test_every_cut_of_the_sums_is_found(sealed):
    path = sealed / durable.SUMS
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert durable.fault(sealed) != "", length


def test_what_is_wrong_is_named(sealed):
    (sealed / "new").write_text("")
    assert durable.fault(sealed) == f"new: not in {durable.SUMS}"
    (sealed / "new").unlink()
    (sealed / "a/y").unlink()
    assert durable.fault(sealed) == "a/y: not there"
    (sealed / "a/y").write_text("no longer empty")
    assert durable.fault(sealed) == "a/y: other bytes than saved"
    (sealed / durable.SUMS).unlink()
    assert durable.fault(sealed) == f"{durable.SUMS}: No such file or directory"


def test_a_file_is_written_whole_or_left_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "file"
    durable.write_whole(path, "first")
    durable.write_whole(path, b"second")
    assert path.read_text() == "second"

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        durable.write_whole(path, "third" * random.randint(1, 9))
    assert path.read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    durable.write_whole(path, "second")  # what is there already costs nothing, and needs no room


def test_a_file_is_on_the_disk_before_it_gets_its_name_and_the_name_after(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("old")
    calls = disk_calls.record(monkeypatch, tmp_path)
    durable.write_whole(tmp_path / "file", "new")
    beside = calls[0][1]
    assert beside != "file"
    assert calls == [("fsync", beside, b"new"), ("rename", beside, "file"), ("fsync", ".", None)]


def test_sealing_brings_every_file_and_every_folder_to_the_disk(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    content = {"x": b"one", "a/y": b"", "a/b/z": b"three"}
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    calls = disk_calls.record(monkeypatch, tmp_path)
    durable.seal(tmp_path)
    folders = {".": None, "a": None, "a/b": None, "c": None}
    sums = (tmp_path / durable.SUMS).read_bytes()
    assert disk_calls.synced(calls) == {**content, **folders, durable.SUMS: sums}
    [named] = [at for at, call in enumerate(calls) if call[0] == "rename"]
    assert ("fsync", ".", None) in calls[named:]
