"""Parses the text of a compiled program (optimised HLO, `compiled.as_text()`).

The text contains computations, one of them the entry; a computation contains instructions, such as
`%r = f32[2,3]{1,0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add, metadata={...}`.
"""

import collections
import dataclasses
import math
import re

import numpy as np


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a computation.

    Attributes:
      name: without the leading `%`.
      result: the text of its type.
      opcode: such as "all-reduce-start".
      operands: the text between the parentheses.
      attributes: the text after the operands, up to the metadata.
      op_name: the operation of JAX that it comes from, such as "jit(step)/jvp(Net)/conv1/mul"; ""
        where XLA does not state it.
      trip_count: how often a while loop runs its body; None where XLA does not state it.
    """

    name: str
    result: str
    opcode: str
    operands: str
    attributes: str
    op_name: str = ""
    trip_count: int | None = None

    @property
    def operand_names(self) -> list[str]:
        """The names of the instructions whose results it takes."""
        return re.findall(r"[\w.\-]+", self.operands)

    @property
    def called(self) -> list[tuple[str, str]]:
        """(role, computation) of the computations that it calls, such as ("body", "while_body")."""
        return [
            (role, name)
            for role, names in _CALLED.findall(self.attributes)
            for name in re.findall(r"[\w.\-]+", names)
        ]


@dataclasses.dataclass(frozen=True)
class Program:
    """The instructions of each computation, in order, and the name of the entry computation."""

    computations: dict[str, list[Instruction]]
    entry: str


_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?(\S+) = (.+?) ([a-z][a-z0-9\-]*)\(([^)]*)\)(.*)")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|true_computation|false_computation|branch_computations"
    r"|called_computations)=\{?(%[\w.\-]+(?:, ?%[\w.\-]+)*)"
)


def read_program(text: str) -> Program:
    """The computations of a compiled program. Raises ValueError if the text is not one."""
    computations: dict[str, list[Instruction]] = {}
    entry, instructions = "", []
    for line in re.sub(r"/\*index=\d+\*/", "", text).splitlines():
        if header := _HEADER.match(line):
            instructions = computations[header[2]] = []
            entry = header[2] if header[1] else entry
        elif match := _INSTRUCTION.match(line):
            instructions.append(_instruction(*match.groups()))
    if not entry:
        raise ValueError("not a compiled program: its text has no ENTRY computation")
    return Program(computations, entry)


def _instruction(name: str, result: str, opcode: str, operands: str, rest: str) -> Instruction:
    attributes, _, metadata = rest.partition(", metadata=")
    op_name = re.search(r'op_name="([^"]*)"', metadata)
    trip_count = re.search(r"known_trip_count\W+n\W+(\d+)", rest)
    return Instruction(
        name=name,
        result=result,
        opcode=opcode,
        operands=operands,
        attributes=attributes,
        op_name=op_name[1] if op_name else "",
        trip_count=int(trip_count[1]) if trip_count else None,
    )


# --- types --------------------------------------------------------------------------------------


def array_shapes(result: str) -> tuple[str, ...]:
    """The arrays of a type, such as "f32[2,3]": tuples flat, no layouts, dynamic sizes' bounds."""
    arrays = re.findall(r"([a-z]\w*)\[([\d,<=]*)\]", result)
    return tuple(f"{dtype}[{sizes.replace('<=', '')}]" for dtype, sizes in arrays)


def shape_bytes(shape: str) -> int:
    """Size of an array such as "bf16[2,3]"; tokens have none."""
    dtype, sizes = shape[:-1].split("[")
    width = re.search(r"\d+", dtype)  # of f8e4m3fn the first number
    bits = 8 if dtype == "pred" else int(width[0]) if width else 0
    return -(-math.prod(_integers(sizes)) * bits // 8)


def elements(shape: str) -> int:
    """Number of elements of an array such as "bf16[2,3]"."""
    return math.prod(_integers(shape[:-1].split("[")[1]))


def _integers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


# --- groups of devices --------------------------------------------------------------------------

_LISTS = re.compile(r"\b(replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = re.compile(r"\breplica_groups=\[\d+,(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"\breplica_groups=mesh\[([^\]]*)\]"
    r"(?:, device_ids=\((?:\[([\d,]+)\]T\(([\d,]+)\)|([\d,]+))\))? \{([^}]*)\}"
)


def device_groups(attributes: str, devices: int) -> list[list[int]]:
    """The groups of devices that communicate, or the pairs of a permutation, as partition numbers.

    XLA writes replica groups in one of three ways: lists, a transposed iota, or axes of a mesh of
    its own. Without any, all `devices` form one group. Raises ValueError for another form.
    """
    if lists := _LISTS.search(attributes):
        groups = [_integers(group) for group in re.findall(r"\{([\d,]*)\}", lists[2])]
        return groups if groups or lists[1] == "source_target_pairs" else [list(range(devices))]
    if iota := _IOTA.search(attributes):
        return _iota(iota[2], iota[3]).reshape(-1, int(iota[1])).tolist()
    if mesh := _MESH.search(attributes):
        axes, iota_sizes, iota_order, listed, grouped = mesh.groups()
        sizes = {name: int(size) for name, size in re.findall(r"'([^']*)'=(\d+)", axes)}
        if listed:
            numbers = np.array(_integers(listed))
        else:
            numbers = _iota(iota_sizes or str(math.prod(sizes.values())), iota_order)
        return _groups_along_axes(sizes, numbers, grouped)
    if re.search(r"\b(replica_groups|source_target_pairs)=", attributes):
        raise ValueError(f"device groups in an unknown format: {attributes}")
    return [list(range(devices))]


def _iota(sizes: str, order: str | None) -> np.ndarray:
    """0, 1, ... in an array of `sizes`, its dimensions then transposed to `order`."""
    array = np.arange(math.prod(_integers(sizes))).reshape(_integers(sizes))
    return array.transpose(_integers(order)) if order else array


def _groups_along_axes(sizes: dict[str, int], numbers: np.ndarray, grouped: str) -> list[list[int]]:
    """The groups along axes, or parts of axes, of XLA's own mesh.

    sizes: of that mesh's axes. numbers: its devices' partition numbers. grouped: the axes, where
    'a':(p)n is the part of n of axis a that p parts precede: the axis as [p, n, rest], along n.
    """
    # A group is the devices with equal coordinates once those along the grouped axes are zeroed.
    coordinates = dict(zip(sizes, np.indices(tuple(sizes.values())), strict=True))
    for name, before, part in re.findall(r"'([^']*)'(?::\((\d+)\)(\d+))?", grouped):
        size = int(part or sizes[name])
        rest = sizes[name] // (int(before or 1) * size)
        coordinates[name] -= coordinates[name] // rest % size * rest
    groups = collections.defaultdict(list)
    keys = np.stack([c.ravel() for c in coordinates.values()], axis=1).tolist()
    for key, device in zip(keys, numbers.ravel().tolist(), strict=True):
        groups[tuple(key)].append(device)
    return list(groups.values())
