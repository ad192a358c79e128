"""How the values of a config must fit together."""

import pytest
from ml_collections import ConfigDict

from convmesh import config as cfg


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"mesh.spatial": -1}, "mesh.data and mesh.spatial are both -1"),
        ({"train.steps": 5, "train.epochs": 2}, "train.steps=5 and train.epochs=2 are both set"),
        ({"data.augment.crop": (0.5, 1.0)}, "only task classify uses it, but task is detect"),
        ({"checkpoint.best_metric": "top1"}, "but task detect measures AP, AP50"),
        ({"data.image_size": (64, 31)}, "got (64, 31); a detector needs at least 32"),
        ({"train.steps": 2**31}, "train.steps: got 2147483648, wanted"),
        ({"train.steps": True}, "train.steps: got True, wanted an integer"),
        ({"train.steps": "5"}, "train.steps: got '5', wanted an integer"),
        ({"train": {"stpes": 5}}, "did you mean train.steps?"),
        ({"model.name": None}, "model.name: got None, wanted text"),
        ({"data.classes": "cat"}, "data.classes: got 'cat', wanted a list of names"),
        ({"data.classes": [1]}, "data.classes: got [1], wanted a list of names"),
        (
            {"data.classes": ("cat", "dog", "cat")},
            "data.classes: 'cat' is listed 2 times; list it once",
        ),
        ({"train.patience": 3}, "train.patience=3: counts evaluations, but with eval.every"),
        ({"optimizer.nesterov": True}, "only optimizer.name sgd uses it, but it is adamw"),
        (
            {"optimizer": {"name": "sgd", "nesterov": True, "momentum": 0}},
            "optimizer.nesterov: needs momentum, but optimizer.momentum is 0",
        ),
    ],
)
def test_values_that_do_not_fit_together_are_refused(recipe, overrides, message, refused):
    assert message in refused(cfg.load_config, recipe(), overrides)


def test_check_converts_values_to_the_type_of_their_key():
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


def test_check_refuses_a_config_with_a_missing_key(refused):
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
def test_an_incomplete_config_is_refused(overrides, message, refused):
    config = cfg.apply_overrides(cfg.defaults("detect"), overrides)
    assert message in refused(cfg.check_complete, config)
