"""Signals: what they may interrupt, what is deferred, and the second one."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest
import runs

from convmesh.distributed.stop_signals import NOTICES, ORDERS, REPEAT_SECONDS
from convmesh.errors import RunError, Stopped
from convmesh.training import signals
from convmesh.training.signals import GRACE_SECONDS, Phase, StopSignal, listening

LATER = REPEAT_SECONDS + 0.3


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in ORDERS + NOTICES}
    yield
    for number, handler in before.items():
        assert signal.getsignal(number) is handler


@pytest.fixture
def clock(monkeypatch):
    """The time that counts signals in this process, as a list of one number."""
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("number", ORDERS + NOTICES)
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


def test_during_steps_it_is_deferred(clock):
    with StopSignal() as stop, stop.during(Phase.STEP):
        signal.raise_signal(signal.SIGTERM)
        assert stop.received == "SIGTERM"
        clock[0] += LATER
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


def started(program):
    """A process that runs `program`, once it has printed that it is blocked."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", program], **pipes, text=True)
    assert process.stdout.readline() == "blocked\n"
    time.sleep(0.3)
    return process


def ended(program, *sent):
    """Status, standard error and seconds of a process that is sent each of `sent`.

    That is a signal, or seconds to wait.
    """
    process = started(program)
    began = time.monotonic()
    for one in sent:
        time.sleep(one) if isinstance(one, float) else os.kill(process.pid, one)
    printed = process.communicate(timeout=60)[1]
    return process.returncode, printed, time.monotonic() - began


@pytest.mark.parametrize("body", ["block()", "with stop.joining(): block()"])
def test_a_blocked_main_thread_is_ended_after_the_grace(body):
    status, printed, seconds = ended(f"{BLOCKED}    {body}", signal.SIGTERM)
    assert (status, printed) == (75, "convmesh: stopped by SIGTERM at step 3, saved\n")
    assert seconds >= GRACE_SECONDS


def test_the_grace_begins_once_a_checkpoint_is_written():
    body = """import threading
    sys.modules[StopSignal.__module__].GRACE_SECONDS = 0.1
    # As Orbax names the thread that writes; here it writes until a line comes.
    threading.Thread(target=sys.stdin.readline, name="async_save").start()
    block()
"""
    process = started(f"{BLOCKED}    {body}")
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(1)  # ten times the grace
    writes_on = process.poll() is None
    printed = process.communicate("\n" if writes_on else None, timeout=60)[1]
    assert writes_on, printed
    assert (process.returncode, printed) == (75, "convmesh: stopped by SIGTERM at step 3, saved\n")


@pytest.mark.parametrize("first", ORDERS)
def test_a_later_second_signal_ends_the_process_at_once_also_during_steps(first):
    program = f"{BLOCKED}    with stop.during(Phase.STEP): block()"
    status, printed, seconds = ended(program, first, LATER, signal.SIGTERM)
    assert (status, seconds < GRACE_SECONDS) == (128 + signal.SIGTERM, True)
    assert printed == "convmesh: ended at once by a second signal, SIGTERM\n"


# A run whose last step ends SECONDS after the first signal.
STEPPING = """
import ctypes, sys, time
from convmesh.errors import Stopped
from convmesh.training.signals import Phase, StopSignal

try:
    with StopSignal(ends_process=True) as stop:
        stop.enter(Phase.STEP)
        stop.status = lambda: "at step 3, saved"
        print("blocked", flush=True)
        while not stop.received:
            time.sleep(0.01)
        time.sleep(0.1)
        SLEEP
        raise Stopped(stop.message())
except Stopped as stopped:
    print(stopped, file=sys.stderr)
    time.sleep(0.5)
    sys.exit(stopped.exit_code)
"""
HUP, USR1, TERM, INT = signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT


@pytest.mark.parametrize(
    "sent",
    [
        (TERM, TERM, 0.2, TERM),
        (INT, 0.8, TERM),
        (HUP, TERM),
        (HUP, 0.5, TERM, 0.8, TERM),
        (USR1, LATER, TERM),
        (USR1, LATER, USR1, HUP),
        (TERM, LATER, HUP, USR1),
        (TERM, 2.8, TERM, INT, HUP),  # when it has saved
    ],
    ids=lambda sent: " ".join(str(getattr(one, "name", one)) for one in sent),
)
def test_repeated_signals_are_one_and_notices_never_the_second(sent):
    status, printed, _ = ended(STEPPING.replace("SLEEP", "time.sleep(2.4)"), *sent)
    first = re.search(r"stopped by (\w+) at step 3, saved\n$", printed)
    assert (status, first and first[1]) == (75, sent[0].name), printed


