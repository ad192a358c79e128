"""The processes of a job as its cluster describes them: Open MPI, Slurm, Cloud TPU, Kubernetes.

Also the coordinator's address and the GPUs of each process. Nothing here starts JAX's backend.
"""

import glob
import importlib.util
import ipaddress
import re
import socket
from collections.abc import Mapping
from typing import Any, NamedTuple

from convmesh.errors import ConfigError, ConvmeshError, first_line

START_SECONDS = 300  # how long processes wait for each other at the start, by default
FLAGS = ("--coordinator", "--num-processes", "--process-id")


class ProcessInfo(NamedTuple):
    """This process among those of its job, from flags or from a cluster."""

    coordinator: str  # HOST:PORT
    num_processes: int
    process_id: int
    one_host: bool | None = None  # whether all processes run on one host; None: unknown
    local_index: int | None = None  # among the processes of this host; None: unknown
    local_count: int | None = None  # processes on this host; None: unknown
    started_by: str = ""  # the cluster, with the variable that says so; "": flags describe it


_start_seconds = float(START_SECONDS)


def start_seconds() -> float:
    """How long processes wait for each other at the start, in seconds."""
    return _start_seconds


def set_start_seconds(seconds: float) -> None:
    """Sets `start_seconds` for this process."""
    global _start_seconds
    _start_seconds = float(seconds)


# Variables by which a cluster says that it has started several processes; without them it is
# not found.
STARTED = {
    "Open MPI": ("OMPI_COMM_WORLD_SIZE",),
    "Slurm": ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
    "Cloud TPU": (
        *("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES", "MEGASCALE_NUM_SLICES"),
        "TPU_PROCESS_ADDRESSES_PATH",
    ),
    "Kubernetes": ("JOB_COMPLETION_INDEX",),
}


