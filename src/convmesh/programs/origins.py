"""The origin of the instructions of a compiled program: pass, layer and JAX operation."""

import re
from typing import NamedTuple

from convmesh.programs.hlo import read_program

# Names that JAX and Flax add around those of layers.
_WRAPPER = re.compile(
    r"\(|^(shard_map|checkpoint|rematted_computation|while|body|cond|closed_call|custom_vjp_call)$"
)
_CONTAINERS = ("while", "conditional", "call")


class Origin(NamedTuple):
    """The part of a train step that an instruction belongs to."""

    phase: str  # "forward", "backward" or "update"; "" for collectives and if it is not known
    layer: str  # path of the module, or ""
    operation: str  # JAX's primitive, or XLA's opcode for what XLA added


def instruction_origins(program_text: str) -> dict[str, Origin]:
    """The origin of each instruction by name, without those that only call computations.

    A fusion without an origin of its own has that of the last instruction inside that has one.
    Raises ValueError if the text is not a compiled program.
    """
    program = read_program(program_text)
    origins: dict[str, Origin] = {}
    for instructions in program.computations.values():
        for instruction in instructions:
            if instruction.opcode in _CONTAINERS:
                continue
            op_name, opcode = instruction.op_name, instruction.opcode
            inside = [name for role, name in instruction.called if role == "calls"]
            if inside and not op_name:
                body = [i for i in program.computations[inside[0]] if i.opcode not in _CONTAINERS]
                op_name = next((i.op_name for i in reversed(body) if i.op_name), "")
                opcode = body[-1].opcode if body else opcode
            origins[instruction.name] = origin_of(op_name, opcode)
    return origins


def origin_of(op_name: str, opcode: str) -> Origin:
    """The origin that XLA's metadata states, such as `jit(f)/transpose(jvp(Net))/conv1/mul`."""
    if opcode.startswith(("all-", "reduce-scatter", "collective-")):
        return Origin("", "", opcode.removesuffix("-start").removesuffix("-done"))
    if not op_name:
        return Origin("", "", f"{opcode} (no name in XLA's metadata)")
    phase = "update"
    if "jvp(" in op_name:
        phase = "backward" if "transpose(" in op_name else "forward"
    parts = op_name.split("/")
    layer = [part for part in parts[:-1] if not _WRAPPER.search(part)]
    return Origin(phase, "/".join(layer), parts[-1] or opcode)
