"""Processes that find each other: all there, one missing, one too many, counts that differ."""

import contextlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jobs
import pytest

from convmesh.distributed import clusters, roll_call
from convmesh.distributed.clusters import ProcessInfo
from convmesh.errors import ConfigError, ConvmeshError

SLURM = "Slurm (SLURM_STEP_NUM_TASKS=2)"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(roll_call, "SURPLUS_SECONDS", 0.2)
    monkeypatch.setattr(roll_call, "REFUSING_SECONDS", 60)
    monkeypatch.setattr(clusters, "_start_seconds", 60.0)


@pytest.fixture
def patient(monkeypatch):
    """Process 0 looks out for one too many for as long as that one's thread may need to start."""
    monkeypatch.setattr(roll_call, "SURPLUS_SECONDS", 60)


def meeting(address, index, count=2, started_by=""):
    host, port = clusters.parse_address(address)
    info = ProcessInfo(address, count, index, started_by=started_by)
    return roll_call.Meeting(info, host, port, (host, port))


def call(*processes, started_by="", meanwhile=lambda: None):
    """What `call_roll` raises in each of `processes`, (index, count), that start together."""
    address = jobs.free_address()

    def one(process):
        try:
            roll_call.call_roll(meeting(address, *process, started_by=started_by), meanwhile)
        except ConvmeshError as error:
            return error

    with ThreadPoolExecutor(len(processes)) as pool:
        return list(pool.map(one, processes))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_processes_go_on_once_all_are_there(order):
    done = []
    raised = call(*((index, 3) for index in order), meanwhile=lambda: done.append("imported"))
    assert (raised, done) == ([None] * 3, ["imported"] * 3)


@pytest.mark.parametrize(
    "processes, message",
    [
        ([(0, 3), (1, 3), (1, 3)], "--process-id 1 was given twice: to pid "),
        ([(0, 2), (0, 2)], "--process-id 0 was given twice: to pid "),
        ([(0, 2), (1, 2), (1, 2)], "--process-id 1 was given twice: to pid "),
        ([(0, 2), (1, 3), (2, 3)], "--num-processes 2 was given to process 0 (pid "),
        ([(0, 3), (1, 2), (2, 3)], "--num-processes 3 was given to process 0 (pid "),
        ([(0, 3), (1, 3), (2, 4), (3, 4)], "--num-processes 3 was given to process 0 (pid "),
    ],
)
def test_all_are_refused_if_they_contradict_each_other(patient, processes, message):
    raised = call(*processes)
    assert len({str(error) for error in raised}) == 1 and isinstance(raised[0], ConfigError)
    assert str(raised[0]).startswith(message)
    assert str(raised[0]).count(f" on {socket.gethostname()}") == 2


def test_one_that_comes_late_is_refused_too_and_process_0_says_it_before(monkeypatch, capfd):
    monkeypatch.setattr(roll_call, "REFUSED_WORD_SECONDS", 0.3)
    address = jobs.free_address()
    with ThreadPoolExecutor(3) as pool:
        processes = [(0, 4), (1, 3)]
        started = [pool.submit(roll_call.call_roll, meeting(address, *one)) for one in processes]
        time.sleep(2)
        assert "--num-processes 4 was given" in capfd.readouterr().err
        assert not started[0].done()
        started += [pool.submit(roll_call.call_roll, meeting(address, i, 4)) for i in (2, 3)]
        raised = [one.exception(10) for one in started]
    assert len({str(error) for error in raised}) == 1 and isinstance(raised[0], ConfigError)


def test_a_process_that_is_told_to_be_alone_is_refused_if_another_is_told_otherwise(patient):
    raised = call((0, 1), (1, 2))
    assert all(isinstance(error, ConfigError) for error in raised)
    assert str(raised[0]).startswith("--num-processes 1 was given to process 0 (pid ")


def test_a_process_that_is_alone_goes_on():
    assert call((0, 1)) == [None]


