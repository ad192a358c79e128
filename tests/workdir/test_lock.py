"""One run a directory, whoever dies in whatever way."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from convmesh.errors import ConfigError, RunError
from convmesh.workdir.lock import LOCK, RunLock

HOLD = """
import sys, time
from convmesh.workdir.lock import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of tmp_path / "run"."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_one_is_refused_and_the_holder_named(tmp_path, holder):
    said = rf"run: another run is using it, process {holder.pid} on \S+, since 20"
    before = (tmp_path / "run" / LOCK).read_bytes()
    with pytest.raises(ConfigError, match=said):
        RunLock(tmp_path / "run").refuse_if_held()
    with pytest.raises(ConfigError, match=said), RunLock(tmp_path / "run"):
        pass
    assert (tmp_path / "run" / LOCK).read_bytes() == before


def test_kill_9_leaves_nothing_that_blocks(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    RunLock(tmp_path / "run").refuse_if_held()
    with RunLock(tmp_path / "run"):
        pass


def test_asking_makes_nothing(tmp_path):
    RunLock(tmp_path / "run").refuse_if_held()
    assert not (tmp_path / "run").exists()


def test_two_may_ask_at_once(tmp_path, monkeypatch):
    with RunLock(tmp_path / "run"):
        pass
    flock, asked = fcntl.flock, []

    def ask_meanwhile(file, operation):
        flock(file, operation)
        if not asked:  # the first one holds what asking takes
            asked.append("by the second")
            RunLock(tmp_path / "run").refuse_if_held()

    monkeypatch.setattr(fcntl, "flock", ask_meanwhile)
    RunLock(tmp_path / "run").refuse_if_held()
    assert asked == ["by the second"]


def test_who_only_asks_keeps_nobody_from_taking_it(tmp_path, monkeypatch):
    with RunLock(tmp_path / "run"):
        pass
    asking = os.open(tmp_path / "run" / LOCK, os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)
    flock, refused = fcntl.flock, []

    def ask_until_refused(file, operation):
        try:
            flock(file, operation)
        except BlockingIOError:
            refused.append(file)
            if len(refused) == 2:
                os.close(asking)  # who asked has its answer
            raise

    monkeypatch.setattr(fcntl, "flock", ask_until_refused)
    with RunLock(tmp_path / "run"):
        assert len(refused) == 2
        with pytest.raises(ConfigError, match=f"process {os.getpid()} on"):
            RunLock(tmp_path / "run").refuse_if_held()


def test_free_again_after_the_end_and_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), RunLock(tmp_path / "run"):
            with pytest.raises(ConfigError, match=f"process {os.getpid()} on"):
                RunLock(tmp_path / "run").refuse_if_held()
            raise ZeroDivisionError
    assert (tmp_path / "run" / LOCK).read_text() == ""


def test_an_unknown_holder(tmp_path):
    with RunLock(tmp_path / "run"):
        (tmp_path / "run" / LOCK).write_text("")
        with pytest.raises(ConfigError, match="using it, an unknown process"):
            RunLock(tmp_path / "run").refuse_if_held()


def test_a_folder_that_cannot_be_made_is_a_wrong_call(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--workdir .*file/run: Not a directory"):
        with RunLock(tmp_path / "file" / "run"):
            pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_wrong_call(tmp_path, monkeypatch, number):
    def full(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(RunError, match=f"--workdir .*run: {os.strerror(number)}"):
        with RunLock(tmp_path / "run"):
            pass


def test_a_process_that_it_starts_does_not_hold_it_on(tmp_path):
    with RunLock(tmp_path / "run"):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        time.sleep(0.1)
        RunLock(tmp_path / "run").refuse_if_held()
    finally:
        child.kill()
        child.wait()


def test_a_file_system_without_locks_gives_a_warning_and_another_error_is_raised(
    tmp_path, monkeypatch, capsys
):
    def failing(number):
        def flock(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)

    for number in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
        failing(number)
        with RunLock(tmp_path / "run"):
            pass
        assert f"this file system has no locks ({os.strerror(number)})" in capsys.readouterr().err
    failing(errno.EIO)
    opened = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Input/output error"), RunLock(tmp_path / "run"):
        pass
    assert len(os.listdir("/proc/self/fd")) == opened  # it is closed again


def test_a_full_disk_keeps_nobody_from_taking_it(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with RunLock(tmp_path / "run"), pytest.raises(ConfigError, match="an unknown process"):
        RunLock(tmp_path / "run").refuse_if_held()


def test_check_tells_a_file_of_equal_content_from_the_locked_one(tmp_path):
    with RunLock(tmp_path / "run") as lock:
        lock.check()
        path = tmp_path / "run" / LOCK
        content = path.read_bytes()
        path.rename(tmp_path / "moved")
        path.write_bytes(content)
        with pytest.raises(RunError, match="run: the folder was removed or replaced"):
            lock.check()


def test_a_lock_that_cannot_be_written_has_no_token(tmp_path, monkeypatch):
    with RunLock(tmp_path) as lock:
        assert lock.token and RunLock(tmp_path).holds(lock.token)
    assert not RunLock(tmp_path).holds(lock.token)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with RunLock(tmp_path) as lock:
        assert lock.token == ""
