"""Checked configs from recipes, overrides and JSON."""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from convmesh.config.checks import check
from convmesh.config.keys import KEYS, unknown_key
from convmesh.config.recipes import find_recipe, run_recipe
from convmesh.config.tree import default_values, flatten, from_flat, nest
from convmesh.config.values import check_value, parse_value
from convmesh.errors import ConfigError

# 'train.steps=5' or '--config.train.steps=5' each, or a dict (flat or nested) of Python values.
Overrides = Iterable[str] | Mapping[str, Any]


def load_config(path: str | os.PathLike[str], overrides: Overrides = ()) -> ConfigDict:
    """The checked config of a recipe, with `overrides` applied.

    path: a recipe file, or the name of a packaged recipe, such as 'detect'.
    overrides: 'train.steps=5' or '--config.train.steps=5' each, or a dict of Python values.
    Raises ConfigError if the recipe is missing or raises, or if a key or a value is wrong.
    """
    recipe = find_recipe(path)
    values = default_values()
    for name, value in run_recipe(recipe).items():
        # An empty task may still be set by the overrides; `check` requires it.
        if name == "task" and value == "":
            continue
        try:
            values[name] = check_value(name, value)
        except ConfigError as error:
            raise ConfigError(f"{recipe}: {error}") from None
    return check(from_flat(values | parse_overrides(overrides)))


def parse_overrides(overrides: Overrides = ()) -> dict[str, Any]:
    """Overrides as {dotted key: checked value}; a later one wins.

    Each is 'train.steps=5' or '--config.train.steps=5'; a dict (flat or nested) gives Python
    values. Raises ConfigError that names the key.
    """
    if isinstance(overrides, Mapping | ConfigDict):
        return {name: check_value(name, value) for name, value in flatten(overrides)}
    if isinstance(overrides, str):
        overrides = (overrides,)
    values = {}
    for override in overrides:
        name, equals, text = override.removeprefix("--").removeprefix("config.").partition("=")
        if name not in KEYS:
            raise ConfigError(unknown_key(name))
        if not equals:
            raise ConfigError(f"{name}: no value given; write {name}=VALUE")
        values[name] = parse_value(name, text)
    return values


def apply_overrides(config: ConfigDict, overrides: Overrides = ()) -> ConfigDict:
    """A new checked config: `config` with `overrides` (see `parse_overrides`) applied."""
    return check(from_flat(dict(flatten(config)) | parse_overrides(overrides)))


def to_json(config: ConfigDict) -> str:
    """The full config as JSON text, for `config.json`; `from_json` reads it back equal."""
    return json.dumps(nest(dict(flatten(config))), indent=2) + "\n"


def from_json(text: str) -> ConfigDict:
    """The checked config of a text of `to_json`. A missing key takes its default.

    Raises ConfigError if the text is not JSON, or holds a wrong key or value.
    """
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"not a config in JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"not a config in JSON: got {type(tree).__name__}, wanted an object")
    return check(from_flat(default_values() | dict(flatten(tree))))
