"""The config: defaults, recipes, overrides, errors that name the key, JSON, resume."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from convmesh import config as cfg
from convmesh.errors import ConfigError

RECIPES = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe whose get_config() has these lines; returns its path."""

    def write(*lines, task="detect"):
        path = tmp_path / "recipe.py"
        body = [f"config = defaults({task!r})", *lines, "return config"]
        path.write_text(
            "from convmesh.config import defaults\n"
            "def get_config():\n" + "".join(f"    {line}\n" for line in body)
        )
        return path

    return write


def refused(function, *args):
    with pytest.raises(ConfigError) as caught:
        function(*args)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_key_is_documented_and_its_default_is_allowed():
    for name, key in cfg.KEYS.items():
        assert key.kind in cfg.KINDS, name
        assert len(key.doc) > 5, name
        if name != "task":
            assert cfg._value(name, key.default) == key.default, name
    text = cfg.describe()
    for name, key in cfg.KEYS.items():
        assert re.search(rf"^{re.escape(name)} = ", text, re.MULTILINE), name
        assert key.doc.split()[0] in text
    assert "(192, 256)" in text and "at least 0 and below 1" in text


@pytest.mark.parametrize("task", cfg.TASKS)
def test_defaults_pass_their_own_check_and_are_locked(task):
    config = cfg.check(cfg.defaults(task))
    assert config.task == task
    assert config.data.augment.scale == (0.5, 1.5)
    assert dict(cfg.flatten(config)).keys() == cfg.KEYS.keys()
    with pytest.raises(AttributeError):
        config.train.stpes = 5
    with pytest.raises(AttributeError):
        config.extra = 5


def test_an_unknown_task_is_refused():
    message = refused(cfg.defaults, "detekt")
    assert message == "task: got 'detekt', wanted one of detect, classify; did you mean detect?"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_recipe_loads_and_is_complete_with_a_data_root(path):
    config = cfg.load_config(path, {"data.root": "/data"})
    cfg.check_complete(config)
    command = f"convmesh train --config configs/{path.name} --workdir "
    assert command in path.read_text(), "the docstring gives the command"


def test_a_recipe_keeps_the_defaults_it_does_not_state(recipe):
    config = cfg.load_config(recipe("config.train.steps = 7", "config.optimizer.clip_norm = 1"))
    assert cfg.changed_keys(cfg.defaults("detect"), config) == [
        "train.steps",
        "optimizer.clip_norm",
    ]
    assert isinstance(config.optimizer.clip_norm, float)


def test_a_recipe_may_return_a_plain_dict(tmp_path):
    path = tmp_path / "plain.py"
    path.write_text("def get_config():\n    return {'task': 'classify', 'train': {'steps': 3}}\n")
    assert cfg.load_config(path).train.steps == 3
    path.write_text("def get_config():\n    return {'train': {'steps': 3}}\n")
    assert refused(cfg.load_config, path) == "task: not set; the recipe must say detect or classify"
    assert cfg.load_config(path, ["task=detect"]).task == "detect"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.steps=5", 5),
        ("--config.train.steps=5", 5),
        ("mesh.data=-1", -1),
        ("optimizer.learning_rate=1e-3", 1e-3),
        ("optimizer.learning_rate=2", 2.0),
        ("mesh.fsdp=false", False),
        ("mesh.fsdp=true", True),
        ("train.accumulate=4", 4),
        ("model.remat=true", True),
        ("model.name=resnet18", "resnet18"),
        ("data.root=/a b/c=d,e", "/a b/c=d,e"),
        ("data.root=", ""),
        ("data.image_size=(192,256)", (192, 256)),
        ("data.image_size=192,256", (192, 256)),
        ("data.image_size=[192, 256]", (192, 256)),
        ("data.augment.scale=0.7,1", (0.7, 1.0)),
        ("data.classes=cat,dog", ("cat", "dog")),
        ("data.classes=('cat',)", ("cat",)),
        ("data.classes=(cat, traffic light)", ("cat", "traffic light")),
        ('data.classes=["a, b","c"]', ("a, b", "c")),
        ("data.classes=1,2", ("1", "2")),
        ("data.classes=()", ()),
        ("data.cache=True", "true"),
        ("data.cache=auto", "auto"),
    ],
)
def test_an_override_is_read_as_the_type_of_its_key(recipe, override, value):
    config = cfg.load_config(recipe(), [override])
    name = override.removeprefix("--config.").partition("=")[0]
    found = dict(cfg.flatten(config))[name]
    assert found == value
    assert type(found) is type(value)


