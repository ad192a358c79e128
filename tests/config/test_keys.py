"""The table of config keys."""

import pytest

from convmesh.config.keys import KEYS, Range
from convmesh.config.values import KINDS, check_value


def test_every_key_is_documented_and_its_default_is_allowed():
    for name, key in KEYS.items():
        assert key.kind in KINDS, name
        assert len(key.doc) > 5, name
        if name != "task":
            assert check_value(name, key.default) == key.default, name


@pytest.mark.parametrize(
    ("numbers", "text", "inside", "outside"),
    [
        (Range(low=1, also=(-1,)), "-1 or at least 1", (-1, 1, 9), (0, -2)),
        (Range(low=0, open_low=True), "above 0", (0.1,), (0, -1)),
        (Range(low=0, high=1, open_high=True), "at least 0 and below 1", (0, 0.9), (1, -0.1)),
        (Range(low=0.25, high=4), "at least 0.25 and at most 4", (0.25, 4), (0.2, 4.1)),
    ],
)
def test_a_range_says_what_it_contains(numbers, text, inside, outside):
    assert str(numbers) == text
    assert all(number in numbers for number in inside)
    assert not any(number in numbers for number in outside)
