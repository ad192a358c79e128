"""The collectives of a compiled program.

The program's text describes one device: each collective with its arrays' shapes and the groups of
devices that take part, as partition numbers: positions in `mesh.devices.flat`. XLA may name the
groups after a mesh of its own, whose axes are not ours (`axis_0`, or ours merged or in another
order), so the axes are those of our mesh along which a group's members differ.
"""

import collections
import dataclasses

import numpy as np
from jax.sharding import Mesh

from convmesh.programs.hlo import (
    Instruction,
    Program,
    array_shapes,
    device_groups,
    read_program,
    shape_bytes,
)

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program.

    Attributes:
      kind: one of KINDS, synchronous or as a start and a done.
      axes: the mesh axes that it communicates along, in mesh order.
      shapes: the arrays of its payload on one device, such as "f32[2,3]": the full result of an
        all-gather, the full operand of all others (for a ragged all-to-all its upper bound).
      bytes: size of these arrays: the larger of one device's input and output.
      count: how often one call of the program runs it. Every branch of a conditional is counted.
      overlapped: whether the device computes while it runs.
      in_loop: whether it is in a loop of unknown trip count; `count` is then of one iteration.
      op_name: the JAX operation that it comes from, such as "jit(step)/transpose(jvp())/psum".
    """

    kind: str
    axes: tuple[str, ...]
    shapes: tuple[str, ...]
    bytes: int
    count: int
    in_loop: bool
    op_name: str
    overlapped: bool = False


@dataclasses.dataclass(frozen=True)
class CollectiveTotal:
    """All collectives of one kind along the same axes.

    Attributes:
      kind: one of KINDS.
      axes: the mesh axes that they communicate along, in mesh order.
      count: how many of them one call of the program runs, see `Collective.count`.
      bytes: their payload on one device, see `Collective.bytes`, summed over the count. The
        traffic on the links also depends on the algorithm: a ring of n devices sends (n - 1) / n
        of it, and twice that for an all-reduce.
      overlapped: the part of `bytes` that is sent while the device computes.
    """

    kind: str
    axes: tuple[str, ...]
    count: int
    bytes: int
    overlapped: int = 0


def total_collectives(collectives: list[Collective], mesh: Mesh) -> list[CollectiveTotal]:
    """The sums of `collectives` by kind and axes, in alphabetical and mesh order."""
    sums: dict[tuple[str, tuple[str, ...]], list[int]] = collections.defaultdict(lambda: [0, 0, 0])
    for each in collectives:
        total = sums[each.kind, each.axes]
        total[0] += each.count
        total[1] += each.count * each.bytes
        total[2] += each.count * each.bytes * each.overlapped
    order = sorted(sums, key=lambda key: (key[0], [mesh.axis_names.index(a) for a in key[1]]))
    return [CollectiveTotal(*key, *sums[key]) for key in order]


def find_collectives(program_text: str, mesh: Mesh) -> list[Collective]:
    """Every collective that crosses devices, in the program's order.

    One in a computation that is called several times is listed for each call.

    Args:
      program_text: `compiled.as_text()`, optimised HLO.
      mesh: the mesh that it was compiled for.

    Raises:
      ValueError: the text is not a compiled program, or not one for this mesh.
    """
    program = read_program(program_text)
    found: list[Collective] = []
    _visit(program, program.entry, _Calls(1, False), mesh, found)
    return found


@dataclasses.dataclass(frozen=True)
class _Calls:
    """How often one call of the program runs a computation, see `Collective`."""

    count: int
    in_loop: bool
    overlapped: bool = False


def _visit(
    program: Program, computation: str, calls: _Calls, mesh: Mesh, found: list[Collective]
) -> None:
    """Appends to `found` the collectives of a computation and of those that it calls."""
    shapes: dict[str, tuple[str, ...]] = {}
    instructions = program.computations[computation]
    for position, instruction in enumerate(instructions):
        shapes[instruction.name] = array_shapes(instruction.result)
        if instruction.opcode.endswith(("-done", "-update")):
            continue  # its start was counted, and may name the same computation
        kind = instruction.opcode.removesuffix("-start")
        axes: tuple[str, ...] = ()
        if kind in KINDS:
            axes = _axes(device_groups(instruction.attributes, mesh.size), mesh)
        overlapped = calls.overlapped or (
            instruction.opcode.endswith("-start") and _computes_meanwhile(instructions, position)
        )
        if axes:
            payload = _payload(instruction, shapes)
            found.append(
                Collective(
                    kind=kind,
                    axes=axes,
                    shapes=payload,
                    bytes=sum(shape_bytes(shape) for shape in payload),
                    count=calls.count,
                    in_loop=calls.in_loop,
                    op_name=instruction.op_name,
                    overlapped=overlapped,
                )
            )
        for role, called in instruction.called:
            part = _async_part(program, called)
            if part == "later":
                continue  # counted at its start
            overlapped = overlapped or part == "start"
            inner = _calls_of(instruction, role, calls)
            inner = dataclasses.replace(inner, overlapped=overlapped)
            _visit(program, called, inner, mesh, found)


def _async_part(program: Program, computation: str) -> str:
    """Which part of an asynchronous collective a fused computation is: "start", "later" or "".

    XLA for TPUs writes one as several fusions that each contain the collective: its start, those
    that compute while it runs, and its done.
    """
    if computation.startswith("async_collective_fusion"):
        return "later"
    targets = [each.attributes for each in program.computations[computation]]
    if any('custom_call_target="AsyncCollectiveStart"' in text for text in targets):
        return "start"
    return "later" if any('"AsyncCollectiveDone"' in text for text in targets) else ""


_COMPUTES = ("fusion", "convolution", "dot", "custom-call", "while", "call", "reduce-window")


def _computes_meanwhile(instructions: list[Instruction], start: int) -> bool:
    """Whether anything is computed between the start at that position and its done."""
    name = instructions[start].name
    for later in instructions[start + 1 :]:
        if later.opcode.endswith("-done") and name in later.operand_names:
            return False
        if later.opcode in _COMPUTES:
            return True
    return False


def _calls_of(instruction: Instruction, role: str, calls: _Calls) -> _Calls:
    """How often the computation that `instruction` calls in that role is run."""
    trips = instruction.trip_count
    if trips is None:
        return _Calls(calls.count, calls.in_loop or instruction.opcode == "while")
    # The condition of a loop is evaluated once more than its body.
    return _Calls(calls.count * (trips + 1 if role == "condition" else trips), calls.in_loop)


def _payload(instruction: Instruction, shapes: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The arrays that a collective sends or receives; `shapes` of the instructions before it."""
    opcode, given = instruction.opcode, instruction.operand_names
    if opcode == "all-gather":
        return shapes[instruction.name][: len(given)]
    if opcode == "all-gather-start":  # its result: operands, results, perhaps contexts
        return shapes[instruction.name][len(given) : 2 * len(given)]
    if opcode.startswith("ragged-all-to-all"):
        given = given[:1]
    return tuple(shape for operand in given for shape in shapes[operand])


def _axes(groups: list[list[int]], mesh: Mesh) -> tuple[str, ...]:
    """The axes along which the members of a group differ."""
    coordinates = [np.unravel_index(group, mesh.devices.shape) for group in groups if group]
    return tuple(
        name for i, name in enumerate(mesh.axis_names) if any(np.ptp(c[i]) for c in coordinates)
    )
