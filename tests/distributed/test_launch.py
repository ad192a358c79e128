"""Local processes (output, exit status, signals), and joining the processes of a job."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time

import jobs
import pytest

from convmesh.distributed import launch
from convmesh.distributed.clusters import ProcessInfo
from convmesh.errors import ConfigError


def run_stub(code, n=2, resumes=False):
    """`run_locally` of Python code that sees `index`; it has imported os, signal, sys and time."""
    head = "import os, signal, sys, time; index = {}\n"

    def command(process_id, coordinator):
        assert coordinator.startswith("127.0.0.1:")
        return [sys.executable, "-S", "-c", head.format(process_id) + code]

    return launch.run_locally(command, n, resumes)


def test_output_of_local_processes_is_prefixed_except_that_of_the_first(capfd):
    # In one piece: what several processes write to one file may be mixed.
    assert run_stub("print('out', index); sys.stderr.write(f'err {index}\\n')", n=3) == 0
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
        ("sys.exit(75 if index else 3)", 3),
        ("sys.exit(2 if index else 0)", 2),
        ("if index: sys.exit(7)", 7),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nif index: sys.exit(7)", 7),
        ("if index: os.kill(os.getpid(), signal.SIGKILL)", 76),
        ("if index: os.kill(os.getpid(), signal.SIGBUS)", 76),
        ("if index: os.kill(os.getpid(), signal.SIGSEGV)", 139),
    ],
)
def test_local_processes_end_when_one_fails_with_its_status(monkeypatch, capfd, code, status):
    monkeypatch.setattr(launch, "END_SECONDS", 0.5)
    assert run_stub(f"{code}\ntime.sleep(30)\nprint('not ended')") == status
    out, err = capfd.readouterr()
    assert "not ended" not in out + err
    assert ("process 1 was ended by SIG" in err) == (status in (76, 139))


def test_local_processes_may_end_one_after_another(monkeypatch):
    monkeypatch.setattr(launch, "END_SECONDS", 0.1)
    assert run_stub("if not index: time.sleep(1)") == 0
    assert run_stub("if not index: time.sleep(1)\nsys.exit(75)") == 75


@contextlib.contextmanager
def started_stub(code, *prefix, resumes=False):
    """A launcher in another process, with `run_stub`; once both of its processes are ready.

    prefix: the words of a command that runs the launcher.
    """
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
from test_launch import run_stub
sys.exit(run_stub({code!r}, resumes={resumes}))
"""
    command = [*prefix, sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, start_new_session=True) as process:
        try:
            assert jobs.next_line(process.stdout) == b"ready 0\n"
            assert jobs.next_line(process.stderr) == b"[process 1] ready 1\n"
            yield process
        finally:
            process.kill()


# Writes each signal that it gets; a print in a handler fails if it interrupts another one.
WRITES = """
def write(number, frame): os.write(1, b"%d got %d\\n" % (index, number))
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    if signal.getsignal(number) != signal.SIG_IGN: signal.signal(number, write)
print("ready", index, flush=True)
END = time.monotonic() + 4
while time.monotonic() < END: time.sleep(0.01)
sys.exit(75)
"""
HUP, USR1, TERM, INT = signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT


@pytest.mark.parametrize(
    ("sent", "forwarded"),
    [
        ((TERM, TERM, INT, HUP), [TERM]),
        ((TERM, 0.8, TERM, 0.4, TERM), [TERM, TERM]),
        ((USR1, USR1, 0.2, USR1), [USR1]),
        ((HUP, TERM, TERM), [HUP, TERM]),  # to the processes, too, the two are one
        ((HUP, 1.1, HUP, 1.1, USR1, TERM), [HUP, HUP, USR1, TERM]),  # notices do not kill
    ],
    ids=lambda sent: " ".join(str(getattr(one, "name", one)) for one in sent),
)
def test_signals_are_forwarded_and_repetitions_are_not(sent, forwarded):
    with started_stub(WRITES) as process:
        for one in sent:
            time.sleep(one) if isinstance(one, float) else os.killpg(process.pid, one)
            time.sleep(0.1)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert out.decode() == "".join(f"0 got {number}\n" for number in forwarded)
    assert err.decode() == "".join(f"[process 1] 1 got {number}\n" for number in forwarded)


