"""Devices that are not here, to compile for: `v5e:16x16`, `h100:8`, `2xh100:8`, `cpu:8`."""

import importlib.util
import math
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from convmesh.distributed.devices import simulate_devices
from convmesh.errors import ConfigError, first_line
from convmesh.plan.gpu_targets import GPU_TARGETS, target_description
from convmesh.programs.accelerators import CHIPS, Chip

TPUS = ("v4", "v5e", "v5p", "v6e", "tpu7x")
SHAPES = f"""cpu:N, {", ".join(f"{name}:AxB" for name in ("v5e", "v6e"))}, \
{", ".join(f"{name}:AxBxC" for name in ("v4", "v5p", "tpu7x"))}, \
{", ".join(f"{name}:N" for name in GPU_TARGETS)} or HOSTSxNAME:N (2xh100:8)"""

LARGEST_2D = 256  # chips of a slice of v5e or v6e

_NAME = re.compile(r"(?:(\d+)x)?([a-z][a-z0-9-]*):(\d+(?:x\d+)*)")
# One of its processes, of 4 chips, is described: libtpu asks the metadata server otherwise.
_TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Topology(NamedTuple):
    """Devices to compile for.

    hosts: of GPUs; 0 where the devices of a slice are linked whichever host they are in. chip: what
    is known of them; None of simulated CPU devices.
    """

    name: str
    devices: Sequence[Any]
    chip: Chip | None
    hosts: int = 0


def open_topology(name: str) -> Topology:
    """The devices that `name` describes. Call it before JAX starts: no real accelerator is used.

    Raises ConfigError if there are no such devices, or their compiler is not installed.
    """
    match = _NAME.fullmatch(name.lower())
    if not match:
        raise ConfigError(f"--topology {name}: not understood; it is one of {SHAPES}")
    hosts, kind, shape = match.groups()
    sizes = [int(size) for size in shape.split("x")]
    if math.prod(sizes) < 1 or hosts == "0":
        raise ConfigError(f"--topology {name}: has no device")
    if kind == "cpu" and len(sizes) == 1 and not hosts:
        return _cpus(name, sizes[0])
    simulate_devices(1)
    if kind in TPUS and not hosts:
        return _tpus(name, kind, shape)
    if kind in GPU_TARGETS and len(sizes) == 1:
        return _gpus(name, kind, int(hosts or 1), sizes[0])
    raise ConfigError(f"--topology {name}: there is no {kind} of this form; use {SHAPES}")


def _cpus(name: str, count: int) -> Topology:
    simulate_devices(count)
    import jax

    return Topology(name, jax.devices(), None)


def _tpus(name: str, kind: str, shape: str) -> Topology:
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            f"--topology {name}: the compiler for TPUs is not installed; "
            "pip install 'convmesh[tpu]' (libtpu, which needs no TPU)"
        )
    for variable, value in _TPU_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    # A device of a v4 is a whole chip; without this it would be half of one.
    more: dict[str, Any] = {"chip_config_name": "megacore"} if kind == "v4" else {}
    sides = [int(side) for side in shape.split("x")]
    if len(sides) == 2 and math.prod(sides) > LARGEST_2D:
        raise ConfigError(f"--topology {name}: a slice of {kind} has at most {LARGEST_2D} chips")
    if min(sides[:2]) < 2:  # a host holds 2 x 2 chips, but the smallest slices
        more["chips_per_host_bounds"] = [min(2, side) for side in [*sides, 1][:2]] + [1]
    try:
        found = topologies.get_topology_desc(f"{kind}:{shape}", "tpu", **more)
    except Exception as error:
        if "not divisible" in str(error):
            raise ConfigError(
                f"--topology {name}: there is no such slice; its first two sides are 1 or even"
            ) from None
        raise ConfigError(f"--topology {name}: {first_line(error)}") from None
    return Topology(name, found.devices, _chip(kind))


def _gpus(name: str, kind: str, hosts: int, count: int) -> Topology:
    plugins = [f"jax_cuda{version}_plugin" for version in (12, 13)]
    if not any(importlib.util.find_spec(plugin) for plugin in plugins) or not _find_ptxas():
        raise ConfigError(
            f"--topology {name}: the compiler for NVIDIA GPUs is not installed; "
            "pip install 'convmesh[plan-cuda]' (it needs no GPU)"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(
            "",
            "cuda",
            target_config=target_description(kind),
            topology=f"1x{hosts}x{count}",
        )
    except Exception as error:
        raise ConfigError(f"--topology {name}: {first_line(error)}") from None
    return Topology(name, found.devices, _chip(kind), hosts)


def _find_ptxas() -> bool:
    """Whether XLA finds ptxas, NVIDIA's assembler; puts that of its wheel on the path."""
    if shutil.which("ptxas"):
        return True
    wheels = importlib.util.find_spec("nvidia")
    folders = wheels.submodule_search_locations if wheels else None
    for ptxas in (file for folder in folders or () for file in Path(folder).glob("*/bin/ptxas")):
        os.environ["PATH"] = f"{os.environ.get('PATH', '')}{os.pathsep}{ptxas.parent}"
        return True
    return False


def _chip(name: str) -> Chip:
    return next(chip for chip in CHIPS if chip.name == name)
