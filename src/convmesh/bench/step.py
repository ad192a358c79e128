"""`convmesh bench step`: collectives, memory and time of the compiled train step.

Optionally compared with the same step in PyTorch.
"""

import contextlib
import dataclasses
import json
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from convmesh import mesh as meshes
from convmesh.bench.torch_baseline import TorchBaseline
from convmesh.distributed import processes
from convmesh.errors import ConfigError
from convmesh.mesh import DATA, FSDP, SPATIAL
from convmesh.ops.windows import describe_replicated
from convmesh.programs.collectives import (
    Collective,
    CollectiveTotal,
    find_collectives,
    total_collectives,
)
from convmesh.programs.hlo import elements
from convmesh.steps.cost import ideal_seconds, step_flops
from convmesh.steps.noise import noise_setup, noise_step
from convmesh.steps.setup import Setup, traced_windows
from convmesh.steps.state import TrainState
from convmesh.steps.step import devices_are_independent
from convmesh.tasks.image_mixing import TOGETHER

STEPS = 5  # timed steps, after one warm-up step


@dataclasses.dataclass(frozen=True)
class StepCost:
    """The cost of a compiled train step. Bytes are per device, times in seconds.

    Attributes:
      mesh, devices: that it was compiled for.
      collectives: by kind and axes.
      halo_bytes: rows received from neighbours. halo_formula: those that the model's windows need,
        forward and backward (`model.remat` sends those of its blocks once more, which is not
        counted).
      gradient_bytes: sums of kernels' gradients over data and spatial. gradient_formula: the bytes
        of the parameters that a device computes with, summed once. With fsdp they are
        reduce-scattered over data, and the shard that a device keeps is summed over spatial.
      step_seconds: the median; None if no step was run.
      flops: of the global batch. mfu: None if the devices' peak is not known.
      torch: the version of PyTorch that the step was compared with.
    """

    mesh: str
    devices: int
    collectives: list[CollectiveTotal]
    halo_bytes: int
    halo_formula: int
    gradient_bytes: int
    gradient_formula: int
    state_bytes: int
    temporary_bytes: int
    compile_seconds: float
    step_seconds: float | None
    flops: float
    mfu: float | None
    torch: str | None = None
    torch_seconds: float | None = None


def measure_step(
    setup: Setup, steps: int = STEPS, baseline: TorchBaseline | None = None
) -> StepCost:
    """Compiles the recipe's train step for its mesh and runs it on noise `steps` times (0: never).

    With a `baseline` the steps of the two alternate.
    """
    mesh, accumulate = setup.mesh, setup.config.train.accumulate
    examples = setup.config.train.batch_size // accumulate
    together = TOGETHER if setup.mixing else 1
    once = devices_are_independent(mesh, setup.model, examples, together)  # else by micro-batch
    step, state, batch = noise_step(setup)
    before = time.perf_counter()
    compiled: Any = step.lower(state, batch).compile()
    compile_seconds = time.perf_counter() - before
    collectives, kernels = find_collectives(compiled.as_text(), mesh), _kernel_sizes(state)
    state_bytes = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))

    def take_step() -> None:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))

    step_seconds, torch_seconds = _time_in_turns(take_step, steps, baseline)
    ideal = ideal_seconds(setup)
    return StepCost(
        mesh=meshes.describe(mesh),
        devices=mesh.size,
        collectives=total_collectives(collectives, mesh),
        halo_bytes=sum(c.count * c.bytes for c in collectives if _is_halo(c)),
        halo_formula=accumulate * _needed_halo(setup),
        gradient_bytes=sum(c.count * c.bytes for c in collectives if _sums_gradients(c, kernels)),
        gradient_formula=(1 if once else accumulate) * _summed_parameters(setup),
        state_bytes=state_bytes,
        temporary_bytes=compiled.memory_analysis().temp_size_in_bytes,
        compile_seconds=compile_seconds,
        step_seconds=step_seconds,
        flops=step_flops(setup),
        mfu=ideal / step_seconds if ideal and step_seconds else None,
        torch=baseline.name if baseline else None,
        torch_seconds=torch_seconds,
    )


def _time_in_turns(
    take_step: Callable[[], None], steps: int, baseline: TorchBaseline | None
) -> tuple[float | None, float | None]:
    """Median seconds of our step and of the baseline's; the first of each is not counted."""
    ours, theirs = [], []
    for _ in range(steps + 1 if steps else 0):
        before = time.perf_counter()
        take_step()
        ours.append(time.perf_counter() - before)
        if baseline:
            theirs.append(baseline.step())
    return (
        statistics.median(ours[1:]) if ours else None,
        statistics.median(theirs[1:]) if theirs else None,
    )


def _is_halo(collective: Collective) -> bool:
    return collective.kind == "collective-permute" and "shard_map/ppermute" in collective.op_name


def _sums_gradients(collective: Collective, kernels: frozenset[int]) -> bool:
    """Sums over data or spatial in the backward pass: of kernels, and what XLA merged with them.

    kernels: numbers of elements of kernels on a device. What XLA merges it calls by one of its
    parts, on TPUs perhaps by one of a batch norm. `mesh.sum_over_devices` sums after that pass.
    """
    _, backward, operation = collective.op_name.rpartition("transpose(jvp")
    return (
        collective.kind in ("all-reduce", "reduce-scatter")
        and set(collective.axes) <= {DATA, SPATIAL}
        and (
            (bool(backward) and "shard_map" in operation)
            or ("jvp" not in operation and operation.endswith("shard_map/psum"))
            or (bool(backward) and any(elements(shape) in kernels for shape in collective.shapes))
        )
    )


