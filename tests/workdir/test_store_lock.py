"""One run an address, whoever dies in whatever way."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import object_stores
import pytest

from convmesh.cli.exit_status import exit_status
from convmesh.data.stores.object_store import ObjectStore
from convmesh.errors import ConfigError, RunError, StoreError
from convmesh.workdir import store_lock
from convmesh.workdir.layout import Workdir
from convmesh.workdir.local_copy import LocalCopy
from convmesh.workdir.store_lock import StoreLock

HOLD = """
import sys, time
from convmesh.workdir.layout import Workdir
from convmesh.workdir import store_lock
store_lock.RENEW_SECONDS = 0.2
with Workdir(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(store_lock, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(store_lock, "LEASE_SECONDS", 2.0)
    monkeypatch.setenv("CONVMESH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """Local copies of one address, as two processes have them."""

    def open_copy(address, name):
        monkeypatch.setattr(
            "convmesh.workdir.local_copy.local_folder", lambda *_: tmp_path / f"copy-{name}"
        )
        return LocalCopy(ObjectStore(address))

    return open_copy


@pytest.fixture
def s3(servers):
    return object_stores.new_address("s3")


@pytest.fixture
def holder(s3):
    """Another process that holds the lock of `s3`."""
    command = [sys.executable, "-c", HOLD, s3]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def locks(address):
    """The locks in the store that are not released."""
    store = ObjectStore(address)
    names = sorted(store.entries(".lock"))
    return [name for name in names if "released" not in json.loads(store.read(name))]


def test_a_second_one_is_refused_and_the_holder_named(copies, address):
    said = rf"{address}: another run is using it, process {os.getpid()} on \S+; wait"
    with StoreLock(copies(address, "a")):
        with pytest.raises(ConfigError, match=said):
            StoreLock(copies(address, "b")).refuse_if_held()
        with pytest.raises(ConfigError, match=said), StoreLock(copies(address, "c")):
            pass
        assert len(locks(address)) == 1
    assert not locks(address)
    with StoreLock(copies(address, "d")):
        pass


def test_kill_9_leaves_nothing_that_blocks(copies, s3, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    started = time.monotonic()
    with StoreLock(copies(s3, "a")):
        assert time.monotonic() - started < store_lock.LEASE_SECONDS
        assert len(locks(s3)) == 1


def test_of_a_process_elsewhere_that_is_silent_the_lock_is_taken_over(
    copies, s3, holder, monkeypatch, capsys
):
    monkeypatch.setattr(store_lock, "_namespace", lambda: "another machine")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    started = time.monotonic()
    with StoreLock(copies(s3, "a")) as lock:
        assert time.monotonic() - started >= store_lock.LEASE_SECONDS
        assert lock.holds(lock.token)
    assert f"is locked by process {holder.pid}" in capsys.readouterr().err


def test_a_holder_that_was_suspended_finds_that_it_lost_the_lock(copies, s3, holder):
    os.kill(holder.pid, signal.SIGSTOP)
    with StoreLock(copies(s3, "a")) as lock:
        os.kill(holder.pid, signal.SIGCONT)
        time.sleep(5 * store_lock.RENEW_SECONDS)
        lock.check()  # the other has not written its lock again
        assert len(locks(s3)) == 1


def test_who_has_lost_the_lock_writes_nothing_more(copies, s3):
    copy = copies(s3, "b")
    said = "another run has taken it over, process 5 on elsewhere"
    with pytest.raises(RunError, match=said), StoreLock(copy) as lost:
        copy.store.create(".lock/999999", b'{"pid": 5, "host": "elsewhere"}')
        with pytest.raises(RunError, match=said):
            lost.check()
        (copy.folder / "late").write_text("1")
    assert "late" not in ObjectStore(s3).entries()
    assert locks(s3) == [".lock/999999"]


def test_no_number_is_given_twice(copies, s3):
    for name in "abc":
        with StoreLock(copies(s3, name)):
            pass
    assert list(ObjectStore(s3).entries(".lock")) == [".lock/000003"]


def test_a_long_upload_does_not_cost_the_lock(copies, s3, monkeypatch):
    copy = copies(s3, "a")
    upload = copy.store.upload

    def slow(*arguments):
        time.sleep(1.5 * store_lock.LEASE_SECONDS)
        upload(*arguments)

    monkeypatch.setattr(copy.store, "upload", slow)
    with StoreLock(copy), ThreadPoolExecutor(1) as pool:
        (copy.folder / "file").write_text("1")
        pushed = pool.submit(copy.push)
        time.sleep(0.5)
        with pytest.raises(ConfigError, match="another run is using it"):
            StoreLock(copies(s3, "b")).refuse_if_held()
        pushed.result()
    assert "file" in ObjectStore(s3).entries()


def test_what_fails_while_the_lock_is_taken_releases_it(copies, s3, monkeypatch):
    copy = copies(s3, "a")

    def fail():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(copy, "pull", fail)
    with pytest.raises(ConfigError, match="No space left"), StoreLock(copy):
        pass
    assert not locks(s3)


def test_of_many_that_start_at_once_one_gets_it(s3):
    command = [sys.executable, "-c", HOLD.replace("time.sleep(60)", "time.sleep(4)"), s3]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate()[1] for process in started]
    assert sorted(process.returncode for process in started) == [0, 1, 1, 1]
    assert sum("another run is using it" in text for text in said) == 3


def test_other_processes_know_the_holder_by_its_token(copies, s3):
    with StoreLock(copies(s3, "a")) as lock:
        seen = StoreLock(copies(s3, "b"))
        assert seen.holds(lock.token)
        assert not seen.holds("") and not seen.holds("another")
    assert not seen.holds(lock.token)


def test_what_changes_is_written_while_it_is_held_and_at_the_end(copies, s3, monkeypatch):
    monkeypatch.setattr(store_lock, "PUSH_SECONDS", 0.0)
    copy = copies(s3, "a")
    with StoreLock(copy):
        (copy.folder / "metrics.jsonl").write_text("1")
        deadline = time.monotonic() + 20
        while "metrics.jsonl" not in copy.store.entries() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert copy.store.read("metrics.jsonl") == b"1"
        monkeypatch.setattr(store_lock, "PUSH_SECONDS", 60.0)
        (copy.folder / "last").write_text("1")
    assert copy.store.read("last") == b"1"


def test_a_push_that_fails_ends_the_run(copies, s3, monkeypatch):
    copy = copies(s3, "a")

    def fail(*_):
        raise OSError(5, "no network")

    with pytest.raises(RunError, match="cannot be written: no network"), StoreLock(copy):
        monkeypatch.setattr(copy, "push", fail)


def test_a_store_that_does_not_answer_is_a_failure_of_its_own(copies, s3, monkeypatch):
    def silent(*_, **__):
        raise OSError(errno.EIO, "503 slow down", s3)

    copy = copies(s3, "a")
    monkeypatch.setattr(ObjectStore, "entries", silent)
    words = "503 slow down; run it again once the store answers"
    with pytest.raises(StoreError, match=words), StoreLock(copy):
        pass
    with pytest.raises(StoreError, match=words) as caught:
        Workdir(s3)
    assert exit_status(caught.value, debug=False)[1] == 74


def test_a_bucket_that_is_not_there_is_a_wrong_workdir(servers):
    with pytest.raises(ConfigError, match=r"--workdir s3://none/run: no such object or bucket"):
        Workdir("s3://none/run")
