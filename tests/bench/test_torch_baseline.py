"""The step in PyTorch: what it supports, and how its process is used. Torch is not needed here."""

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import equality
import jax
import pytest
import runs

from convmesh.bench import torch_baseline
from convmesh.bench.torch_baseline import MODELS, TorchBaseline, check_supported
from convmesh.cli import command_line
from convmesh.config import apply_overrides, defaults
from convmesh.errors import ConfigError, DataError
from convmesh.models.registry import MODELS as OUR_MODELS
from convmesh.models.registry import make_model
from convmesh.steps.noise import noise_setup


def config_of(task, changes=()):
    name = {"classify": "resnet18", "detect": "detector_tiny"}[task]
    return apply_overrides(defaults(task), {"model.name": name} | dict(changes))


# --- what is supported ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task, changes, message",
    [
        ("classify", {"train.accumulate": 2}, "train.accumulate=2 is not supported; set it to 1"),
        ("classify", {"train.frozen_stages": 1}, "train.frozen_stages=1 .* set it to 0"),
        ("classify", {"model.norm_group": 4}, "model.norm_group=4 .* set it to 0"),
        ("classify", {"model.remat": True}, "model.remat=True .* set it to False"),
        ("classify", {"optimizer.backbone_rate": 0.1}, "optimizer.backbone_rate=0.1 .* to 1"),
        ("detect", {"optimizer.layer_decay": 0.5}, "optimizer.layer_decay=0.5 .* set it to 1"),
        ("detect", {"loss.assignment": "centres"}, "loss.assignment=centres .* to aligned"),
        ("detect", {"model.backbone": "resnet18"}, "model.backbone=resnet18 .* set it to ''"),
        ("detect", {"precision": "float64"}, "precision=float64 .* use float32 or bfloat16"),
        ("classify", {"optimizer.name": "lamb"}, "optimizer.name=lamb .* use adamw or sgd"),
        ("classify", {"model.dropout": 0.1}, "model.dropout=0.1 .* set it to 0"),
        ("classify", {"data.augment.cutmix": 0.5}, "data.augment.cutmix=0.5 .* set it to 0"),
        ("classify", {"model.name": "small_cnn"}, "model.name=small_cnn .*: resnet18, resnet34"),
    ],
)
def test_what_the_step_in_torch_lacks_is_refused_in_one_line(task, changes, message):
    with pytest.raises(ConfigError, match=f"^bench --compare torch: {message}") as error:
        check_supported(config_of(task, changes))
    assert "\n" not in str(error.value)


def test_the_weights_of_the_losses_are_supported():
    losses = {
        "loss.class_weight": 3.0,
        "loss.distribution_weight": 0.25,
        "loss.box_confidence": False,
    }
    check_supported(config_of("detect", losses | {"precision": "bfloat16"}))
    check_supported(config_of("classify", {"optimizer.name": "sgd"}))


def test_the_process_is_not_started_for_what_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(subprocess, "Popen", None)
    config = config_of("classify", {"train.accumulate": 2, "train.batch_size": 2})
    with pytest.raises(ConfigError, match="train.accumulate=2"):
        TorchBaseline(noise_setup(config, equality.make_mesh((1, 1, 1))))


@pytest.mark.parametrize("program", ["torch_step", "torch_input"])
def test_what_the_programs_for_torch_import_of_ours_is_there(program):
    """Torch is not installed here, so that nothing else imports them."""
    tree = ast.parse(Path(torch_baseline.__file__).with_name(f"{program}.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if node.module.startswith("convmesh")]
    assert ours
    for node in ours:
        module = importlib.import_module(node.module)
        assert [name.name for name in node.names if not hasattr(module, name.name)] == []


@pytest.mark.parametrize("name", MODELS)
def test_sizes_are_those_of_our_models(name):
    sizes, model = MODELS[name], make_model(name, OUR_MODELS[name][0], 8, "float32")
    variables = jax.eval_shape(
        model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), "float32")
    )
    params = variables["params"]
    backbone = params.get("backbone", params)
    blocks = [len([n for n in backbone if n.startswith(f"stage{i}_")]) for i in range(1, 5)]
    if isinstance(sizes, torch_baseline.ResNetSizes):
        assert tuple(blocks) == sizes.blocks
        assert ("conv3" in backbone["stage1_block1"]) is sizes.bottleneck
    else:
        assert tuple(blocks) == sizes.depths
        assert model.features == sizes.features


# --- the process ----------------------------------------------------------------------------------

PROGRAM = """
import pickle, sys
length = int.from_bytes(sys.stdin.buffer.read(8), "little")
config, classes, on_gpu = pickle.loads(sys.stdin.buffer.read(length))
{replies}
for number, line in enumerate(sys.stdin.buffer):
    print(number + 0.5, flush=True)
"""


@pytest.fixture
def start(monkeypatch):
    """Starts a baseline whose process is `replies`, Python code, instead of torch's."""
    popen = subprocess.Popen
    processes = []

    def start(replies):
        def run(command, **options):
            assert command == [sys.executable, "-m", "convmesh.bench.torch_step"]
            program = PROGRAM.format(replies=replies)
            processes.append(popen([sys.executable, "-c", program], **options))
            return processes[-1]

        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
        monkeypatch.setattr(torch_baseline, "REST", 0.0)
        monkeypatch.setattr(subprocess, "Popen", run)
        config = config_of("classify", {"data.classes": ("a", "b"), "train.batch_size": 2})
        return TorchBaseline(noise_setup(config, equality.make_mesh((1, 1, 1))))

    yield start
    assert all(process.poll() is not None for process in processes)  # ended, whatever happened


def test_the_process_gets_the_recipe_and_takes_a_step_for_each_line(start):
    replies = (
        "import json\n"
        "name = json.loads(config)['model']['name']\n"
        "print('torch 0', name, classes, on_gpu, flush=True); print(7, flush=True)"
    )
    with start(replies) as baseline:
        assert baseline.name == "torch 0 resnet18 ('a', 'b') False"
        assert baseline.parameters == 7
        assert [baseline.step(), baseline.step()] == [0.5, 1.5]


def test_what_the_process_refuses_is_reported(start):
    with pytest.raises(ConfigError, match="^bench --compare torch: this torch finds no GPU$"):
        start("print('this torch finds no GPU', flush=True)")


def test_a_process_that_fails_is_an_error(start):
    with pytest.raises(DataError, match="its process failed"):
        start("sys.exit(1)")


@pytest.mark.parametrize("part", ["step", "input"])
def test_a_missing_torch_is_named_with_its_package(
    part, monkeypatch, capsys, photos, tiny_net, tmp_path
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    recipe = runs.write_recipe(tmp_path / "recipe.py", runs.photo_config(photos))
    assert command_line.main(["bench", part, "--config", recipe, "--compare", "torch"]) == 2
    assert "pip install 'convmesh[torch]'" in capsys.readouterr().err


def test_the_threads_rest_before_and_after_a_step(start, monkeypatch):
    order = []
    with start("print('torch 0', flush=True); print(7, flush=True)") as baseline:
        send = baseline._send
        monkeypatch.setattr(torch_baseline, "REST", 0.25)
        monkeypatch.setattr(torch_baseline.time, "sleep", order.append)
        monkeypatch.setattr(baseline, "_send", lambda data: order.append(data) or send(data))
        assert baseline.step() == 0.5
    assert order == [0.25, b"\n", 0.25]
