import numpy as np
import pytest

from convmesh.data.digit_scenes import clutter
from convmesh.data.digit_scenes.random_integers import RandomIntegers


def test_a_background_stays_within_the_range_of_pixels():
    for seed in range(5):
        planes = clutter.cluttered_background(RandomIntegers(seed, 0, 0), 96)
        assert planes.shape == (3, 96, 96) and planes.dtype == np.int16
        assert planes.min() >= 0 and planes.max() <= 255 and planes.std() > 5


@pytest.mark.parametrize("name", ["_draw_rectangle", "_draw_ellipse", "_draw_stroke"])
def test_each_shape_changes_a_part_of_the_background(name):
    changed = []
    for seed in range(30):
        planes = np.full((3, 96, 96), 128, np.int16)
        getattr(clutter, name)(RandomIntegers(seed, 0, 0), planes)
        changed.append((planes != 128).any(0).mean())
    assert 0 < max(changed) < 0.7 and np.mean(changed) > 0.005
