"""Several processes that train as one: how they find each other, talk, and end together.

JAX joins them (`jax.distributed`); every process then runs the same program, and a jitted step
spans the devices of all. What is not an array goes through `gather`, `broadcast` and
`wait_for_all`. All functions are trivial, and import no JAX, where there is one process.

Whoever fails ends all: its message goes to the others, whose watcher thread prints it and ends
them, even where the main thread is inside a collective that would never return.
"""

import atexit
import glob
import importlib.util
import ipaddress
import itertools
import json
import os
import pickle
import re
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from convmesh.errors import ConfigError, ConvmeshError

START_SECONDS = 300  # how long processes wait for each other at the start
HEARTBEAT_SECONDS = 30  # a process that was not heard of for so long is dead
POLL_SECONDS = 0.5  # between two looks for another's failure
TELL_SECONDS = 5  # what a failing process gives the others to hear of it
_FOREVER_MS = 30 * 24 * 3600 * 1000  # the watcher ends a wait for one that never comes
_CHUNK = 4 * 2**20
_INLINE = 2**16

LAUNCHER = "CONVMESHLAUNCHER"  # process id of the one that started this one with `local_processes`
_FLAGS = ("--coordinator", "--num-processes", "--process-id")


# --- how many, and who am I ----------------------------------------------------------------------


def count() -> int:
    """How many processes there are; 1 where JAX was not told of others."""
    return _job()[0]


def index() -> int:
    """This process's number, from 0."""
    return _job()[1]


def is_first() -> bool:
    """Whether this is process 0, which alone writes logs and files."""
    return index() == 0


def _job() -> tuple[int, int]:
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized():
        return 1, 0
    try:
        # jax.process_count() starts the backend, which waits for all other processes.
        state = sys.modules["jax._src.distributed"].global_state
        return state.num_processes, state.process_id
    except (KeyError, AttributeError):
        return jax.process_count(), jax.process_index()


# --- what is not an array ------------------------------------------------------------------------
#
# Through the key-value store of JAX's coordination service, in process 0: it takes bytes from any
# thread and needs no device, no compilation and no order among the programs that are in flight.
# 20 MB of each of two processes take 1 to 2 s.

_calls = itertools.count()


def gather(value) -> list:
    """The `value` of each process (anything that pickles), in order, on all of them.

    Like all functions here that talk, it is called by every process, in the same order.
    """
    if count() == 1:
        return [value]
    client, me, key = _client(), index(), f"convmesh/call{next(_calls)}"
    _put(client, key, me, pickle.dumps(value))
    _barrier(client, f"{key}/written")
    heads = dict(client.key_value_dir_get_bytes(f"{key}/head/"))
    heads = {int(name.rpartition("/")[2]): head for name, head in heads.items()}
    values = [pickle.loads(_get(client, key, i, heads[i])) for i in range(count())]
    _barrier(client, f"{key}/read")
    _delete(client, key, me)
    return values


def broadcast(value):
    """The `value` of process 0, on all of them; that of the others is not looked at."""
    if count() == 1:
        return value
    client, key = _client(), f"convmesh/call{next(_calls)}"
    if is_first():
        _put(client, key, 0, pickle.dumps(value))
    _barrier(client, f"{key}/written")
    if not is_first():
        head = client.blocking_key_value_get_bytes(f"{key}/head/0", _FOREVER_MS)
        value = pickle.loads(_get(client, key, 0, head))
    _barrier(client, f"{key}/read")
    if is_first():
        _delete(client, key, 0)
    return value


def wait_for_all(name: str) -> None:
    """Returns once every process has come here."""
    if count() > 1:
        _barrier(_client(), f"convmesh/wait{next(_calls)}/{name}")


def _client():
    # Private, and without a public equal: orbax, too, talks over JAX's own client.
    return sys.modules["jax._src.distributed"].global_state.client


def _barrier(client, name: str) -> None:
    client.wait_at_barrier(name, _FOREVER_MS)


def _put(client, key: str, me: int, data: bytes) -> None:
    """What is small stands in the head itself, which all processes' readers get in one call."""
    chunks = [data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK)]
    if len(data) <= _INLINE:
        client.key_value_set_bytes(f"{key}/head/{me}", struct.pack("<I", 0) + data)
        return
    for number, chunk in enumerate(chunks):
        client.key_value_set_bytes(f"{key}/chunk/{me}/{number}", chunk)
    client.key_value_set_bytes(f"{key}/head/{me}", struct.pack("<I", len(chunks)))


