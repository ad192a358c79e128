"""Starts several processes: N local ones with one command, or joins a job by jax.distributed.

`run_locally` starts N processes of one command on this machine, with one terminal for all. `start`
joins this process to the others of its job, which flags or a cluster describe.
"""

import contextlib
import importlib
import ipaddress
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

from convmesh.distributed import console, failure, watchdog
from convmesh.distributed.clusters import (
    FLAGS,
    STARTED,
    ProcessInfo,
    find_cluster,
    from_cluster,
    gpus_of_process,
    join_address,
    local_address_towards,
    parse_address,
    reachable_address,
    set_start_seconds,
    split_address,
    started_by,
    visible_gpus,
)
from convmesh.distributed.roll_call import Meeting, call_roll
from convmesh.distributed.stop_signals import ORDERS, REPEAT_SECONDS, to_handle
from convmesh.errors import PEER_LOST, ConfigError, ConvmeshError, Stopped, first_line

CONNECT_SECONDS = 60  # for JAX to join processes that have all been found
# Without a heartbeat for so long, JAX aborts all processes; the watchdog ends them sooner.
HEARTBEAT_SECONDS = 300
END_SECONDS = 4  # time for the others to end by themselves after one has failed

# Gloo prints a line for each device that has found its peers, piece by piece and from a thread per
# device, so that the pieces of two lines may be mixed.
_FAULTS = (signal.SIGSEGV, signal.SIGILL, signal.SIGFPE)  # of a program, which would recur
_GLOO_START = b"[Gloo] Rank "
_GLOO_PIECES = re.compile(
    rb"(\[Gloo\] Rank |\d+| is connected to | peer ranks\. "
    rb"|Expected number of connected peer ranks is : )*\n?"
)


# Local processes.


def run_locally(
    command: Callable[[int, str], Sequence[str]],
    num_processes: int,
    resumes: bool = False,
    received: list[int] | None = None,
) -> int:
    """Runs `command(process_id, coordinator)` for each process, until all have ended.

    Signals are forwarded to all of them, see `_Forwarder`. Process 0 writes to this process's
    standard output; lines of the others are prefixed and go to standard error. When one fails, the
    others get END_SECONDS to end. Each gets its part of the GPUs, unless devices are simulated.
    resumes: whether the same command resumes after a signal. received: gets the signals that this
    process has received.

    Returns the status of the first process that failed; else 75 if they were stopped, else 0.
    Raises ConfigError where a cluster has started several processes, or for more processes than
    GPUs.
    """
    gpus = _gpus_for(num_processes)
    coordinator = f"127.0.0.1:{free_port()}"
    readers: list[threading.Thread] = []
    forward = _Forwarder(resumes)
    processes = forward.processes
    handlers = {number: signal.signal(number, forward) for number in to_handle()}
    try:
        for i in range(num_processes):
            env = _environment(gpus_of_process(gpus, i, num_processes))
            if forward.received:
                break
            process = _start_one(command(i, coordinator), env, piped=i > 0)
            processes.append(process)
            if i > 0:
                readers.append(_forward_output(process, f"[process {i}] "))
            if forward.received:  # a signal arrived before this process had started
                _signal([process], forward.received[-1])
        return _wait_for_local(forward)
    finally:
        if received is not None:
            received += forward.received
        _signal(processes, signal.SIGKILL)
        for process in processes:
            process.wait()
        for reader in readers:
            reader.join(2)
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _Forwarder:
    """The handler of the launcher's signals, which it forwards to `processes`.

    Signals within REPEAT_SECONDS are one. A third SIGTERM or SIGINT kills; the second lets the
    processes end at once by themselves.
    """

    def __init__(self, resumes: bool) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.received: list[int] = []  # those that were forwarded
        self._resumes, self._orders = resumes, 0
        self._last = self._last_order = -REPEAT_SECONDS

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        now = time.monotonic()
        # An order right after a notice is forwarded: for the processes, too, it is the first.
        if now - (self._last_order if number in ORDERS else self._last) < REPEAT_SECONDS:
            return
        self._last = now
        if number in ORDERS:
            self._orders, self._last_order = self._orders + 1, now
        self.received.append(number)
        _signal(self.processes, number if self._orders < 3 else signal.SIGKILL)

    def status(self, code: int) -> int:
        """The exit status for the return code of a process, as a shell reports it.

        75 for one that a signal ended before it could handle it, so before anything had begun; 76
        for one that was killed, or aborted, as for want of memory; not for a fault of the program.
        """
        if self._resumes and -code in self.received:
            return Stopped.exit_code
        if code < 0 and -code not in _FAULTS and not self.received:
            return PEER_LOST
        return code if code >= 0 else 128 - code

    def status_of_all(self, codes: Sequence[int]) -> int:
        """The exit status for the return codes of all processes, of which none has failed."""
        if self.received and (not codes or codes[0] < 0):  # process 0 could print no message
            number = self.received[0]
            if not self._resumes:
                return 128 + number
            name = signal.Signals(number).name
            console.print_line(
                f"convmesh: stopped by {name} before the run had started; run it again"
            )
            return Stopped.exit_code
        return max(map(self.status, codes))


