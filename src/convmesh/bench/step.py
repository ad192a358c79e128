"""`convmesh bench step`: the compiled train step alone: collectives, memory, time, and torch's."""

import contextlib
import dataclasses
import json
import math
import statistics
import time

import jax

from convmesh import mesh as meshes
from convmesh import processes, proof
from convmesh.bench.rival import Torch
from convmesh.collectives import Collective, each_collective, total
from convmesh.errors import ConfigError
from convmesh.flops import ideal_seconds, step_flops
from convmesh.mesh import DATA, FSDP, SPATIAL
from convmesh.ops.windows import describe_whole
from convmesh.proof import noise_setup
from convmesh.setup import Setup, traced_windows
from convmesh.state import create_state
from convmesh.step import jit_train_step
from convmesh.training import step_parts

STEPS = 5  # that are timed, after one that is not


@dataclasses.dataclass(frozen=True)
class StepCost:
    """What a compiled train step takes on each device. Bytes are of one device, times seconds."""

    mesh: str
    devices: int
    collectives: list[Collective]
    halo_bytes: int
    halo_formula: int
    gradient_bytes: int
    gradient_formula: int
    state_bytes: int
    temporary_bytes: int
    compile_seconds: float
    step_seconds: float | None
    flops: float  # of the whole batch
    mfu: float | None  # where the devices' peak is known
    torch: str | None = None  # whom the step was timed in turns with
    torch_seconds: float | None = None


def measure_step(setup: Setup, steps: int = STEPS, rival: Torch | None = None) -> StepCost:
    """Compiles the recipe's train step for its mesh and runs it on noise `steps` times (0: not).

    With a `rival` the two take turns.

    Halo: rows that each device gets from its neighbours; the formula: those that its windows need,
    forward and backward (`model.remat` sends those of its blocks once more, which it leaves out).
    Gradients: sums of kernels' gradients over data and spatial; the formula: the bytes of the
    parameters that a device works with, summed once. With fsdp they are scattered over data, and
    what a device keeps of them is summed over spatial: once, and a data-th of it.
    """
    config, mesh = setup.config, setup.mesh
    size, train = tuple(config.data.image_size), config.train
    state = create_state(**setup.state_arguments())
    share = meshes.share_of(mesh, train.batch_size, size[0], train.accumulate)
    boxes = config.data.max_boxes
    batch = proof.noise_batch(setup.task, size, train.batch_size, boxes)
    batch = meshes.place(mesh, share.take(batch), share)
    step = jit_train_step(mesh, state, batch, **step_parts(setup))

    before = time.perf_counter()
    compiled = step.lower(state, batch).compile()
    compile_seconds = time.perf_counter() - before
    operations = each_collective(compiled.as_text(), mesh)
    memory = compiled.memory_analysis()
    state_bytes = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))

    seconds, theirs = [], []
    for _ in range(steps + 1 if steps else 0):
        before = time.perf_counter()
        state, numbers = compiled(state, batch)
        jax.block_until_ready((state, numbers))
        seconds.append(time.perf_counter() - before)
        if rival:
            theirs.append(rival.step())

    ideal = ideal_seconds(setup)
    step_seconds = statistics.median(seconds[1:]) if seconds else None
    windows = traced_windows(setup)
    # The first window's input is the image, which has no gradient.
    forward = sum(w.halo_bytes for w in windows)
    halo = 2 * forward - sum(w.halo_bytes for w in windows[:1])
    return StepCost(
        mesh=meshes.describe(mesh),
        devices=mesh.size,
        collectives=total(operations, mesh),
        halo_bytes=sum(o.count * o.bytes for o in operations if _is_halo(o)),
        halo_formula=halo * train.accumulate,
        gradient_bytes=sum(o.count * o.bytes for o in operations if _sums_gradients(o)),
        gradient_formula=train.accumulate * _summed_parameters(setup),
        state_bytes=state_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        compile_seconds=compile_seconds,
        step_seconds=step_seconds,
        flops=step_flops(setup),
        mfu=ideal / step_seconds if ideal and step_seconds else None,
        torch=rival.name if rival else None,
        torch_seconds=statistics.median(theirs[1:]) if theirs else None,
    )