def _kernel_sizes(state: TrainState) -> frozenset[int]:
    """Elements on a device of each parameter that is no channel vector, where no vector has as many
    on any mesh.
    """
    leaves = jax.tree.leaves(state.params)
    vectors = {leaf.size for leaf in leaves if leaf.ndim < 2}
    found = {math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves if leaf.ndim > 1}
    return frozenset(found - vectors)


def _needed_halo(setup: Setup) -> int:
    """Bytes of neighbours' rows that the windows on a device need, forward and backward."""
    windows = traced_windows(setup)
    forward = sum(window.halo_bytes for window in windows)
    # The first window's input is the image, which has no gradient.
    return 2 * forward - sum(window.halo_bytes for window in windows[:1])


def _summed_parameters(setup: Setup) -> int:
    """Bytes of the kernels' gradients that one device contributes to sums."""
    mesh = setup.mesh
    if mesh.shape[DATA] * mesh.shape[SPATIAL] == 1:
        return 0
    data, spatial, model = (mesh.shape[axis] for axis in meshes.AXES)
    without_fsdp = meshes.make_mesh(data, spatial, model, devices=list(mesh.devices.flat))
    params = setup.abstract_state().params
    shardings = meshes.state_shardings(without_fsdp, params)
    once = sum(
        math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, sharding in zip(jax.tree.leaves(params), jax.tree.leaves(shardings), strict=True)
    )
    twice = FSDP in mesh.axis_names and data > 1 and spatial > 1
    return once + once // data if twice else once


def step_table(cost: StepCost) -> str:
    """The cost as a table of text."""
    lines = [f"{cost.devices} devices: {cost.mesh}", ""]
    lines.append(f"{'collective':22}{'along':26}{'count':>7}{'MB on each device':>20}")
    for c in cost.collectives:
        lines.append(f"{c.kind:22}{', '.join(c.axes):26}{c.count:7}{c.bytes / 1e6:20.2f}")
    if not cost.collectives:
        lines.append("none")
    lines.append("")
    for name, found, formula in (
        ("halo", cost.halo_bytes, cost.halo_formula),
        ("gradients", cost.gradient_bytes, cost.gradient_formula),
    ):
        if formula:
            lines.append(
                f"{name + ', sent':22}{found / 1e6:9.2f} MB, {found / formula:.2f} times the "
                f"formula's {formula / 1e6:.2f} MB"
            )
    lines.append(f"{'state':22}{cost.state_bytes / 1e6:9.2f} MB on each device")
    lines.append(f"{'temporaries':22}{cost.temporary_bytes / 1e6:9.2f} MB on each device")
    lines.append(f"{'compilation':22}{cost.compile_seconds:9.1f} s")
    if cost.step_seconds is not None:
        speed = f"{cost.flops / 1e9:.1f} GFLOP, {cost.flops / cost.step_seconds / 1e9:.0f} GFLOP/s"
        of_peak = f", {cost.mfu:.1%} of the peak" if cost.mfu else ""
        lines.append(f"{'step':22}{cost.step_seconds:9.3f} s (median of {STEPS}): {speed}{of_peak}")
    if cost.step_seconds and cost.torch_seconds:
        lines.append(
            f"{cost.torch:22}{cost.torch_seconds:9.3f} s, in turns: ours takes "
            f"{cost.step_seconds / cost.torch_seconds:.2f} times as long"
        )
    return "\n".join(lines)


def bench_step(config: ConfigDict, as_json: bool = False, compare: str | None = None) -> StepCost:
    """Measures and prints the recipe's train step on the mesh of all devices.

    With `compare="torch"` alternating with the same step in PyTorch. Raises ConfigError if PyTorch
    is not installed, or its step does not support the config.
    """
    setup = noise_setup(config)
    if not as_json and processes.is_first():
        for line in describe_replicated(traced_windows(setup)):
            print(line)
    with contextlib.ExitStack() as stack:
        baseline = None
        if compare == "torch":
            baseline = stack.enter_context(TorchBaseline(setup))
            _check_same_size(setup, baseline)
        cost = measure_step(setup, baseline=baseline)
    if processes.is_first():
        print(json.dumps(_as_json(cost)) if as_json else step_table(cost))
    return cost


def _check_same_size(setup: Setup, baseline: TorchBaseline) -> None:
    ours = sum(leaf.size for leaf in jax.tree.leaves(setup.abstract_state().params))
    if baseline.parameters != ours:
        raise ConfigError(
            f"bench --compare torch: its {setup.config.model.name} has {baseline.parameters:,} "
            f"parameters, ours {ours:,}: not the same model"
        )


def _as_json(cost: StepCost) -> dict[str, Any]:
    """The cost, with the ratio of each number to its formula or to torch's."""
    numbers = dataclasses.asdict(cost)
    for name in ("halo", "gradient"):
        formula = numbers[f"{name}_formula"]
        numbers[f"{name}_ratio"] = numbers[f"{name}_bytes"] / formula if formula else None
    if cost.step_seconds and cost.torch_seconds:
        numbers["ratio"] = cost.step_seconds / cost.torch_seconds
    return numbers
