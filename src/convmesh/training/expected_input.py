"""The input that loaded weights expect becomes that of the run, where its config says no other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from convmesh.config import apply_overrides
from convmesh.config.keys import KEYS
from convmesh.config.tree import flatten
from convmesh.data.augmentation.eval_view import eval_size
from convmesh.distributed import console
from convmesh.errors import ConfigError, DataError
from convmesh.inference.weight_files import expected_input
from convmesh.training.init_from import (
    input_on_hub,
    possible_nets,
    source_path,
    split_path,
    weights_model,
)
from convmesh.weights.hub import SCHEME
from convmesh.weights.preprocessing import preprocessing_of
from convmesh.weights.published import TABLES, published_input
from convmesh.workdir.layout import Workdir

INPUT_KEYS = (
    "data.pixel_mean",
    "data.pixel_std",
    "data.eval_resize",
    "data.eval_interpolation",
)
_SIZE, _EVAL_SIZE, _RESIZE = "data.image_size", "data.eval_size", "data.eval_resize"


def with_expected_input(config: ConfigDict) -> ConfigDict:
    """The config of a new run with the input that the weights of `init_from` expect.

    The scale of the pixels and, for a classifier, the resize before the crop, in proportion to the
    size in evaluation. A key that has another value than its default keeps it. Says on the console
    what it sets. Weights that cannot be found are left to `load_init_from`, but for those on the
    hub: of these, the files that describe them are read. Raises DataError for a file that is
    damaged, and as `hub_input`.
    """
    expected = _expected(config) if config.init_from else {}
    changes = not_set(config, expected)
    if changes:
        shown = " ".join(f"{key}={_text(value)}" for key, value in changes.items())
        console.print_status(f"init_from: {shown}, as these weights expect")
    size, here = _size_seen(expected), eval_size(config)
    if size and size != here:
        console.print_status(
            f"init_from: these weights expect images of {_text(size)} in evaluation, this run has "
            f"{_EVAL_SIZE if any(config.data.eval_size) else _SIZE}={_text(here)}"
        )
    return apply_overrides(config, changes)


def not_set(config: ConfigDict, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Those of INPUT_KEYS that have their default in `config` and another value in `expected`."""
    values, changes = dict(flatten(config)), {}
    for key in INPUT_KEYS:
        default, wanted = KEYS[key].default, expected.get(key)
        used = KEYS[key].task in ("", config.task)
        if used and wanted is not None and values[key] == default:
            if key == _RESIZE:
                wanted = _in_proportion(wanted, _size_seen(expected), eval_size(config))
            # A config that was read from a file has lists for tuples.
            if (tuple(wanted) if isinstance(wanted, list) else wanted) != default:
                changes[key] = wanted
    return changes


def _size_seen(expected: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) of what these weights see in evaluation; None if it is not stated."""
    size = expected.get(_EVAL_SIZE) or (0, 0)
    size = size if any(size) else expected.get(_SIZE)
    return None if size is None else (size[0], size[1])


def _in_proportion(resize: int, size: Any, here: tuple[int, int]) -> int:
    """The resize for images of the size `here`; 0, which has none, where they are not square."""
    if size is None or tuple(size) == tuple(here):
        return resize
    return round(resize * here[0] / size[0]) if here[0] == here[1] else 0


def _expected(config: ConfigDict) -> dict[str, Any]:
    """The keys that the weights of `init_from` set; {} if they are not known."""
    model = weights_model(config)
    if config.init_from in TABLES:
        return published_input(config.init_from, model)
    if config.init_from.startswith(SCHEME):  # the weights are downloaded later
        return {**preprocessing_of(model), **input_on_hub(config)}
    path = source_path(config.init_from)
    if isinstance(path, Path) and path.is_file():
        return expected_input(path, possible_nets(config))
    workdir = Workdir(split_path(path)[0])
    try:
        return dict(flatten(workdir.read_config())) if workdir.has_run() else {}
    except (ConfigError, DataError):
        return {}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    numbers = value if isinstance(value, tuple | list) else (value,)
    return ",".join(f"{number:.6g}" for number in numbers)
