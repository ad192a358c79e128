"""Signals: what they may interrupt, what is deferred, and the second one."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import runs

from convmesh.errors import RunError, Stopped
from convmesh.training.signals import GRACE_SECONDS, Phase, StopSignal, listening


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        assert signal.getsignal(number) is handler


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interruptible_phase_ends_where_it_is(number):
    went_on = False
    with pytest.raises(Stopped, match=rf"stopped by {number.name} before the run had started; run"):
        with StopSignal() as stop:
            stop.enter(Phase.OPEN)
            signal.raise_signal(number)
            went_on = True
    assert not went_on


@pytest.mark.parametrize("phase", Phase)
def test_what_may_be_interrupted_loses_nothing(phase):
    # Data and models are opened, or a saved state is evaluated; nothing else may be interrupted.
    assert phase.interruptible == (phase in (Phase.OPEN, Phase.CREATE, Phase.EVALUATE))


def test_no_error_handler_on_the_way_catches_it():
    with pytest.raises(Stopped), StopSignal() as stop:
        stop.enter(Phase.OPEN)
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception:  # as a reader of images has one
            pytest.fail("caught")


def test_during_steps_it_is_deferred():
    with StopSignal() as stop, stop.during(Phase.STEP):
        signal.raise_signal(signal.SIGTERM)
        assert stop.received == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        stop.received = ""  # it was dealt with


def test_a_deferred_signal_ends_the_next_interruptible_phase():
    stop, reached = StopSignal(), []
    stop.status = lambda: "at step 7, saved"
    with pytest.raises(Stopped, match="stopped by SIGINT at step 7, saved"):
        with stop, stop.during(Phase.STEP):
            signal.raise_signal(signal.SIGINT)
            reached.append("after the signal")
            with stop.during(Phase.EVALUATE):
                reached.append("an evaluation")
    assert reached == ["after the signal"]


def test_an_error_that_a_library_makes_of_it_does_not_hide_it():
    with pytest.raises(Stopped), StopSignal() as stop:
        stop.enter(Phase.OPEN)
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            raise ValueError("something was read wrongly") from error


def test_a_save_that_failed_is_reported_all_the_same():
    with pytest.raises(RunError, match="not written"), StopSignal() as stop:
        stop.enter(Phase.OPEN)
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise RunError("not written")


def test_closing_is_not_interrupted():
    closed = []
    with StopSignal() as stop:
        stop.enter(Phase.OPEN)
        stop.enter(Phase.CLOSE)
        signal.raise_signal(signal.SIGTERM)
        closed.append("all")
    assert closed == ["all"]


def test_one_of_several_processes_only_keeps_it():
    with StopSignal(alone=False) as stop:
        stop.enter(Phase.OPEN)
        signal.raise_signal(signal.SIGTERM)
        with stop.during(Phase.STEP), stop.during(Phase.EVALUATE):
            pass
        assert stop.received == "SIGTERM"


def test_a_run_inside_of_a_command_line_listens_to_the_same_signal():
    with listening() as outer, listening() as inner:
        assert inner is outer
        stopped = None
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            stopped = error
        assert stopped is not None
        outer.received = ""  # it was dealt with
    with listening() as another:
        assert another is not outer


# As during a compilation, no Python runs, so neither do Python's signal handlers.
BLOCKED = """
import ctypes, sys
from convmesh.errors import RunError, Stopped
from convmesh.training.signals import Phase, StopSignal

def block():
    mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    print("blocked", flush=True)
    while True:  # the second time it waits forever
        libc.pthread_mutex_lock(mutex)

with StopSignal(ends_process=True) as stop:
    stop.enter(Phase.OPEN)
    stop.status = lambda: "at step 3, saved"
