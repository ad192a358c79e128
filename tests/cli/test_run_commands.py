"""Commands that write or read a workdir: what they pass on."""

import pytest

from convmesh.cli.command_line import main
from convmesh.inference.options import PredictOptions
from convmesh.training.example_log import ExampleLog
from convmesh.training.profile import Profile
from convmesh.workdir.lock import RunLock


def test_train_gets_the_config_with_the_overrides(calls, recipe):
    flags = ["--config.train.steps=5", "--config.mesh.data", "-1", "--config.train.steps=6"]
    assert main(["train", "--config", recipe, *flags, "--workdir", "w"]) == 0
    [(name, (config, workdir, hooks), _)] = calls.made
    assert (name, workdir, hooks) == ("train", "w", [])
    assert (config.train.steps, config.mesh.data, config.model.name) == (6, -1, "m")


def test_config_file_and_overrides_in_equals_form(calls, recipe):
    assert main(["train", f"--config={recipe}", "--workdir=w", "--config.train.seed=3"]) == 0
    assert calls.made[0][1][0].train.seed == 3


def test_train_takes_the_name_of_a_packaged_recipe(calls, failed):
    assert main(["train", "--config", "demo", "--workdir", "w"]) == 0
    assert calls.made.pop()[1][0].data.name == "digit_scenes"
    status, line = failed("train", "--config", "demos", "--workdir", "w")
    assert (status, line) == (2, "convmesh: error: demos: no such recipe; did you mean demo?")


@pytest.mark.parametrize("flag", ["--example-log", "--debug-ledger"])
def test_train_adds_the_hooks_of_its_flags(calls, recipe, tmp_path, flag):
    command = ["train", "--config", recipe, "--workdir", "w"]
    assert main([*command, "--profile", "4", flag, str(tmp_path / "log.jsonl")]) == 0
    profile, log = calls.made.pop()[1][2]
    assert isinstance(profile, Profile) and profile.steps == 4
    assert isinstance(log, ExampleLog) and log._path == tmp_path / "log.jsonl"
    assert main([*command, "--profile", "0"]) == 2 and not calls.made


def test_overfit_passes_its_flags(calls, recipe):
    command = ["overfit", "--config", recipe, "--workdir", "w"]
    assert main(command) == 0
    name, (config, *arguments), _ = calls.made.pop()
    assert (name, config.model.name, arguments) == ("overfit", "m", ["w", 8, 200, ()])
    assert main([*command, "--images", "3", "--steps", "9", "--config.train.seed=3"]) == 0
    assert calls.made.pop()[1][1:] == ("w", 3, 9, ("--config.train.seed=3",))


def test_eval_passes_its_flags(calls, workdir):
    assert main(["eval", "--workdir", workdir]) == 0
    assert main(["eval", "--workdir", workdir, "--split", "test", "--best"]) == 0
    assert main(["eval", "--workdir", workdir, "--step", "7", "--config.mesh.data=1"]) == 0
    default = {"split": None, "step": None, "best": False, "overrides": ()}
    assert calls.made == [
        ("evaluate", (workdir,), default),
        ("evaluate", (workdir,), default | {"split": "test", "best": True}),
        ("evaluate", (workdir,), default | {"step": 7, "overrides": ("--config.mesh.data=1",)}),
    ]


def test_predict_passes_its_flags(calls, workdir):
    base = ["predict", "--workdir", workdir, "a.jpg", "photos/*.png", "--output", "out"]
    assert main(base) == 0
    *given, options = calls.made.pop()[1]
    assert given == [workdir, ["a.jpg", "photos/*.png"], "out"]
    assert options == PredictOptions(0.3, None, 100, 5, 8, False)
    flags = "--threshold 0.5 --iou 0.6 --max-detections 9 --top-k 2 --batch-size 4 --save-txt"
    assert main([*base, *flags.split()]) == 0
    assert calls.made.pop()[1][3] == PredictOptions(0.5, 0.6, 9, 2, 4, True)
    assert main(["predict", "--workdir", workdir, "--output", "o", "--", "--odd.jpg"]) == 0
    assert calls.made.pop()[1][1] == ["--odd.jpg"]


def test_train_refuses_a_workdir_that_another_run_holds(calls, failed, recipe, tmp_path):
    with RunLock(tmp_path / "w"):
        status, line = failed("train", "--config", recipe, "--workdir", str(tmp_path / "w"))
    assert status == 2 and str(tmp_path / "w") in line
    assert calls.made == []
