"""Worker processes that end or cannot start: one line that says why and what to do."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from multiprocessing import resource_tracker, util

import pytest
from sources import Scenes, config_for

from convmesh.data.loading import loader, worker_errors
from convmesh.errors import DataError, RunError

SIZES = "/dev/shm (64 MB, 1 MB free)"


class Unsendable(Exception):
    """An error that cannot be unpickled."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class Failing(Scenes):
    """Its image 4 raises what `error` returns."""

    def __init__(self, count, error):
        super().__init__(count)
        self.error = error

    def __getitem__(self, index):
        if index == 4:
            raise self.error()
        return super().__getitem__(index)


def value_error():
    return ValueError("no such thing")


def unsendable():
    return Unsendable("this", "that")


def missing_file():
    return FileNotFoundError(errno.ENOENT, "No such file", "/data/4.png")


def data_error():
    return DataError("4.png: cut short")


def raised_with_workers(source, before=lambda: None):
    """What the batches of `source` raise with two workers; `before` runs after the first batch."""
    batches = None
    try:
        batches = loader.train_batches(source, config_for(workers=2))
        next(batches)
        before()
        for _ in range(40):
            next(batches)
    except Exception as error:
        return error
    finally:
        if batches is not None:
            batches.close()
        assert not multiprocessing.active_children()
    raise AssertionError("nothing was raised")


def kill_a_worker(number):
    os.kill(multiprocessing.active_children()[0].pid, number)


@pytest.mark.parametrize(
    "number, words",
    [
        (signal.SIGKILL, ["killed, probably by the kernel", "data.cache=false"]),
        (signal.SIGBUS, ["SIGBUS: /dev/shm (", " MB free)", "data.workers=0", "--shm-size=256m"]),
        (signal.SIGSEGV, ["a worker process was ended by SIGSEGV; with data.workers=0"]),
    ],
)
def test_a_worker_that_is_killed_ends_the_run_with_the_cause(number, words):
    error = raised_with_workers(Scenes(9), lambda: kill_a_worker(number))
    assert type(error) is RunError and str(error).startswith("data.workers=2: a worker process was")
    assert all(word in str(error) for word in words), error


@pytest.mark.parametrize(
    "error, kind, text",
    [
        (value_error, ValueError, "no such thing"),
        (unsendable, RuntimeError, "Unsendable: this and that"),
        (missing_file, FileNotFoundError, "[Errno 2] No such file: '/data/4.png'"),
        (data_error, DataError, "4.png: cut short"),
    ],
)
def test_an_error_of_the_data_is_raised_as_without_workers(error, kind, text):
    raised = raised_with_workers(Failing(9, error))
    assert (type(raised), str(raised), getattr(raised, "__notes__", [])) == (kind, text, [])


@pytest.mark.parametrize(
    "number, words",
    [
        (errno.EAGAIN, "the limit of processes"),
        (errno.EMFILE, "the limit of open files"),
        (errno.EPIPE, "one ended while it was starting"),
    ],
)
def test_a_worker_that_cannot_be_started_ends_the_run(monkeypatch, number, words):
    started, spawn = [], util.spawnv_passfds

    def fail_at_the_second(*args):
        started.append(args)
        if len(started) == 2:
            raise OSError(number, os.strerror(number))
        return spawn(*args)

    resource_tracker.ensure_running()
    monkeypatch.setattr(util, "spawnv_passfds", fail_at_the_second)
    error = raised_with_workers(Scenes(9))
    assert type(error) is RunError
    assert str(error).startswith("data.workers=2: the worker processes cannot be started: " + words)
    assert str(error).endswith("; set fewer, or data.workers=0")


