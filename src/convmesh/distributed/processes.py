"""The number and index of processes, and the exchange of Python objects between them.

All processes run the same program, and a jitted step spans the devices of all of them. Everything
that is not an array goes through `gather`, `broadcast` and `wait_for_all`, which use the key-value
store of JAX's coordination service (in process 0). It takes bytes from any thread and needs no
device, no compilation and no fixed order among the programs in flight. Exchanging 20 MB from each
of two processes takes 1 to 2 s. With a single process these functions do nothing and import no JAX.
"""

from __future__ import annotations

import itertools
import pickle
import platform
import socket
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from convmesh.distributed.own_progress import MAIN
from convmesh.errors import ConvmeshError

SECONDS_BETWEEN_WORDS = 30.0  # about a process that is waited for; the first comes after a third
_POLL_SECONDS = 0.05
WAIT_FOREVER_MS = 30 * 24 * 3600 * 1000  # the `failure` module ends a wait that cannot succeed
_CHUNK_BYTES = 4 * 2**20
_INLINE_BYTES = 2**16
_HOSTS = "convmesh/host"  # key in the store

T = TypeVar("T")


def count() -> int:
    """The number of processes; 1 unless `launch.start` has joined others."""
    return _count_and_index()[0]


def index() -> int:
    """This process's number, from 0."""
    return _count_and_index()[1]


def is_first() -> bool:
    """Whether this is process 0, the only one that writes logs and files."""
    return index() == 0


def _count_and_index() -> tuple[int, int]:
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized():
        return 1, 0
    try:
        # jax.process_count() starts the backend, which waits for all other processes.
        state = sys.modules["jax._src.distributed"].global_state
        return state.num_processes, state.process_id
    except (KeyError, AttributeError):
        return jax.process_count(), jax.process_index()


_calls = itertools.count()


def gather(value: T) -> list[T]:
    """The `value` (any picklable object) of each process, in process order, on all processes.

    Like `broadcast` and `wait_for_all`, it must be called by every process, in the same order.
    """
    if count() == 1:
        return [value]
    MAIN.arrive()
    store, own, key = coordination_client(), index(), f"convmesh/call{next(_calls)}"
    _put(store, key, own, pickle.dumps(value))
    _barrier(store, f"{key}/written")
    heads = dict(store.key_value_dir_get_bytes(f"{key}/head/"))
    heads = {int(name.rpartition("/")[2]): head for name, head in heads.items()}
    values = [pickle.loads(_get(store, key, i, heads[i])) for i in range(count())]
    _barrier(store, f"{key}/read")
    _delete(store, key, own)
    return values


def broadcast(value: T) -> T:
    """The `value` of process 0, on all processes; the argument of the others is ignored."""
    if count() == 1:
        return value
    MAIN.arrive()
    store, key = coordination_client(), f"convmesh/call{next(_calls)}"
    if is_first():
        _put(store, key, 0, pickle.dumps(value))
    _barrier(store, f"{key}/written")
    if not is_first():
        head = store.blocking_key_value_get_bytes(f"{key}/head/0", WAIT_FOREVER_MS)
        value = pickle.loads(_get(store, key, 0, head))
    _barrier(store, f"{key}/read")
    if is_first():
        _delete(store, key, 0)
    return value


def wait_for_all(name: str) -> None:
    """A barrier: returns once every process has called it."""
    if count() > 1:
        MAIN.arrive()
        _barrier(coordination_client(), f"convmesh/wait{next(_calls)}/{name}")


