"""Checks of a config: every key and value, and the consistency of the values."""

import functools
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from convmesh.config.keys import CLASSIFY_METRICS, DETECT_METRICS, KEYS, TASKS, unknown_key
from convmesh.config.open_keys import is_open, open_keys
from convmesh.config.tree import flatten
from convmesh.config.values import check_value
from convmesh.errors import ConfigError


def check(config: ConfigDict) -> ConfigDict:
    """Checks every value and their consistency; returns the same config.

    A value in another form of its type (a list for a tuple, an int for a float) is converted in
    place. Raises ConfigError that names the key.
    """
    values = _check_values(config)
    _check_task_keys(values)
    _check_open(values)
    _check_mesh(values)
    _check_length(values)
    _check_data(values)
    _check_optimizer(values)
    _check_best_metric(values)
    return config


def check_complete(config: ConfigDict) -> None:
    """Raises ConfigError if the config names no model or no data."""
    if not config.model.name:
        raise ConfigError(
            "model.name: not set; set it in the recipe or with --config.model.name=NAME"
        )
    check_data_named(config)


def check_data_named(config: ConfigDict) -> None:
    """Raises ConfigError if the config names no data."""
    if config.data.format not in ("auto", "tfds") and not config.data.root:
        raise ConfigError(
            f"data.root: not set, but data.format {config.data.format} reads a folder; "
            "give --config.data.root=DIR"
        )
    if not config.data.root and not config.data.name:
        raise ConfigError(
            "data.root: not set; give the folder of the data as --config.data.root=DIR, "
            "or a TFDS data set as --config.data.name=NAME"
        )


def _check_values(config: ConfigDict) -> dict[str, Any]:
    """Checks and converts every value in place; returns them by dotted key."""
    values = dict(flatten(config))
    for name in values:
        if name not in KEYS:
            raise ConfigError(unknown_key(name))
    for name, value in values.items():
        if name == "task" and value == "":
            raise ConfigError(f"task: not set; the recipe must set it to {' or '.join(TASKS)}")
        converted = check_value(name, value)
        if repr(converted) != repr(value):
            _set(config, name, converted)
            values[name] = converted
    missing = [name for name in KEYS if name not in values]
    if missing:
        raise ConfigError(f"{missing[0]}: missing; create the config with defaults(task)")
    return values


def _set(config: ConfigDict, name: str, value: Any) -> None:
    *groups, leaf = name.split(".")
    target = functools.reduce(lambda branch, group: branch[group], groups, config)
    with target.ignore_type():
        target[leaf] = None  # otherwise ConfigDict casts a tuple back to the list it replaces
        target[leaf] = value


def _check_task_keys(values: Mapping[str, Any]) -> None:
    task = values["task"]
    for name, key in KEYS.items():
        if key.task and key.task != task and values[name] != key.default:
            raise ConfigError(f"{name}: only task {key.task} uses it, but task is {task}")


def _check_mesh(values: Mapping[str, Any]) -> None:
    free = [name for name in ("mesh.data", "mesh.spatial", "mesh.model") if values[name] == -1]
    if len(free) > 1:
        raise ConfigError(f"{free[0]} and {free[1]} are both -1; only one axis can be")


def _check_length(values: Mapping[str, Any]) -> None:
    if values["train.steps"] and values["train.epochs"]:
        raise ConfigError(
            f"train.steps={values['train.steps']} and train.epochs={values['train.epochs']:g} are "
            "both set; set one of them to 0"
        )
    if values["train.patience"] and not values["eval.every_steps"]:
        raise ConfigError(
            f"train.patience={values['train.patience']}: counts evaluations, but with "
            "eval.every_steps=0 there is only one, at the end; set eval.every_steps (-1 = ten per "
            "run)"
        )


def _check_open(values: Mapping[str, Any]) -> None:
    for name in open_keys(values):
        if values["task"] != "classify":
            raise ConfigError(
                f"{name}={_text(values[name])}: only a classifier's is chosen by the data; set it"
            )


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _check_data(values: Mapping[str, Any]) -> None:
    if values["task"] == "detect" and min(values["data.image_size"]) < 32:
        raise ConfigError(
            f"data.image_size: got {tuple(values['data.image_size'])}; a detector needs at least "
            "32, its coarsest stride, on each side"
        )
    if 0 in values["data.image_size"] and any(values["data.image_size"]):
        raise ConfigError(
            f"data.image_size: got {tuple(values['data.image_size'])}, wanted at least 4 on each "
            "side, or 0,0 to choose it from the images"
        )
    for name in ("data.eval_size", "data.eval_resize"):
        given = values[name] != KEYS[name].default
        if given and is_open("data.image_size", values["data.image_size"]):
            raise ConfigError(
                f"{name}={_text(values[name])}: data.image_size=0,0 leaves open what it goes with; "
                "set both"
            )
    for name, times in Counter(values["data.classes"]).items():
        if times > 1:
            raise ConfigError(f"data.classes: {name!r} is listed {times} times; list it once")
    mixup, cutmix = values["data.augment.mixup"], values["data.augment.cutmix"]
    if mixup + cutmix > 1:
        raise ConfigError(
            f"data.augment.mixup={mixup:g} and data.augment.cutmix={cutmix:g}: exclude each other, "
            "so their sum can be at most 1"
        )
    if any(values["data.eval_size"]) and min(values["data.eval_size"]) < 4:
        raise ConfigError(
            f"data.eval_size: got {tuple(values['data.eval_size'])}, wanted at least 4 on each "
            "side, or 0,0 for data.image_size"
        )
    seen = "data.eval_size" if any(values["data.eval_size"]) else "data.image_size"
    if values["task"] == "classify" and 0 < values["data.eval_resize"] < min(values[seen]):
        raise ConfigError(
            f"data.eval_resize={values['data.eval_resize']}: smaller than {seen}="
            f"{','.join(map(str, values[seen]))}, so the edges of the input would be grey in "
            "evaluation; use a larger one, or 0"
        )
    if len(values["data.sizes"]) == 1:
        raise ConfigError("data.sizes: a single size is data.image_size; give several, or none")


def _check_optimizer(values: Mapping[str, Any]) -> None:
    if values["schedule.name"] == "steps" and not values["schedule.milestones"]:
        raise ConfigError(
            "schedule.name=steps: schedule.milestones is empty, so the learning rate would stay; "
            "use schedule.name=constant"
        )
    if not values["optimizer.nesterov"]:
        return
    if values["optimizer.name"] not in ("sgd", "lars"):
        raise ConfigError(
            f"optimizer.nesterov: only optimizer.name sgd and lars use it, but it is "
            f"{values['optimizer.name']}"
        )
    if not values["optimizer.momentum"]:
        raise ConfigError("optimizer.nesterov: needs momentum, but optimizer.momentum is 0")


def _check_best_metric(values: Mapping[str, Any]) -> None:
    task, metric = values["task"], values["checkpoint.best_metric"]
    measured = DETECT_METRICS if task == "detect" else CLASSIFY_METRICS
    if metric and metric not in measured:
        raise ConfigError(
            f"checkpoint.best_metric: got {metric!r}, but task {task} "
            f"measures {', '.join(measured)}"
        )