def find_cluster(env: Mapping[str, str]) -> str | None:
    """The cluster that started this process as one of several, according to `env`; None if none.

    One of "Open MPI", "Slurm", "Cloud TPU", "Kubernetes". Stricter than JAX's own detection, which
    takes a shell inside a Slurm allocation (salloc, sbatch, ssh) for one of the allocation's tasks
    and then waits for the others.
    """

    def number(name: str) -> int:
        value = env.get(name, "")
        return int(value) if value.isdecimal() else 0

    ompi = {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"}
    if ompi <= env.keys():
        # Checked first: mpirun may itself run under srun.
        return "Open MPI" if number("OMPI_COMM_WORLD_SIZE") > 1 else None

    task = {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"}
    if task <= env.keys():
        # The shells of salloc and sbatch are steps too, with ids from 0xFFFFFFF0 up. There
        # SLURM_NTASKS counts the tasks of the allocation, SLURM_STEP_NUM_TASKS those of the step.
        step = env.get("SLURM_STEP_ID", env.get("SLURM_STEPID", ""))
        tasks = number("SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS")
        if step.isdecimal() and int(step) < 0xFFFFFFF0 and tasks > 1:
            return "Slurm"

    if "tpu" in (env.get("JAX_PLATFORMS") or "tpu"):
        hosts = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES")
        file = env.get("TPU_PROCESS_ADDRESSES_PATH")  # JAX reads it
        if hosts or file:
            several = "," in (hosts or "") or number("MEGASCALE_NUM_SLICES") > 1
            return "Cloud TPU" if several or file else None

    # Every pod has KUBERNETES_SERVICE_HOST; only a pod of an indexed Job has an index.
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= env.keys():
        return "Kubernetes"
    return None


def from_cluster(env: Mapping[str, str]) -> ProcessInfo | None:
    """This process as the cluster in `env` describes it; None for a single process.

    Raises ConfigError if a cluster was found but its information is incomplete.
    """
    kind = find_cluster(env)
    if kind is None and _may_be_tpu_vm(env):
        kind = "Cloud TPU"
    if kind is None:
        return None
    hint = f"give {', '.join(FLAGS)}, or --num-processes 1 for a single process"
    try:
        cluster = _jax_cluster(kind)
        if cluster is None:
            if find_cluster(env) is not None:
                raise ConvmeshError("several hosts, but JAX has no TPU here (pip install jax[tpu])")
            return None
        num_processes, process_id = cluster.get_process_count(), cluster.get_process_id()
        if kind == "Slurm":
            num_processes = int(env.get("SLURM_STEP_NUM_TASKS", num_processes))
        if num_processes < 2:
            return None
        coordinator = env.get("JAX_COORDINATOR_ADDRESS") or cluster.get_coordinator_address(
            timeout_secs=int(start_seconds()),
            override_coordinator_port=env.get("JAX_COORDINATOR_PORT"),
        )
    except Exception as error:
        raise ConfigError(f"{kind}: {first_line(error)}; {hint}") from error
    one_host, local_index, local_count = _local_processes(kind, env)
    host, _, port = coordinator.rpartition(":")
    if one_host and "JAX_COORDINATOR_ADDRESS" not in env:
        host = "127.0.0.1"
    coordinator = join_address(host.strip("[]"), int(port))
    found = coordinator, num_processes, process_id, bool(one_host), local_index, local_count
    return ProcessInfo(*found, started_by=started_by(kind, env))


def started_by(kind: str, env: Mapping[str, str]) -> str:
    """The cluster with the variable that says how many processes it has started."""
    said = [f"{name}={env[name]}" for name in STARTED[kind] if env.get(name)]
    return f"{kind} ({said[0][:80]})" if said else kind


def _jax_cluster(kind: str) -> Any:
    """JAX's class for a cluster, which knows coordinator, process count and id; None if absent.

    Private API: JAX's public way, `initialize()` without arguments, listens on all interfaces.
    """
    try:
        from jax._src import clusters

        known: dict[str, list] = {
            "Open MPI": [clusters.OmpiCluster],
            "Slurm": [clusters.SlurmCluster],
            "Cloud TPU": [clusters.GkeTpuCluster, clusters.GceTpuCluster],
            "Kubernetes": [clusters.K8sCluster],
        }
        mpi4py = clusters.Mpi4pyCluster
    except (ImportError, AttributeError) as error:
        raise ConvmeshError(f"this version of JAX has no cluster detection ({error})") from None
    if kind == "Kubernetes" and importlib.util.find_spec("kubernetes") is None:
        raise ConvmeshError("an indexed Job needs the package kubernetes: pip install jax[k8s]")
    for cluster in known[kind]:
        if cluster.is_env_present():
            return cluster
    if kind == "Open MPI":  # version 5 sets no variable that names a host
        if mpi4py.is_env_present():
            return mpi4py
        raise ConvmeshError("Open MPI 5 needs the package mpi4py")
    return None


def _may_be_tpu_vm(env: Mapping[str, str]) -> bool:
    """Whether this could be a host of a TPU slice, so that asking JAX is worth the time."""
    if "tpu" not in (env.get("JAX_PLATFORMS") or "tpu") or "TPU_SKIP_MDS_QUERY" in env:
        return False
    library = "TPU_LIBRARY_PATH" in env or importlib.util.find_spec("libtpu") is not None
    return library and bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*"))


def _local_processes(kind: str, env: Mapping[str, str]) -> tuple[bool, int | None, int | None]:
    """Whether all processes run on one host; this process's index among, and the count of, this
    host's processes (None: unknown).
    """
    if kind == "Open MPI":
        size = int(env.get("OMPI_COMM_WORLD_LOCAL_SIZE", 0))
        one_host = size == int(env["OMPI_COMM_WORLD_SIZE"])
        return one_host, int(env["OMPI_COMM_WORLD_LOCAL_RANK"]), size or None
    if kind == "Slurm":
        # 4(x2),3 means 4 tasks on each of the first two nodes and 3 on the third.
        tasks: list[int] = []
        for part in env.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
            found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
            tasks += [int(found[1])] * int(found[2] or 1) if found else []
        node = int(env.get("SLURM_NODEID", 0))
        local_count = tasks[node] if node < len(tasks) else None
        nodes = env.get("SLURM_STEP_NUM_NODES", str(len(tasks)))
        return nodes == "1", int(env["SLURM_LOCALID"]), local_count
    return False, None, None


# GPUs.


def visible_gpus(env: Mapping[str, str]) -> int:
    """The number of NVIDIA GPUs that JAX may use, found without starting JAX."""
    if env.get("JAX_PLATFORMS") == "cpu":
        return 0
    if "CUDA_VISIBLE_DEVICES" in env:
        names = [name.strip() for name in env["CUDA_VISIBLE_DEVICES"].split(",")]
        # CUDA ignores what follows an invalid number, such as -1.
        first_invalid = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))
        return first_invalid
    return len([path for path in glob.glob("/dev/nvidia*") if re.search(r"nvidia\d+$", path)])


