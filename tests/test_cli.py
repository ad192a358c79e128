"""The command line: what it passes on, exit statuses, one clear line for each bad call."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from convmesh import cli
from convmesh.errors import ConfigError, DataError, Stopped

HEAVY = ("jax", "numpy", "cv2", "flax", "ml_collections", "tensorflow_datasets")


@pytest.fixture
def calls(monkeypatch):
    """Stands in for training, evaluation and prediction; records how they are called.

    Set `calls.ends` to an exception, and the command raises it.
    """
    record = SimpleNamespace(made=[], ends=None)

    def stub(name):
        def called(*args, **kwargs):
            record.made.append((name, args, kwargs))
            if record.ends is not None:
                raise record.ends

        return called

    for module, function in [
        ("training", "train"),
        ("evaluation", "evaluate"),
        ("prediction", "predict_files"),
    ]:
        stand_in = SimpleNamespace(**{function: stub(function)})
        monkeypatch.setitem(sys.modules, f"convmesh.{module}", stand_in)
    return record


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(
        "from convmesh.config import defaults\n"
        "def get_config():\n"
        "    config = defaults('detect')\n"
        "    config.model.name = 'm'\n"
        "    config.data.root = '/data'\n"
        "    return config\n"
    )
    return str(path)


@pytest.fixture
def workdir(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / "config.json").write_text("{}")
    return str(path)


@pytest.fixture
def bad(capsys):
    """Runs a call; returns its exit status and its one line on stderr."""

    def run(*argv):
        status = cli.main(argv)
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1, err
        assert "Traceback" not in err
        return status, err.strip()

    return run


def test_train_gets_the_config_with_the_overrides(calls, recipe):
    flags = ["--config.train.steps=5", "--config.mesh.data", "-1", "--config.train.steps=6"]
    assert cli.main(["train", "--config", recipe, *flags, "--workdir", "w"]) == 0
    [(name, (config, workdir, profile_steps, ledger, _), _)] = calls.made
    assert (name, workdir, profile_steps, ledger) == ("train", "w", 0, None)
    assert (config.train.steps, config.mesh.data, config.model.name) == (6, -1, "m")


def test_config_file_and_overrides_in_equals_form(calls, recipe):
    assert cli.main(["train", f"--config={recipe}", "--workdir=w", "--config.train.seed=3"]) == 0
    assert calls.made[0][1][0].train.seed == 3


def test_train_passes_how_many_steps_to_profile(calls, recipe):
    command = ["train", "--config", recipe, "--workdir", "w", "--profile"]
    assert cli.main([*command, "4"]) == 0 and calls.made.pop()[1][2] == 4
    assert cli.main([*command, "0"]) == 2 and not calls.made


def test_eval_passes_its_flags(calls, workdir):
    assert cli.main(["eval", "--workdir", workdir]) == 0
    assert cli.main(["eval", "--workdir", workdir, "--split", "test", "--best"]) == 0
    assert cli.main(["eval", "--workdir", workdir, "--step", "7", "--config.mesh.data=1"]) == 0
    default = {"split": None, "step": None, "best": False, "overrides": ()}
    assert calls.made == [
        ("evaluate", (workdir,), default),
        ("evaluate", (workdir,), default | {"split": "test", "best": True}),
        ("evaluate", (workdir,), default | {"step": 7, "overrides": ("--config.mesh.data=1",)}),
    ]


def test_predict_passes_its_flags(calls, workdir):
    base = ["predict", "--workdir", workdir, "a.jpg", "photos/*.png", "--output", "out"]
    assert cli.main(base) == 0
    assert calls.made.pop()[1:] == (
        (workdir, ["a.jpg", "photos/*.png"], "out"),
        {
            "threshold": 0.3,
            "iou": None,
            "max_detections": 100,
            "top_k": 5,
            "batch_size": 8,
            "save_txt": False,
        },
    )
    flags = "--threshold 0.5 --iou 0.6 --max-detections 9 --top-k 2 --batch-size 4 --save-txt"
    assert cli.main([*base, *flags.split()]) == 0
    assert calls.made.pop()[2] == {
        "threshold": 0.5,
        "iou": 0.6,
        "max_detections": 9,
        "top_k": 2,
        "batch_size": 4,
        "save_txt": True,
    }
    assert cli.main(["predict", "--workdir", workdir, "--output", "o", "--", "--odd.jpg"]) == 0
    assert calls.made.pop()[1][1] == ["--odd.jpg"]


@pytest.mark.parametrize("before", [True, False])
def test_cpu_devices_are_simulated_before_the_command(calls, recipe, monkeypatch, before):
    monkeypatch.setattr(
        "convmesh.devices.simulate_devices", lambda n: calls.made.append(("devices", n))
    )
    command = ["train", "--config", recipe, "--workdir", "w"]
    devices = ["--cpu-devices", "8"]
    assert cli.main([*devices, *command] if before else [*command, *devices]) == 0
    assert [call[0] for call in calls.made] == ["devices", "train"]
    assert calls.made[0] == ("devices", 8)


def test_the_flags_of_several_processes(calls, workdir, monkeypatch):
    monkeypatch.setattr(
        "convmesh.processes.start", lambda *flags: calls.made.append(("start", flags))
    )
    monkeypatch.setattr("convmesh.processes.finish", lambda: calls.made.append(("finish",)))

    def run_locally(command, n):
        calls.made.append(("locally", [command(i, "127.0.0.1:9") for i in range(n)]))
        return 75

    monkeypatch.setattr("convmesh.local_processes.run_locally", run_locally)
    flags = ["--coordinator", "10.0.0.1:1234", "--process-id", "1", "--num-processes=2"]
    for argv in ([*flags, "eval", "--workdir", workdir], ["eval", "--workdir", workdir, *flags]):
        assert cli.main(argv) == 0
        assert [call[0] for call in calls.made] == ["start", "evaluate", "finish"]
        assert calls.made[0][1] == ("10.0.0.1:1234", 2, 1)
        calls.made.clear()
    for alone in ([], ["--num-processes", "1"]):
        assert cli.main(["eval", "--workdir", workdir, *alone]) == 0
        assert calls.made[0] == ("start", (None, len(alone) // 2 or None, None))
        calls.made.clear()

    argv = ["predict", "--workdir", workdir, "--output", "o", "--num-processes", "2", "--", "--a"]
    assert cli.main(argv) == 75
    again = [sys.executable, "-m", "convmesh", "--coordinator=127.0.0.1:9"]
    assert calls.made == [
        ("locally", [[*again, "--process-id=0", *argv], [*again, "--process-id=1", *argv]])
    ]


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
        ("eval --workdir W JOB --process-id 2", "--process-id 2: with --num-processes 2 it is one"),
        ("eval --workdir W JOB --process-id 0 --coordinator h", "--coordinator h: wanted HOST:POR"),
        ("eval --workdir W JOB --process-id 0 --coordinator [::]:1", "name the one address of"),
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
def test_a_wrong_call_ends_with_2_and_one_line(bad, calls, recipe, workdir, argv, message):
    argv = argv.replace("JOB", "--num-processes 2 --coordinator 127.0.0.1:1")
    words = {"RECIPE": recipe, "W": workdir}
    status, line = bad(*(words.get(word, word) for word in argv.split()))
    assert status == 2
    assert line.startswith("convmesh: error: ")
    assert message in line
    assert calls.made == []


@pytest.fixture
def photos_recipe(tmp_path, monkeypatch):
    """A recipe without a model, for a folder of photos; the current folder is empty."""
    for i, name in enumerate(("train/cat/0", "train/dog/1", "val/cat/2", "val/dog/3")):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((9, 9, 3), 50 * i, np.uint8))
    recipe = tmp_path / "photos.py"
    recipe.write_text(
        "from convmesh.config import defaults\n"
        "def get_config():\n"
        "    config = defaults('classify')\n"
        f"    config.data.root = {str(tmp_path / 'photos')!r}\n"
        "    return config\n"
    )
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return str(recipe)


def test_check_data_ends_with_0_for_warnings_and_1_for_errors(photos_recipe, tmp_path, capsys):
    command = ["check-data", "--config", photos_recipe]
    assert cli.main(command) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-2:] == [
        "check_data.png: 4 of the images as they are read",
        "0 errors, 0 warnings: training takes this data",
    ]
    assert err == "" and cv2.imread("check_data.png").shape[2] == 3
    (tmp_path / "photos/val/dog/3.png").write_text("no image")
    assert cli.main([*command, "--no-picture"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "val/dog/3.png: not an image, or of a kind that cannot be read"
    assert lines[-1].startswith("1 error, 0 warnings: training would be refused; mend them, or set")
    assert cli.main([*command, "--config.data.on_bad_example=skip", "--output", "a/b.png"]) == 0
    assert "val/dog/3.png: warning: not an image" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["a", "check_data.png"]
    assert (tmp_path / "here/a/b.png").is_file()


def test_check_data_tells_machines_in_json_alone(photos_recipe, tmp_path, capsys):
    (tmp_path / "photos/val/dog/3.png").write_text("no image")
    assert cli.main(["check-data", "--config", photos_recipe, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["refused"] is True and told["problems"][0]["file"] == "val/dog/3.png"
    assert list((tmp_path / "here").iterdir()) == []
    assert cli.main(["check-data", "--config", photos_recipe, "--json", "--output", "x.png"]) == 1
    json.loads(capsys.readouterr().out)
    assert (tmp_path / "here/x.png").is_file()


def test_check_data_shows_how_far_it_is_on_a_terminal_only(photos_recipe, monkeypatch, capsys):
    monkeypatch.setattr(cli, "SECONDS_BETWEEN_DRAWS", -1)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert cli.main(["check-data", "--config", photos_recipe, "--no-picture"]) == 0
    shown = [f"\r{n} of 4 images" for n in (1, 2, 3)]
    assert capsys.readouterr().err == "".join(shown) + "\r\033[K"


def test_only_a_picture_that_was_asked_for_has_to_be_written(photos_recipe, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("convmesh.draw.save_png", full)
    command = ["check-data", "--config", photos_recipe]
    assert cli.main(command) == 0
    told = "check_data.png cannot be written (No space left on device); name another with --output"
    assert told in capsys.readouterr().out
    assert cli.main([*command, "--output", "x.png"]) == 1
    assert capsys.readouterr().err == "convmesh: error: No space left on device\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--config.data.rot=x", "data.rot: no such key; did you mean data.root?"),
        ("--config.data.root=", "data.root: not set"),
        ("--config.data.root=nowhere", "data.root: nowhere is not a folder"),
        ("--config.data.eval_split=tset", "data: no split 'tset' in"),
        ("--config.task=detect", "data.format: folder holds classes without boxes"),
        ("--output x.jpg", "--output x.jpg: the picture is a PNG; end its name with .png"),
        ("--output x.png --no-picture", "not allowed with argument"),
        ("--output full.png", "--output full.png: is a folder; name the file in it"),
        ("--workdir w", "--workdir: convmesh check-data has no such flag"),
    ],
)
def test_check_data_writes_nothing_where_the_call_is_wrong(photos_recipe, bad, flags, message):
    os.mkdir("full.png")
    status, line = bad("check-data", "--config", photos_recipe, *flags.split())
    assert status == 2 and message in line
    assert os.listdir() == ["full.png"] and os.listdir("full.png") == []


@pytest.mark.parametrize("name", cli.NOT_YET)
def test_a_command_of_a_later_version_says_so(bad, name):
    for argv in ([name], [name, "--help"], [name, "--config", "x"]):
        status, line = bad(*argv)
        assert status == 2
        assert line.startswith(f"convmesh: error: {name}: not in this version")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("train.seed changed"), 2, "convmesh: error: train.seed changed"),
        (DataError("a.jpg: cut short"), 1, "convmesh: error: a.jpg: cut short"),
        (Stopped("stopped at step 7"), 75, "convmesh: stopped at step 7"),
        (SystemExit("gave up"), 1, "convmesh: error: gave up"),
        (KeyboardInterrupt(), 130, "convmesh: interrupted"),
        (
            RuntimeError("out of memory\nat length"),
            1,
            "convmesh: error: RuntimeError: out of memory (run with --debug for the traceback)",
        ),
    ],
)
def test_how_a_run_that_fails_ends(bad, calls, recipe, error, status, line):
    calls.ends = error
    assert bad("train", "--config", recipe, "--workdir", "w") == (status, line)


@pytest.mark.parametrize("error", [DataError("a.jpg: cut short"), RuntimeError("a.jpg: cut short")])
def test_debug_shows_the_traceback(calls, recipe, capsys, error):
    calls.ends = error
    assert cli.main(["train", "--config", recipe, "--workdir", "w", "--debug"]) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.rstrip().splitlines()[-1].endswith("a.jpg: cut short")


@pytest.mark.parametrize("command", ["", "train", "eval", "predict", "check-data"])
def test_help_lists_every_flag_and_only_commands_that_exist(capsys, command):
    assert cli.main([*command.split(), "--help"]) == 0
    out = capsys.readouterr().out
    wanted = {
        "": ["train", "eval", "predict", "exit status", "75"],
        "train": ["--config FILE", "--workdir DIR", "--config.KEY=VALUE", "--cpu-devices"],
        "eval": ["--split", "--step", "--best", "--config.KEY=VALUE", "--debug"],
        "predict": "PATH --output --threshold --iou --max-detections --top-k --batch-size "
        "--save-txt".split(),
        "check-data": ["--config FILE", "--output FILE", "--no-picture", "--json", "exit status"],
    }[command]
    for words in wanted:
        assert words in out
    assert command == "" or all(flag in out for flag in cli.FLAGS_WITH_VALUE)
    for name in cli.NOT_YET:
        assert name not in out


def test_help_config_lists_the_keys_without_the_required_flags(capsys):
    assert cli.main(["train", "--help-config"]) == 0
    assert "optimizer.learning_rate = 0.001" in capsys.readouterr().out


def test_help_imports_nothing_heavy_on_any_subcommand():
    code = f"""
import json, sys
import convmesh
from convmesh.cli import main
for argv in (["--help"], ["train", "--help"], ["eval", "--help"], ["predict", "--help"], ["plan"],
             ["prepare", "--help"],
             ["check-data", "--help"], ["check-data", "--config", "x", "--no-picture", "--output"]):
    main(argv)
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_the_module_is_the_command():
    command = [sys.executable, "-m", "convmesh", "trian"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.strip() == "convmesh: error: trian: no such command; did you mean train?"


def test_the_packages_names_are_found_when_used(calls):
    import convmesh
    from convmesh.config import load_config

    assert convmesh.load_config is load_config
    assert convmesh.train is sys.modules["convmesh.training"].train
    assert set(convmesh.__all__) == set(convmesh._HOME) and set(convmesh.__all__) <= set(
        dir(convmesh)
    )
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = convmesh.nothing
