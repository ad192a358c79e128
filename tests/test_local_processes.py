"""Processes that one command starts on this machine: their output, their ends, their signals."""

import os
import signal
import subprocess
import sys
import time

import pytest
from test_processes import SLURM, next_line

from convmesh import local_processes
from convmesh.errors import ConfigError


def run_stub(code, n=2):
    """`run_locally` of Python code that sees `me`; imports `os, signal, sys, time`."""
    head = "import os, signal, sys, time; me = {}\n"

    def command(process_id, coordinator):
        assert coordinator.startswith("127.0.0.1:")
        return [sys.executable, "-S", "-c", head.format(process_id) + code]

    return local_processes.run_locally(command, n)


def test_output_of_local_processes(capfd):
    assert run_stub("print('out', me); print('err', me, file=sys.stderr)", n=3) == 0
    out, err = capfd.readouterr()
    assert out == "out 0\n"
    assert sorted(err.splitlines()) == [
        *("[process 1] err 1", "[process 1] out 1", "[process 2] err 2", "[process 2] out 2"),
        "err 0",
    ]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("sys.exit(75)", 75),
        ("sys.exit(75 if me else 3)", 3),
        ("sys.exit(2 if me else 0)", 2),
        ("if me: sys.exit(7)\ntime.sleep(60)", 7),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nif me: sys.exit(7)\ntime.sleep(60)", 7),
        ("if me: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)", 137),
    ],
)
def test_status_of_local_processes_and_none_is_left(monkeypatch, capfd, code, status):
    monkeypatch.setattr(local_processes, "END_SECONDS", 0.5)
    before = time.monotonic()
    assert run_stub(code) == status
    assert time.monotonic() - before < 20
    assert ("process 1 was ended by SIGKILL" in capfd.readouterr().err) == (status == 137)


def test_local_processes_may_end_one_after_the_other(monkeypatch):
    monkeypatch.setattr(local_processes, "END_SECONDS", 0.1)
    assert run_stub("if not me: time.sleep(1)") == 0
    assert run_stub("if not me: time.sleep(1)\nsys.exit(75)") == 75


def test_signals_go_to_local_processes_once():
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
from test_local_processes import run_stub
sys.exit(run_stub('''
got = []
signal.signal(signal.SIGTERM, lambda *_: got.append(1))
print("ready", me, flush=True)
while not got: time.sleep(0.01)
time.sleep(0.3)
sys.exit(75 if len(got) == 1 else 1)
'''))
"""
    command = [sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, start_new_session=True) as process:
        try:
            assert next_line(process.stdout) == b"ready 0\n"
            assert next_line(process.stderr) == b"[process 1] ready 1\n"
            os.killpg(process.pid, signal.SIGTERM)  # as a terminal does
            assert process.wait(timeout=30) == 75
        finally:
            process.kill()


def test_local_processes_are_not_started_where_that_makes_no_sense(monkeypatch):
    with monkeypatch.context() as patch:
        for name, value in SLURM.items():
            patch.setenv(name, value)
        with pytest.raises(ConfigError, match="--num-processes 2: Slurm has already started sev"):
            run_stub("")
    monkeypatch.setattr(local_processes, "visible_gpus", lambda env: 1)
    with pytest.raises(ConfigError, match="has 1 GPU.*add --cpu-devices"):
        run_stub("")
