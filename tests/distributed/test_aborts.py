"""An abort in a thread of C++ is held until it is let go; one that holds the interpreter is not."""

import signal
import subprocess
import sys
import time

HELD = """
import ctypes, threading, time
from convmesh.distributed import aborts
aborts.delay()
watch = aborts.AbortWatch()
threading.Thread(target=ctypes.{library}(None).abort, daemon=True).start()
for _ in range(18):
    time.sleep(0.5)
    found = watch.look()
print("held" if found else "not found", flush=True)
threading.Thread(target=aborts.end).start()
time.sleep(60)
"""
UNTOUCHED = """
import threading, time
from convmesh.distributed import aborts
aborts.delay()
watch = aborts.AbortWatch()
threading.Thread(target=time.sleep, args=[1]).start()
print([watch.look(), time.sleep(0.1), watch.look()])
"""


def run(program):
    started = time.monotonic()
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return found.returncode, found.stdout, time.monotonic() - started


def test_a_thread_that_aborts_is_held_beyond_its_delay():
    status, said, _ = run(HELD.format(library="CDLL"))
    assert (status, said) == (-signal.SIGABRT, "held\n")


def test_an_abort_that_holds_the_interpreter_ends_the_process_after_its_delay():
    status, said, seconds = run(HELD.format(library="PyDLL"))
    assert (status, said) == (-signal.SIGABRT, "")
    assert seconds > 5


def test_other_threads_are_left_alone():
    assert run(UNTOUCHED)[:2] == (0, "[False, None, False]\n")
