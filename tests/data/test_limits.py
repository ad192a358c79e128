"""How much may be bad: src/convmesh/data/limits.py."""

import pytest

from convmesh.config import defaults
from convmesh.data.limits import BOXES, IMAGES, sample_of


@pytest.mark.parametrize(
    "bad, total, limit, exceeded",
    [
        (3, 29, 0.1, True),
        (3, 30, 0.1, False),  # exactly a tenth
        (29, 100, 0.29, False),  # 0.29 * 100 is less than 29
        (2, 2, 0.1, False),  # two of a small split are no sign of anything
        (3, 3, 0.1, True),
        (3, 3, 1.0, False),
        (3, 1000, 0.0, True),
        (0, 0, 0.0, False),
    ],
)
def test_more_than_the_limit_and_more_than_two(bad, total, limit, exceeded):
    assert bool(BOXES.exceeded(bad, total, limit)) == exceeded


def test_the_description_names_the_key():
    text = "3 of 9 images are bad, more than data.max_bad_examples=0.25 allows"
    assert IMAGES.exceeded(3, 9, 0.25) == text


def test_what_is_refused_anyway_has_no_limit():
    config = defaults("detect")
    assert BOXES.of(config) == IMAGES.of(config) == 1.0
    config.data.on_bad_box, config.data.max_bad_boxes = "clip", 0.3
    assert (BOXES.of(config), IMAGES.of(config)) == (0.3, 1.0)
    config.data.on_bad_example = "skip"
    assert IMAGES.of(config) == 0.1


@pytest.mark.parametrize(
    "total, least, sample",
    [(0, 0, []), (3, 0, [0, 1, 2]), (3, 9, [0, 1, 2]), (31, 0, list(range(0, 31, 2)))],
)
def test_a_sample_is_spread_over_all_examples(total, least, sample):
    assert sample_of(total, least) == sample


def test_a_sample_has_as_many_examples_as_a_batch():
    assert len(sample_of(1000)) == 16 and len(set(sample_of(1000, least=40))) == 40
