"""DigitScenes: pinned pixels, and the conditions of the module's docstring, recomputed."""

import hashlib

import numpy as np
import pytest

from convmesh.data.digit_scenes import scenes
from convmesh.data.digit_scenes.digits import DIGIT_RANGES, INK, source_digits
from convmesh.errors import ConfigError


@pytest.fixture(scope="module")
def sample():
    return [scenes.compose_parts(0, split, i) for split in ("train", "test") for i in range(20)]


def digest(*arrays):
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()[:16]


@pytest.mark.parametrize(
    "key, expected",
    [
        ((0, "train", 0), "034d854c0a783fe5"),
        ((0, "validation", 7), "ae27b7ec39ebaaf1"),
        ((0, "test", 499), "d38e9e23be802d35"),
        ((1, "test", 3), "10b9932988af792d"),
    ],
)
def test_pixels_of_a_scene_are_pinned(key, expected):
    image, boxes, labels, visible = scenes.compose(*key)
    assert (image.shape, image.dtype) == ((224, 224, 3), np.uint8)
    assert (boxes.dtype, labels.dtype, visible.dtype) == (np.int32, np.int32, np.float32)
    assert boxes.shape == (len(labels), 4) and visible.shape == labels.shape
    assert digest(image, boxes, labels) == expected


@pytest.mark.parametrize(
    "key, expected", [((0, "train", 5), "8398be37026d05ea"), ((0, "test", 299), "6b0f2aeb88cb425c")]
)
def test_pixels_of_a_single_digit_are_pinned(key, expected):
    image, label = scenes.compose_digit(*key)
    assert image.shape == (32, 32, 3)
    assert label == source_digits()[1][DIGIT_RANGES[key[1]][key[2]]]
    assert digest(image) == expected


def test_a_scene_uses_digits_of_its_own_split_only(monkeypatch):
    images, labels = source_digits()
    only = np.array([i in DIGIT_RANGES["test"] for i in range(1797)])
    before = scenes.compose(0, "test", 0)
    # A test scene does not change if the digits of all other splits are blank.
    monkeypatch.setattr(
        scenes, "source_digits", lambda: (images * only[:, None, None], labels * only)
    )
    for a, b in zip(before, scenes.compose(0, "test", 0), strict=True):
        np.testing.assert_array_equal(a, b)


def test_boxes_are_tight_inside_and_of_the_documented_sizes(sample):
    longest = []
    for _, digits in sample:
        assert 1 <= len(digits) <= 8
        for digit in digits:
            rows, columns = np.nonzero(digit.opacity >= INK)
            x, y = digit.corner
            x0, y0, x1, y1 = digit.box
            assert (x0, x1) == (x + columns.min(), x + columns.max() + 1)
            assert (y0, y1) == (y + rows.min(), y + rows.max() + 1)
            assert 0 <= x0 < x1 <= 224 and 0 <= y0 < y1 <= 224
            longest.append(max(x1 - x0, y1 - y0))
    assert min(longest) >= 16 and max(longest) <= 110
    # Both small and large digits occur.
    assert min(longest) < 22 and max(longest) > 95


def test_visible_ink_is_not_hidden_by_later_digits(sample):
    fractions = []
    for _, digits in sample:
        top = np.full((224, 224), -1)
        for i, digit in enumerate(digits):
            rows, columns = np.nonzero(digit.opacity >= INK)
            top[rows + digit.corner[1], columns + digit.corner[0]] = i
        for i, digit in enumerate(digits):
            assert digit.ink == np.count_nonzero(digit.opacity >= INK)
            assert digit.visible == np.count_nonzero(top == i)
            fractions.append(digit.visible / digit.ink)
    assert 0.6 <= min(fractions) < 0.8 and max(fractions) == 1


def test_digits_stand_out_from_their_background(sample):
    weights = np.array([3, 6, 1])[:, None, None]
    for image, digits in sample:
        for digit in digits:
            contrast = (np.abs(digit.fill.astype(int) - digit.background) * weights).sum(0) / 10
            assert np.mean(contrast >= 64) >= 0.9
        # Nothing covers the last digit: its opaque pixels have its colour.
        last, (x, y) = digits[-1], digits[-1].corner
        opaque = last.opacity == 255
        region = image[y : y + opaque.shape[0], x : x + opaque.shape[1]]
        np.testing.assert_array_equal(region[opaque], last.fill.transpose(1, 2, 0)[opaque])


def test_no_two_boxes_overlap_by_more_than_the_limit(sample):
    for _, digits in sample:
        for i, one in enumerate(digits):
            for other in digits[:i]:
                a, b = np.array(one.box), np.array(other.box)
                sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
                both = np.prod(sides)
                union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both
                assert both / union <= 0.35


def test_pixels_depend_on_seed_split_and_index():
    keys = [(0, "train", 0), (1, "train", 0), (0, "test", 0), (0, "train", 1)]
    assert len({digest(scenes.compose(*key)[0]) for key in keys}) == 4


@pytest.mark.parametrize("key", [(0, "dev", 0), (-1, "test", 0), (0, "test", -1)])
def test_an_unknown_split_and_numbers_out_of_range_are_refused(key):
    with pytest.raises(ConfigError, match="digit_scenes"):
        scenes.compose(*key)


def test_an_index_outside_the_range_of_digits_is_refused():
    with pytest.raises(ConfigError, match="index 300"):
        scenes.compose_digit(0, "test", 300)