def test_a_repetition_that_is_seen_late_is_one():
    # No thread runs, not even that which receives signals, while a library holds the GIL.
    held = STEPPING.replace("SLEEP", "ctypes.PyDLL(None).usleep(1_500_000); time.sleep(0.1)")
    status, printed, _ = ended(held, TERM, 0.4, TERM)
    assert (status, printed) == (75, "stopped by SIGTERM at step 3, saved\n")


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
    process = started(f"{BLOCKED}    block()")
    process.stderr.close()
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    process.stdout.close()
    process.stdin.close()


def test_an_error_that_ends_the_run_is_not_hidden_by_a_late_signal():
    with pytest.raises(ValueError, match="the error"), StopSignal() as stop:
        stop.enter(Phase.OPEN)
        try:
            with stop.during(Phase.RESTORE):
                raise ValueError("the error")
        finally:
            signal.raise_signal(signal.SIGTERM)  # while files are closed


@pytest.mark.parametrize("second", ORDERS)
def test_a_caller_in_python_gets_keyboard_interrupt_only_later(clock, second):
    with StopSignal(alone=False) as stop:
        stop.enter(Phase.OPEN)
        for number in (*NOTICES, signal.SIGTERM, second, *NOTICES):
            signal.raise_signal(number)
            clock[0] += REPEAT_SECONDS / 10
        clock[0] += REPEAT_SECONDS
        signal.raise_signal(NOTICES[0])
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)


@pytest.mark.parametrize("number", NOTICES)
@pytest.mark.parametrize("ends_process", [False, True])
def test_an_ignored_notice_stays_ignored_and_a_handler_of_the_callers_own_stays(
    number, ends_process
):
    heard = []
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with StopSignal(ends_process) as stop:
            stop.enter(Phase.OPEN)
            assert signal.getsignal(number) is signal.SIG_IGN
            signal.raise_signal(number)
        signal.signal(number, lambda *_: heard.append(number))
        with StopSignal(ends_process) as stop:
            stop.enter(Phase.OPEN)
            signal.raise_signal(number)
            time.sleep(0.1)
    finally:
        signal.signal(number, before)
    assert heard == [number] and stop.received == ""


def test_a_signal_while_it_joins_others_is_kept_for_all_of_them(monkeypatch):
    with StopSignal() as stop:
        stop.enter(Phase.OPEN)
        with stop.joining():
            signal.raise_signal(signal.SIGUSR1)
            monkeypatch.setattr(signals.processes, "count", lambda: 2)
        with stop.during(Phase.EVALUATE):
            pass
        monkeypatch.setattr(signals.processes, "gather", lambda received: [False, received])
        with pytest.raises(Stopped, match="stopped by SIGUSR1 before the run had started"):
            stop.end_if_any_received()


def test_a_signal_to_another_process_ends_all_before_the_start(monkeypatch):
    with StopSignal(alone=False) as stop:
        stop.end_if_any_received()
        monkeypatch.setattr(signals.processes, "gather", lambda received: [received, True])
        with pytest.raises(Stopped, match="stopped by a signal to another process before"):
            stop.end_if_any_received()


def test_a_signal_to_another_process_is_no_first_signal():
    with StopSignal(alone=False) as stop:
        stop.enter(Phase.OPEN)
        stop.received = "a signal to another process"
        signal.raise_signal(signal.SIGTERM)  # its own, a moment later
        assert stop.received == "a signal to another process"


def start_terminal(command):
    """Starts `command` in a terminal of its own; returns its process id and the terminal."""
    pid, terminal = pty.fork()
    if not pid:
        os.execv(command[0], command)
    return pid, terminal


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_a_terminals_signal_to_all_processes_of_a_run_stops_it_and_not_its_workers(
    photos, tmp_path, name
):
    changes = {"model.name": "small_cnn", "train.steps": 10**6, "data.workers": 1}
    recipe = runs.write_recipe(tmp_path / "recipe.py", runs.photo_config(photos, changes))
    command = [sys.executable, "-m", "convmesh", "train", "--config", recipe, "--cpu-devices", "1"]
    command += ["--workdir", str(tmp_path / "run"), "--config.eval.every_steps=0"]
    pid, terminal = start_terminal(command)
    with open(terminal, "rb+", buffering=0) as keyboard:
        printed = b""
        while b"ran the first step" not in printed:
            printed += keyboard.read(1000)
        time.sleep(0.5)
        if name == "SIGINT":
            keyboard.write(b"\x03")
            with contextlib.suppress(OSError):  # the terminal ends with its last process
                while read := keyboard.read(1000):
                    printed += read
    # Else it is closed: SIGHUP, and nothing can be printed any more.
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75, printed
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == int(
        checkpoint.name
    )
    if name == "SIGINT":
        assert f"stopped by SIGINT at step {checkpoint.name}, saved" in printed.decode()
