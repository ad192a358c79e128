"""The task that a config describes."""

from types import SimpleNamespace

import pytest

from convmesh.config import apply_overrides, defaults
from convmesh.tasks.registry import make_task


@pytest.mark.parametrize(
    "key, value",
    [
        ("class_weight", 3.0),
        ("distribution_weight", 0.25),
        ("box_confidence", False),
        ("assignment", "centres"),
    ],
)
def test_each_key_of_the_losses_is_passed_on(key, value):
    config = apply_overrides(defaults("detect"), {f"loss.{key}": value})
    usual = make_task(defaults("detect"), 5)
    task = make_task(config, 5)
    changed = {name for name in vars(task) if getattr(task, name) != getattr(usual, name)}
    assert changed == {key} and getattr(task, key) == value


@pytest.mark.parametrize("name", ["classify", "detect"])
def test_sizes_are_height_and_width(name):
    task = make_task(apply_overrides(defaults(name), {"data.image_size": (64, 96)}), 7)
    assert (task.classes, task.image_size) == (7, (64, 96))


def test_strides_are_those_of_the_model():
    config = defaults("detect")
    assert make_task(config, 5).strides == (8, 16, 32)
    model = SimpleNamespace(strides=(8, 16, 32, 64, 128))
    assert make_task(config, 5, model).strides == model.strides
