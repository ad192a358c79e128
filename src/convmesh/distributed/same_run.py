"""Checks that all processes of a job run the same: compared before anything is compiled or written.

Each process is started by itself and compiles its own program. If the programs or their inputs
differ, copies of the weights drift apart in silence, or the processes wait for each other for ever.
So each process states what it is about to run, and all raise the same error where that differs.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from convmesh.distributed import processes
from convmesh.distributed.clusters import start_seconds
from convmesh.errors import ConfigError, some

# Packages that determine which program is compiled, and how arrays are saved.
_PACKAGES = ("jaxlib", "flax", "optax", "orbax-checkpoint")
# Settings of JAX with the same effect, which the environment or a script may change.
_JAX_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion",
    "jax_disable_jit",
    "jax_debug_nans",
)
# Flags of XLA that may differ: the number of devices is compared by itself, dumps are files.
_OWN_XLA_FLAGS = (
    *("--xla_force_host_platform_device_count", "--xla_dump_", "--xla_gpu_cuda_data_dir"),
    *("--xla_gpu_per_fusion_autotune_cache_dir", "--xla_cpu_collective_call_terminate_timeout"),
)
_ABSENT = "none"
_LONGEST = 60  # characters of a value in a message


class Difference(NamedTuple):
    """A statement that is not the same on all processes."""

    name: str
    values: tuple[Any, ...]  # by process; "none" where a process does not state it

    def __str__(self) -> str:
        """`train.seed: process 0 has 0, processes 1 and 2 have 1`."""
        groups: dict[str, list[int]] = {}
        for process, value in enumerate(self.values):
            groups.setdefault(str(value), []).append(process)
        said = [f"{processes.named(group)} {'has' if len(group) == 1 else 'have'} {value}"
                for value, group in groups.items()]  # fmt: skip
        return f"{self.name}: {some(said, 4)}"


def check_same(
    stated: Mapping[str, Any], advice: str, activity: str = "start", error: type = ConfigError
) -> None:
    """Raises `error`, on every process, if `stated` is not the same on all of them.

    Every process must call it. stated: values by name, compared by `==`. advice: what to do, for
    the message. activity: what processes do before they call it, for the line about a late one.
    """
    differing = differences(stated, activity)
    if differing:
        raise error(f"{some([str(one) for one in differing])}; {advice}")


def differences(stated: Mapping[str, Any], activity: str = "start") -> list[Difference]:
    """The statements that are not the same on all processes, in the order of process 0's."""
    if processes.count() == 1:
        return []
    processes.wait_for_others(activity, start_seconds())
    everyone = processes.gather(dict(stated))
    names = dict.fromkeys(name for one in everyone for name in one)
    stated_by_all = [
        Difference(name, tuple(one.get(name, _ABSENT) for one in everyone)) for name in names
    ]
    return [one for one in stated_by_all if any(value != one.values[0] for value in one.values)]


def check_same_program(stated: Mapping[str, Any]) -> None:
    """Raises ConfigError if program, JAX, its settings or `stated` differ between processes.

    stated: what else each is about to run, such as its command.
    """
    if processes.count() == 1:
        return
    advice = "start every process with the same program and environment"
    check_same({**stated, **_program()}, advice)


def check_same_devices() -> None:
    """Raises ConfigError if the processes have unequally many devices, or of another platform.

    JAX's backend starts here, in all processes at the same time: it waits only two minutes.
    """
    if processes.count() == 1:
        return
    import jax

    processes.wait_for_others("start", start_seconds())
    own = {"devices": jax.local_device_count(), "platform": jax.local_devices()[0].platform}
    check_same(own, "every process needs equally many devices of one kind "
               "(--cpu-devices, CUDA_VISIBLE_DEVICES)")  # fmt: skip


@functools.cache
def _program() -> dict[str, str]:
    """What determines the compiled programs, besides the config and the devices."""
    import jax

    stated = {"convmesh": f"{_version('convmesh')} (source {_source_digest()})"}
    stated |= {"jax": jax.__version__} | {name: _version(name) for name in _PACKAGES}
    stated |= {name: str(jax.config.values.get(name)) for name in _JAX_SETTINGS}
    for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"):
        flags = sorted(os.environ.get(name, "").split())
        stated[name] = " ".join(f for f in flags if not f.startswith(_OWN_XLA_FLAGS)) or _ABSENT
    return stated


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return getattr(sys.modules.get(package.partition("-")[0]), "__version__", _ABSENT)


def _source_digest() -> str:
    """A short hash of the program's source: a checkout may be edited without a new version."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:8]
