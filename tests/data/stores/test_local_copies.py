"""Each process has folders of its own, and what a killed one left is cleared."""

import os
import platform
import signal
import subprocess
import sys
import time

import pytest

USE = """
import sys, time
from convmesh.data.stores.local_copies import local_folder
folder = local_folder("s3://bucket/run")
print(folder, folder.parent.exists(), flush=True)
folder.mkdir(parents=True)
(folder / "file").write_text("1")
time.sleep(float(sys.argv[1]))
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVMESH_CACHE", str(tmp_path))
    started = []

    def start(seconds):
        command = [sys.executable, "-c", USE, str(seconds)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process, process.stdout.readline().split()

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_two_processes_have_two_folders(start):
    (_, one), (_, two) = start(60), start(60)
    assert one[0] != two[0]
    assert one[0].endswith("s3/bucket/run")


def test_the_folder_is_removed_at_the_end(start, tmp_path):
    process, _ = start(0)
    process.wait()
    assert not list(tmp_path.rglob("file"))


def test_what_a_killed_process_left_is_cleared(start, tmp_path):
    process, (one, _) = start(60)
    while not list(tmp_path.rglob("file")):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.rglob("file"))
    _, two = start(60)
    assert two == [one, "False"]


def test_old_folders_of_other_hosts_are_removed_but_not_the_own(start, tmp_path):
    long_ago = time.time() - 61 * 24 * 3600
    for host in (platform.node() or "host", "gone", "living"):
        lock = tmp_path / "local_copies" / host / "0.lock"
        lock.parent.mkdir(parents=True)
        lock.touch()
        if host != "living":
            os.utime(lock, (long_ago, long_ago))
    _, [folder, _] = start(60)
    assert f"/{platform.node() or 'host'}/0/" in folder
    assert not (tmp_path / "local_copies" / "gone").exists()
    assert (tmp_path / "local_copies" / "living" / "0.lock").exists()


def test_without_locks_each_process_has_a_folder_of_its_own(start, monkeypatch, tmp_path):
    shim = tmp_path / "shim"
    shim.mkdir()
    (shim / "fcntl.py").write_text(
        "LOCK_EX, LOCK_NB = 2, 4\ndef flock(*_): raise OSError(38, 'not implemented')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(shim))
    (_, one), (_, two) = start(60), start(60)
    assert one[0] != two[0]
