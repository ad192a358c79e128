"""profile: what a trace names is found in the program, and told by phase and layer."""

import runs

from convmesh import cli, profile, training
from convmesh.profile import Operation
from convmesh.report import read_metrics

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


def test_instructions_by_name():
    found = profile.operations(PROGRAM)
    assert found["fusion.1"] == Operation("forward", "stage1/norm", "mul")
    assert found["dot.3"] == Operation("backward", "conv1", "dot_general")
    assert found["all-reduce.4"] == Operation("", "", "all-reduce")
    assert found["add.6"] == Operation("update", "", "add")
    assert found["ynn_fusion.2"].what == "convolution, XLA does not say whose"
    assert "while.5" not in found


def test_the_table_adds_up():
    spent = profile.Counter(
        {
            Operation("forward", "conv1", "conv"): 0.03,
            Operation("forward", "conv2", "conv"): 0.01,
            Operation("", "", "all-reduce"): 0.04,
        }
    )
    lines = profile.table(spent, times=4).splitlines()
    assert lines[2].split() == ["10.00", "50.0%", "forward", "conv"] or lines[2].split() == [
        "10.00", "50.0%", "all-reduce",
    ]  # fmt: skip
    assert any(line.split() == ["7.50", "37.5%", "forward", "conv", "conv1"] for line in lines)
    assert "no operation" in profile.table(profile.Counter(), 1)


def test_a_run_with_a_profile(tmp_path, tiny_net, photos, photo_run, capsys):
    workdir = tmp_path / "run"
    config = runs.photo_config(photos)
    training.train(config, workdir, profile_steps=2)
    said = capsys.readouterr().err
    assert "traced 2 steps into" in said
    assert "backward" in said and "stage2_block1" in said
    assert list(workdir.glob("profile/plugins/profile/*/*.xplane.pb"))
    # It trains what a run without trains.
    assert [row["loss"] for row in read_metrics(workdir / "metrics.jsonl") if "loss" in row] == [
        row["loss"] for row in read_metrics(photo_run / "metrics.jsonl") if "loss" in row
    ]


def test_only_the_steps_that_were_traced_are_counted(tmp_path, tiny_net, photos, capsys):
    config = runs.photo_config(photos, {"eval.every_steps": 0})
    training.train(config, tmp_path / "run", profile_steps=10)  # steps 6 to 8 are all there are
    assert "traced 3 steps into" in capsys.readouterr().err


def test_a_run_too_short_to_be_traced_says_so(tmp_path, tiny_net, photos, capsys):
    recipe = runs.write_recipe(
        tmp_path / "recipe.py", runs.photo_config(photos, {"train.steps": 3, "eval.every_steps": 0})
    )
    command = ["train", "--config", recipe, "--workdir", str(tmp_path / "run"), "--profile", "2"]
    assert cli.main(command) == 0
    assert "nothing traced" in capsys.readouterr().err
