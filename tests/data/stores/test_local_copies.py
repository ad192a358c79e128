"""Each process has folders of its own, and what a killed one left is cleared."""

import signal
import subprocess
import sys

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
