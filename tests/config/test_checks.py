"""How the values of a config must fit together."""

import pytest
from ml_collections import ConfigDict

from convmesh import config as cfg


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"mesh.spatial": -1}, "mesh.data and mesh.spatial are both -1"),
        ({"mesh.model": -1}, "mesh.data and mesh.model are both -1"),
        ({"data.sizes": (1.0,)}, "data.sizes: a single size is data.image_size; give several"),
        ({"train.steps": 5, "train.epochs": 2}, "train.steps=5 and train.epochs=2 are both set"),
        ({"data.augment.crop": (0.5, 1.0)}, "only task classify uses it, but task is detect"),
        ({"checkpoint.best_metric": "top1"}, "but task detect measures AP, AP50"),
        ({"model.name": "auto"}, "model.name=auto: only a classifier's is chosen by the data"),
        ({"train.batch_size": 0}, "train.batch_size=0: only a classifier's is chosen by the data"),
        ({"data.image_size": (0, 0)}, "data.image_size=0,0: only a classifier's is chosen by the"),
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
        ({"schedule": {"name": "steps", "milestones": ()}}, "schedule.milestones is empty"),
        ({"optimizer.nesterov": True}, "only optimizer.name sgd and lars use it, but it is adamw"),
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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.augment.scale": (0.5, 2.0)}, "only task detect uses it, but task is classify"),
        ({"checkpoint.best_metric": "AP50"}, "got 'AP50', but task classify measures top1, top5"),
    ],
)
def test_a_classifier_refuses_what_only_a_detector_has(recipe, overrides, message, refused):
    assert message in refused(cfg.load_config, recipe(task="classify"), overrides)


@pytest.mark.parametrize(
    ("task", "overrides"),
    [
        ("detect", {"data.image_size": (32, 32)}),
        ("classify", {"data.image_size": (31, 28)}),
        ("detect", {"train.patience": 3, "eval.every_steps": -1}),  # ten evaluations per run
        ("detect", {"data.sizes": (0.75, 1.25)}),
        ("classify", {"checkpoint.best_metric": "top5"}),
    ],
)
def test_values_that_fit_together_are_accepted(recipe, task, overrides):
    values = dict(cfg.flatten(cfg.load_config(recipe(task=task), overrides)))
    assert {name: values[name] for name in overrides} == overrides


@pytest.mark.parametrize(
    "source",
    [{"data.name": "coco/2017", "data.format": "tfds"}, {"data.name": "coco/2017"}]
    + [{"data.root": "/data", "data.format": layout} for layout in ("coco", "folder", "auto")],
    ids=str,
)
def test_a_name_or_a_folder_is_enough_data(source):
    cfg.check_data_named(cfg.apply_overrides(cfg.defaults("detect"), source))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"data.augment.mixup": 0.6, "data.augment.cutmix": 0.5},
            "data.augment.mixup=0.6 and data.augment.cutmix=0.5: exclude each other",
        ),
        ({"data.eval_size": (0, 200)}, "data.eval_size: got (0, 200), wanted at least 4"),
        (
            {"data.eval_size": (288, 320), "data.eval_resize": 256},
            "data.eval_resize=256: smaller than data.eval_size=288,320",
        ),
        ({"data.image_size": (0, 64)}, "data.image_size: got (0, 64), wanted at least 4 on each"),
        (
            {"data.image_size": (0, 0), "data.eval_resize": 256},
            "data.eval_resize=256: data.image_size=0,0 leaves open what it goes with; set both",
        ),
        (
            {"data.image_size": (0, 0), "data.eval_size": (288, 288)},
            "data.eval_size=288,288: data.image_size=0,0 leaves open",
        ),
        ({"data.eval_resize": 200}, "data.eval_resize=200: smaller than data.image_size=224,224"),
    ],
)
def test_what_a_classifier_cannot_do_is_refused(recipe, overrides, message, refused):
    assert message in refused(cfg.load_config, recipe(task="classify"), overrides)
