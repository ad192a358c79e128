"""Configs as nested ConfigDicts and as flat {dotted key: value} dicts."""

from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from convmesh.config.keys import KEYS
from convmesh.config.values import check_value


def defaults(task: str) -> ConfigDict:
    """A config with every key at its default. It is locked: other keys cannot be set.

    Raises ConfigError if `task` is neither 'detect' nor 'classify'.
    """
    return from_flat(default_values() | {"task": check_value("task", task)})


def default_values() -> dict[str, Any]:
    """{dotted key: default} of every key."""
    return {name: key.default for name, key in KEYS.items()}


def flatten(config: Mapping[str, Any] | ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the (dotted key, value) pairs of a nested config or dict."""
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict) and (value or f"{prefix}{name}" not in KEYS):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict of {dotted key: value}."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *groups, leaf = name.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[leaf] = value
    return tree


def from_flat(values: Mapping[str, Any]) -> ConfigDict:
    """The locked config of {dotted key: value}; values are not checked."""
    # ConfigDict's own type check is off: `checks.check` does it, with better error messages.
    return ConfigDict(nest(values), type_safe=False).lock()
