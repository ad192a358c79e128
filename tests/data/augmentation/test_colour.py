import numpy as np
import pytest

from convmesh.data.augmentation.colour import jitter_colour


def test_colour_jitter_changes_colours_and_keeps_grey_grey():
    rng = np.random.default_rng(0)
    grey = np.repeat(np.arange(60, 190, dtype=np.uint8)[None, :, None], 3, 2).repeat(4, 0)
    shifted = grey.copy()
    jitter_colour(shifted, 1.0, rng)
    assert np.ptp(shifted.astype(int), axis=-1).max() <= 1
    assert not np.array_equal(shifted, grey)

    red = np.full((4, 4, 3), (200, 40, 40), np.uint8)
    means = []
    for seed in range(200):
        view = red.copy()
        jitter_colour(view, 1.0, np.random.default_rng(seed))
        means.append(view.mean((0, 1)))
    spread = np.std(means, axis=0)
    assert (spread > 10).all()


class Fixed:
    """A stand-in for a generator that returns given values."""

    def __init__(self, *draws):
        self.draws = np.array(draws)

    def uniform(self, low, high, size):
        assert (low, high, size) == (-1, 1, len(self.draws))
        return self.draws


@pytest.mark.parametrize(
    "draws, pixel, wanted",
    [
        # Brightness factor 1 + 0.4 / 2 = 1.2.
        ((0.5, 0, 0, 0), (128, 64, 10), (153.6, 76.8, 12)),
        # Contrast 1.2 about 128: 128 + 1.2 (v - 128).
        ((0, 0.5, 0, 0), (128, 64, 200), (128, 51.2, 214.4)),
        # Both: the result times 1.2.
        ((0.5, 0.5, 0, 0), (128, 64, 164), (153.6, 61.44, 205.44)),
        # Saturation 0.3. Luminance 0.299 x 200 + 0.587 x 100 + 0.114 x 40 = 123.06; 0.7 of it is
        # 86.142, and 0.3 of each channel is added.
        ((0, 0, -1, 0), (200, 100, 40), (146.142, 116.142, 98.142)),
        # Hue by 18 degrees, red towards green: 100 grey plus 100 red, which becomes
        # (1 + 2 cos) / 3 = 0.96737, (1 - cos) / 3 +- sin / sqrt(3) = 0.19473 and -0.16210.
        ((0, 0, 0, 1), (200, 100, 100), (196.737, 119.473, 83.790)),
        # All, hue first: luminance 138.507, so (155.976, 132.797, 122.092) with saturation 0.3;
        # (161.571, 133.756, 120.910) with contrast 1.2; brightness 0.9.
        ((-0.25, 0.5, -1, 1), (200, 100, 100), (145.414, 120.380, 108.819)),
    ],
)
def test_colour_jitter_by_hand(draws, pixel, wanted):
    image = np.full((2, 3, 3), pixel, np.uint8)
    jitter_colour(image, 1, Fixed(*draws))
    assert np.array_equal(image, np.full((2, 3, 3), np.rint(wanted)))


def test_strength_zero_keeps_colours_and_advances_the_generator_alike():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    still = image.copy()
    one, two = np.random.default_rng(5), np.random.default_rng(5)
    jitter_colour(still, 0.0, one)
    assert np.array_equal(still, image)
    jitter_colour(still, 1.0, two)
    assert one.uniform() == two.uniform()
