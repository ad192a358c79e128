"""Several processes: how they are found, what they tell each other, how they end, who listens."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convmesh import processes
from convmesh.errors import ConfigError

# A job that does WHAT in the place of `predict`, under the real command line.
JOB = """
import json, os, sys, time
from types import SimpleNamespace
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from convmesh import cli, processes
from convmesh.errors import ConfigError, DataError, Stopped

processes.HEARTBEAT_SECONDS = 4

def total():
    "The sum over the devices of all processes of their numbers from 1: a collective."
    n = jax.device_count()
    mesh = jax.make_mesh((n,), ("all",))
    ones = np.arange(1, n + 1, dtype=np.float32)
    x = jax.make_array_from_callback((n,), NamedSharding(mesh, P("all")), lambda at: ones[at])
    return float(jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(mesh, P()))(x))

def listeners():
    "The addresses on which this process listens."
    own = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            own.add(os.readlink(f"/proc/self/fd/{{fd}}"))
        except OSError:
            pass
    found = []
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        for row in open(table).read().splitlines()[1:]:
            field = row.split()
            if field[3] == "0A" and f"socket:[{{field[9]}}]" in own:
                last = bytes.fromhex(field[1].partition(":")[0])[-4:]
                found.append(".".join(map(str, reversed(last))))
    return found

class SlowToRead:
    "What process 0 alone takes a second to unpickle."
    def __reduce__(self):
        return wait_in_the_first, ()

def wait_in_the_first():
    if processes.is_first():
        time.sleep(1)

def work(*args, **kwargs):
    me, first = processes.index(), processes.is_first()
    {what}

sys.modules["convmesh.prediction"] = SimpleNamespace(predict_files=work)
sys.exit(cli.main())
"""


@pytest.fixture
def job(tmp_path):
    """Starts processes that do what a piece of code says; those still there at the end are killed.

    `job(what, *flags, **env)` returns the Popen. The flag --cpu-devices 2 is among them.
    """
    (tmp_path / "config.json").write_text("{}")
    started = []

    def start(what, *flags, **env):
        script = tmp_path / "job.py"
        script.write_text(JOB.format(what=what.strip().replace("\n", "\n    ")))
        command = [sys.executable, str(script), "predict", "--workdir", str(tmp_path), "image"]
        process = subprocess.Popen(
            [*command, "--output", str(tmp_path), "--cpu-devices", "2", *flags],
            env=os.environ | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def end(process, seconds=60):
    """Waits; returns status, stdout and stderr."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def next_line(stream, seconds=60):
    assert select.select([stream], [], [], seconds)[0], "nothing was printed"
    return stream.readline()


def free_port(address="127.0.0.1"):
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


# --- one process ---------------------------------------------------------------------------------


def test_one_process_needs_no_jax():
    code = """
import sys
from convmesh import processes
processes.start()
processes.start(num_processes=1)
assert (processes.count(), processes.index(), processes.is_first()) == (1, 0, True)
assert processes.gather("x") == ["x"] and processes.broadcast("x") == "x"
processes.wait_for_all("x")
processes.finish()
assert not processes.watched()
assert "jax" not in sys.modules
"""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "OMPI", "TPU"))}
    done = subprocess.run([sys.executable, "-c", code], env=env, timeout=60)
    assert done.returncode == 0


# --- who has started us ---------------------------------------------------------------------------

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0",
}
OMPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
INTERACTIVE, BATCH = "4294967290", "4294967291"  # how Slurm numbers the steps of shells
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
TPU = {"TPU_WORKER_ID": "0"}


def without(env, *names):
    return {name: value for name, value in env.items() if name not in names}


