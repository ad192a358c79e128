"""What a cluster's environment says about a process; addresses; GPUs of a process."""

import importlib.util
import os
import socket
import sys

import pytest
from jobs import SLURM

from convmesh.distributed import clusters
from convmesh.errors import ConfigError

OMPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
INTERACTIVE, BATCH = "4294967290", "4294967291"  # Slurm's step ids of shells
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
def test_find_cluster_names_what_started_this_process_with_others(env, kind):
    assert clusters.find_cluster(env) == kind
    if kind is not None:
        others = {name: env[name] for name in env if name not in clusters.STARTED[kind]}
        assert clusters.find_cluster(others) != kind


def info_in(monkeypatch, env):
    """What JAX's own cluster classes say of a process with that environment; not `started_by`."""
    for name in os.environ:
        if name.startswith(("SLURM_", "OMPI_", "TPU_", "KUBERNETES_", "JOB_")):
            monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    info = clusters.from_cluster(os.environ)
    return info and info[:6]


def test_process_info_from_a_cluster(monkeypatch):
    assert info_in(monkeypatch, SLURM) == ("node1:61447", 3, 1, False, 1, 2)
    one_node = {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_TASKS_PER_NODE": "3"}
    assert info_in(monkeypatch, SLURM | one_node) == ("127.0.0.1:61447", 3, 1, True, 1, 3)
    # More tasks in the allocation than in the step.
    assert info_in(monkeypatch, SLURM | {"SLURM_NTASKS": "8"})[1] == 3
    second = {"SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
    assert info_in(monkeypatch, SLURM | second)[5] == 2
    port = {"JAX_COORDINATOR_PORT": "1234"}
    assert info_in(monkeypatch, SLURM | port)[0] == "node1:1234"
    assert info_in(monkeypatch, OMPI) == ("10.96.0.1:1234", 4, 3, False, 1, 2)
    address = {"JAX_COORDINATOR_ADDRESS": "10.0.0.9:99", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
    assert info_in(monkeypatch, OMPI | address) == ("10.0.0.9:99", 4, 3, True, 1, 4)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (POD | {"JOB_COMPLETION_INDEX": "0"}, "Kubernetes: an indexed Job needs the package kube"),
        (SLURM | {"SLURM_JOB_ID": "x"}, "Slurm: invalid literal"),
        (TPU | {"TPU_WORKER_HOSTNAMES": "a,b"}, "Cloud TPU: several hosts, but JAX has no TPU"),
        (without(OMPI, "OMPI_MCA_orte_hnp_uri"), "Open MPI: Open MPI 5 .*mpi4py"),
    ],
)
def test_a_cluster_with_incomplete_information_is_refused(monkeypatch, env, message):
    monkeypatch.delenv("JAX_PLATFORMS")  # the tests' own
    missing = ("kubernetes", "mpi4py")
    for package in missing:
        monkeypatch.setitem(sys.modules, package, None)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *rest: None if name in missing else find(name, *rest),
    )
    with pytest.raises(ConfigError, match=f"{message}.*; give --coordinator, .*--num-processes 1"):
        info_in(monkeypatch, env)


def test_parse_address():
    assert clusters.parse_address("10.0.0.1:1234") == ("10.0.0.1", 1234)
    assert clusters.parse_address("node-1.cluster:65535") == ("node-1.cluster", 65535)
    assert clusters.parse_address("[fe80::1%eth0]:80") == ("fe80::1%eth0", 80)
    for wrong in ("host", "host:", ":1", "host:0", "host:65536", "a:b:1", "h:1x", "http://h:1", ""):
        with pytest.raises(ConfigError, match="wanted HOST:PORT"):
            clusters.parse_address(wrong)
    for all_interfaces in ("0.0.0.0:1", "[::]:1", "*:1"):
        with pytest.raises(ConfigError, match="give a specific address of process 0"):
            clusters.parse_address(all_interfaces)


def test_join_address_inverts_parse_address():
    for text in ("10.0.0.1:1234", "[fe80::1%eth0]:80"):
        assert clusters.join_address(*clusters.parse_address(text)) == text