def test_a_third_signal_kills_local_processes():
    code = WRITES.replace("+ 4", "+ 60")
    with started_stub(code) as process:
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
            assert jobs.next_line(process.stdout) == b"0 got 15\n"
            assert jobs.next_line(process.stderr) == b"[process 1] 1 got 15\n"
            time.sleep(1.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGKILL


def test_what_nohup_has_ignored_stays_ignored_in_the_launcher_and_its_processes():
    with started_stub(WRITES, "sh", "-c", "trap '' HUP USR1; exec \"$@\"", "sh") as process:
        for number in (HUP, USR1, HUP):
            os.killpg(process.pid, number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (75, b"", b"")


@pytest.mark.parametrize("number", [TERM, HUP, USR1])
@pytest.mark.parametrize("resumes", [True, False])
def test_a_signal_before_a_process_can_handle_it(number, resumes):
    with started_stub("print('ready', index, flush=True)\ntime.sleep(60)", resumes=resumes) as job:
        job.send_signal(number)
        err = job.communicate(timeout=60)[1].decode()
    message = f"convmesh: stopped by {number.name} before the run had started; run it again\n"
    assert (job.returncode, err) == ((75, message) if resumes else (128 + number, ""))


@pytest.mark.parametrize(("resumes", "status"), [(True, 75), (False, 128 + TERM)])
def test_a_signal_before_any_process_was_started(monkeypatch, capfd, resumes, status):
    monkeypatch.setattr(launch, "_environment", lambda gpus: signal.raise_signal(TERM))
    assert run_stub("print('started')", resumes=resumes) == status
    message = "convmesh: stopped by SIGTERM before the run had started; run it again\n"
    assert capfd.readouterr() == ("", message if resumes else "")


def test_the_output_of_processes_is_read_on_when_the_terminal_is_gone():
    code = "print('ready', index, flush=True)\nif index: print('x' * 10**6)\nsys.exit(75)"
    with started_stub(code) as process:
        process.stderr.close()
        assert process.wait(timeout=60) == 75


def test_run_locally_is_refused_under_a_cluster_and_for_more_processes_than_gpus(monkeypatch):
    with monkeypatch.context() as patch:
        for name, value in jobs.SLURM.items():
            patch.setenv(name, value)
        with pytest.raises(ConfigError, match=r"Slurm .SLURM_STEP_NUM_TASKS=3. says that several"):
            run_stub("")
    monkeypatch.setattr(launch, "visible_gpus", lambda env: 1)
    with pytest.raises(ConfigError, match="has 1 GPU.*add --cpu-devices"):
        run_stub("")


def test_local_processes_get_equal_parts_of_the_gpus(monkeypatch, capfd):
    monkeypatch.setattr(launch, "visible_gpus", lambda env: 4)
    assert run_stub("print(os.environ['JAX_LOCAL_DEVICE_IDS'])") == 0
    out, err = capfd.readouterr()
    assert (out, err) == ("0,1\n", "[process 1] 2,3\n")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((None, 0, None), "--num-processes 0: wanted at least 1"),
        (("10.0.0.1:99", None, None), "--num-processes, --process-id: not given; --coordinator, "),
        ((None, 2, 0), "--coordinator: not given"),
        (("10.0.0.1", 2, 0), "--coordinator 10.0.0.1: wanted HOST:PORT"),
        (("10.0.0.1:99", 2, 2), "--process-id 2: with --num-processes 2 it must be from 0 to 1"),
        (("10.0.0.1:99", 2, -1), "--process-id -1: with --num-processes 2"),
    ],
)
def test_start_refuses_wrong_or_incomplete_flags(flags, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        launch.start(*flags)


def test_start_refuses_an_address_on_which_process_0_cannot_listen():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"{address}: process 0 cannot listen there: Address"):
            launch.start(address, 2, 0)
    with pytest.raises(ConfigError, match="process 0 cannot listen there: Cannot assign"):
        launch.start("198.51.100.7:1234", 2, 0)  # reserved for documentation: no machine has it


@pytest.mark.parametrize(
    "address, given, used",
    [
        ("127.0.0.1:99", None, "lo"),
        ("127.0.0.1:99", "eth1", "eth1"),
        ("198.51.100.7:99", None, None),
    ],
)
def test_gpus_of_one_host_alone_talk_over_loopback(monkeypatch, address, given, used):
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", given or "")
    if given is None:
        monkeypatch.delenv("NCCL_SOCKET_IFNAME")
    joined = []
    monkeypatch.setattr(launch, "_initialize_jax", lambda info, at, bind: joined.append(at))
    monkeypatch.setattr(launch, "_set_gloo_address", lambda address: None)
    monkeypatch.setattr(launch.failure, "watch", lambda before: None)
    monkeypatch.setattr(launch.watchdog, "start", lambda coordinator: None)
    monkeypatch.setattr(launch, "call_roll", lambda meeting, meanwhile: meanwhile())
    launch._join(ProcessInfo(address, num_processes=2, process_id=1))
    assert joined == [address]
    assert os.environ.get("NCCL_SOCKET_IFNAME") == used


def test_processes_with_one_id_or_other_counts_end_at_once_with_one_line(job):
    address, body = jobs.free_address(), "print('joined')"
    twice = [job(body, *jobs.flags_for(index, address, 3)) for index in (0, 1, 1)]
    address = jobs.free_address()
    counts = [job(body, *jobs.flags_for(i, address, n)) for i, n in enumerate((2, 3, 3))]
    for processes, message in ((twice, "--process-id 1 was"), (counts, "--num-processes 2 was")):
        for process in processes:
            status, out, err = jobs.end(process)
            assert (status, out, err.count("\n")) == (2, "", 1)
            assert err.startswith(f"convmesh: error: {message} given t")


