"""origins: the pass, layer and operation that each instruction of a program comes from."""

import pytest

from convmesh.programs.origins import Origin, instruction_origins, origin_of

PROGRAM = """
HloModule jit_step

%inner (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %mul.1 = f32[4]{0} multiply(%p, %p), metadata={op_name="jit(f)/jvp(Net)/stage1/norm/mul"}
}

%bare (p: f32[4]) -> f32[4] {
  %p.1 = f32[4]{0} parameter(0)
  ROOT %convolution.7 = f32[4]{0} convolution(%p.1, %p.1), window={size=1}
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %fusion.1 = f32[4]{0} fusion(%a), kind=kLoop, calls=%inner
  %ynn_fusion.2 = f32[4]{0} fusion(%fusion.1), kind=kCustom, calls=%bare
  %dot.3 = f32[4]{0} dot(%a, %a), metadata={op_name="jit(f)/transpose(jvp(Net))/conv1/shard_map/transpose()/dot_general"}
  %all-reduce.4 = f32[4]{0} all-reduce(%dot.3), metadata={op_name="jit(f)/transpose(jvp(Net))/conv1/psum"}
  %while.5 = f32[4]{0} while(%all-reduce.4), condition=%c, body=%b
  ROOT %add.6 = f32[4]{0} add(%while.5, %a), metadata={op_name="jit(f)/add"}
}
"""  # noqa: E501


def test_origins_of_instructions_by_name():
    found = instruction_origins(PROGRAM)
    assert found["fusion.1"] == Origin("forward", "stage1/norm", "mul")
    assert found["dot.3"] == Origin("backward", "conv1", "dot_general")
    assert found["all-reduce.4"] == Origin("", "", "all-reduce")
    assert found["add.6"] == Origin("update", "", "add")
    assert found["ynn_fusion.2"] == Origin("", "", "convolution (no name in XLA's metadata)")
    assert "while.5" not in found
    assert set(found) > {"p", "mul.1", "convolution.7"}  # inside of fusions too


def test_a_fusion_has_the_origin_of_its_last_named_instruction():
    text = """
HloModule jit_step

%fused (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  %mul.1 = f32[4]{0} multiply(%p, %p), metadata={op_name="jit(f)/jvp(Net)/conv1/mul"}
  %add.2 = f32[4]{0} add(%mul.1, %p), metadata={op_name="jit(f)/jvp(Net)/conv2/add"}
  ROOT %copy.3 = f32[4]{0} copy(%add.2)
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  ROOT %fusion.4 = f32[4]{0} fusion(%a), kind=kLoop, calls=%fused
}
"""
    assert instruction_origins(text)["fusion.4"] == Origin("forward", "conv2", "add")


def test_a_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        instruction_origins("module @jit_f {\n}\n")


@pytest.mark.parametrize(
    "wrapper",
    ["shard_map", "checkpoint", "rematted_computation", "while/body", "cond", "closed_call"],
)
def test_what_jax_adds_around_a_layer_is_not_in_its_name(wrapper):
    name = f"jit(f)/transpose(jvp(Net))/{wrapper}/stage1/conv1/mul"
    assert origin_of(name, "multiply") == Origin("backward", "stage1/conv1", "mul")


@pytest.mark.parametrize(
    "opcode, kind",
    [
        ("all-reduce-start", "all-reduce"),
        ("all-gather-done", "all-gather"),
        ("collective-permute-done", "collective-permute"),
        ("reduce-scatter", "reduce-scatter"),
    ],
)
def test_a_collective_is_of_no_layer(opcode, kind):
    assert origin_of("jit(f)/jvp(Net)/conv1/psum", opcode) == Origin("", "", kind)


@pytest.mark.parametrize("opcode", ["while", "conditional", "call"])
def test_instructions_that_call_computations_have_no_origin(opcode):
    text = f"""
ENTRY %main (a: f32[4]) -> f32[4] {{
  %a = f32[4]{{0}} parameter(0)
  ROOT %r = f32[4]{{0}} {opcode}(%a), metadata={{op_name="jit(f)/f"}}
}}
"""
    assert set(instruction_origins(text)) == {"a"}