@pytest.mark.parametrize(
    ("env", "kind"),
    [
        ({}, None),
        (SLURM, "Slurm"),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"}, None),
        # A shell of salloc: a step of one task, in an allocation of three.
        (SLURM | {"SLURM_STEP_ID": INTERACTIVE, "SLURM_STEP_NUM_TASKS": "1"}, None),
        (without(SLURM | {"SLURM_STEP_ID": INTERACTIVE}, "SLURM_STEP_NUM_TASKS"), None),
        # salloc without steps for shells, a batch script, and ssh to a node.
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "3"}, None),
        (SLURM | {"SLURM_STEP_ID": BATCH}, None),
        (without(SLURM, "SLURM_STEP_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS"), None),
        (without(SLURM, "SLURM_NTASKS"), None),
        (without(SLURM, "SLURM_STEP_NUM_TASKS"), "Slurm"),
        (OMPI, "Open MPI"),
        (without(OMPI, "OMPI_MCA_orte_hnp_uri"), "Open MPI"),
        (OMPI | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
        (OMPI | SLURM, "Open MPI"),
        (SLURM | OMPI | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
        (POD, None),
        (POD | {"JOB_COMPLETION_INDEX": "0"}, "Kubernetes"),
        (TPU | {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        (TPU | {"TPU_WORKER_HOSTNAMES": "t-0.t,t-1.t"}, "Cloud TPU"),
        (TPU | {"TPU_PROCESS_ADDRESSES": "10.0.0.1:8471,10.0.0.2:8471"}, "Cloud TPU"),
        (TPU | {"TPU_PROCESS_ADDRESSES_PATH": "/etc/tpu"}, "Cloud TPU"),
        (TPU | {"TPU_WORKER_HOSTNAMES": "t-0", "MEGASCALE_NUM_SLICES": "2"}, "Cloud TPU"),
        (TPU | {"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"}, None),
        (POD | TPU | {"TPU_WORKER_HOSTNAMES": "a,b", "JOB_COMPLETION_INDEX": "0"}, "Cloud TPU"),
        (POD | TPU | {"TPU_WORKER_HOSTNAMES": "a", "JOB_COMPLETION_INDEX": "0"}, None),
    ],
)
def test_a_cluster_is_one_that_started_this_process_with_others(env, kind):
    assert processes.find_cluster(env) == kind


def place(monkeypatch, env):
    """What `start` is told in that environment, by JAX's own classes."""
    for name in os.environ:
        if name.startswith(("SLURM_", "OMPI_", "TPU_", "KUBERNETES_", "JOB_")):
            monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return processes._from_cluster(os.environ)


def test_the_place_of_a_process_in_a_cluster(monkeypatch):
    assert place(monkeypatch, SLURM) == ("node1:61447", 3, 1, False, 1, 2)
    one_node = {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_TASKS_PER_NODE": "3"}
    assert place(monkeypatch, SLURM | one_node) == ("127.0.0.1:61447", 3, 1, True, 1, 3)
    # More tasks in the allocation than in the step.
    assert place(monkeypatch, SLURM | {"SLURM_NTASKS": "8"}).num_processes == 3
    second = {"SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
    assert place(monkeypatch, SLURM | second).local_count == 2
    port = {"JAX_COORDINATOR_PORT": "1234"}
    assert place(monkeypatch, SLURM | port).coordinator == "node1:1234"
    assert place(monkeypatch, OMPI) == ("10.96.0.1:1234", 4, 3, False, 1, 2)
    address = {"JAX_COORDINATOR_ADDRESS": "10.0.0.9:99", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
    assert place(monkeypatch, OMPI | address) == ("10.0.0.9:99", 4, 3, True, 1, 4)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (POD | {"JOB_COMPLETION_INDEX": "0"}, "Kubernetes: an indexed Job needs the package kube"),
        (SLURM | {"SLURM_JOB_ID": "x"}, "Slurm: invalid literal"),
        (TPU | {"TPU_WORKER_HOSTNAMES": "a,b"}, "Cloud TPU: several hosts, but JAX has no TPU"),
        (without(OMPI, "OMPI_MCA_orte_hnp_uri"), "Open MPI: Open MPI 5 .*mpi4py"),
    ],
)
def test_a_cluster_that_does_not_tell_enough(monkeypatch, env, message):
    monkeypatch.delenv("JAX_PLATFORMS")  # the tests' own
    for package in ("kubernetes", "mpi4py"):
        monkeypatch.setitem(sys.modules, package, None)
    find = processes.importlib.util.find_spec
    gone = ("kubernetes", "mpi4py")
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name in gone else find(name, *rest)
    )
    with pytest.raises(ConfigError, match=f"{message}.*; give --coordinator, .*--num-processes 1"):
        place(monkeypatch, env)


# --- addresses and devices ------------------------------------------------------------------------


def test_addresses():
    assert processes.parse_address("10.0.0.1:1234") == ("10.0.0.1", 1234)
    assert processes.parse_address("node-1.cluster:65535") == ("node-1.cluster", 65535)
    assert processes.parse_address("[fe80::1%eth0]:80") == ("fe80::1%eth0", 80)
    for wrong in ("host", "host:", ":1", "host:0", "host:65536", "a:b:1", "h:1x", "http://h:1", ""):
        with pytest.raises(ConfigError, match="wanted HOST:PORT"):
            processes.parse_address(wrong)
    for all_interfaces in ("0.0.0.0:1", "[::]:1", "*:1"):
        with pytest.raises(ConfigError, match="name the one address of process 0"):
            processes.parse_address(all_interfaces)


def test_a_name_that_is_loopback_on_its_own_machine(monkeypatch):
    def lookup(host, *_, **__):
        found = {"here": "127.0.1.1", "there": "10.1.2.3", "localhost": "127.0.0.1"}.get(host, host)
        v6 = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fd00::1", 0, 0, 0))
        return [v6, (socket.AF_INET, socket.SOCK_STREAM, 6, "", (found, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(processes, "_local_address_towards", lambda _: "10.1.2.4")
    reachable = processes._reachable_address
    for one_host in (True, False, None):
        assert reachable("there", one_host) == "10.1.2.3"
        assert reachable("127.0.0.1", one_host) == reachable("localhost", one_host) == "127.0.0.1"
    assert reachable("here", True) == "127.0.1.1"
    assert reachable("here", False) == "10.1.2.4"
    with pytest.raises(ConfigError, match="that name is 127.0.1.1, which no other can reach; give"):
        reachable("here", None)


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"{address}: process 0 cannot listen there: Address"):
            processes.start(address, 2, 0)
    with pytest.raises(ConfigError, match="process 0 cannot listen there: Cannot assign"):
        processes.start("198.51.100.7:1234", 2, 0)  # an address that no machine has


def test_gpus_are_shared_out():
    def share(gpus, count):
        return [processes.share_of_gpus(gpus, i, count) for i in range(count)]

    assert share(0, 2) == [None, None]
    assert share(4, 2) == [[0, 1], [2, 3]]
    assert share(4, 4) == [[0], [1], [2], [3]]
    assert share(4, 1) == [[0, 1, 2, 3]]
    assert share(1, 2) == [[0], [0]]  # the cluster has bound one to each
    assert processes.visible_gpus({"CUDA_VISIBLE_DEVICES": "0,3"}) == 2
    assert processes.visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == 0
    assert processes.visible_gpus({"CUDA_VISIBLE_DEVICES": "0", "JAX_PLATFORMS": "cpu"}) == 0


# --- real jobs of two processes -------------------------------------------------------------------

TALK = """
big = bytes([me]) * (9 * 2**20 + 1)
assert [b == bytes([i]) * len(big) for i, b in enumerate(processes.gather(big))] == [True] * 2
assert processes.gather({"me": me}) == [{"me": 0}, {"me": 1}]
assert processes.broadcast(["first"] if first else None) == ["first"]
assert processes.broadcast(big) == bytes(len(big))
processes.wait_for_all("here")
found = {"total": total(), "devices": [jax.device_count(), jax.local_device_count()]}
found["listening"] = processes.gather(listeners())
processes.wait_for_all("deleted")
client = processes._client()
found["kept"] = [key for key, _ in client.key_value_dir_get_bytes("convmesh/")]
if first: print(json.dumps(found))
"""


def test_two_processes_talk_and_listen_on_one_address_only(job):
    # An address of this machine that nobody would come to by himself.
    flags = ["--coordinator", f"127.0.0.2:{free_port('127.0.0.2')}", "--num-processes", "2"]
    both = [job(TALK, *flags, "--process-id", str(i)) for i in range(2)]
    (status, out, err), (status_1, out_1, err_1) = map(end, both)
    assert (status, status_1) == (0, 0), err + err_1
    assert "{" not in out_1
    found = json.loads(out.splitlines()[-1])
    assert found["devices"] == [4, 2]
    assert found["total"] == 1 + 2 + 3 + 4
    # The coordinator and gloo; gloo.
    assert found["listening"] == [["127.0.0.2"] * 2, ["127.0.0.2"]]
    assert found["kept"] == []


def test_a_slow_reader_gets_what_the_others_have_sent(job):
    # Process 1 has long read all when process 0 comes to its value, too large for one message.
    what = """
_, big = zip(*processes.gather((SlowToRead(), bytes([7 + me]) * (9 * 2**20))))
print([(len(b), set(b)) for b in big])
"""
    flags = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2", "--process-id"]
    both = [job(what, *flags, str(i)) for i in range(2)]
    for process in both:
        status, out, err = end(process)
        assert (status, out) == (0, f"[({9 * 2**20}, {{7}}), ({9 * 2**20}, {{8}})]\n"), err


def test_processes_that_slurm_started_find_each_other(job):
    one_node = {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_TASKS_PER_NODE": "2"}
    env = SLURM | one_node | {"SLURM_STEP_NUM_TASKS": "2", "JAX_COORDINATOR_PORT": str(free_port())}
    what = "print(me, processes.gather(os.environ['SLURM_PROCID']))"
    both = [job(what, **env | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}) for i in range(2)]
    for i, process in enumerate(both):
        status, out, err = end(process)
        assert (status, out) == (0, f"{i} ['0', '1']\n"), err


@pytest.mark.parametrize("failing", [0, 1])
def test_one_that_fails_ends_all(job, failing):
    # The other is inside a collective, which only both can end; and was there in time.
    what = f"""
total()
if me != {failing}:
    processes.POLL_SECONDS = 2  # what fails has to wait until the other has looked
else:
    time.sleep(1)
    raise DataError("a.jpg: cut short")
total()
print("not ended")
"""
    before = time.monotonic()
    status, out, err = end(job(what, "--num-processes", "2"))
    assert status == 1
    assert "not ended" not in out + err
    message = f"process {failing} of 2: a.jpg: cut short\n"
    if failing == 0:
        assert err == f"convmesh: error: {message}"
    else:
        assert "convmesh: error: process 1 failed: a.jpg: cut short\n" in err
        assert f"[process 1] convmesh: error: {message}" in err
        assert err.count("\n") == 2
    assert time.monotonic() - before < 30  # or JAX's own waiting has ended it


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        ("ConfigError('train.steps=0: wrong')", 2, "convmesh: error: train.steps=0: wrong"),
        ("Stopped('stopped at step 7')", 75, "convmesh: stopped at step 7"),
    ],
)
def test_what_all_find_is_said_once(job, error, status, line):
    done = end(job(f"time.sleep(0.3 * me)\nraise {error}", "--num-processes", "2"))
    assert done == (status, "", f"{line}\n")


def test_a_script_that_fails_ends_all(job, tmp_path):
    # Without the command line around it.
    script = tmp_path / "script.py"
    script.write_text("""
import sys, time
from convmesh import processes, simulate_devices
simulate_devices(1)
processes.start(sys.argv[1], 2, int(sys.argv[2]))
if processes.index() == 1:
    raise ValueError("no such thing")
processes.wait_for_all("never")
""")
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, str(script), address]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([*command, str(i)], **pipes) for i in range(2)]
    try:
        (status, _, err), (status_1, _, err_1) = map(end, both)
    finally:
        for process in both:
            process.kill()
    assert (status, status_1) == (1, 1)
    assert err == "convmesh: error: process 1 failed: ValueError: no such thing\n"
    assert "Traceback" in err_1
    assert err_1.endswith("convmesh: error: process 1 of 2: ValueError: no such thing\n")


