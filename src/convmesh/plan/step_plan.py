"""The cost of a recipe's train step on devices that are not here, from its compiled program."""

import dataclasses
import math
import os
import re
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from convmesh import mesh as meshes
from convmesh.errors import ConfigError, DataError, first_line
from convmesh.plan.roofline import StepSeconds, step_seconds
from convmesh.plan.topology import Topology
from convmesh.programs.collectives import CollectiveTotal, find_collectives, total_collectives
from convmesh.programs.traffic import memory_traffic
from convmesh.steps.cost import step_flops
from convmesh.steps.noise import abstract_step, noise_setup
from convmesh.steps.setup import Setup, make_run_mesh
from convmesh.steps.state import TrainState
from convmesh.training.read_ahead import BATCHES_AHEAD

# JAX takes this part of a GPU's memory, or what XLA_PYTHON_CLIENT_MEM_FRACTION says.
GPU_FRACTION = 0.75


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
      parameters, optimizer: of the state; other_state: running averages and batch statistics.
      batch: images and labels.
      temporaries: activations, gradients and what XLA adds.
      code: of the program, where the compiler says it.
      total: of the program, with what none of these is, such as results.
      waiting: the batches that a run has read ahead onto the device; not in total.
      available: None if it is not known.
      measured: whether `temporaries` are those of a compiled program; otherwise it was too large to
        be compiled, and they are what its compiler said that it needs.
    """

    parameters: int
    optimizer: int
    other_state: int
    batch: int
    temporaries: int
    code: int
    total: int
    available: int | None
    measured: bool = True
    waiting: int = 0

    @property
    def fits(self) -> bool:
        """Whether a device has the memory; also if it is not known how much it has."""
        return self.measured and (
            self.available is None or self.total + self.waiting <= self.available
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """A compiled train step. `flops` of one device; `batch` is the global one.

    collectives and seconds are empty and None where the program was too large to be compiled.
    """

    topology: str
    device: str
    devices: int
    mesh: str
    model: str
    precision: str
    batch: int
    steps: int
    memory: Memory
    flops: float
    traffic: int
    collectives: list[CollectiveTotal]
    seconds: StepSeconds | None
    compile_seconds: float
    batch_unit: int = 1  # a batch that divides over the mesh is a multiple

    @property
    def images_per_second(self) -> float | None:
        """Of all devices, at best."""
        return self.batch / self.seconds.total if self.seconds else None


def plan_step(config: ConfigDict, topology: Topology) -> Plan:
    """Compiles the recipe's train step for the devices of `topology`; nothing is run.

    Raises ConfigError if the recipe does not fit the mesh, DataError if the compiler refuses the
    program for another reason than its size.
    """
    mesh = make_run_mesh(config, topology.devices)
    setup = noise_setup(config, mesh)
    step, state, batch = abstract_step(setup)
    before = time.perf_counter()
    compiled, refusal = compile_step(step, state, batch, meshes.platform(mesh))
    seconds = time.perf_counter() - before
    memory = _memory(setup, topology, state, batch, compiled, refusal)
    flops, traffic, collectives, predicted = step_flops(setup) / mesh.size, 0, [], None
    if compiled is not None:
        text = compiled.as_text()
        traffic = memory_traffic(text)
        collectives = total_collectives(find_collectives(text, mesh), mesh)
        predicted = step_seconds(setup, topology, flops, traffic, collectives)
    return Plan(
        topology=topology.name,
        device=mesh.devices.flat[0].device_kind,
        devices=mesh.size,
        mesh=meshes.describe(mesh),
        model=setup.model_name,
        precision=setup.precision,
        batch=config.train.batch_size,
        steps=setup.steps,
        memory=memory,
        flops=flops,
        traffic=traffic,
        collectives=collectives,
        seconds=predicted,
        compile_seconds=seconds,
        batch_unit=batch_unit(config, mesh.shape[meshes.DATA]),
    )


def batch_unit(config: ConfigDict, data: int) -> int:
    """The step between batches that divide over `mesh.data`, micro-batches and norm groups."""
    parts, group = config.train.accumulate, config.model.norm_group or 1
    if config.train.batch_size % (data * parts * group) == 0:  # each device keeps whole groups
        return data * parts * group
    return parts * math.lcm(data, group)


def with_length(config: ConfigDict, images: int) -> ConfigDict:
    """The config with the steps of its epochs, for so many training images (0: unknown)."""
    config = config.copy_and_resolve_references()
    if images and not config.train.steps and config.train.epochs:
        config.train.steps = max(1, round(config.train.epochs * images / config.train.batch_size))
    return config


# Without a GPU nothing can be tuned, and XLA then takes tiles for some products that it refuses.
_OPTIONS_ELSEWHERE = {"gpu": {"xla_gpu_enable_triton_gemm": False}}


def compile_step(step: Any, state: TrainState, batch: Any, platform: str) -> tuple[Any, str]:
    """The compiled step, or None and what the compiler says of a program that is too large.

    Raises DataError if the compiler refuses it for another reason.
    """
    options = _OPTIONS_ELSEWHERE.get(platform)
    try:
        return step.lower(state, batch).compile(compiler_options=options), ""
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise DataError(f"plan: the compiler refuses the step: {first_line(error)}") from error
        return None, str(error)


# --- memory ---------------------------------------------------------------------------------------


def _memory(
    setup: Setup, topology: Topology, state: TrainState, batch: Any, compiled: Any, refusal: str
) -> Memory:
    """Of a compiled step, or of one that its compiler refused as too large."""
    parts: dict[str, Any] = {
        "parameters": _bytes_on_device(state.params),
        "optimizer": _bytes_on_device(state.opt_state),
        "other_state": _bytes_on_device((state.ema, state.batch_stats)),
        "batch": _bytes_on_device([leaf for _, leaf in batch.arrays()]),
    }
    if compiled is None:
        needed, available = _sizes(refusal)
        held = sum(parts.values())
        return Memory(
            **parts,
            temporaries=max(0, needed - held),
            code=0,
            total=max(needed, held),
            available=available or _available(setup, topology),
            measured=False,
            waiting=BATCHES_AHEAD * parts["batch"],
        )
    stats = compiled.memory_analysis()
    kept = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    code = stats.generated_code_size_in_bytes
    return Memory(
        **parts,
        temporaries=stats.temp_size_in_bytes,
        code=code,
        total=kept + stats.temp_size_in_bytes + code,
        available=_available(setup, topology),
        waiting=BATCHES_AHEAD * parts["batch"],
    )


def _bytes_on_device(tree: Any) -> int:
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def _sizes(refusal: str) -> tuple[int, int | None]:
    """Bytes needed and available in a compiler's message: "(20.1G) exceeds available HBM (15.75G)"
    or "Used 20.1G of 15.75G hbm".
    """
    pair = re.search(r"\(([\d.]+)([KMGT])\) exceeds available \w+ \(([\d.]+)([KMGT])\)", refusal)
    pair = pair or re.search(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT])", refusal)
    if not pair:
        return 0, None
    needed, unit, available, its_unit = pair.groups()
    return int(float(needed) * _UNITS[unit]), int(float(available) * _UNITS[its_unit])


def _available(setup: Setup, topology: Topology) -> int | None:
    """Bytes of one device that a program can use."""
    if topology.chip is None:
        pages = "SC_PHYS_PAGES" in os.sysconf_names if hasattr(os, "sysconf_names") else False
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if pages else None
        return whole // setup.mesh.size if whole else None
    if meshes.platform(setup.mesh) != "gpu":
        return int(topology.chip.memory)
    fraction = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "")
    try:
        part = float(fraction or GPU_FRACTION)
        if not 0 < part <= 1:
            raise ValueError
        return int(topology.chip.memory * part)
    except ValueError:
        raise ConfigError(
            f"XLA_PYTHON_CLIENT_MEM_FRACTION={fraction}: is no number from 0 to 1"
        ) from None


# --- what makes it fit, or what more there is room for --------------------------------------------


def largest_batch(plan: Plan) -> int:
    """An estimate of the largest global batch that fits: temporaries and images grow with it."""
    memory = plan.memory
    if memory.available is None:
        return 0
    grows = memory.temporaries + memory.batch + memory.waiting
    fixed = memory.total + memory.waiting - grows
    batch = max(0, int(plan.batch * (memory.available - fixed) / max(1, grows)))
    return batch // plan.batch_unit * plan.batch_unit


def changes_that_fit(setup_config: ConfigDict, plan: Plan, data: int) -> list[str]:
    """Changes of the recipe with which it would fit, estimated from what it needs now.

    data: devices along `mesh.data`.
    """
    memory, config = plan.memory, setup_config
    if memory.available is None or memory.fits:
        return []
    found, per_device = [], plan.batch // data
    needed = memory.total + memory.waiting
    fits = lambda saved: needed - saved <= memory.available  # noqa: E731
    batch = largest_batch(plan)
    if batch:
        found.append(f"train.batch_size={batch} (now {plan.batch})")
    for parts in (2, 4, 8, 16, 32):
        now = config.train.accumulate
        if per_device % (parts * now) == 0 and fits(memory.temporaries * (1 - 1 / parts)):
            found.append(f"train.accumulate={parts * now}: as many micro-batches")
            break
    state = memory.parameters + memory.optimizer + memory.other_state
    if not config.mesh.fsdp and data > 1 and fits(state * (1 - 1 / data)):
        found.append("mesh.fsdp=true: parameters and optimizer state over mesh.data")
    if plan.precision == "float32" and plan.device != "cpu" and fits(memory.temporaries / 2):
        found.append("precision=bfloat16: activations of half the size")
    if not config.model.get("remat", False) and plan.model != "small_cnn":  # it has no blocks
        found.append("model.remat=true: blocks are computed again for their gradients; plan again")
    return found