def test_too_little_shared_memory_is_measured_and_what_is_needed_is_named(monkeypatch):
    sizes = type("Usage", (), {"total": 2**26, "free": 2**20})
    monkeypatch.setattr(worker_errors.shutil, "disk_usage", lambda path: sizes)
    ended = RuntimeError("Worker process was terminated unexpectedly with exit code -7. Search")
    said = str(worker_errors.explain(ended, 8, 50 * 2**20))
    assert said.startswith(f"data.workers=8: a worker process was ended by SIGBUS: {SIZES}, ")
    assert "is too small; set data.workers=0, or enlarge it (docker run --shm-size=2400m)" in said
    # The semaphores of the workers lie there, too.
    no_room = OSError(errno.ENOSPC, "No space left on device")
    assert f"no shared memory for worker processes: No space left on device: {SIZES}" in str(
        worker_errors.explain(no_room, 1, 0)
    )


def test_an_error_of_the_data_after_the_first_batches_is_not_about_starting_workers():
    error = OSError(errno.EMFILE, "Too many open files")
    assert worker_errors.explain(error, 2, 0, starting=False) is error
    assert isinstance(worker_errors.explain(error, 2, 0, starting=True), RunError)


def test_a_daemonic_process_is_told_that_it_may_have_no_workers():
    error = AssertionError("daemonic processes are not allowed to have children")
    assert "set data.workers=0" in str(worker_errors.explain(error, 1, 0))


SCRIPT = """
import convmesh
from convmesh.data.loading import loader, worker_errors
from sources import Scenes, config_for

{call}
if {trains}:
    source = Scenes(9)
    source.names = ["a name"] * {names}  # what the run sends to a worker
    with loader.train_batches(source, config_for(workers=2)) as batches:
        next(batches)
"""
NO_GUARD = "worker_errors.end_if_worker_is_starting()"
GUARD = '__name__ == "__main__"'


def run_script(tmp_path, text, stdin=False):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(text))
    path = os.pathsep.join(path for path in sys.path if path)
    with script.open() as file:
        return subprocess.run(
            [sys.executable, *(["-"] if stdin else [str(script)])],
            stdin=file,
            capture_output=True,
            text=True,
            timeout=100,
            env=os.environ | {"PYTHONPATH": path},
        )


@pytest.mark.parametrize("names", [1, 10**6])
def test_a_script_without_a_main_guard_ends_with_one_error(tmp_path, names):
    done = run_script(tmp_path, SCRIPT.format(call=NO_GUARD, trains="True", names=names))
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.splitlines()[-1] == (
        f"convmesh.errors.RunError: data.workers=2: each worker process imports {tmp_path}"
        "/script.py, and would train too; put the call of convmesh.train under "
        'if __name__ == "__main__":, or set data.workers=0'
    )


def test_a_script_with_a_main_guard_gets_its_batches(tmp_path):
    done = run_script(tmp_path, SCRIPT.format(call="", trains=GUARD, names=1))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_script_from_standard_input_is_refused(tmp_path):
    done = run_script(tmp_path, SCRIPT.format(call="", trains=GUARD, names=1), stdin=True)
    assert done.returncode == 1 and done.stderr.count("Traceback") == 1
    assert (
        "data.workers=2: each worker process imports the script, and <stdin> is no file; save"
        in (done.stderr.splitlines()[-1])
    )


def test_a_leftover_of_a_killed_worker_is_removed_without_a_warning(tmp_path):
    kill = (
        "        import os, signal, multiprocessing\n"
        "        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)\n"
        "        while True: next(batches)\n"
    )
    done = run_script(tmp_path, SCRIPT.format(call="", trains=GUARD, names=1) + kill)
    assert done.returncode == 1 and "a worker process was killed" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("call", ["convmesh.train(None, None)", "main([])"])
def test_training_and_the_command_line_end_a_worker_that_imports_them(monkeypatch, call):
    import convmesh
    from convmesh.cli.command_line import main

    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    monkeypatch.setattr(worker_errors.sys, "orig_argv", [])

    def ended(status):
        raise SystemExit(status)

    monkeypatch.setattr(worker_errors.os, "_exit", ended)
    with pytest.raises(SystemExit) as exit:
        eval(call, {"convmesh": convmesh, "main": main})
    assert exit.value.code == worker_errors._NO_GUARD