def test_a_single_process_with_a_coordinator_looks_out_for_others(job):
    address = jobs.free_address()
    both = [job("print('alone')", *jobs.flags_for(i, address, 1 + i)) for i in range(2)]
    for process in both:
        status, out, err = jobs.end(process)
        assert (status, out) == (2, "") and "error: --num-processes 1 was given to" in err
    alone = job("print('alone', processes.count())", *jobs.flags_for(0, address, 1))
    assert jobs.end(alone)[:2] == (0, "alone 1\n")


def test_the_start_timeout_reaches_processes_started_here(job):
    body = "from convmesh.distributed import clusters; print(clusters.start_seconds())"
    process = job(body, "--num-processes", "2", "--start-timeout", "77")
    status, out, err = jobs.end(process)
    assert (status, out) == (0, "77.0\n") and "[process 1] 77.0" in err


def test_processes_started_by_slurm_join_each_other(job):
    one_node = {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_TASKS_PER_NODE": "2"}
    port = {"JAX_COORDINATOR_PORT": str(launch.free_port())}
    env = jobs.SLURM | one_node | port | {"SLURM_STEP_NUM_TASKS": "2"}
    body = "print(index, processes.gather(os.environ['SLURM_PROCID']))"
    both = [job(body, **env | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}) for i in range(2)]
    for i, process in enumerate(both):
        status, out, err = jobs.end(process)
        assert (status, out) == (0, f"{i} ['0', '1']\n"), err


def test_a_process_whose_others_never_start_ends_with_a_message():
    code = """
import sys
from convmesh.distributed import launch
from convmesh.errors import ConvmeshError
try:
    launch.start(sys.argv[1], 2, int(sys.argv[2]), start_timeout=2)
except ConvmeshError as error:
    sys.exit(str(error))
"""
    messages = ("not all others have connected to", "no answer from process 0 at")
    addresses = [jobs.free_address() for _ in messages]
    started = [
        subprocess.Popen([sys.executable, "-c", code, address, str(i)], **jobs.PIPES)
        for i, address in enumerate(addresses)
    ]
    try:
        for i, process in enumerate(started):
            status, _, err = jobs.end(process)
            missing = "" if i else " (process 1 missing)"
            expected = f"process {i} of 2: {messages[i]} {addresses[i]} within 2 s{missing}"
            assert (status, err) == (1, f"{expected}; --start-timeout waits longer\n")
    finally:
        jobs.kill(started)


def test_devices_named_in_the_environment_win(monkeypatch):
    monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", "5")
    assert launch._environment([0, 1])["JAX_LOCAL_DEVICE_IDS"] == "5"
    monkeypatch.delenv("JAX_LOCAL_DEVICE_IDS")
    assert launch._environment([0, 1])["JAX_LOCAL_DEVICE_IDS"] == "0,1"
    assert "JAX_LOCAL_DEVICE_IDS" not in launch._environment(None)


GLOO = ["[Gloo] Rank ", "2", " is connected to ", "3", " peer ranks. "]
GLOO += ["Expected number of connected peer ranks is : ", "3", "\n"]


@pytest.mark.parametrize(
    "pieces",
    [
        [*GLOO, *GLOO],
        [*GLOO[:3], *GLOO[:7], *GLOO[3:], "\n"],
        [*GLOO[:6], *GLOO, "3", "\n"],
        [*GLOO[:7], *GLOO, "\n"],
    ],
)
def test_the_lines_of_gloo_are_left_out(capfd, pieces):
    # Two devices of a process print theirs at the same time, piece by piece.
    code = f"print({''.join(pieces)!r}, end=''); print(3); print()"
    assert run_stub(f"if index:\n    {code}") == 0
    assert capfd.readouterr().err == "[process 1] 3\n[process 1] \n"


@pytest.mark.parametrize("process, bind", [(0, "10.9.9.9:99"), (1, "198.51.100.7:99")])
def test_the_addresses_on_which_a_process_of_several_hosts_listens(monkeypatch, process, bind):
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", "10.9.9.9:99")
    used = []
    monkeypatch.setattr(launch, "_initialize_jax", lambda info, at, bind: used.extend([at, bind]))
    monkeypatch.setattr(launch, "local_address_towards", lambda address: f"towards {address}")
    monkeypatch.setattr(launch, "_set_gloo_address", used.append)
    monkeypatch.setattr(launch, "call_roll", lambda meeting, _: used.append(meeting.bind))
    monkeypatch.setattr(launch.failure, "watch", lambda before: used.append("watched"))
    monkeypatch.setattr(launch.watchdog, "start", used.append)
    launch._join(ProcessInfo("198.51.100.7:99", num_processes=2, process_id=process))
    host, port = bind.split(":")
    assert used[:4] == [(host, int(port)), "198.51.100.7:99", bind, "towards 198.51.100.7"]
    assert used[4:] == ["watched", ("198.51.100.7", 99)]
