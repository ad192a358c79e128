"""`convmesh bench`: what one part of the program costs, measured, beside what it should cost."""

import contextlib
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from convmesh import mesh as meshes
from convmesh import processes, proof
from convmesh.collectives import Collective, each_collective, total
from convmesh.errors import ConfigError, DataError
from convmesh.mesh import DATA, FSDP, SPATIAL
from convmesh.ops.windows import describe_whole
from convmesh.report import read_metrics
from convmesh.setup import Setup, make_run_mesh, make_setup, traced_windows
from convmesh.state import create_state
from convmesh.step import jit_train_step
from convmesh.training import step_parts

STEPS = 5  # that are timed, after one that is not


def classes_of(config) -> tuple[str, ...]:
    """The recipe's classes: given, or those of its data; without either a usual number of them."""
    if config.data.classes:
        return tuple(config.data.classes)
    if config.data.root or config.data.name:
        from convmesh.data import open_train

        return tuple(open_train(config).classes)
    return tuple(map(str, range({"classify": 1000, "detect": 80}[config.task])))


def noise_setup(config, mesh=None) -> Setup:
    """The parts of a recipe for steps on noise: its data gives the classes and nothing else.

    On the recipe's own mesh, of all devices, if none is given.
    """
    if not config.model.name:
        raise ConfigError("model.name: not set; give it as --config.model.name=NAME")
    return make_setup(config, classes_of(config), mesh or make_run_mesh(config))


# --- bench step -----------------------------------------------------------------------------------


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


def measure_step(setup: Setup, steps: int = STEPS) -> StepCost:
    """Compiles the recipe's train step for its mesh and runs it on noise `steps` times (0: not).

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

    seconds = []
    for _ in range(steps + 1 if steps else 0):
        before = time.perf_counter()
        state, numbers = compiled(state, batch)
        jax.block_until_ready(numbers)
        seconds.append(time.perf_counter() - before)

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
        step_seconds=statistics.median(seconds[1:]) if seconds else None,
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
        lines.append(f"{'step':22}{cost.step_seconds:9.3f} s (median of {STEPS})")
    return "\n".join(lines)


def bench_step(config, as_json: bool = False, run: bool = True) -> StepCost:
    """Measures and prints the recipe's train step on the mesh of the devices here."""
    setup = noise_setup(config)
    if not as_json and processes.is_first():
        for line in describe_whole(traced_windows(setup)):
            print(line)
    cost = measure_step(setup, STEPS if run else 0)
    if processes.is_first():
        numbers = dataclasses.asdict(cost)
        for name in ("halo", "gradient"):
            formula = numbers[f"{name}_formula"]
            numbers[f"{name}_ratio"] = numbers[f"{name}_bytes"] / formula if formula else None
        print(json.dumps(numbers) if as_json else step_table(cost))
    return cost


# --- bench scale ----------------------------------------------------------------------------------

_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"


def bench_scale(recipe, overrides, steps: int, as_json: bool = False) -> dict:
    """One process on one core against two processes on two cores: the same training, timed.

    Trains `recipe` for `steps` steps both ways, each process with one device that computes in one
    thread, and evaluates. Raises DataError if one of the runs fails, ConfigError where there are
    not two cores to use.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        raise ConfigError(f"bench scale: needs two cores to bind processes to; here are {cores}")
    found = {}
    with tempfile.TemporaryDirectory(prefix="convmesh-scale-") as folder:
        for count in (1, 2):
            found[count] = _train_on(cores[:count], recipe, overrides, steps, Path(folder))
    one, two = found[1], found[2]
    metric = next(name for name in ("AP", "top1") if name in one)
    result = {
        "steps": steps,
        "images_per_second": {
            "1 process": one["images_per_second"],
            "2 processes": two["images_per_second"],
        },
        "ratio": two["images_per_second"] / one["images_per_second"],
        metric: {"1 process": one[metric], "2 processes": two[metric]},
    }
    if as_json:
        print(json.dumps(result))
        return result
    print(f"{'':24}{'images/s':>10}{metric:>10}   after {steps} steps")
    for name, row in (("1 process, 1 core", one), ("2 processes, 2 cores", two)):
        print(f"{name:24}{row['images_per_second']:10.1f}{row[metric]:10.4f}")
    print(f"{'speed-up':24}{result['ratio']:10.2f}")
    return result


def _train_on(cores: list[int], recipe, overrides, steps: int, folder: Path) -> dict:
    """The median speed and the last evaluation of a run of one process for each of `cores`."""
    workdir = folder / f"{len(cores)}"
    arguments = [
        *("train", "--config", str(recipe), "--workdir", str(workdir), "--cpu-devices", "1"),
        *overrides,
        *(f"--config.train.steps={steps}", "--config.train.log_every_steps=1"),
    ]
    together: list[list[str]] = [[]]
    if len(cores) > 1:
        address = f"--coordinator=127.0.0.1:{processes.free_port()}"
        count = f"--num-processes={len(cores)}"
        together = [[address, count, f"--process-id={i}"] for i in range(len(cores))]
    flags = f"{os.environ.get('XLA_FLAGS', '')} {_ONE_THREAD}"
    with _bound_to(cores):
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "convmesh", *arguments, *place],
                stdout=subprocess.DEVNULL,
                env=os.environ | {"XLA_FLAGS": flags},
            )
            for place in together
        ]
    if any([process.wait() for process in started]):
        raise DataError(f"bench scale: the run of {len(cores)} process(es) failed; see above")
    rows = read_metrics(workdir / "metrics.jsonl")
    speeds = [row["images_per_second"] for row in rows if row["split"] == "train"]
    evaluated = [row for row in rows if row["split"] != "train"][-1]
    return evaluated | {"images_per_second": float(np.median(speeds[len(speeds) // 5 :]))}


@contextlib.contextmanager
def _bound_to(cores: list[int]):
    """What this thread starts meanwhile runs on these cores, all of it on all of them.

    Not each process on a core of its own: gloo's own thread waits in a busy loop, and on a single
    core takes it from the thread that it waits for (3.8 ms for each array of an all-reduce).
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(cores))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
