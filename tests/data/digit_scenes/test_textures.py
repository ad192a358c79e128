import numpy as np

from convmesh.data.digit_scenes import textures
from convmesh.data.digit_scenes.random_integers import RandomIntegers


def test_directions_have_length_one():
    lengths = np.hypot(*(textures.DIRECTIONS / 4096).T)
    assert len(textures.DIRECTIONS) == 256 and np.abs(lengths - 1).max() < 1e-3
    assert len(np.unique(textures.DIRECTIONS, axis=0)) == 256


def test_a_ramp_runs_from_0_to_256_in_straight_lines():
    for seed in range(8):
        ramp = textures.linear_ramp(RandomIntegers(seed, 0, 0), 40, 60).astype(int)
        assert ramp.min() == 0 and 250 <= ramp.max() <= 256
        assert max(np.abs(np.diff(ramp, n=2, axis=axis)).max() for axis in (0, 1)) <= 1


def test_noise_is_smooth_and_covers_its_range():
    noise = textures.value_noise(RandomIntegers(0, 0, 0), 200, 10).astype(int)
    assert noise.shape == (200, 200) and noise.min() < 20 and noise.max() > 235
    assert noise.min() >= 0 and noise.max() <= 255
    assert max(np.abs(np.diff(noise, axis=axis)).max() for axis in (0, 1)) <= 256 // 10 + 2


def test_blending_is_a_weighted_mean_in_place():
    region = np.full((3, 1, 2), 100, np.int16)
    textures.blend(region, np.array([228, 100, 36], np.int16).reshape(3, 1, 1), 64)
    assert region[:, 0, 0].tolist() == [164, 100, 68]
    textures.blend(region, np.zeros((3, 1, 1), np.int16), np.array([[0, 128]], np.int16))
    assert region[:, 0].tolist() == [[164, 0], [100, 0], [68, 0]]


def test_a_similar_colour_is_within_its_limit():
    draws = RandomIntegers(0, 0, 0)
    colour = np.array([0, 128, 250], np.int16).reshape(3, 1, 1)
    found = np.stack([textures.similar_colour(draws, colour, 20) for _ in range(200)])
    assert np.abs(found - colour).max() == 20 and found.min() == 0 and found.max() == 255