def test_reachable_address_of_a_name_that_is_loopback_on_its_own_machine(monkeypatch):
    def lookup(host, *_, **__):
        found = {"here": "127.0.1.1", "there": "10.1.2.3", "localhost": "127.0.0.1"}.get(host, host)
        v6 = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fd00::1", 0, 0, 0))
        return [v6, (socket.AF_INET, socket.SOCK_STREAM, 6, "", (found, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(clusters, "local_address_towards", lambda _: "10.1.2.4")
    reachable = clusters.reachable_address
    for one_host in (True, False, None):
        assert reachable("there", one_host) == "10.1.2.3"
        assert reachable("127.0.0.1", one_host) == reachable("localhost", one_host) == "127.0.0.1"
    assert reachable("here", True) == "127.0.1.1"
    assert reachable("here", False) == "10.1.2.4"
    with pytest.raises(ConfigError, match="here: resolves to 127.0.1.1 on this machine, which no"):
        reachable("here", None)
    monkeypatch.setattr(clusters, "local_address_towards", lambda _: "127.0.0.1")
    with pytest.raises(ConfigError, match="there is no default route; give --coordinator"):
        reachable("here", False)


def test_gpus_are_divided_among_the_processes_of_a_host():
    def divided(gpus, count):
        return [clusters.gpus_of_process(gpus, i, count) for i in range(count)]

    assert divided(0, 2) == [None, None]
    assert divided(4, 2) == [[0, 1], [2, 3]]
    assert divided(4, 4) == [[0], [1], [2], [3]]
    assert divided(4, 1) == [[0, 1, 2, 3]]
    assert divided(1, 2) == [[0], [0]]  # the cluster has bound one to each


def test_visible_gpus_follow_the_environment():
    assert clusters.visible_gpus({"CUDA_VISIBLE_DEVICES": "0,3"}) == 2
    assert clusters.visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == 0
    assert clusters.visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == 0
    assert clusters.visible_gpus({"CUDA_VISIBLE_DEVICES": "0,-1,2"}) == 1
    assert clusters.visible_gpus({"CUDA_VISIBLE_DEVICES": "0", "JAX_PLATFORMS": "cpu"}) == 0


def test_visible_gpus_are_the_numbered_device_files(monkeypatch):
    files = ["/dev/nvidia0", "/dev/nvidia12", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0x"]
    monkeypatch.setattr(clusters.glob, "glob", lambda pattern: files)
    assert clusters.visible_gpus({}) == 2
    assert clusters.visible_gpus({"CUDA_VISIBLE_DEVICES": "0, ,"}) == 1


@pytest.mark.parametrize(
    "env, asked",
    [({}, True), ({"TPU_SKIP_MDS_QUERY": "1"}, False), ({"JAX_PLATFORMS": "cpu"}, False)],
    ids=str,
)
def test_a_tpu_machine_is_asked_unless_it_is_told_not_to(monkeypatch, env, asked):
    monkeypatch.setattr(clusters.glob, "glob", lambda pattern: ["/dev/accel0"])
    assert clusters._may_be_tpu_vm(env | {"TPU_LIBRARY_PATH": "/lib"}) is asked


def test_ipv6_addresses_are_probed_as_such(monkeypatch):
    families = []

    class Probe:
        def __init__(self, family, *_):
            families.append(family)

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = connect = lambda *_: None  # noqa: E731
        getsockname = lambda self: ("own", 0)  # noqa: E731

    monkeypatch.setattr(clusters.socket, "socket", Probe)
    for address in ("fd00::1", "10.0.0.1"):
        assert clusters.local_address_towards(address) == "own"
    v4, v6 = socket.AF_INET, socket.AF_INET6
    assert families == [v6, v4]


@pytest.mark.parametrize(
    "text, wanted",
    [("10.0.0.1:99", ("10.0.0.1", 99)), ("[fd00::1]:99", ("fd00::1", 99)), ("10.0.0.1", None)],
)
def test_the_address_to_listen_on_is_split(text, wanted):
    if wanted:
        assert clusters.split_address(text) == wanted
        return
    with pytest.raises(ConfigError, match="JAX_COORDINATOR_BIND_ADDRESS=10.0.0.1: wanted ADDRESS:"):
        clusters.split_address(text)


@pytest.mark.parametrize(
    "kind, env, said",
    [
        ("Slurm", {"SLURM_NTASKS": "4"}, "Slurm (SLURM_NTASKS=4)"),
        ("Slurm", SLURM, "Slurm (SLURM_STEP_NUM_TASKS=3)"),
        ("Open MPI", OMPI, "Open MPI (OMPI_COMM_WORLD_SIZE=4)"),
        ("Kubernetes", POD | {"JOB_COMPLETION_INDEX": "0"}, "Kubernetes (JOB_COMPLETION_INDEX=0)"),
        ("Cloud TPU", {}, "Cloud TPU"),
    ],
)
def test_the_variable_that_tells_of_other_processes_is_named(kind, env, said):
    assert clusters.started_by(kind, env) == said
