"""Signals: noted, obeyed at once, and a second one; whatever the main thread is at."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import runs

from convmesh.errors import RunError, Stopped
from convmesh.signals import GRACE, StopSignal


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        assert signal.getsignal(number) is handler


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_where_nothing_is_lost_it_ends_at_once(number):
    went_on = False
    with pytest.raises(Stopped, match=rf"stopped by {number.name} before it had begun; run it"):
        with StopSignal() as stop:
            stop.begin()
            signal.raise_signal(number)
            went_on = True
    assert not went_on


def test_no_handler_of_errors_on_the_way_takes_it():
    with pytest.raises(Stopped), StopSignal() as stop:
        stop.begin()
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception:  # as a reader of images has one
            pytest.fail("taken")


def test_while_steps_are_done_it_is_noted():
    with StopSignal() as stop, stop.noted():
        signal.raise_signal(signal.SIGTERM)
        assert stop.received == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        stop.received = ""  # it was dealt with


def test_what_was_noted_is_obeyed_where_nothing_is_lost():
    stop, reached = StopSignal(), []
    stop.told = lambda: "at step 7, saved"
    with pytest.raises(Stopped, match="stopped by SIGINT at step 7, saved"):
        with stop, stop.noted():
            signal.raise_signal(signal.SIGINT)
            reached.append("after the signal")
            with stop.at_once():
                reached.append("an evaluation")
    assert reached == ["after the signal"]


def test_what_makes_an_error_of_it_does_not_hide_it():
    with pytest.raises(Stopped), StopSignal() as stop:
        stop.begin()
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            raise ValueError("something was read wrongly") from error


def test_a_save_that_failed_is_told_all_the_same():
    with pytest.raises(RunError, match="not written"), StopSignal() as stop:
        stop.begin()
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise RunError("not written")


def test_what_is_closed_is_closed_whole():
    closed = []
    with StopSignal() as stop:
        stop.begin()
        stop.note_only()
        signal.raise_signal(signal.SIGTERM)
        closed.append("all")
    assert closed == ["all"]


def test_one_of_several_processes_only_notes():
    with StopSignal(alone=False) as stop:
        stop.begin()
        signal.raise_signal(signal.SIGTERM)
        with stop.noted(), stop.at_once():
            pass
        assert stop.received == "SIGTERM"


# As a compilation does: no Python runs, so neither do Python's handlers of signals.
HEAR_NOTHING = """
import ctypes, sys
from convmesh.errors import RunError, Stopped
from convmesh.signals import StopSignal

def hear_nothing():
    mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    print("deaf", flush=True)
    while True:  # the second time it waits for ever
        libc.pthread_mutex_lock(mutex)

with StopSignal(ends_process=True) as stop:
    stop.begin()
    stop.told = lambda: "at step 3, saved"
"""


def ended(body, *numbers):
    """Status, standard error and seconds of a process that hears nothing, sent signals."""
    command = [sys.executable, "-c", f"{HEAR_NOTHING}    {body}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "deaf\n"
    began = time.monotonic()
    for number in numbers:
        time.sleep(0.3)
        os.kill(process.pid, number)
    told = process.communicate(timeout=60)[1]
    return process.returncode, told, time.monotonic() - began


def test_a_main_thread_that_hears_nothing_is_ended_after_the_grace():
    status, told, seconds = ended("hear_nothing()", signal.SIGTERM)
    assert (status, told) == (75, "convmesh: stopped by SIGTERM at step 3, saved\n")
    assert seconds >= GRACE


def test_the_grace_begins_once_a_checkpoint_is_written():
    body = """import threading
    sys.modules[StopSignal.__module__].GRACE = 0.1
    # As Orbax names the thread that writes; here it writes until a line comes.
    threading.Thread(target=sys.stdin.readline, name="async_save").start()
    hear_nothing()
"""
    command = [sys.executable, "-c", f"{HEAR_NOTHING}    {body}"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout.readline() == "deaf\n"
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(1)  # ten times the grace
    writes_on = process.poll() is None
    told = process.communicate("\n" if writes_on else None, timeout=60)[1]
    assert writes_on, told
    assert (process.returncode, told) == (75, "convmesh: stopped by SIGTERM at step 3, saved\n")


def test_a_second_signal_ends_the_process_at_once_also_while_steps_are_done():
    status, told, seconds = ended(
        "with stop.noted(): hear_nothing()", signal.SIGINT, signal.SIGTERM
    )
    assert (status, seconds < GRACE) == (128 + signal.SIGTERM, True)
    assert told == "convmesh: ended at once by a second signal, SIGTERM\n"


def test_a_signal_after_the_last_save_does_not_change_the_status():
    body = """signal.raise_signal(signal.SIGTERM)
except Stopped as stopped:
    signal.raise_signal(signal.SIGTERM)
    print(stopped, file=sys.stderr)
    sys.exit(stopped.exit_code)
"""
    program = HEAR_NOTHING.replace("import ctypes", "import signal, ctypes")
    program = program.replace("with StopSignal", "try:\n  with StopSignal")
    process = subprocess.run(
        [sys.executable, "-c", f"{program}    {body}"], capture_output=True, text=True, timeout=60
    )
    assert (process.returncode, process.stderr) == (75, "stopped by SIGTERM at step 3, saved\n")


def test_who_reads_standard_error_may_be_gone():
    command = [sys.executable, "-c", f"{HEAR_NOTHING}    hear_nothing()"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "deaf\n"
    process.stderr.close()
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    process.stdout.close()


def test_an_error_that_ends_the_run_is_not_hidden_by_a_late_signal():
    with pytest.raises(ValueError, match="the error"), StopSignal() as stop:
        stop.begin()
        try:
            with stop.noted():
                raise ValueError("the error")
        finally:
            signal.raise_signal(signal.SIGTERM)  # while things are closed


def test_a_signal_that_is_passed_on_may_come_twice():
    with StopSignal(alone=False, launched=True) as stop:
        stop.begin()
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_note_of_another_process_is_no_first_signal():
    with StopSignal(alone=False) as stop:
        stop.begin()
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
    told = ""
    while "ran the first step" not in told:
        told = process.stderr.readline()
        assert told, "it ended"
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 75, told
    step = int(re.search(r"stopped by SIGINT at step (\d+), saved", told)[1])
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [str(step)]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == step