def _is_halo(operation) -> bool:
    return operation.kind == "collective-permute" and "shard_map/ppermute" in operation.op_name


def _sums_gradients(operation) -> bool:
    """Sums over data or spatial in the backward pass, of kernels, and what XLA merged with them."""
    return (
        operation.kind in ("all-reduce", "reduce-scatter")
        and set(operation.axes) <= {DATA, SPATIAL}
        and "transpose(jvp" in operation.op_name
        and "shard_map" in operation.op_name
    )


def _summed_parameters(setup: Setup) -> int:
    """Bytes of the kernels' gradients that one device has to hand over."""
    mesh = setup.mesh
    if mesh.shape[DATA] * mesh.shape[SPATIAL] == 1:
        return 0
    data, spatial, model = (mesh.shape[axis] for axis in meshes.AXES)
    plain = meshes.make_mesh(data, spatial, model, devices=list(mesh.devices.flat))
    params = setup.abstract_state().params
    layout = meshes.state_shardings(plain, params)
    shapes = jax.tree.map(lambda leaf, at: at.shard_shape(leaf.shape), params, layout)
    leaves = jax.tree.leaves(params)
    sizes = jax.tree.leaves(shapes, is_leaf=lambda shape: isinstance(shape, tuple))
    once = sum(
        math.prod(shape) * leaf.dtype.itemsize for leaf, shape in zip(leaves, sizes, strict=True)
    )
    twice = FSDP in mesh.axis_names and data > 1 and spatial > 1
    return once + once // data if twice else once


def step_table(cost: StepCost) -> str:
    """What `measure_step` found, for people."""
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
        speed = f"{cost.flops / 1e9:.1f} GFLOP, {cost.flops / cost.step_seconds / 1e9:.0f} a second"
        of_peak = f", {cost.mfu:.1%} of the peak" if cost.mfu else ""
        lines.append(f"{'step':22}{cost.step_seconds:9.3f} s (median of {STEPS}): {speed}{of_peak}")
    if cost.step_seconds and cost.torch_seconds:
        lines.append(
            f"{cost.torch:22}{cost.torch_seconds:9.3f} s, in turns: ours takes "
            f"{cost.step_seconds / cost.torch_seconds:.2f} times as long"
        )
    return "\n".join(lines)


def bench_step(config, as_json: bool = False, compare: str | None = None) -> StepCost:
    """Measures and prints the recipe's train step on the mesh of the devices here.

    Raises ConfigError if `compare` names a rival that is not here or cannot do it.
    """
    setup = noise_setup(config)
    if not as_json and processes.is_first():
        for line in describe_whole(traced_windows(setup)):
            print(line)
    with contextlib.ExitStack() as stack:
        rival = stack.enter_context(Torch(setup)) if compare == "torch" else None
        if rival:
            _check_same_size(setup, rival)
        cost = measure_step(setup, rival=rival)
    if processes.is_first():
        print(json.dumps(_numbers(cost)) if as_json else step_table(cost))
    return cost


def _check_same_size(setup: Setup, rival: Torch) -> None:
    ours = sum(leaf.size for leaf in jax.tree.leaves(setup.abstract_state().params))
    if rival.parameters != ours:
        raise ConfigError(
            f"bench --compare torch: its {setup.config.model.name} has {rival.parameters:,} "
            f"parameters, ours {ours:,}: not the same model"
        )


def _numbers(cost: StepCost) -> dict:
    """The cost, with each number's ratio to its formula or rival."""
    numbers = dataclasses.asdict(cost)
    for name in ("halo", "gradient"):
        formula = numbers[f"{name}_formula"]
        numbers[f"{name}_ratio"] = numbers[f"{name}_bytes"] / formula if formula else None
    if cost.step_seconds and cost.torch_seconds:
        numbers["ratio"] = cost.step_seconds / cost.torch_seconds
    return numbers
