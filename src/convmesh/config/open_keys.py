"""The keys that a classifier's recipe can leave open, so that its data and devices decide."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from convmesh.config.keys import AUTO_MODEL
from convmesh.config.tree import flatten

# Each with the value that leaves it open; `steps.chosen_sizes` sets them.
OPEN_VALUES: dict[str, Any] = {
    "model.name": AUTO_MODEL,
    "data.image_size": (0, 0),
    "train.batch_size": 0,
}


def is_open(key: str, value: Any) -> bool:
    """Whether this value of a key leaves it open."""
    wanted = OPEN_VALUES.get(key)
    return wanted is not None and (tuple(value) if isinstance(value, list) else value) == wanted


def open_keys(config: ConfigDict | Mapping[str, Any]) -> list[str]:
    """The keys that `config` leaves open."""
    values = dict(flatten(config))
    return [key for key in OPEN_VALUES if is_open(key, values[key])]