def test_one_that_is_killed_ends_all(job):
    # Not by `run_locally`, which would see it: by the heartbeat.
    what = """
total()
if me: os.kill(os.getpid(), 9)
total()
print("not ended")
"""
    flags = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2", "--process-id"]
    both = [job(what, *flags, str(i)) for i in range(2)]
    (status, out, _), (status_1, _, _) = map(end, both)
    assert status_1 == -signal.SIGKILL
    assert status != 0
    assert "not ended" not in out


def test_processes_end_with_the_one_that_started_them(job):
    what = (
        "pids = processes.gather(os.getpid())\nif first: print(pids, flush=True)\ntime.sleep(100)"
    )
    process = job(what, "--num-processes", "2")
    pids = json.loads(next_line(process.stdout))
    assert len(pids) == 2
    process.kill()
    process.wait(timeout=30)
    until = time.monotonic() + 10
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < until, alive
        time.sleep(0.1)


def test_one_that_never_comes():
    code = """
import sys
from convmesh import processes
processes.START_SECONDS = 2
processes.start(sys.argv[1], 2, int(sys.argv[2]))
"""
    messages = ("not all others have come to", "no answer from process 0 at")
    addresses = [f"127.0.0.1:{free_port()}" for _ in messages]
    pipe = {"stderr": subprocess.PIPE, "text": True}
    each = [
        subprocess.Popen([sys.executable, "-c", code, address, str(i)], **pipe)
        for i, address in enumerate(addresses)
    ]
    try:
        for i, process in enumerate(each):
            status, _, err = end(process)
            told = f"process {i} of 2: {messages[i]} {addresses[i]} within 2 s"
            assert (status, err) == (1, f"convmesh: error: {told}\n")
    finally:
        for process in each:
            process.kill()
