"""The bytes that a compiled program moves between a device and its memory, estimated.

Each instruction that is run, such as a fusion, reads its operands and writes its results once. What
lies in a memory on the chip (the memory space `S(1)` of TPUs) and what is only renamed is left out.
"""

import re

from convmesh.programs.hlo import Instruction, Program, array_shapes, read_program, shape_bytes

# They give names to parts of arrays, or their traffic is that of the computations that they call.
_NO_TRAFFIC = {
    "after-all",
    "bitcast",
    "call",
    "conditional",
    "constant",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "partition-id",
    "tuple",
    "while",
}
_RUN_HERE = ("body", "condition", "branch_computations", "true_computation", "false_computation")
_ON_CHIP = re.compile(r"[a-z]\w*\[[\d,<=]*\]\{[^}]*S\([1-9]\d*\)[^}]*\}")


def memory_traffic(program_text: str) -> int:
    """Bytes read and written in one call of the program, on one device; of a loop of unknown
    length, in one iteration. Raises ValueError if the text is not a compiled program.
    """
    program = read_program(program_text)
    return _traffic(program, program.entry)


def _traffic(program: Program, computation: str) -> int:
    total = 0
    sizes: dict[str, int] = {}
    for instruction in program.computations[computation]:
        sizes[instruction.name] = _bytes(instruction.result)
        if instruction.opcode not in _NO_TRAFFIC and not instruction.opcode.endswith("-done"):
            total += sizes[instruction.name]
            total += sum(sizes.get(name, 0) for name in instruction.operand_names)
        total += sum(
            _traffic(program, name) * _trips(instruction)
            for role, name in instruction.called
            if role in _RUN_HERE or instruction.opcode == "call"
        )
    return total


def _bytes(result: str) -> int:
    return sum(shape_bytes(shape) for shape in array_shapes(_ON_CHIP.sub("", result)))


def _trips(instruction: Instruction) -> int:
    return instruction.trip_count or 1
