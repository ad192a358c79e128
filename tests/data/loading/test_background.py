"""Threads in the background: they end with their iterator, and run with a low priority."""

import os
import subprocess
import sys
import threading

import pytest
from sources import Scenes, config_for, take

from convmesh.data.loading import background, loader


def test_closing_ends_the_threads():
    before = {thread.ident for thread in threading.enumerate()}
    batches = loader.train_batches(Scenes(9), config_for())
    next(batches)
    batches.close()
    for thread in threading.enumerate():
        if thread.ident not in before:
            thread.join(timeout=10)
            assert not thread.is_alive()


def priority():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


class NotedPriority(Scenes):
    """Notes the priorities of the threads that read its examples."""

    def __init__(self, *args):
        super().__init__(*args)
        self.priorities = set()  # of this source: threads of an earlier one may still be reading

    def __getitem__(self, index):
        self.priorities.add(priority())
        return super().__getitem__(index)


def test_threads_lower_their_priority_and_never_raise_it(monkeypatch):
    source, before = NotedPriority(10), priority()
    take(source, config_for(), 3)
    lowered = max(before, background.LOW_PRIORITY) if sys.platform == "linux" else before
    assert source.priorities == {lowered} and priority() == before
    # If the process has a low priority already, only root could raise it.
    monkeypatch.setattr(background, "LOW_PRIORITY", before - 1)
    source = NotedPriority(10)
    take(source, config_for(), 3)
    assert source.priorities == {before}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_to_all_processes_does_not_end_a_worker(name):
    code = (
        "import os, signal\n"
        "from convmesh.data.loading import background\n"
        "background._start_worker(0, 1)\n"
        f"os.kill(os.getpid(), signal.{name})\n"
        "print('still working')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "still working\n"), done.stderr
