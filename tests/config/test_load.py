"""Configs from recipes, overrides and JSON."""

import subprocess
import sys

import numpy as np
import pytest

from convmesh import config as cfg


def test_overrides_can_be_a_flat_or_nested_dict(recipe):
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
        ("train.name=a", "train.name: no such key; did you mean model.name?"),  # of four, the first
        ("train.step=5", "train.step: no such key; did you mean train.steps?"),
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
        ("data.image_size=2,192", "each 0 or at least 4"),
        ("data.image_size=a,b", "data.image_size: got 'a,b', wanted two integers"),
        ("data.augment.scale=1.5,0.5", "two numbers with low <= high"),
        ("data.cache=sometimes", "data.cache: got 'sometimes', wanted auto, true or false"),
        (
            "schedule.name=cosin",
            "cosine, flat_cosine, constant, steps; did you mean cosine?",
        ),
        ("train.accumulate=0", "train.accumulate: got 0, wanted an integer, at least 1"),
        ("model.remat=2", "model.remat: got '2', wanted true or false"),
        ("optimizer.layer_decay=0", "wanted a number, above 0 and at most 1"),
        ("eval.every_steps=-2", "eval.every_steps: got -2, wanted an integer, -1 or at least 0"),
    ],
)
def test_a_wrong_override_names_the_key_and_what_is_allowed(recipe, override, message, refused):
    assert message in refused(cfg.load_config, recipe(), [override])


def test_a_recipe_keeps_the_defaults_it_does_not_set(recipe):
    config = cfg.load_config(recipe("config.train.steps = 7", "config.optimizer.clip_norm = 1"))
    assert cfg.changed_keys(cfg.defaults("detect"), config) == [
        "train.steps",
        "optimizer.clip_norm",
    ]
    assert isinstance(config.optimizer.clip_norm, float)


def test_apply_overrides_does_not_change_the_given_config():
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


def test_json_that_is_not_a_config_is_refused(refused):
    assert "not a config in JSON" in refused(cfg.from_json, "{")
    assert "got list" in refused(cfg.from_json, "[]")
    assert "train.stpes: no such key" in refused(cfg.from_json, '{"train": {"stpes": 1}}')
    assert refused(cfg.from_json, "{}").startswith("task: not set")
    assert cfg.from_json('{"task": "detect"}').train.batch_size == 16


def test_the_config_does_not_import_jax():
    code = "import sys, convmesh.config; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_json_of_a_config_ends_with_a_line_break():
    text = cfg.to_json(cfg.defaults("detect"))
    assert text.startswith('{\n  "') and text.endswith("\n}\n")


def test_the_overrides_may_set_the_task_that_a_recipe_leaves_empty(tmp_path, refused):
    path = tmp_path / "either.py"
    path.write_text("def get_config():\n    return {'task': '', 'train': {'steps': 3}}\n")
    config = cfg.load_config(path, ["task=classify"])
    assert (config.task, config.train.steps) == ("classify", 3)
    assert refused(cfg.load_config, path).startswith("task: not set; the recipe must set it")