def _get(client, key: str, process: int, head: bytes) -> bytes:
    chunks = range(struct.unpack("<I", head[:4])[0])
    if not chunks:
        return head[4:]
    names = (f"{key}/chunk/{process}/{number}" for number in chunks)
    return b"".join(client.blocking_key_value_get_bytes(name, _FOREVER_MS) for name in names)


def _delete(client, key: str, me: int) -> None:
    client.key_value_delete(f"{key}/head/{me}")
    client.key_value_delete(f"{key}/chunk/{me}")


# --- the start -----------------------------------------------------------------------------------


class _Place(NamedTuple):
    """What this process is told at the start."""

    coordinator: str  # HOST:PORT
    num_processes: int
    process_id: int
    one_host: bool | None = None  # None: nobody knows
    local_index: int | None = None  # among the processes of its host
    local_count: int | None = None


def start(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes: those that the arguments tell of, or that a cluster started.

    Without arguments, Open MPI, Slurm, Cloud TPU and Kubernetes are recognised as JAX does; where
    none of them started several processes, nothing happens. `num_processes=1` asks for that.
    Call it before JAX does any work, and after `simulate_devices`. Raises ConfigError for
    arguments that are wrong or not together.
    """
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        return
    place = _from_flags(coordinator, num_processes, process_id)
    if place is None and num_processes is None:
        place = _from_cluster(os.environ)
    if place is not None and place.num_processes > 1:
        _join(place)


def _from_flags(coordinator, num_processes, process_id) -> _Place | None:
    given = dict(zip(_FLAGS, (coordinator, num_processes, process_id), strict=True))
    missing = [flag for flag, value in given.items() if value is None]
    if num_processes is not None and num_processes < 1:
        raise ConfigError(f"--num-processes {num_processes}: wanted at least 1")
    if len(missing) == 3 or (num_processes == 1 and len(missing) == 2):
        return None
    if missing:
        raise ConfigError(
            f"{', '.join(missing)}: not given; {_FLAGS[0]}, {_FLAGS[1]} and {_FLAGS[2]} go "
            "together (--num-processes alone starts them all on this machine)"
        )
    parse_address(coordinator)
    if not 0 <= process_id < num_processes:
        raise ConfigError(
            f"--process-id {process_id}: with --num-processes {num_processes} it is one of 0 to "
            f"{num_processes - 1}"
        )
    return _Place(coordinator, num_processes, process_id)


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT ([HOST]:PORT with IPv6). Raises ConfigError if it is not that."""
    found = re.fullmatch(r"(\[[0-9a-fA-F:.%\w]+\]|[^\[\]:\s/]+):([0-9]{1,5})", text)
    if found is None or not 0 < int(found[2]) < 65536:
        raise ConfigError(f"--coordinator {text}: wanted HOST:PORT, such as 10.0.0.1:1234")
    host = found[1].strip("[]")
    if host in ("0.0.0.0", "::", "0", "*"):
        raise ConfigError(f"--coordinator {text}: name the one address of process 0's machine")
    return host, int(found[2])


def _join(place: _Place) -> None:
    host, port = parse_address(place.coordinator)
    address = _reachable_address(host, place.one_host)
    local = ipaddress.ip_address(address).is_loopback
    coordinator = bind = _join_address(address, port)
    if place.process_id == 0:
        bind = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS") or bind
        if bind == coordinator:
            _check_free(place.coordinator, address, port)
    own = address if local else _local_address_towards(address)

    import jax

    if local:
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    # JAX's preemption service takes SIGTERM for itself; stopping is convmesh's own business.
    jax.config.update("jax_enable_preemption_service", False)
    devices = None
    if "JAX_LOCAL_DEVICE_IDS" not in os.environ and place.local_count is not None:
        devices = share_of_gpus(visible_gpus(os.environ), place.local_index, place.local_count)
    waiting = threading.Timer(START_SECONDS, _give_up, [place])
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(
            coordinator,
            place.num_processes,
            place.process_id,
            local_device_ids=devices,
            # All is known by now, but for the GPUs that JAX would give a process by its number.
            cluster_detection_method=None if place.local_count is not None else "deactivate",
            coordinator_bind_address=bind,
            initialization_timeout=START_SECONDS + 60,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except RuntimeError as error:
        raise ConvmeshError(
            f"process {place.process_id} of {place.num_processes}: cannot join the others at "
            f"{place.coordinator}: {_first_line(error)}"
        ) from error
    finally:
        waiting.cancel()
    _steer_gloo(own)
    _watch()


def _give_up(place: _Place) -> NoReturn:
    """Ends this process, in words: JAX would abort it, with a stack of addresses."""
    me, others = f"process {place.process_id} of {place.num_processes}", place.coordinator
    what = "no answer from process 0 at" if place.process_id else "not all others have come to"
    print_line(f"convmesh: error: {me}: {what} {others} within {START_SECONDS} s")
    _exit(ConvmeshError.exit_code)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


# --- addresses: one, never all interfaces ---------------------------------------------------------


def _join_address(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _reachable_address(host: str, one_host: bool | None) -> str:
    """The address that `host` means to all processes.

    A machine often calls itself 127.0.1.1 (Debian's /etc/hosts). Where all processes are on it,
    that will do. Where they are not, a name that is loopback here is this machine's, which then
    goes by the address that its default route has: the others resolve the name to it. Where nobody
    knows, it is refused.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"coordinator {host}: {error.strerror or error}") from None
    # IPv4 first: gRPC tries every address of a name, but binds to one.
    found.sort(key=lambda one: one[0] != socket.AF_INET)
    address = str(found[0][4][0])
    literal = host == "localhost" or host == address
    if literal or one_host or not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return address
    if one_host is None:
        raise ConfigError(
            f"--coordinator {host}: on this machine that name is {address}, which no other can "
            "reach; give an IP address (127.0.0.1 if all processes run here)"
        )
    outward = _local_address_towards("192.0.2.1")  # of no machine; nothing is sent
    if ipaddress.ip_address(outward).is_loopback:
        raise ConfigError(
            f"coordinator {host}: on this machine that name is {address}, which no other can "
            f"reach, and it has no default route; give {', '.join(_FLAGS)}"
        )
    return outward


def _local_address_towards(address: str) -> str:
    """This machine's address on the way to `address`; loopback where there is no way."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # UDP: only looks up the route
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"


def _check_free(named: str, address: str, port: int) -> None:
    """Refuses what cannot be listened on: gRPC would share a port that another job has."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise ConfigError(
                f"--coordinator {named}: process 0 cannot listen there: {error.strerror}"
            ) from None


def _steer_gloo(address: str) -> None:
    """Makes gloo, JAX's collectives between CPUs, listen on `address`.

    By itself it takes what the machine's name resolves to. JAX has no public setting for it; with
    a JAX that has moved these names, gloo does as it likes.
    """
    try:
        from jax._src import config, distributed, xla_bridge
        from jax._src.lib import _jax

        make_gloo = _jax.make_gloo_tcp_collectives
        if config.cpu_collectives_implementation.value != "gloo":
            return

        def make_cpu_client():
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


# --- clusters -------------------------------------------------------------------------------------


def find_cluster(env: Mapping[str, str]) -> str | None:
    """What `env` says has started this process as one of several; None if nothing has.

    One of "Open MPI", "Slurm", "Cloud TPU", "Kubernetes". JAX looks for less: it takes a shell
    inside an allocation (salloc, sbatch, ssh) for one of the allocation's tasks, and then waits for
    the others.
    """

    def number(name: str) -> int:
        value = env.get(name, "")
        return int(value) if value.isdecimal() else 0

    ompi = {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"}
    if ompi <= env.keys():
        # Its launcher may itself run under srun: it alone decides.
        return "Open MPI" if number("OMPI_COMM_WORLD_SIZE") > 1 else None

    task = {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"}
    if task <= env.keys():
        # The shells of salloc and sbatch are steps as well, with numbers from the top of 32 bits.
        # SLURM_NTASKS counts the allocation's tasks there, SLURM_STEP_NUM_TASKS the step's.
        step = env.get("SLURM_STEP_ID", env.get("SLURM_STEPID", ""))
        tasks = number("SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS")
        if step.isdecimal() and int(step) < 0xFFFFFFF0 and tasks > 1:
            return "Slurm"

    if "tpu" in env.get("JAX_PLATFORMS", "tpu"):
        hosts = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES")
        file = env.get("TPU_PROCESS_ADDRESSES_PATH")  # which JAX reads
        if hosts or file:
            several = "," in (hosts or "") or number("MEGASCALE_NUM_SLICES") > 1
            return "Cloud TPU" if several or file else None

    # Every pod has KUBERNETES_SERVICE_HOST; an index has one of an indexed Job.
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= env.keys():
        return "Kubernetes"
    return None


def _from_cluster(env: Mapping[str, str]) -> _Place | None:
    kind = find_cluster(env)
    if kind is None and _may_be_tpu_vm(env):
        kind = "Cloud TPU"
    if kind is None:
        return None
    by_hand = f"give {', '.join(_FLAGS)}, or --num-processes 1 for a process on its own"
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
            timeout_secs=START_SECONDS,
            override_coordinator_port=env.get("JAX_COORDINATOR_PORT"),
        )
    except Exception as error:
        raise ConfigError(f"{kind}: {_first_line(error)}; {by_hand}") from error
    one_host, local_index, local_count = _on_this_host(kind, env)
    host, _, port = coordinator.rpartition(":")
    if one_host and "JAX_COORDINATOR_ADDRESS" not in env:
        host = "127.0.0.1"
    coordinator = _join_address(host.strip("[]"), int(port))
    return _Place(coordinator, num_processes, process_id, bool(one_host), local_index, local_count)


def _jax_cluster(kind: str):
    """JAX's own class for a cluster, which knows coordinator, count and number; None if it is not.

    Private: JAX's public way, `initialize()` without arguments, listens on all interfaces.
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
        raise ConvmeshError(f"this JAX no longer tells where it runs ({error})") from None
    if kind == "Kubernetes" and importlib.util.find_spec("kubernetes") is None:
        raise ConvmeshError("an indexed Job needs the package kubernetes: pip install jax[k8s]")
    for cluster in known[kind]:
        if cluster.is_env_present():
            return cluster
    if kind == "Open MPI":  # 5 has no variable that names a host
        if mpi4py.is_env_present():
            return mpi4py
        raise ConvmeshError("Open MPI 5 needs the package mpi4py")
    return None


def _may_be_tpu_vm(env: Mapping[str, str]) -> bool:
    """Whether it is worth the time to ask JAX if this is a host of a TPU slice."""
    if "tpu" not in env.get("JAX_PLATFORMS", "tpu") or "TPU_SKIP_MDS_QUERY" in env:
        return False
    library = "TPU_LIBRARY_PATH" in env or importlib.util.find_spec("libtpu") is not None
    return library and bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*"))


def _on_this_host(kind: str, env: Mapping[str, str]) -> tuple[bool, int | None, int | None]:
    """Whether all processes are on one host; this one's number and their count on this host."""
    if kind == "Open MPI":
        size = int(env.get("OMPI_COMM_WORLD_LOCAL_SIZE", 0))
        one_host = size == int(env["OMPI_COMM_WORLD_SIZE"])
        return one_host, int(env["OMPI_COMM_WORLD_LOCAL_RANK"]), size or None
    if kind == "Slurm":
        # Such as 4(x2),3: tasks of the first two nodes, and of the third.
        tasks: list[int] = []
        for part in env.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
            found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
            tasks += [int(found[1])] * int(found[2] or 1) if found else []
        node = int(env.get("SLURM_NODEID", 0))
        local_count = tasks[node] if node < len(tasks) else None
        nodes = env.get("SLURM_STEP_NUM_NODES", str(len(tasks)))
        return nodes == "1", int(env["SLURM_LOCALID"]), local_count
    return False, None, None


# --- GPUs ----------------------------------------------------------------------------------------


def visible_gpus(env: Mapping[str, str]) -> int:
    """How many NVIDIA GPUs JAX may use, found without starting it."""
    if env.get("JAX_PLATFORMS") == "cpu":
        return 0
    if "CUDA_VISIBLE_DEVICES" in env:
        return len([name for name in env["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()])
    return len([path for path in glob.glob("/dev/nvidia*") if re.search(r"nvidia\d+$", path)])


def share_of_gpus(gpus: int, local_index, local_count) -> list[int] | None:
    """The GPUs of one of `local_count` processes on this host; None leaves it to JAX.

    As many to each; all where there are fewer than processes, since then the cluster has given
    each process its own. (Checked as arithmetic: not on a machine with several GPUs.)
    """
    if not gpus:
        return None
    if gpus < local_count:
        return list(range(gpus))
    share = gpus // local_count
    return list(range(local_index * share, (local_index + 1) * share))


# --- the end ------------------------------------------------------------------------------------

_FAILED, _TOLD = "convmesh/failed", "convmesh/told"
_watching = False
_ending = threading.Lock()  # whoever has it ends the process, and never gives it back
_stop_watching = threading.Event()


def watched() -> bool:
    """Whether this process is one of several whose failures end all (`start` has joined them)."""
    return _watching


def finish() -> None:
    """Waits until all processes are done: one that fails until then still ends all."""
    if _watching:
        wait_for_all("finish")


def fail(message: str, status: int) -> NoReturn:
    """Ends all processes with `status`, this one at once. Call it from the main thread.

    `message` is printed once, by process 0, where all fail alike; else it is printed with the
    process's number, and by the others as they end.
    """
    with _ending:
        _fail(message.removeprefix("convmesh: ").removeprefix("error: "), status)


def _fail(message: str, status: int) -> NoReturn:
    client, me = _client(), index()
    failure = _tell({"process": me, "message": message, "status": status})
    mine, alike = failure["process"] == me, failure["message"] == message
    numbered = f"convmesh: error: process {me} of {count()}: {message}"
    if not alike:
        _print_failure_of_another(failure)
    elif me == 0:
        # A wrong call or config is so in all processes.
        print_line(f"convmesh: error: {message}" if status == ConfigError.exit_code else numbered)
    _leave(client, failure, alike, unless_alike=numbered if mine and me else "")


def _tell(failure: dict) -> dict:
    """Puts a failure where all see it; returns the first, which may be another's."""
    client = _client()
    try:
        client.key_value_set(_FAILED, json.dumps(failure))
        return failure
    except Exception:
        return _failure_told(client) or failure


def _failure_told(client) -> dict | None:
    try:
        return json.loads(client.key_value_try_get(_FAILED))
    except Exception:  # nobody has failed, or process 0 is gone, which JAX itself will notice
        return None


def _leave(client, failure: dict, alike: bool = False, unless_alike: str = "") -> NoReturn:
    """Ends this process, in an order that lets all hear of the failure first.

    Process 0 takes the key-value store with it; and where the failing process goes, gloo's
    connections break, and that says less than its message. `unless_alike` is printed unless process
    0 had found the same.
    """
    me = index()
    if failure["process"] == me and me != 0:
        heard = _wait_until_told(client, count() - 1)
        if unless_alike and heard.get(0) != "alike":
            print_line(unless_alike)
    try:
        client.key_value_set(f"{_TOLD}/{me}", "alike" if alike else "")
    except Exception:
        pass
    if me == 0:
        _wait_until_told(client, count())
        time.sleep(POLL_SECONDS)
    _exit(failure["status"])


def _wait_until_told(client, processes: int) -> dict[int, str]:
    """What each has left to be read, by its number, once so many have (or time is up)."""
    heard: dict[int, str] = {}
    until = time.monotonic() + TELL_SECONDS
    while len(heard) < processes and time.monotonic() < until:
        try:
            found = client.key_value_dir_get(f"{_TOLD}/")
        except Exception:
            break
        heard = {int(key.rpartition("/")[2]): how for key, how in found}
        time.sleep(0.05)
    return heard


def _print_failure_of_another(failure: dict) -> None:
    # Processes that `run_locally` started share one terminal: once is enough.
    if index() == 0 or not launched():
        print_line(f"convmesh: error: process {failure['process']} failed: {failure['message']}")


def print_line(line: str) -> None:
    """Prints a line to the terminal of this process, whatever its other threads do."""
    # Not by sys.stderr: a main thread that is blocked may hold its lock.
    os.write(2, f"{line}\n".encode())


def _exit(status: int) -> NoReturn:
    # Not sys.exit: at an ordinary end JAX waits for the other processes to end as well.
    flush = threading.Thread(target=lambda: (sys.stdout.flush(), sys.stderr.flush()), daemon=True)
    flush.start()
    flush.join(1)
    os._exit(status)


def _watch() -> None:
    """Starts the thread that ends this process when another fails."""
    global _watching
    _watching = True
    threading.Thread(target=_look_for_failures, name="convmesh-watch", daemon=True).start()
    # After JAX's own, so it runs before: the client must not be asked while JAX takes it down.
    atexit.register(_stop_watching.set)
    before = sys.excepthook

    def fail_after_traceback(kind, error, traceback):
        before(kind, error, traceback)
        fail(f"{kind.__name__}: {_first_line(error)}", 1)

    sys.excepthook = fail_after_traceback


def _look_for_failures() -> None:
    client, was_launched = _client(), launched()
    while not _stop_watching.wait(POLL_SECONDS):
        if was_launched and not launched():
            was_launched = False
            os.kill(os.getpid(), signal.SIGTERM)  # what it would have passed on
        failure = _failure_told(client)
        if failure is None:
            continue
        if failure["status"] == ConfigError.exit_code:
            time.sleep(2 * POLL_SECONDS)  # the main thread is about to find the same
        with _ending:
            _print_failure_of_another(failure)
            _leave(client, failure)


def launched() -> bool:
    """Whether `local_processes` has started this process, and passes signals on to it."""
    return os.environ.get(LAUNCHER) == str(os.getppid())