def test_overrides_as_a_dict_flat_or_nested(recipe):
    overrides = {"train.steps": np.int64(5), "data": {"image_size": [40, 41], "cache": False}}
    config = cfg.load_config(recipe(), overrides)
    assert config.train.steps == 5 and type(config.train.steps) is int
    assert config.data.image_size == (40, 41)
    assert config.data.cache == "false"
    assert cfg.load_config(recipe(), "train.steps=5").train.steps == 5


def test_the_later_override_wins(recipe):
    assert cfg.load_config(recipe(), ["train.steps=5", "train.steps=6"]).train.steps == 6


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stpes=5", "train.stpes: no such key; did you mean train.steps?"),
        ("--config.train.stpes=5", "train.stpes: no such key; did you mean train.steps?"),
        ("trian.steps=5", "trian.steps: no such key; did you mean train.steps?"),
        ("steps=5", "steps: no such key; did you mean train.steps?"),
        ("presision=float32", "presision: no such key; did you mean precision?"),
        ("train.learning_rate=1", "did you mean optimizer.learning_rate?"),
        ("optimizer.lr=1", "optimizer.lr: no such key; optimizer has name, learning_rate"),
        ("zzz=1", "zzz: no such key; `convmesh train --help-config` lists all keys"),
        ("train=5", "train: a group of keys, not a value; set one of train.batch_size"),
        ("train.steps", "train.steps: no value given"),
        ("train.steps=five", "train.steps: got 'five', wanted an integer, at least 0"),
        ("train.steps=5.0", "train.steps: got '5.0', wanted an integer, at least 0"),
        ("train.steps=-1", "train.steps: got -1, wanted an integer, at least 0"),
        ("optimizer.learning_rate=0", "wanted a number, above 0"),
        ("optimizer.learning_rate=nan", "wanted a number, above 0"),
        ("ema.decay=1", "ema.decay: got 1.0, wanted a number, -1 or at least 0 and below 1"),
        ("mesh.data=0", "mesh.data: got 0, wanted an integer, -1 or at least 1"),
        ("mesh.fsdp=maybe", "mesh.fsdp: got 'maybe', wanted true or false"),
        ("data.image_size=192", "data.image_size: got [192], wanted two integers"),
        ("data.image_size=0,192", "each at least 4"),
        ("data.image_size=a,b", "data.image_size: got 'a,b', wanted two integers"),
        ("data.augment.scale=1.5,0.5", "two numbers with low <= high"),
        ("data.cache=sometimes", "data.cache: got 'sometimes', wanted auto, true or false"),
        (
            "schedule.name=cosin",
            "cosine, flat_cosine, constant; did you mean cosine?",
        ),
        ("train.accumulate=0", "train.accumulate: got 0, wanted an integer, at least 1"),
        ("model.remat=2", "model.remat: got '2', wanted true or false"),
        ("optimizer.layer_decay=0", "wanted a number, above 0 and at most 1"),
        ("eval.every_steps=-2", "eval.every_steps: got -2, wanted an integer, -1 or at least 0"),
    ],
)
def test_a_wrong_override_names_the_key_and_the_way_out(recipe, override, message):
    assert message in refused(cfg.load_config, recipe(), [override])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"mesh.spatial": -1}, "mesh.data and mesh.spatial are both -1"),
        ({"train.steps": 5, "train.epochs": 2}, "train.steps=5 and train.epochs=2 are both set"),
        ({"data.augment.crop": (0.5, 1.0)}, "only task classify uses it, and this task is detect"),
        ({"checkpoint.best_metric": "top1"}, "but task detect measures AP, AP50"),
        ({"data.image_size": (64, 31)}, "got (64, 31); a detector wants at least 32"),
        ({"train.steps": 2**31}, "train.steps: got 2147483648, wanted"),
        ({"train.steps": True}, "train.steps: got True, wanted an integer"),
        ({"train.steps": "5"}, "train.steps: got '5', wanted an integer"),
        ({"train": {"stpes": 5}}, "did you mean train.steps?"),
        ({"model.name": None}, "model.name: got None, wanted text"),
        ({"data.classes": "cat"}, "data.classes: got 'cat', wanted a list of names"),
        ({"data.classes": [1]}, "data.classes: got [1], wanted a list of names"),
        (
            {"data.classes": ("cat", "dog", "cat")},
            "data.classes: 'cat' stands there 2 times; name it once",
        ),
        ({"train.patience": 3}, "train.patience=3: counts evaluations, and eval.every_steps=0"),
        ({"optimizer.nesterov": True}, "only optimizer.name sgd uses it, and this is adamw"),
        (
            {"optimizer": {"name": "sgd", "nesterov": True, "momentum": 0}},
            "optimizer.nesterov: is a form of momentum, and optimizer.momentum is 0",
        ),
    ],
)
def test_values_that_do_not_fit_are_refused(recipe, overrides, message):
    assert message in refused(cfg.load_config, recipe(), overrides)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("config.train.stpes = 5", "recipe.py:4: train.stpes: no such key; did you mean train.s"),
        ("config.trian.steps = 5", "recipe.py:4: trian.steps: no such key; did you mean train.s"),
        ("t = config.train; t.stpes = 5", "recipe.py:4: stpes: no such key; did you mean train.s"),
        ("config.train = {'stpes': 5}", "recipe.py: train.stpes: no such key; did you mean tr"),
        ("config.train = 5", "recipe.py: train: a group of keys, not a value"),
        ("config.train.steps = '5'", "recipe.py: train.steps: got '5', wanted an integer"),
        ("config.train.steps = -5", "recipe.py: train.steps: got -5, wanted an integer, at le"),
        ("config.train.steps = 1 / 0", "recipe.py:4: ZeroDivisionError: division by zero"),
        ("import no_such_module", "recipe.py:4: ModuleNotFoundError: No module named"),
        ("defaults('detekt')", "recipe.py:4: task: got 'detekt'"),
        ("x = [", "recipe.py:4: SyntaxError: '[' was never closed"),
        ("''.stpes", "recipe.py:4: AttributeError: 'str' object has no attribute 'stpes'"),
        ("raise SystemExit('no data')", "recipe.py:4: SystemExit: no data"),
        ("return 5", "recipe.py: get_config() returned int, wanted a config"),
    ],
)
def test_a_wrong_recipe_names_its_file_and_line(recipe, line, message):
    assert message in refused(cfg.load_config, recipe(line))