"""


def ended(body, *numbers):
    """Status, standard error and seconds of a process in which no Python runs, sent signals."""
    command = [sys.executable, "-c", f"{BLOCKED}    {body}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "blocked\n"
    began = time.monotonic()
    for number in numbers:
        time.sleep(0.3)
        os.kill(process.pid, number)
    printed = process.communicate(timeout=60)[1]
    return process.returncode, printed, time.monotonic() - began


def test_a_blocked_main_thread_is_ended_after_the_grace():
    status, printed, seconds = ended("block()", signal.SIGTERM)
    assert (status, printed) == (75, "convmesh: stopped by SIGTERM at step 3, saved\n")
    assert seconds >= GRACE_SECONDS


def test_the_grace_begins_once_a_checkpoint_is_written():
    body = """import threading
    sys.modules[StopSignal.__module__].GRACE_SECONDS = 0.1
    # As Orbax names the thread that writes; here it writes until a line comes.
    threading.Thread(target=sys.stdin.readline, name="async_save").start()
    block()
"""
    command = [sys.executable, "-c", f"{BLOCKED}    {body}"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout.readline() == "blocked\n"
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(1)  # ten times the grace
    writes_on = process.poll() is None
    printed = process.communicate("\n" if writes_on else None, timeout=60)[1]
    assert writes_on, printed
    assert (process.returncode, printed) == (75, "convmesh: stopped by SIGTERM at step 3, saved\n")


def test_a_second_signal_ends_the_process_at_once_also_during_steps():
    status, printed, seconds = ended(
        "with stop.during(Phase.STEP): block()", signal.SIGINT, signal.SIGTERM
    )
    assert (status, seconds < GRACE_SECONDS) == (128 + signal.SIGTERM, True)
    assert printed == "convmesh: ended at once by a second signal, SIGTERM\n"


def test_a_signal_after_the_last_save_does_not_change_the_status():
    body = """signal.raise_signal(signal.SIGTERM)
except Stopped as stopped:
    signal.raise_signal(signal.SIGTERM)
    print(stopped, file=sys.stderr)
    sys.exit(stopped.exit_code)
"""
    program = BLOCKED.replace("import ctypes", "import signal, ctypes")
    program = program.replace("with StopSignal", "try:\n  with StopSignal")
    process = subprocess.run(
        [sys.executable, "-c", f"{program}    {body}"], capture_output=True, text=True, timeout=60
    )
    assert (process.returncode, process.stderr) == (75, "stopped by SIGTERM at step 3, saved\n")


def test_nobody_may_read_standard_error_any_more():
    command = [sys.executable, "-c", f"{BLOCKED}    block()"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "blocked\n"
    process.stderr.close()
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    process.stdout.close()


def test_an_error_that_ends_the_run_is_not_hidden_by_a_late_signal():
    with pytest.raises(ValueError, match="the error"), StopSignal() as stop:
        stop.enter(Phase.OPEN)
        try:
            with stop.during(Phase.RESTORE):
                raise ValueError("the error")
        finally:
            signal.raise_signal(signal.SIGTERM)  # while files are closed


def test_a_signal_that_is_passed_on_may_come_twice():
    with StopSignal(alone=False, launched=True) as stop:
        stop.enter(Phase.OPEN)
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_signal_to_another_process_is_no_first_signal():
    with StopSignal(alone=False) as stop:
        stop.enter(Phase.OPEN)
        stop.received = "a signal to another process"
        signal.raise_signal(signal.SIGTERM)  # its own, a moment later
        assert stop.received == "a signal to another process"


def test_a_terminals_signal_to_all_processes_of_a_run_stops_it_and_not_its_workers(
    photos, tmp_path
):
    changes = {"model.name": "small_cnn", "train.steps": 10**6, "data.workers": 1}
    recipe = runs.write_recipe(tmp_path / "recipe.py", runs.photo_config(photos, changes))
    command = [sys.executable, "-m", "convmesh", "train", "--config", recipe, "--cpu-devices", "1"]
    command += ["--workdir", str(tmp_path / "run"), "--config.eval.every_steps=0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    printed = ""
    while "ran the first step" not in printed:
        printed = process.stderr.readline()
        assert printed, "it ended"
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    printed = process.communicate(timeout=60)[1]
    assert process.returncode == 75, printed
    step = int(re.search(r"stopped by SIGINT at step (\d+), saved", printed)[1])
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [str(step)]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == step
