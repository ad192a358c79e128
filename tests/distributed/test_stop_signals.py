"""Signals to a whole process group, while helper processes are started."""

import signal
import subprocess
import sys

import pytest

from convmesh.distributed import stop_signals

HELPER = """
import os, signal, sys
print("begun", flush=True)
sys.stdin.readline()
from convmesh.distributed import stop_signals
stop_signals.ignore_in_helper()
os.kill(os.getpid(), signal.SIGUSR1)
blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
print("still working", sorted(blocked))
"""


@pytest.mark.parametrize("number", stop_signals.to_ignore())
def test_a_signal_does_not_end_a_helper_that_is_still_starting(number):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout")}
    with stop_signals.blocked_for_helpers():
        helper = subprocess.Popen([sys.executable, "-c", HELPER], text=True, **pipes)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert helper.stdout.readline() == "begun\n"
    helper.send_signal(number)
    assert helper.communicate("go on\n", timeout=60)[0] == f"still working {sorted(before)}\n"
    assert helper.returncode == 0


def test_this_process_gets_a_signal_that_comes_meanwhile():
    received = []
    handler = signal.signal(signal.SIGUSR1, lambda number, frame: received.append(number))
    try:
        with stop_signals.blocked_for_helpers():
            signal.raise_signal(signal.SIGUSR1)
        assert received == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, handler)