WRONG = {  # for each kind, what it is not, as Python has it and as a command line has it
    "int": ([1.5, "x", None, True, (1, 2), {}], ["1.5", "x", "", "1,2", "inf"]),
    "float": (["x", None, True, (1.0,), {}, math.nan, math.inf], ["x", "", "1,2", "nan", "-inf"]),
    "bool": ([1, "yes", None, (), {}], ["yes", "1", ""]),
    "str": ([1, None, (), {}, True], []),
    "auto_bool": ([1, "maybe", None, ()], ["maybe", "", "1"]),
    "ints": ([1, (1,), (1, 2, 3), (1, 2.5), "1x2", None, {}], ["1", "1,2,3", "a,b", "1.5,2", ""]),
    "interval": ([1.0, (1,), (2, 1), ("a", 1), None, (0, math.nan)], ["1", "2,1", "a,1", "nan,1"]),
    "floats": ([1.0, ("a", 1), None, (0.5, math.nan), "1,2"], ["a,b", "1,nan", "x"]),
    "strs": ([1, "name", None, (1, 2), {"a": 1}], []),
}


@pytest.mark.parametrize("name", cfg.KEYS)
def test_every_key_wrong_in_every_way_is_refused_by_name(name):
    key, config = cfg.KEYS[name], cfg.defaults("detect")
    values, texts = WRONG[key.kind]
    values, texts = list(values), list(texts)
    if key.choices:
        values.append("no such choice")
        texts.append("no such choice")
    if key.within:
        ends = (key.within.low, key.within.high)
        beyond = [end + way for end, way in zip(ends, (-1, 1), strict=True) if math.isfinite(end)]
        opens = (key.within.open_low, key.within.open_high)
        beyond += [end for end, is_open in zip(ends, opens, strict=True) if is_open]
        beyond = [number for number in beyond if number not in key.within.also]
        for number in beyond:
            number = int(number) if key.kind in ("int", "ints") else float(number)
            pair = key.kind in ("ints", "interval")
            values.append((number, number) if pair else number)
            texts.append(f"{number},{number}" if pair else str(number))
    for value in values:
        with pytest.raises(ConfigError, match=re.escape(name)):
            cfg.apply_overrides(config, {name: value})
    for text in texts:
        with pytest.raises(ConfigError, match=re.escape(name)):
            cfg.apply_overrides(config, [f"--config.{name}={text}"])
    misspelt = name[:-1] + ("y" if name[-1] != "y" else "x")
    with pytest.raises(ConfigError, match=f"did you mean {re.escape(name)}|no such key"):
        cfg.apply_overrides(config, [f"--config.{misspelt}=1"])


def test_a_missing_recipe_and_one_without_get_config(tmp_path, recipe):
    path = recipe()
    message = refused(cfg.load_config, tmp_path / "recpie.py")
    assert message == f"{tmp_path}/recpie.py: no such recipe file; did you mean {path}?"
    assert "no such recipe file" in refused(cfg.load_config, tmp_path)
    path.write_text("config = 1\n")
    assert "recipe.py: has no get_config()" in refused(cfg.load_config, path)


