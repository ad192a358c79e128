"""Several processes that train as one, started on this machine, with one terminal for all."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from convmesh.errors import ConfigError, Stopped
from convmesh.processes import LAUNCHER, find_cluster, print_line, share_of_gpus, visible_gpus

END_SECONDS = 4  # what the others get to end by themselves after one has failed


def run_locally(command: Callable[[int, str], Sequence[str]], num_processes: int) -> int:
    """Runs `command(process_id, coordinator)` for each process, until all have ended.

    Signals go on to all of them. Process 0 has this process's output; lines of the others are
    marked. When one fails, the others get a few seconds to end. Each gets its share of the GPUs,
    unless devices are simulated. Returns the status of the first that failed, 75 if they were
    stopped, else 0.
    """
    kind = find_cluster(os.environ)
    if kind is not None:
        raise ConfigError(
            f"--num-processes {num_processes}: {kind} has already started several processes; leave "
            "the flag away"
        )
    gpus = visible_gpus(os.environ)
    if 0 < gpus < num_processes:
        raise ConfigError(
            f"--num-processes {num_processes}: this machine has {gpus} GPU(s), and two processes "
            "cannot share one; add --cpu-devices to try it on the CPU"
        )
    coordinator = f"127.0.0.1:{free_port()}"
    processes: list[subprocess.Popen] = []
    readers: list[threading.Thread] = []
    received: list[int] = []

    def forward(number, frame=None):
        received.append(number)
        _signal(processes, number if len(received) < 3 else signal.SIGKILL)

    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, forward) for number in handled}
    try:
        for i in range(num_processes):
            env = os.environ | {LAUNCHER: str(os.getpid())}
            share = share_of_gpus(gpus, i, num_processes)
            if share is not None:
                env.setdefault("JAX_LOCAL_DEVICE_IDS", ",".join(map(str, share)))
            process = _start_one(command(i, coordinator), env, piped=i > 0)
            processes.append(process)
            if i > 0:
                readers.append(_pass_on(process, f"[process {i}] "))
            if received:  # while they were being started
                _signal([process], received[-1])
        return _wait_for_local(processes, received)
    finally:
        _signal(processes, signal.SIGKILL)
        for process in processes:
            process.wait()
        for reader in readers:
            reader.join(2)
        for number, handler in before.items():
            signal.signal(number, handler)


def free_port() -> int:
    """A port of loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _start_one(command: Sequence[str], env: dict, piped: bool) -> subprocess.Popen:
    # A session of its own: a terminal's ^C comes to this process, which passes it on, once.
    return subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if piped else None,
        stderr=subprocess.STDOUT if piped else None,
        start_new_session=True,
    )


def _pass_on(process: subprocess.Popen, mark: str) -> threading.Thread:
    def copy() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if b"Expected number of connected peer ranks" in line:  # gloo greets each peer
                continue
            sys.stderr.write(mark + line.decode(errors="replace"))
            sys.stderr.flush()

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    return thread


def _signal(processes: Sequence[subprocess.Popen], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _wait_for_local(processes: Sequence[subprocess.Popen], received: Sequence[int]) -> int:
    """Waits for all; ends the others some seconds after one has failed."""
    failed, since = 0, 0.0
    while True:
        codes = [process.poll() for process in processes]
        for i, code in enumerate(codes):
            if code is None or code in (0, Stopped.exit_code) or failed:
                continue
            failed, since = _status(code), time.monotonic()
            if code < 0 and not received:
                print_line(
                    f"convmesh: error: process {i} was ended by {signal.Signals(-code).name}"
                )
        if None not in codes:  # all 0 or 75, or one has failed
            return failed or max(code or 0 for code in codes)
        if failed and time.monotonic() - since > END_SECONDS:
            _signal(processes, signal.SIGTERM)
            time.sleep(1)
            _signal(processes, signal.SIGKILL)
        time.sleep(0.05)


def _status(code: int) -> int:
    """An exit status as a shell gives it."""
    return code if code >= 0 else 128 - code
