"""The text of a compiled program, read into computations and instructions."""

import pytest

from convmesh.programs.hlo import array_shapes, device_groups, read_program, shape_bytes

PROGRAM = """HloModule jit_f, is_scheduled=true

%body (p: f32[2,3]) -> f32[2,3] {
  %p = f32[2,3]{1,0} parameter(0)
  ROOT %r = f32[2,3]{1,0} negate(%p)
}

%condition (q: f32[2,3]) -> pred[] {
  ROOT %c = pred[] constant(true)
}

ENTRY %main.7 (x: f32[2,3], y: f32[2,3]) -> (f32[2,3], f32[2,3]) {
  %x = f32[2,3]{1,0:T(8,128)} parameter(0), sharding={devices=[2,2,2]<=[8]}
  %y = f32[2,3]{1,0} parameter(1)
  %w = f32[2,3]{1,0} while(%x), condition=%condition, body=%body, metadata={op_name="jit(f)/while"}, backend_config={"known_trip_count":{"n":"3"}}
  %s.1 = (f32[2,3]{1,0}, /*index=1*/f32[2,3]{1,0}) sort(%w, /*index=1*/%y), dimensions={0}
  ROOT %t = (f32[2,3]{1,0}) conditional(%i, %x), branch_computations={%body, %condition}
}
"""  # noqa: E501


def test_computations_and_instructions():
    program = read_program(PROGRAM)
    assert program.entry == "main.7"
    assert list(program.computations) == ["body", "condition", "main.7"]
    x, _, loop, sort, branch = program.computations["main.7"]
    assert (x.name, x.opcode, x.result) == ("x", "parameter", "f32[2,3]{1,0:T(8,128)}")
    assert (loop.op_name, loop.trip_count) == ("jit(f)/while", 3)
    assert loop.called == [("condition", "condition"), ("body", "body")]
    assert sort.name == "s.1" and sort.operand_names == ["w", "y"]
    assert (sort.op_name, sort.trip_count, sort.called) == ("", None, [])
    assert array_shapes(sort.result) == ("f32[2,3]", "f32[2,3]")
    assert branch.called == [
        ("branch_computations", "body"),
        ("branch_computations", "condition"),
    ]


def test_a_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        read_program("module @jit_f {\n}\n")


def test_groups_of_devices():
    assert device_groups("replica_groups={{0,2},{1,3}}", 4) == [[0, 2], [1, 3]]
    assert device_groups("replica_groups=[2,2]<=[2,2]T(1,0)", 4) == [[0, 2], [1, 3]]
    assert device_groups("replica_groups=mesh['a'=2,'b'=2] {'a'}", 4) == [[0, 2], [1, 3]]
    assert device_groups("source_target_pairs={{0,1},{1,0}}", 4) == [[0, 1], [1, 0]]
    assert device_groups("channel_id=1", 4) == [[0, 1, 2, 3]]


@pytest.mark.parametrize("number", range(2))
def test_both_computations_of_a_condition_are_called(number):
    line = "  ROOT %r = f32[] conditional(%p, %x, %y), true_computation=%a, false_computation=%b.1"
    (instruction,) = read_program(f"ENTRY %main (p: pred[]) -> f32[] {{\n{line}\n}}").computations[
        "main"
    ]
    wanted = [("true_computation", "a"), ("false_computation", "b.1")]
    assert instruction.called[number] == wanted[number] and len(instruction.called) == 2


def test_computations_of_a_custom_call_are_called():
    line = '  ROOT %r = f32[] custom-call(%x), custom_call_target="f", called_computations={%a, %b}'
    program = read_program(f"ENTRY %main (x: f32[]) -> f32[] {{\n{line}\n}}")
    called = program.computations["main"][0].called
    assert called == [("called_computations", "a"), ("called_computations", "b")]


def test_a_token_has_no_bytes():
    assert [shape_bytes(shape) for shape in array_shapes("(f32[3], token[])")] == [12, 0]