def test_loading_a_recipe_leaves_nothing_beside_it(recipe):
    path = recipe()
    cfg.load_config(path)
    assert list(path.parent.iterdir()) == [path]


def test_check_puts_values_into_the_tables_form():
    config = cfg.defaults("detect")
    config.data.image_size = [40, 41]
    config.data.cache = True
    config.optimizer.learning_rate = 1
    cfg.check(config)
    assert config.data.image_size == (40, 41)
    assert config.data.cache == "true"
    assert type(config.optimizer.learning_rate) is float
    typed = ConfigDict(cfg.defaults("detect").to_dict())  # ConfigDict's own type check is on
    typed.optimizer.learning_rate = 2
    assert cfg.check(typed).optimizer.learning_rate == 2.0


def test_check_refuses_a_config_that_lacks_a_key():
    config = ConfigDict({"task": "detect"})
    assert refused(cfg.check, config).startswith("precision: missing")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({}, "model.name: not set"),
        ({"model.name": "m"}, "data.root: not set; give the folder"),
        ({"model.name": "m", "data.format": "coco", "data.name": "n"}, "data.format coco reads a"),
    ],
)
def test_an_incomplete_config_is_refused(overrides, message):
    config = cfg.apply_overrides(cfg.defaults("detect"), overrides)
    assert message in refused(cfg.check_complete, config)


def test_apply_overrides_leaves_the_given_config_alone():
    old = cfg.defaults("detect")
    new = cfg.apply_overrides(old, ["train.steps=5"])
    assert (old.train.steps, new.train.steps) == (0, 5)
    with pytest.raises(AttributeError):
        new.train.stpes = 5


def test_json_round_trip_keeps_every_value_and_type():
    config = cfg.apply_overrides(
        cfg.defaults("detect"),
        {"data.classes": ["a", "ü"], "optimizer.learning_rate": 0.1 + 0.2, "mesh.model": 2},
    )
    back = cfg.from_json(cfg.to_json(config))
    assert cfg.changed_keys(config, back) == []
    assert list(map(repr, cfg.flatten(back))) == list(map(repr, cfg.flatten(config)))
    assert back.data.image_size == (224, 224)
    with pytest.raises(AttributeError):
        back.train.stpes = 5


def test_json_that_is_no_config_is_refused():
    assert "not a config in JSON" in refused(cfg.from_json, "{")
    assert "got list" in refused(cfg.from_json, "[]")
    assert "train.stpes: no such key" in refused(cfg.from_json, '{"train": {"stpes": 1}}')
    assert refused(cfg.from_json, "{}").startswith("task: not set")
    assert cfg.from_json('{"task": "detect"}').train.batch_size == 16


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("train.steps", 9, True),
        ("mesh.spatial", 2, True),
        ("data.root", "/elsewhere", True),
        ("eval.every_steps", 9, True),
        ("checkpoint.keep", 9, True),
        ("train.max_nonfinite_steps", 9, True),
        ("checkpoint.best_metric", "AP50", False),
        ("init_from", "/elsewhere", False),
        ("schedule.floor", 0.1, False),
        ("schedule.flat", 0.1, False),
        ("optimizer.backbone_rate", 0.1, False),
        ("optimizer.layer_decay", 0.1, False),
        ("train.frozen_stages", 1, False),
        ("train.seed", 9, False),
        ("train.batch_size", 9, False),
        ("data.image_size", (33, 33), False),
        ("precision", "bfloat16", False),
    ],
)
def test_resume_takes_only_changes_that_leave_it_the_same_run(name, value, allowed):
    old = cfg.defaults("detect")
    new = cfg.apply_overrides(old, {name: value})
    assert cfg.changed_keys(old, new) == [name]
    assert cfg.may_change_on_resume(name) is allowed
    if allowed:
        cfg.check_resume(old, new)
    else:
        before = dict(cfg.flatten(old))[name]
        assert f"{name} ({before!r} -> {value!r})" in refused(cfg.check_resume, old, new)


def test_patience_may_change_and_nesterov_may_not():
    old = cfg.apply_overrides(cfg.defaults("detect"), {"eval.every_steps": 5})
    cfg.check_resume(old, cfg.apply_overrides(old, {"train.patience": 2}))
    old = cfg.apply_overrides(cfg.defaults("detect"), {"optimizer.name": "sgd"})
    new = cfg.apply_overrides(old, {"optimizer.nesterov": True})
    assert "optimizer.nesterov (False -> True)" in refused(cfg.check_resume, old, new)


def test_every_resume_prefix_is_a_key_or_a_group():
    for prefix in cfg.RESUME_MAY_CHANGE:
        assert any(name == prefix or name.startswith(prefix + ".") for name in cfg.KEYS), prefix


def test_the_config_does_not_import_jax():
    code = "import sys, convmesh.config; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
