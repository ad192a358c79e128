"""The config: a table of documented keys; recipes, overrides and JSON are checked against it.

A recipe is a Python file with `get_config()`. It sets only what differs from the defaults:

    from convmesh.config import defaults

    def get_config():
        config = defaults("detect")
        config.data.root = "/data/boats"
        return config

`KEYS` lists every key with its type, range and meaning. An unknown key, a wrong type or a value out
of range raises a ConfigError that names the key. Nothing here imports JAX, so a wrong config is
refused before any device is touched.
"""

from convmesh.config.checks import check, check_complete, check_data_named
from convmesh.config.keys import CLASSIFY_METRICS, DETECT_METRICS, KEYS, TASKS, Key, Range
from convmesh.config.load import apply_overrides, from_json, load_config, parse_overrides, to_json
from convmesh.config.recipes import find_recipe, list_recipes
from convmesh.config.reference import describe
from convmesh.config.resume import (
    RESUME_MAY_CHANGE,
    changed_keys,
    check_resume,
    may_change_on_resume,
    same_for_all_processes,
)
from convmesh.config.tree import defaults, flatten

__all__ = [
    "CLASSIFY_METRICS",
    "DETECT_METRICS",
    "KEYS",
    "RESUME_MAY_CHANGE",
    "TASKS",
    "Key",
    "Range",
    "apply_overrides",
    "changed_keys",
    "check",
    "check_complete",
    "check_data_named",
    "check_resume",
    "defaults",
    "describe",
    "find_recipe",
    "flatten",
    "from_json",
    "list_recipes",
    "load_config",
    "may_change_on_resume",
    "parse_overrides",
    "same_for_all_processes",
    "to_json",
]