def _gpus_for(num_processes: int) -> int:
    """The number of GPUs to divide among local processes. Raises ConfigError if there are too few.

    Also if a cluster has already started several processes.
    """
    kind = find_cluster(os.environ)
    if kind is not None:
        given = " ".join(name for name in STARTED[kind] if name in os.environ)
        raise ConfigError(
            f"--num-processes {num_processes}: {started_by(kind, os.environ)} says that several "
            "processes have been started; leave the flag out in each of them, or if they are not "
            f"there: `unset {given}` first, or run one alone by --num-processes 1"
        )
    gpus = visible_gpus(os.environ)
    if 0 < gpus < num_processes:
        raise ConfigError(
            f"--num-processes {num_processes}: this machine has {gpus} GPU(s), and two processes "
            "cannot share one; add --cpu-devices to simulate devices on the CPU"
        )
    return gpus


def _environment(gpus: list[int] | None) -> dict[str, str]:
    """The environment of a local process that uses `gpus`; None leaves the choice to JAX."""
    env = os.environ | {failure.LAUNCHER: str(os.getpid())}
    if gpus is not None:
        env.setdefault("JAX_LOCAL_DEVICE_IDS", ",".join(map(str, gpus)))
    return env


def free_port() -> int:
    """A TCP port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start_one(command: Sequence[str], env: dict[str, str], piped: bool) -> subprocess.Popen[bytes]:
    # In its own session: Ctrl-C in a terminal reaches only this process, which forwards it once.
    return subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if piped else None,
        stderr=subprocess.STDOUT if piped else None,
        start_new_session=True,
    )


def _forward_output(process: subprocess.Popen[bytes], prefix: str) -> threading.Thread:
    """Starts a thread that copies the output of `process` to standard error, line by line."""

    def copy() -> None:
        assert process.stdout is not None
        for line in _without_gloo(process.stdout):
            # The terminal may be gone; if nothing read on, the process would block.
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(prefix + line.decode(errors="replace"))
                sys.stderr.flush()

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    return thread


def _without_gloo(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines without those of gloo about its connections, whole or mixed with one another."""
    started = 0  # lines of gloo whose end has not been read
    for line in lines:
        started += line.count(_GLOO_START)
        if started and _GLOO_PIECES.fullmatch(line):
            started -= 1
        else:
            yield line


def _signal(processes: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _wait_for_local(forward: _Forwarder) -> int:
    """Waits for all processes; ends the others END_SECONDS after one has failed."""
    processes = forward.processes
    failed, since = 0, 0.0
    while True:
        codes = [process.poll() for process in processes]
        for i, code in enumerate(codes):
            status = 0 if code is None else forward.status(code)
            if status in (0, Stopped.exit_code) or failed:
                continue
            failed, since = status, time.monotonic()
            if code is not None and code < 0 and not forward.received:
                failure.print_now(
                    f"convmesh: error: process {i} was ended by {signal.Signals(-code).name}"
                )
        ended = [code for code in codes if code is not None]
        if len(ended) == len(codes):
            return failed or forward.status_of_all(ended)
        if failed and time.monotonic() - since > END_SECONDS:
            _signal(processes, signal.SIGTERM)
            time.sleep(1)
            _signal(processes, signal.SIGKILL)
        time.sleep(0.05)


# Joining the other processes.


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    start_timeout: float | None = None,
) -> None:
    """Joins the other processes of this job: those that the arguments or a cluster describe.

    Without arguments, Open MPI, Slurm, Cloud TPU and Kubernetes are detected; if none of them has
    started several processes, or with `num_processes=1`, nothing is joined. `start_timeout`: how
    long the processes wait for each other, in seconds. Call it before JAX starts, and after
    `simulate_devices`. Raises ConfigError for wrong or incomplete arguments, also for an id given
    twice and counts that differ; ConvmeshError if the other processes cannot be joined.
    """
    if start_timeout is not None:
        set_start_seconds(start_timeout)
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        return
    info = _from_flags(coordinator, num_processes, process_id)
    if info is None and num_processes is None:
        info = from_cluster(os.environ)
    if info is None:
        return
    if info.num_processes > 1:
        _join(info)
    elif coordinator is not None:  # others may have been given another number
        call_roll(_meeting(info))


