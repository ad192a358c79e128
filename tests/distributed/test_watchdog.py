"""The watchdog: real processes that are killed, stopped or hang, and those that only look so."""

import os
import signal
import subprocess
import sys
import time

import jobs
import pytest

from convmesh.distributed import watchdog

LOST, HUNG = 76, 77
BODY = """
total()  # all are there
MAIN.enter(Activity.STEP, 1)
time.sleep(2)  # until it was published
print(f'\\npid {os.getpid()}', flush=True)
"""


@pytest.fixture
def two(job):
    """Starts two processes by hand that run a body after BODY; returns them and their ids."""

    def start(body, *flags):
        address = jobs.free_address()
        both = [job(BODY + body, *jobs.flags_for(i, address), *flags) for i in range(2)]
        return both, [pid_of(process) for process in both]

    return start


def pid_of(process):
    while not (line := process.stdout.readline()).startswith("pid "):  # gloo prints there too
        pass
    return int(line.split()[1])


def test_a_killed_process_ends_the_others_that_wait_for_it(two):
    both, pids = two("if index: time.sleep(100)\ntotal()\nprint('not ended')", "--lost-after=4")
    os.kill(pids[1], signal.SIGKILL)
    status, out, err = jobs.end(both[0], 25)
    assert (status, out) == (LOST, "")
    assert err.splitlines()[-1] == (
        "convmesh: error: process 1 was lost after step 1: no sign of life for 4 s; "
        "run it again to resume"
    )


def test_a_killed_coordinator_ends_the_others_though_they_do_not_wait_for_it(two):
    both, pids = two("time.sleep(100)")
    os.kill(pids[0], signal.SIGKILL)
    status, _, err = jobs.end(both[1], 25)
    assert status == LOST  # before JAX aborts the process
    assert "convmesh: error: process 0 was lost after step 1: no sign of life for 1 s" in err


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_process_ends_the_others_and_later_itself(two, stopped):
    both, pids = two("time.sleep(100)", "--lost-after=6")
    os.kill(pids[stopped], signal.SIGSTOP)
    status, _, err = jobs.end(both[1 - stopped], 25)
    assert (status, err.count("convmesh: error: ")) == (LOST, 1)
    assert f"process {stopped} was lost after step 1: no sign of life for 6 s" in err
    os.kill(pids[stopped], signal.SIGCONT)
    assert jobs.end(both[stopped], 25)[0] == LOST


def test_a_process_that_is_stopped_for_a_moment_ends_nothing(two):
    both, pids = two("time.sleep(5)\ntotal()", "--lost-after=10")
    os.kill(pids[1], signal.SIGSTOP)
    time.sleep(2.5)
    os.kill(pids[1], signal.SIGCONT)
    assert [jobs.end(process)[0] for process in both] == [0, 0]


STEPS = """
for step in range(1, 5):
    MAIN.enter(Activity.STEP, step)
    time.sleep(0.2)
"""


def test_a_process_that_hangs_ends_all_and_is_named_with_its_stack(job):
    body = f"""
def never_done(): time.sleep(100)
{STEPS.strip()}
if index:
    with MAIN.during(Activity.SAVE, 4):
        time.sleep(0.1)
    with MAIN.during(Activity.SAVE, 4):
        never_done()
else:
    for step in range(5, 9): MAIN.enter(Activity.STEP, step)
total()
"""
    process = job(body, "--num-processes", "2", "--hung-after=2")
    status, out, err = jobs.end(process, 60)
    assert status == HUNG
    assert "convmesh: error: process 1 hung: saving (step 4) has taken " in err
    assert "in never_done" in err
    assert "convmesh: process 0 of 2 is at:\n" in err


def test_a_process_that_works_longer_than_others_hangs_only_by_its_own_bound(job):
    body = f"""
{STEPS.strip()}
with MAIN.during(Activity.SCORE):  # the first of its kind
    if not index: time.sleep(7)
if index: time.sleep(7)  # in a step, for longer than any before, as it waits for the other
MAIN.enter(Activity.OUTSIDE)
total()
"""
    assert jobs.end(job(body, "--num-processes", "2", "--hung-after=1"), 60)[0] == 0


def test_a_process_alone_hangs_too(job):
    body = f"watchdog.start()\n{STEPS.strip()}\ntime.sleep(100)"
    status, _, err = jobs.end(job(body, "--hung-after=1"), 60)
    assert status == HUNG
    assert "convmesh: error: the process hung: a training step (step 4) has taken " in err


def test_a_bound_of_0_never_ends(job):
    body = f"watchdog.start()\n{STEPS.strip()}\ntime.sleep(7)"
    assert jobs.end(job(body, "--hung-after=0"), 60)[0] == 0


def test_a_killed_process_is_named_by_the_launcher(job):
    process = job("total()\nif index: os.kill(os.getpid(), 9)\ntotal()", "--num-processes", "2")
    status, _, err = jobs.end(process, 60)
    assert status == LOST
    assert "convmesh: error: process 1 was ended by SIGKILL" in err


def test_an_error_of_the_devices_is_not_taken_for_a_lost_process(job):
    body = "if index: raise jax.errors.JaxRuntimeError('INTERNAL: broken')\ntotal()"
    status, _, err = jobs.end(job(body, "--num-processes", "2"), 60)
    assert status == 1
    assert "process 1 failed: JaxRuntimeError: INTERNAL: broken" in err


def test_a_script_may_end_before_another_process_does(tmp_path):
    # Without the command line, which waits for all.
    script = tmp_path / "script.py"
    script.write_text("""
import sys, time
from convmesh import simulate_devices
from convmesh.distributed import launch, processes, watchdog
simulate_devices(1)
watchdog.set_bounds(6, None)
watchdog._OUTSIDE_TIMES = 1
launch.start(sys.argv[1], 2, int(sys.argv[2]))
processes.wait_for_all("here")
if processes.index() == int(sys.argv[3]): time.sleep(9)
print("done")
""")
    for late in (0, 1):
        command = [sys.executable, str(script), jobs.free_address()]
        both = [subprocess.Popen([*command, str(i), str(late)], **jobs.PIPES) for i in range(2)]
        assert [jobs.end(process, 60)[:2] for process in both] == [(0, "done\n")] * 2


@pytest.mark.parametrize(("seconds", "status"), [(3.0, 76), (30.0, 77)])
def test_a_coordinator_that_hung_and_ended_unheard_was_not_merely_lost(
    monkeypatch, seconds, status
):
    monkeypatch.setattr(watchdog.processes, "index", lambda: 1)
    monkeypatch.setattr(watchdog.processes, "count", lambda: 2)
    dog = watchdog.Watchdog(6.0, None)
    position = {"arrivals": 9, "what": "saving", "step": 4, "longest": 1.0, "bound": 20.0}
    position["seconds"] = seconds
    idle = position | {"what": "idle", "bound": None}
    dog._reports = {0: {"suspects": False, "main": idle, "saving": position}}
    dog._heard = {0: 100.0}
    assert dog._lost(105.0) is None
    found = dog._lost(107.0)
    assert (found.status, found.processes) == (status, (0,))