def gpus_of_process(gpus: int, local_index: int, local_count: int) -> list[int] | None:
    """The GPUs of one of `local_count` processes on this host; None leaves the choice to JAX.

    Each process gets the same number. If fewer GPUs than processes are visible, it gets all of
    them, since the cluster has then bound each process to its own. (The arithmetic is tested, but
    not on a machine with several GPUs.)
    """
    if not gpus:
        return None
    if gpus < local_count:
        return list(range(gpus))
    each = gpus // local_count
    return list(range(local_index * each, (local_index + 1) * each))


# Addresses: the coordinator listens on one, never on all interfaces.


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT ([HOST]:PORT with IPv6). Raises ConfigError for other text."""
    found = re.fullmatch(r"(\[[0-9a-fA-F:.%\w]+\]|[^\[\]:\s/]+):([0-9]{1,5})", text)
    if found is None or not 0 < int(found[2]) < 65536:
        raise ConfigError(f"--coordinator {text}: wanted HOST:PORT, such as 10.0.0.1:1234")
    host = found[1].strip("[]")
    if host in ("0.0.0.0", "::", "0", "*"):
        raise ConfigError(f"--coordinator {text}: give a specific address of process 0's machine")
    return host, int(found[2])


def split_address(text: str) -> tuple[str, int]:
    """Host and port of the address on which process 0 listens. Raises ConfigError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"JAX_COORDINATOR_BIND_ADDRESS={text}: wanted ADDRESS:PORT")
    return host.strip("[]"), int(port)


def join_address(address: str, port: int) -> str:
    """HOST:PORT, or [HOST]:PORT with IPv6."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def reachable_address(host: str, one_host: bool | None) -> str:
    """The IP address of `host` at which all processes reach it.

    A machine often resolves its own name to 127.0.1.1 (Debian's /etc/hosts). If all processes run
    on it (`one_host`), that address works. If they do not, a name that resolves to loopback is this
    machine's own, and the address of its default route is returned: the other hosts resolve the
    name to that. Raises ConfigError if `host` is unknown, or resolves to loopback where `one_host`
    is None or there is no default route.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"coordinator {host}: {error.strerror or error}") from None
    # IPv4 first: gRPC tries every address of a name, but binds to one.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    address = str(found[0][4][0])
    literal = host == "localhost" or host == address
    if literal or one_host or not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return address
    if one_host is None:
        raise ConfigError(
            f"--coordinator {host}: resolves to {address} on this machine, which no other machine "
            "can reach; give an IP address (127.0.0.1 if all processes run here)"
        )
    external = local_address_towards("192.0.2.1")  # reserved for documentation; nothing is sent
    if ipaddress.ip_address(external).is_loopback:
        raise ConfigError(
            f"coordinator {host}: resolves to {address} on this machine, which no other machine "
            f"can reach, and there is no default route; give {', '.join(FLAGS)}"
        )
    return external


def local_address_towards(address: str) -> str:
    """The local address of this machine's route to `address`; 127.0.0.1 if there is no route."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # UDP: only looks up the route
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