def _from_flags(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> ProcessInfo | None:
    """This process as the flags describe it; None if they describe no other process."""
    given = dict(zip(FLAGS, (coordinator, num_processes, process_id), strict=True))
    missing = [flag for flag, value in given.items() if value is None]
    if num_processes is not None and num_processes < 1:
        raise ConfigError(f"--num-processes {num_processes}: wanted at least 1")
    if len(missing) == 3 or (num_processes == 1 and len(missing) == 2):
        return None
    if coordinator is None or num_processes is None or process_id is None:
        raise ConfigError(
            f"{', '.join(missing)}: not given; {FLAGS[0]}, {FLAGS[1]} and {FLAGS[2]} go "
            "together (--num-processes alone starts all processes on this machine)"
        )
    parse_address(coordinator)
    if not 0 <= process_id < num_processes:
        raise ConfigError(
            f"--process-id {process_id}: with --num-processes {num_processes} it must be from 0 to "
            f"{num_processes - 1}"
        )
    return ProcessInfo(coordinator, num_processes, process_id)


def _meeting(info: ProcessInfo) -> Meeting:
    """Where the processes of the job of `info` find each other."""
    host, port = parse_address(info.coordinator)
    address = reachable_address(host, info.one_host)
    bind = address, port
    if info.process_id == 0:
        if given := os.environ.get("JAX_COORDINATOR_BIND_ADDRESS"):
            bind = split_address(given)
    return Meeting(info, address, port, bind)


def _join(info: ProcessInfo) -> None:
    """Joins the job with jax.distributed and starts to watch for failures of other processes."""
    meeting = _meeting(info)
    address = meeting.address
    local = ipaddress.ip_address(address).is_loopback
    call_roll(meeting, lambda: importlib.import_module("jax"))
    own_address = address if local else local_address_towards(address)
    if local:
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    timeout = threading.Timer(CONNECT_SECONDS, _give_up, [info])
    timeout.daemon = True
    timeout.start()
    try:
        _initialize_jax(info, join_address(address, meeting.port), join_address(*meeting.bind))
    except RuntimeError as error:
        raise ConvmeshError(
            f"process {info.process_id} of {info.num_processes}: cannot join the others at "
            f"{info.coordinator}: {first_line(error)}"
        ) from error
    finally:
        timeout.cancel()
    _set_gloo_address(own_address)
    failure.watch(watchdog.await_verdict)
    watchdog.start((address, meeting.port))


def _initialize_jax(info: ProcessInfo, coordinator: str, bind: str) -> None:
    import jax

    # JAX's preemption service would handle SIGTERM; convmesh has handlers of its own.
    jax.config.update("jax_enable_preemption_service", False)
    devices = None
    if (
        "JAX_LOCAL_DEVICE_IDS" not in os.environ
        and info.local_index is not None
        and info.local_count is not None
    ):
        devices = gpus_of_process(visible_gpus(os.environ), info.local_index, info.local_count)
    jax.distributed.initialize(
        coordinator,
        info.num_processes,
        info.process_id,
        local_device_ids=devices,
        # Detection could only add the GPUs that JAX would choose by the process's local index.
        cluster_detection_method=None if info.local_count is not None else "deactivate",
        coordinator_bind_address=bind,
        initialization_timeout=2 * CONNECT_SECONDS,
        heartbeat_timeout_seconds=int(max(HEARTBEAT_SECONDS, 5 * watchdog.lost_seconds())),
    )


def _give_up(info: ProcessInfo) -> NoReturn:
    """Ends this process with a message; JAX would abort it with a native stack trace."""
    failure.print_now(
        f"convmesh: error: process {info.process_id} of {info.num_processes}: all were there, but "
        f"JAX has not joined them at {info.coordinator} within {CONNECT_SECONDS} s"
    )
    failure.exit_now(ConvmeshError.exit_code)


def _set_gloo_address(address: str) -> None:
    """Makes gloo, the library of JAX's collectives between CPUs, listen on `address`.

    By default it listens on the address that the machine's name resolves to. JAX has no public
    setting for it; if a version of JAX has moved these private names, the default is used.
    """
    try:
        from jax._src import config, distributed, xla_bridge
        from jax._src.lib import _jax

        make_gloo = _jax.make_gloo_tcp_collectives
        if config.cpu_collectives_implementation.value != "gloo":
            return

        def make_cpu_client() -> Any:
            gloo = None
            try:
                client = distributed.global_state.client
                gloo = make_gloo(distributed_client=client, hostname=address)
            except (TypeError, AttributeError):
                pass
            return xla_bridge.make_cpu_client(collectives=gloo)

        xla_bridge.register_backend_factory("cpu", make_cpu_client, priority=0, fail_quietly=False)
    except (ImportError, AttributeError, TypeError):
        pass
