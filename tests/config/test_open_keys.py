"""Which values leave a key open."""

import pytest

from convmesh.config import defaults
from convmesh.config.keys import KEYS
from convmesh.config.open_keys import OPEN_VALUES, is_open, open_keys


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("model.name", "auto", True),
        ("model.name", "", False),
        ("data.image_size", (0, 0), True),
        ("data.image_size", [0, 0], True),
        ("data.image_size", (0, 32), False),
        ("train.batch_size", 0, True),
        ("train.batch_size", 1, False),
        ("train.steps", 0, False),
    ],
)
def test_values_that_leave_a_key_open(key, value, wanted):
    assert is_open(key, value) == wanted


def test_the_open_keys_of_a_config():
    config = defaults("classify")
    assert open_keys(config) == []
    config.data.image_size, config.train.batch_size = (0, 0), 0
    assert open_keys(config) == ["data.image_size", "train.batch_size"]
    assert OPEN_VALUES.keys() <= KEYS.keys()
