"""`convmesh plan`: compiles a recipe's train step for devices that are not here.

It says whether the step fits, what it communicates, and how fast it can be.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import sys
from typing import Any

from ml_collections import ConfigDict

from convmesh import mesh as meshes
from convmesh.distributed import console, processes
from convmesh.errors import ConfigError, DataError, RunError
from convmesh.plan.largest import find_largest_batch
from convmesh.plan.picture import draw_plan
from convmesh.plan.roofline import ASSUMPTIONS
from convmesh.plan.step_plan import (
    Plan,
    changes_that_fit,
    largest_batch,
    plan_step,
    with_length,
)
from convmesh.plan.topology import Topology
from convmesh.steps.chosen_sizes import with_chosen_sizes
from convmesh.steps.setup import make_run_mesh

MOST_MESHES = 8  # of a search; each is compiled
_MB = 1e6


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """as_json: print one JSON object. picture: a PNG to draw the plan into, or "". images: of the
    training set, for a recipe that counts epochs. price: of one device for an hour. search: rank
    meshes. largest: find the largest batch that fits.
    """

    as_json: bool = False
    picture: str = ""
    images: int = 0
    price: float = 0.0
    search: bool = False
    largest: bool = False


def plan(config: ConfigDict, topology: Topology, options: PlanOptions) -> None:
    """Plans the recipe and prints it. Raises RunError if the step does not fit its devices."""
    if options.search and options.largest:
        raise ConfigError("plan: --search and --largest cannot be combined; give one of them")
    if processes.count() > 1:
        raise ConfigError("plan: runs in one process only; --topology names the devices")
    # Reports of data that is prepared are no part of a JSON object.
    aside = contextlib.redirect_stdout(sys.stderr) if options.as_json else contextlib.nullcontext()
    if options.price and not (options.images or config.train.steps):
        raise ConfigError("plan --price: the length is not known; give --images or train.steps")
    bounds: tuple[Plan | None, Plan | None] | None = None
    with aside:
        config = with_chosen_sizes(config, topology.devices, options.images)
        if options.largest:
            bounds = find_largest_batch(config, topology, options.images)
            ranked = [each for each in bounds if each is not None][:1]
            config.train.batch_size = ranked[0].batch
        else:
            config = with_length(config, options.images)
            ranked = _search(config, topology) if options.search else [plan_step(config, topology)]
    if options.search:
        _print_ranked(ranked, options)
    else:
        data = make_run_mesh(config, topology.devices).shape[meshes.DATA]
        _print_one(config, ranked[0], options, bounds, data)
    if options.picture:
        draw_plan(ranked[0], options.picture)
    if not ranked[0].memory.fits:
        raise RunError(does_not_fit(ranked[0]))


def _print_one(
    config: ConfigDict,
    found: Plan,
    options: PlanOptions,
    bounds: tuple[Plan | None, Plan | None] | None,
    data: int,
) -> None:
    changes = changes_that_fit(config, found, data)
    fits, refused = (each and each.batch for each in bounds or (None, None))
    if options.as_json:
        described = as_json(found, options.price) | {"changes_that_fit": changes}
        if bounds:
            described |= {"largest_batch_size": fits, "too_large_batch_size": refused}
        console.print_result(json.dumps(described))
    else:
        if bounds:
            more = f"; {refused} does not" if refused else ""
            console.print_result(f"compiled: batch {fits or 'none'} fits{more}\n")
        console.print_result(plan_table(found, options.price))
        if changes:
            console.print_result("it would fit with one of (estimated):")
            for change in changes:
                console.print_result(f"  {change}")


def does_not_fit(found: Plan) -> str:
    """The message for a step that needs more memory than its devices have."""
    memory = found.memory
    available, needed = memory.available or 0, memory.total + memory.waiting
    return (
        f"plan: the step does not fit: {needed / 2**30:.2f} GiB on each {found.device}, "
        f"{available / 2**30:.2f} available, {(needed - available) / 2**30:.2f} too many"
    )


# --- several meshes -------------------------------------------------------------------------------


def candidate_meshes(devices: int) -> list[dict[str, Any]]:
    """Overrides of `mesh`, the least communication first: data alone, fsdp, then rows, channels."""
    shapes = [
        (devices // (spatial * model), spatial, model)
        for spatial, model in itertools.product(range(1, 9), range(1, 9))
        if devices % (spatial * model) == 0
    ]
    shapes.sort(key=lambda shape: (shape[1] * shape[2], shape[2]))
    found = [
        {"data": data, "spatial": spatial, "model": model, "fsdp": fsdp}
        for data, spatial, model in shapes
        for fsdp in (False, True)
        if data > 1 or not fsdp
    ]
    return found[:MOST_MESHES]


def _search(config: ConfigDict, topology: Topology) -> list[Plan]:
    """Plans the recipe on several meshes and ranks them: those that fit by their step's time."""
    found: list[Plan] = []
    for sizes in candidate_meshes(len(topology.devices)):
        trial = config.copy_and_resolve_references()
        trial.mesh.update(sizes)
        try:
            found.append(plan_step(trial, topology))
        except (ConfigError, DataError) as error:
            console.print_status(f"left out: {error}")
            continue
        console.print_status(_row(found[-1]))
    if not found:
        raise ConfigError("plan --search: the recipe fits none of the meshes tried")
    return sorted(found, key=_rank)


def _print_ranked(ranked: list[Plan], options: PlanOptions) -> None:
    if options.as_json:
        console.print_result(json.dumps([as_json(each, options.price) for each in ranked]))
    else:
        console.print_result("\n".join(["best first:", *map(_row, ranked)]))