def wait_for_others(activity: str, seconds: float) -> None:
    """Waits until every process has called it, and prints for whom it waits.

    activity: what a process does before it calls this, such as "open its data". Raises
    ConvmeshError naming the missing processes after `seconds`.
    """
    if count() == 1:
        return
    store, own, key = coordination_client(), index(), f"convmesh/arrived{next(_calls)}"
    store.key_value_set(f"{key}/{own}", "")
    since = time.monotonic()
    next_word = SECONDS_BETWEEN_WORDS / 3
    while True:
        arrived = {int(name.rpartition("/")[2]) for name, _ in store.key_value_dir_get(f"{key}/")}
        missing = sorted(set(range(count())) - arrived)
        if not missing:
            _barrier(store, f"{key}/all")
            store.key_value_delete(f"{key}/{own}")
            return
        waited = time.monotonic() - since
        waits = f"{named(missing)} to {activity}"
        if waited > seconds:
            raise ConvmeshError(f"waited {seconds:.0f} s for {waits}; --start-timeout waits longer")
        if waited > next_word:
            next_word += SECONDS_BETWEEN_WORDS
            if own == min(arrived):  # the logs of all may be one
                print(
                    f"waiting for {waits}, for {waited:.0f} s so far", file=sys.stderr, flush=True
                )
        time.sleep(_POLL_SECONDS if waited < 5 else 10 * _POLL_SECONDS)


def introduce() -> None:
    """Tells the others on which machine this process runs, for `named`. Call it once."""
    machine = f"{socket.gethostname()} {system_id()}"
    coordination_client().key_value_set(f"{_HOSTS}/{index()}", machine)


def system_id() -> str:
    """An id of the running system: equal in two processes if they share its memory.

    Containers of one system have names of their own, but its memory in common; two machines may
    have one name.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


def named(group: Sequence[int], machines: Mapping[int, str] | None = None) -> str:
    """`process 1`, `processes 1, 2 and 3`: with their machines if these differ.

    machines: as `machines_of_all` returns them, which is called if they are not given.
    """
    hosts, known = {}, machines_of_all() if machines is None else machines
    if len(set(known.values())) > 1:
        hosts = {i: machine.partition(" ")[0] for i, machine in known.items()}
    return listed([f"{i} ({hosts[i]})" if i in hosts else str(i) for i in group])


def listed(names: Sequence[str]) -> str:
    """`process 1`, `processes 1 and 2`, `processes 1, 2, 3 and 4 more`."""
    if len(names) > 4:
        names = [*names[:3], f"{len(names) - 3} more"]
    *most, last = names
    return f"processes {', '.join(most)} and {last}" if most else f"process {last}"


def are_on_one_host() -> bool:
    """Whether all processes that are known run on one machine."""
    return len(set(machines_of_all().values())) <= 1


def machines_of_all() -> dict[int, str]:
    """Name and `system_id` of the machine of each process that has called `introduce`."""
    found = coordination_client().key_value_dir_get(f"{_HOSTS}/")
    return {int(key.rpartition("/")[2]): machine for key, machine in found}


def coordination_client() -> Any:
    """JAX's client of the key-value store that all processes share."""
    # Private to JAX, without a public equivalent; Orbax uses the same client.
    return sys.modules["jax._src.distributed"].global_state.client


def _barrier(store: Any, name: str) -> None:
    store.wait_at_barrier(name, WAIT_FOREVER_MS)


def _put(store: Any, key: str, process: int, data: bytes) -> None:
    """Stores `data` under `key`: small data in the head entry, which `gather` reads in one call."""
    chunks = [data[start : start + _CHUNK_BYTES] for start in range(0, len(data), _CHUNK_BYTES)]
    if len(data) <= _INLINE_BYTES:
        store.key_value_set_bytes(f"{key}/head/{process}", struct.pack("<I", 0) + data)
        return
    for number, chunk in enumerate(chunks):
        store.key_value_set_bytes(f"{key}/chunk/{process}/{number}", chunk)
    store.key_value_set_bytes(f"{key}/head/{process}", struct.pack("<I", len(chunks)))


def _get(store: Any, key: str, process: int, head: bytes) -> bytes:
    chunks = range(struct.unpack("<I", head[:4])[0])
    if not chunks:
        return head[4:]
    names = (f"{key}/chunk/{process}/{number}" for number in chunks)
    return b"".join(store.blocking_key_value_get_bytes(name, WAIT_FOREVER_MS) for name in names)


def _delete(store: Any, key: str, process: int) -> None:
    store.key_value_delete(f"{key}/head/{process}")
    store.key_value_delete(f"{key}/chunk/{process}")