def test_the_missing_are_named_after_the_time_that_a_flag_sets(monkeypatch):
    clusters.set_start_seconds(1)
    first, other = call((0, 4), (1, 4))
    assert type(first) is type(other) is ConvmeshError
    for index, error in enumerate((first, other)):
        assert f"process {index} of 4: not all others have connected to 127.0.0.1:" in str(error)
        assert "within 1 s (processes 2 and 3 missing); --start-timeout waits" in str(error)
    [alone] = call((1, 2))
    assert "process 1 of 2: no answer from process 0 at 127.0.0.1:" in str(alone)


def test_a_process_that_a_cluster_started_says_so_soon_and_how_to_run_alone(monkeypatch, capfd):
    clusters.set_start_seconds(1)
    monkeypatch.setattr(roll_call, "CLUSTER_WORD_SECONDS", 0.1)
    monkeypatch.setattr(roll_call, "WORD_SECONDS", 0.1)
    for index, whom in ((0, "process 1"), (1, "process 0")):
        [error] = call((index, 2), started_by=SLURM)
        [said] = capfd.readouterr().err.splitlines()
        assert said.startswith(f"process {index} of 2 waits for {whom} at 127.0.0.1:")
        assert ", up to 1 s; " in said
        cause = f"{SLURM} says that there are 2 processes, --num-processes 1 runs this one alone"
        assert said.endswith(cause) and str(error).endswith(cause)


def test_a_process_that_ends_may_come_again():
    address = jobs.free_address()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(roll_call.call_roll, meeting(address, 0, 3))
        with greeted(address) as gone:
            gone.sendall(member(1, 3))
        others = [pool.submit(roll_call.call_roll, meeting(address, 1, 3))]
        with greeted(address) as last:
            time.sleep(0.5)
            last.sendall(member(2, 3))
            assert first.result() is others[0].result() is None
            assert json.loads(last.recv(99)) == {"go": True}


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b"\xff\n", b'{"pid": 1}\n', b"x" * 9999]
)
def test_whatever_else_connects_is_ignored(said):
    address = jobs.free_address()
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(roll_call.call_roll, meeting(address, 0))]
        with greeted(address) as stranger:
            stranger.sendall(said)
            stranger.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                assert stranger.recv(99) == b""
        both.append(pool.submit(roll_call.call_roll, meeting(address, 1)))
        assert [one.result() for one in both] == [None, None]


def test_a_job_that_has_begun_is_not_joined(monkeypatch):
    monkeypatch.setattr(roll_call, "BEGUN_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as begun:
        address = f"127.0.0.1:{begun.getsockname()[1]}"

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = begun.accept()
                    connection.sendall(b"\0\0\x12\4\0\0\0\0\0")  # as HTTP/2, which gRPC speaks
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(ConfigError, match="begun with another process 1 .--process-id given"):
            roll_call.call_roll(meeting(address, 1))
        begun.shutdown(socket.SHUT_RDWR)


def test_process_0_listens_on_ipv6_and_says_which_address_it_cannot_have():
    if socket.has_ipv6:
        listener = roll_call._listen("::1", 0)
        assert listener.family == socket.AF_INET6
        listener.close()
    with pytest.raises(ConfigError, match="process 0 cannot listen there: Cannot assign"):
        roll_call.call_roll(meeting("198.51.100.7:1234", 0))  # for documentation: no machine has it


def member(index, count):
    said = {"count": count, "index": index, "host": "elsewhere", "pid": 1}
    return json.dumps(said).encode() + b"\n"


def greeted(address):
    """A connection to process 0 at `address`, which has greeted."""
    host, port = clusters.parse_address(address)
    for _ in range(100):
        with contextlib.suppress(ConnectionRefusedError):
            connection = socket.create_connection((host, port), timeout=10)
            assert connection.recv(99) == b"convmesh roll call\n"
            return connection
        time.sleep(0.05)
    raise AssertionError("process 0 does not listen")
