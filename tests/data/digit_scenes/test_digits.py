import numpy as np
import pytest

from convmesh.data.digit_scenes import digits
from convmesh.data.digit_scenes.random_integers import RandomIntegers


def test_splits_share_no_digit():
    used = [i for indices in digits.DIGIT_RANGES.values() for i in indices]
    assert sorted(used) == list(range(1797))


def test_the_source_digits_are_small_grey_images_of_ten_classes():
    images, labels = digits.source_digits()
    assert images.shape == (1797, 8, 8) and images.min() == 0 and images.max() == 16
    assert set(labels.tolist()) == set(range(10))


def test_a_tight_box_is_half_open():
    mask = np.zeros((9, 12), bool)
    mask[2, 3] = mask[6, 8] = True
    assert digits.tight_box(mask) == (3, 2, 9, 7)


@pytest.mark.parametrize("wanted", [12, 16, 60, 110, 130])
def test_a_rendered_digit_has_its_length_within_the_limits_and_a_rim(wanted):
    images, _ = digits.source_digits()
    length = min(max(wanted, digits.SHORTEST), digits.LONGEST)
    for index in range(0, 1797, 300):
        opacity = digits.render_digit(RandomIntegers(0, 0, index), images[index], wanted)
        assert opacity.dtype == np.uint8
        height, width = opacity.shape
        box = digits.tight_box(opacity >= digits.INK)
        assert box == (digits.RIM, digits.RIM, width - digits.RIM, height - digits.RIM)
        longer = max(height, width) - 2 * digits.RIM
        # The scale follows from a preview at 4 pixels per source pixel.
        assert abs(longer - length) <= max(2, length // 16)
        assert digits.SHORTEST <= longer <= digits.LONGEST


def test_renderings_of_one_digit_differ():
    images, _ = digits.source_digits()
    one, other = (digits.render_digit(RandomIntegers(s, 0, 0), images[5], 40) for s in (0, 1))
    assert one.shape != other.shape or not np.array_equal(one, other)