def _rank(found: Plan) -> tuple[bool, float, int]:
    seconds = found.seconds.total if found.seconds else float("inf")
    sent = sum(each.bytes for each in found.collectives)
    return not found.memory.fits, seconds, found.memory.total + sent


def _row(found: Plan) -> str:
    memory = found.memory
    sent = sum(each.bytes for each in found.collectives)
    fits = "fits" if memory.fits else "DOES NOT FIT"
    speed = f", {found.images_per_second:,.0f} images/s at best" if found.seconds else ""
    return (
        f"{found.mesh}: {fits}, {memory.total / _MB:,.0f} MB a device, "
        f"{sent / _MB:,.1f} MB sent{speed}"
    )


# --- output ---------------------------------------------------------------------------------------


def plan_table(found: Plan, price: float = 0.0) -> str:
    """The plan as text."""
    memory = found.memory
    lines = [
        f"{found.model}, {found.precision}, batch {found.batch} on {found.devices} x "
        f"{found.device} ({found.topology}; mesh: {found.mesh})",
        "",
    ]
    for name, size in _memory_parts(found):
        lines.append(f"{name:26}{size / _MB:12,.1f} MB a device")
    available = "unknown" if memory.available is None else f"{memory.available / _MB:,.1f} MB"
    lines.append(f"{'available':26}{available:>15}")
    if memory.available is not None:
        room = memory.available - memory.total - memory.waiting
        word = "fits, with room for" if memory.fits else "DOES NOT FIT, by"
        lines.append(
            f"{word} {abs(room) / _MB:,.1f} MB; largest batch, about: {largest_batch(found)}"
        )
    lines.append("")
    lines.append(f"{'FLOPs':26}{found.flops / 1e9:12,.1f} GFLOP a device")
    if found.memory.measured:
        lines += ["", *_collective_lines(found)]
    lines += ["", *_speed_lines(found, price)] if found.seconds else []
    lines.append(f"{'compiled in':26}{found.compile_seconds:12,.1f} s")
    return "\n".join(lines)


def _memory_parts(found: Plan) -> list[tuple[str, int]]:
    memory = found.memory
    parts = [
        ("parameters", memory.parameters),
        ("optimizer", memory.optimizer),
        ("averages, statistics", memory.other_state),
        ("batch", memory.batch),
        ("activations, temporaries", memory.temporaries),
        ("code", memory.code),
    ]
    return [*parts, ("total", memory.total), ("batches read ahead", memory.waiting)]


def _collective_lines(found: Plan) -> list[str]:
    lines = [f"{'collective':22}{'along':22}{'count':>7}{'MB a device':>14}{'overlapped':>12}"]
    for each in found.collectives:
        part = f"{each.overlapped / each.bytes:.0%}" if each.bytes else "-"
        axes, megabytes = ", ".join(each.axes), each.bytes / _MB
        lines.append(f"{each.kind:22}{axes:22}{each.count:7}{megabytes:14,.2f}{part:>12}")
    return lines if found.collectives else ["no collectives"]


def _speed_lines(found: Plan, price: float) -> list[str]:
    seconds, rate = found.seconds, found.images_per_second
    assert seconds is not None and rate is not None
    lines = [
        f"{name:26}{value * 1e3:12,.2f} ms"
        for name, value in (
            ("arithmetic", seconds.arithmetic),
            ("memory", seconds.memory),
            ("communication", seconds.communication),
            ("overlapped", seconds.overlapped),
            ("step, at best", seconds.total),
        )
    ]
    of_all = f"({seconds.efficiency:.0%} of {found.devices} devices)"
    lines.append(f"{'images/s, at best':26}{rate:12,.0f}    {of_all}")
    hours = found.steps * seconds.total / 3600
    if found.steps > 1:
        money = f", {hours * found.devices * price:,.0f} at {price:g} a device-hour"
        length = f"hours ({hours / 24:.2f} days) of {found.steps:,} steps{money if price else ''}"
        lines.append(f"{'run, at best':26}{hours:12,.2f} {length}")
    return [*lines, *ASSUMPTIONS.splitlines()]


def as_json(found: Plan, price: float = 0.0) -> dict[str, Any]:
    """The plan for machines; the names of `docs/plan.md`."""
    memory, seconds = found.memory, found.seconds
    sizes = dataclasses.asdict(memory)
    del sizes["measured"]
    days = found.steps * seconds.total / 86400 if seconds and found.steps > 1 else None
    return {
        "topology": found.topology,
        "device": found.device,
        "devices": found.devices,
        "mesh": found.mesh,
        "model": found.model,
        "precision": found.precision,
        "batch_size": found.batch,
        "largest_batch_size": largest_batch(found),
        "fits": memory.fits,
        "bytes_per_device": sizes,
        "flops_per_device": found.flops,
        "memory_traffic_per_device": found.traffic,
        "collectives": [
            {
                "kind": each.kind,
                "axis": ",".join(each.axes),
                "count": each.count,
                "bytes": each.bytes,
                "overlapped_bytes": each.overlapped,
            }
            for each in found.collectives
        ],
        "step_seconds": dataclasses.asdict(seconds) if seconds else None,
        "images_per_second": found.images_per_second,
        "efficiency": seconds.efficiency if seconds else None,
        "steps": found.steps,
        "days": days,
        "cost": days * 24 * found.devices * price if days and price else None,
        "compile_seconds": found.compile_seconds,
    }


def check_picture(path: str) -> None:
    """Raises ConfigError if no picture can be written there, before minutes of compiling."""
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise ConfigError(f"--picture {path}: cannot be written; the folder must exist")
