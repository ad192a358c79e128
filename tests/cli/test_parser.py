"""Parsing the command line: help, overrides, and one line for each wrong call."""

import json
import subprocess
import sys

import pytest

from convmesh.cli.command_line import main
from convmesh.cli.commands import COMMANDS
from convmesh.cli.flags import COMMON_FLAGS
from convmesh.cli.parser import parse

HEAVY = ("jax", "numpy", "cv2", "flax", "ml_collections", "tensorflow_datasets", "matplotlib")


def test_overrides_and_common_flags_can_come_anywhere():
    call = parse(
        ["--debug", "--process-id", "1", "eval", "--config.train.steps", "-1", "--workdir", "w"]
    )
    assert call.command is COMMANDS["eval"]
    assert call.overrides == ("--config.train.steps=-1",)
    assert (call.args.workdir, call.args.debug, call.args.process_id) == ("w", True, 1)
    call = parse(["predict", "--workdir", "w", "--output", "o", "--", "--config.odd"])
    assert call.overrides == () and call.args.paths == ["--config.odd"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("", "no command given; one of train, eval, predict"),
        ("--debug-me", "no command given"),
        ("trian", "trian: no such command; did you mean train?"),
        ("zzz", "zzz: no such command; one of train, eval, predict"),
        ("train", "the following arguments are required: --config, --workdir"),
        ("train --config RECIPE --wokdir w", "--wokdir: convmesh train has no such flag; did you"),
        ("train --config RECIPE --work w", "--work: convmesh train has no such flag"),
        ("train --config RECIPE --workdir w stray", "unrecognized arguments: stray"),
        (
            "train --config RECIPE --workdir w --debug-ledge x",
            "has no such flag; did you mean --debug?",
        ),
        ("recipes --config.train.steps=5", "recipes: takes no --config.KEY"),
        (
            "predict --workdir W a --output o --config.data.root=/d",
            "predict: takes no --config.KEY; it uses the config of the workdir",
        ),
        ("overfit --config RECIPE --workdir w --config.data.root=", "data.root: not set"),
        ("overfit --config RECIPE --workdir w --steps 0", "got '0', wanted an integer, at least 1"),
        ("overfit --config RECIPE --workdir w --images 0", "got '0', wanted an integer, at least"),
        ("predict --workdir W a --output o --batch-size 0", "got '0', wanted an integer, at lea"),
        ("predict --workdir W a --output o --max-detections 0", "got '0', wanted an integer, at"),
        ("train --config no.py --workdir w", "no.py: no such recipe file"),
        ("train --config RECIPE --workdir w --config.train.stpes=5", "did you mean train.steps?"),
        (
            "train --config RECIPE --workdir w --config.train.steps",
            "no value given; write --config",
        ),
        ("train --config RECIPE --workdir w --config.train.steps --debug-me", "no value given"),
        ("train --config RECIPE --workdir w --config.data.root=", "data.root: not set"),
        ("train --config RECIPE --workdir w --cpu-devices 0", "got '0', wanted an integer, at le"),
        (
            "train --config RECIPE --workdir w --coordinator h:1",
            "--num-processes, --process-id: no",
        ),
        ("eval --workdir W --num-processes=2 --process-id 0", "--coordinator: not given; --coord"),
        ("eval --workdir W --coordinator h:1 --num-processes 2", "--process-id: not given; --coo"),
        ("eval --workdir W --process-id 0", "--coordinator, --num-processes: not given"),
        ("eval --workdir W --num-processes 0", "got '0', wanted an integer, at least 1"),
        ("eval --workdir W --process-id -1", "got '-1', wanted an integer, at least 0"),
        ("eval --workdir W JOB --process-id 2", "--process-id 2: with --num-processes 2 it must"),
        ("eval --workdir W JOB --process-id 0 --coordinator h", "--coordinator h: wanted HOST:POR"),
        ("eval --workdir W JOB --process-id 0 --coordinator [::]:1", "give a specific address of"),
        ("eval --workdir nowhere", "nowhere: no such folder; --workdir is the folder that"),
        ("eval --workdir .", ".: has no config.json; --workdir is the folder that"),
        ("eval --workdir W --step x", "argument --step: got 'x', wanted an integer, at least 0"),
        ("eval --workdir W --step 1 --best", "not allowed with argument"),
        ("eval --workdir W --config.mesh.dta=1", "mesh.dta: no such key; did you mean mesh.data?"),
        ("predict --workdir W --output o", "the following arguments are required: PATH"),
        ("predict --workdir W a", "the following arguments are required: --output"),
        ("predict --workdir W a --output o --threshold 2", "got '2', wanted a number from 0 to 1"),
        ("predict --workdir W a --output o --iou nan", "got 'nan', wanted a number from 0 to 1"),
        ("predict --workdir W a --output o --top-k 0", "got '0', wanted an integer, at least 1"),
        ("predict --workdir W a --output o --config.mesh.data=1", "predict: takes no --config.KEY"),
        ("predict --workdir nowhere a --output o", "nowhere: no such folder"),
    ],
)
def test_a_wrong_call_returns_2_and_prints_one_line(failed, calls, recipe, workdir, argv, message):
    argv = argv.replace("JOB", "--num-processes 2 --coordinator 127.0.0.1:1")
    words = {"RECIPE": recipe, "W": workdir}
    status, line = failed(*(words.get(word, word) for word in argv.split()))
    assert status == 2
    assert line.startswith("convmesh: error: ")
    assert message in line
    assert calls.made == []


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_the_commands_that_exist(capsys, flag):
    assert main([flag]) == 0
    out = capsys.readouterr().out
    assert all(f"    {name}" in out for name in COMMANDS)
    assert "exit status:" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_lists_its_flags(capsys, name):
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    command = COMMANDS[name]
    for flag in (*command.flags, *COMMON_FLAGS):
        listed = flag.metavar if not flag.name.startswith("--") else flag.name
        assert f"  {listed}" in out, flag
        assert not flag.hidden_alias or flag.hidden_alias not in out
    assert ("--config.KEY=VALUE" in out) == ("--help-config" in out) == command.takes_overrides
    assert command.example in out and "exit status:" in out


def test_help_config_lists_the_keys_without_the_required_flags(capsys):
    assert main(["train", "--help-config"]) == 0
    assert "optimizer.learning_rate = 0.001" in capsys.readouterr().out


def test_the_version_is_printed(capsys):
    import convmesh

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"convmesh {convmesh.__version__}\n"


def test_help_imports_nothing_heavy_on_any_command():
    calls = [["--help"], ["plan"], ["check-data", "--config", "x", "--no-picture", "--output"]]
    calls += [[name, "--help"] for name in COMMANDS]
    code = f"""
import json, sys
from convmesh.cli.command_line import main
for argv in {calls!r}:
    main(argv)
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.count("usage: convmesh") == 1 + len(COMMANDS), done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_only_a_command_with_a_workdir_refers_to_its_config(failed):
    message = "convmesh: error: recipes: takes no --config.KEY"
    assert failed("recipes", "--config.train.steps=5") == (2, message)
