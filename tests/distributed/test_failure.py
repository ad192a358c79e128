"""How several processes end together: one that fails, or loses its launcher."""

import json
import subprocess
import sys
import time
from pathlib import Path

import jobs
import pytest


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failing_process_ends_all(job, failing):
    # The other one is inside a collective that cannot complete.
    body = f"""
total()
if index != {failing}:
    failure.POLL_SECONDS = 2  # the failing process has to wait until the other one polls
else:
    time.sleep(1)
    raise DataError("a.jpg: cut short")
total()
print("not ended")
"""
    status, out, err = jobs.end(job(body, "--num-processes", "2"))
    assert status == 1
    assert "not ended" not in out + err
    message = f"process {failing} of 2: a.jpg: cut short\n"
    if failing == 0:
        assert err == f"convmesh: error: {message}"
    else:
        assert "convmesh: error: process 1 failed: a.jpg: cut short\n" in err
        assert f"[process 1] convmesh: error: {message}" in err
        assert err.count("\n") == 2


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        ("ConfigError('train.steps=0: wrong')", 2, "convmesh: error: train.steps=0: wrong"),
        ("Stopped('stopped at step 7')", 75, "convmesh: stopped at step 7"),
    ],
)
def test_an_error_that_all_processes_raise_is_printed_once(job, error, status, line):
    done = jobs.end(job(f"time.sleep(0.3 * index)\nraise {error}", "--num-processes", "2"))
    assert done == (status, "", f"{line}\n")


def test_an_uncaught_exception_of_a_script_ends_all(tmp_path):
    # Without the command line around it.
    script = tmp_path / "script.py"
    script.write_text("""
import sys
from convmesh import simulate_devices
from convmesh.distributed import launch, processes
simulate_devices(1)
launch.start(sys.argv[1], 2, int(sys.argv[2]))
if processes.index() == 1:
    raise ValueError("no such thing")
processes.wait_for_all("never")
""")
    command = [sys.executable, str(script), jobs.free_address()]
    both = [subprocess.Popen([*command, str(i)], **jobs.PIPES) for i in range(2)]
    try:
        (status, _, err), (status_1, _, err_1) = map(jobs.end, both)
    finally:
        jobs.kill(both)
    assert (status, status_1) == (1, 1)
    assert err == "convmesh: error: process 1 failed: ValueError: no such thing\n"
    assert "Traceback" in err_1
    assert err_1.endswith("convmesh: error: process 1 of 2: ValueError: no such thing\n")


def test_local_processes_end_with_their_launcher(job):
    body = """
pids = processes.gather(os.getpid())
if first: print(pids, flush=True)
time.sleep(100)
"""
    process = job(body, "--num-processes", "2")
    pids = json.loads(jobs.next_line(process.stdout))
    assert len(pids) == 2
    process.kill()
    process.wait(timeout=30)
    deadline = time.monotonic() + 10
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)
