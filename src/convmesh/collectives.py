"""What a compiled program sends between devices, read from its text.

XLA states it for one device: each collective with its arrays' shapes and the groups of devices
that take part. Groups are partition numbers, positions in `mesh.devices.flat`, written in one of
three ways: lists, a transposed iota, or axes of a mesh of XLA's own. That mesh need not be ours
(its axes may be `axis_0`, ours in another order or merged), so all three are resolved to numbers,
and the axes are those of our mesh along which a group's members differ.
"""

import collections
import dataclasses
import math
import re

import numpy as np
from jax.sharding import Mesh

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
class Operation:
    """One collective of a program.

    Attributes:
      kind: one of KINDS, whether XLA runs it at once or as a start and a done.
      axes: the mesh axes that it talks along, in mesh order.
      shapes: the arrays of its payload on one device, such as "f32[2,3]": the whole result of an
        all-gather, the whole operand of all others (of a ragged all-to-all the bound of it).
      bytes: size of these arrays: the larger of what one device gives in and gets out.
      count: how often one call of the program runs it. Every branch of a conditional is counted.
      in_loop: it stands in a loop whose trip count XLA does not state; `count` is of one pass.
      op_name: where it comes from in JAX, such as "jit(step)/transpose(jvp())/psum".
    """

    kind: str
    axes: tuple[str, ...]
    shapes: tuple[str, ...]
    bytes: int
    count: int
    in_loop: bool
    op_name: str


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind along the same axes.

    Attributes:
      kind: one of KINDS.
      axes: the mesh axes that they talk along, in mesh order.
      count: how many of them one call of the program runs, see `Operation.count`.
      bytes: their payload on one device, see `Operation.bytes`, summed over the count. What
        travels over the wires also depends on the algorithm: a ring of n devices sends
        (n - 1) / n of it, and twice that for an all-reduce.
    """

    kind: str
    axes: tuple[str, ...]
    count: int
    bytes: int


def collectives_of(program_text: str, mesh: Mesh) -> list[Collective]:
    """What a program sends, summed over kind and axes, in alphabetical and mesh order.

    Args:
      program_text: `compiled.as_text()`, optimised HLO.
      mesh: the mesh that it was compiled for.
    """
    return total(each_collective(program_text, mesh), mesh)


def total(operations: list[Operation], mesh: Mesh) -> list[Collective]:
    """The sums of operations by kind and axes; see `collectives_of`."""
    sums: dict[tuple[str, tuple[str, ...]], list[int]] = collections.defaultdict(lambda: [0, 0])
    for each in operations:
        so_far = sums[each.kind, each.axes]
        so_far[0] += each.count
        so_far[1] += each.count * each.bytes
    order = sorted(sums, key=lambda key: (key[0], [mesh.axis_names.index(a) for a in key[1]]))
    return [Collective(*key, *sums[key]) for key in order]


def each_collective(program_text: str, mesh: Mesh) -> list[Operation]:
    """Every collective that crosses devices, in the program's order; see `collectives_of`.

    One in a computation that is called from several places appears for each of them.

    Raises:
      ValueError: the text is not a compiled program, or not one for this mesh.
    """
    computations, entry = _computations(program_text)
    found: list[Operation] = []

    def visit(computation: str, count: int, in_loop: bool) -> None:
        shapes: dict[str, tuple[str, ...]] = {}
        for name, result, opcode, operands, rest in computations[computation]:
            shapes[name] = _shapes(result)
            if opcode.endswith(("-done", "-update")):
                continue  # its start was counted, and may name the same computation
            attributes, _, metadata = rest.partition(", metadata=")
            kind = opcode.removesuffix("-start")
            axes = _axes(_groups(attributes, mesh.size), mesh) if kind in KINDS else ()
            if axes:
                given = re.findall(r"[\w.\-]+", operands)
                if kind == "all-gather":  # a start's result: operands, results, perhaps contexts
                    start = len(given) if opcode != kind else 0
                    payload = shapes[name][start : start + len(given)]
                else:
                    given = given[:1] if kind == "ragged-all-to-all" else given
                    payload = tuple(shape for operand in given for shape in shapes[operand])
                size = sum(_bytes(shape) for shape in payload)
                source = re.search(r'op_name="([^"]*)"', metadata)
                op_name = source[1] if source else ""
                found.append(Operation(kind, axes, payload, size, count, in_loop, op_name))
            stated = re.search(r"known_trip_count\W+n\W+(\d+)", rest)
            trips = int(stated[1]) if stated else 1
            unknown = in_loop or (opcode == "while" and not stated)
            for role, names in _CALLED.findall(attributes):
                # The condition of a loop is asked once more than the body is run.
                times = trips + 1 if role == "condition" and stated else trips
                for called in re.findall(r"[\w.\-]+", names):
                    visit(called, count * times, unknown)

    visit(entry, 1, False)
    return found


# --- reading the text ---------------------------------------------------------------------------

_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?(\S+) = (.+?) ([a-z][a-z0-9\-]*)\(([^)]*)\)(.*)")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|true_computation|false_computation|branch_computations"
    r"|called_computations)=\{?(%[\w.\-]+(?:, ?%[\w.\-]+)*)"
)
_LISTS = re.compile(r"\b(replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = re.compile(r"\breplica_groups=\[\d+,(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"\breplica_groups=mesh\[([^\]]*)\]"
    r"(?:, device_ids=\((?:\[([\d,]+)\]T\(([\d,]+)\)|([\d,]+))\))? \{([^}]*)\}"
)


def _computations(text: str) -> tuple[dict[str, list[tuple[str, ...]]], str]:
    """The instructions of each computation: (name, result, opcode, operands, rest); the entry."""
    computations: dict[str, list[tuple[str, ...]]] = {}
    entry, instructions = "", []
    for line in re.sub(r"/\*index=\d+\*/", "", text).splitlines():
        if header := _HEADER.match(line):
            instructions = computations[header[2]] = []
            entry = header[2] if header[1] else entry
        elif instruction := _INSTRUCTION.match(line):
            instructions.append(instruction.groups())
    if not entry:
        raise ValueError("no compiled program: its text has no ENTRY computation")
    return computations, entry


def _shapes(text: str) -> tuple[str, ...]:
    """The arrays of a type, tuples flat, without layouts; dynamic sizes at their bound."""
    arrays = re.findall(r"([a-z]\w*)\[([\d,<=]*)\]", text)
    return tuple(f"{dtype}[{sizes.replace('<=', '')}]" for dtype, sizes in arrays)


def _bytes(shape: str) -> int:
    """Size of an array such as "bf16[2,3]"; tokens have none."""
    dtype, sizes = shape[:-1].split("[")
    width = re.search(r"\d+", dtype)  # of f8e4m3fn the first number
    bits = 8 if dtype == "pred" else int(width[0]) if width else 0
    return -(-math.prod(_numbers(sizes)) * bits // 8)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _axes(groups: list[list[int]], mesh: Mesh) -> tuple[str, ...]:
    """The axes along which the members of a group differ."""
    coordinates = [np.unravel_index(group, mesh.devices.shape) for group in groups if group]
    return tuple(
        name for i, name in enumerate(mesh.axis_names) if any(np.ptp(c[i]) for c in coordinates)
    )


def _groups(attributes: str, devices: int) -> list[list[int]]:
    """Who talks with whom: the replica groups, or the pairs of a permutation."""
    if lists := _LISTS.search(attributes):
        groups = [_numbers(group) for group in re.findall(r"\{([\d,]*)\}", lists[2])]
        return groups if groups or lists[1] == "source_target_pairs" else [list(range(devices))]
    if iota := _IOTA.search(attributes):
        return _iota(iota[2], iota[3]).reshape(-1, int(iota[1])).tolist()
    if named := _MESH.search(attributes):
        return _mesh_groups(*named.groups())
    if re.search(r"\b(replica_groups|source_target_pairs)=", attributes):
        raise ValueError(f"groups of devices in a form that is not known: {attributes}")
    return [list(range(devices))]


def _iota(sizes: str, order: str | None) -> np.ndarray:
    """0, 1, ... in an array of `sizes`, its dimensions then put in `order`."""
    array = np.arange(math.prod(_numbers(sizes))).reshape(_numbers(sizes))
    return array.transpose(_numbers(order)) if order else array


def _mesh_groups(axes, iota_sizes, iota_order, listed, grouped) -> list[list[int]]:
    """The groups along axes, or parts of axes, of XLA's own mesh.

    'a':(p)n is the part of n of axis a that p parts precede: the axis as [p, n, rest], along n.
    """
    sizes = {name: int(size) for name, size in re.findall(r"'([^']*)'=(\d+)", axes)}
    devices = np.arange(math.prod(sizes.values()))
    if listed:
        devices = np.array(_numbers(listed))
    elif iota_sizes:
        devices = _iota(iota_sizes, iota_order)
    # A group is the devices with equal coordinates once those along the grouped axes are zeroed.
    coordinates = dict(zip(sizes, np.indices(tuple(sizes.values())), strict=True))
    for name, before, part in re.findall(r"'([^']*)'(?::\((\d+)\)(\d+))?", grouped):
        size = int(part or sizes[name])
        rest = sizes[name] // (int(before or 1) * size)
        coordinates[name] -= coordinates[name] // rest % size * rest
    groups = collections.defaultdict(list)
    keys = np.stack([c.ravel() for c in coordinates.values()], axis=1).tolist()
    for key, device in zip(keys, devices.ravel().tolist(), strict=True):
        groups[tuple(key)].append(device)
    return list(groups.values())
