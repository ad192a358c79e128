"""Random colours, gradients, noise and stripes in integer arithmetic.

Images are planes, int16 [3, height, width]: no product below exceeds 2^15, and numpy is several
times faster on them than on int32 pixels.
"""

from __future__ import annotations

import numpy as np

from convmesh.data.digit_scenes.random_integers import RandomIntegers


def _unit_circle() -> np.ndarray:
    """Return 256 directions, int64 [256, 2] (x, y) in 1/4096, without trigonometric functions.

    t = tan(angle / 2) gives cos = (1 - t^2) / (1 + t^2) and sin = 2 t / (1 + t^2), all rational.
    """
    t = np.arange(64)
    x, y = ((4096 - t * t) << 12) // (4096 + t * t), ((128 * t) << 12) // (4096 + t * t)
    return np.concatenate([np.stack(p, 1) for p in ((x, y), (-y, x), (-x, -y), (y, -x))])


DIRECTIONS = _unit_circle()


def random_colour(draws: RandomIntegers) -> np.ndarray:
    """Return a colour, int16 [3, 1, 1]."""
    return draws.many(0, 256, (3, 1, 1)).astype(np.int16)


def random_offset(draws: RandomIntegers, limit: int) -> np.ndarray:
    """Return a colour difference of -`limit` to `limit` in each channel, int16 [3, 1, 1]."""
    return draws.many(-limit, limit + 1, (3, 1, 1)).astype(np.int16)


def similar_colour(draws: RandomIntegers, colour: np.ndarray, limit: int) -> np.ndarray:
    """Return a colour that differs from `colour` by at most `limit` in each channel."""
    return np.clip(colour + random_offset(draws, limit), 0, 255).astype(np.int16)


def linear_ramp(draws: RandomIntegers, height: int, width: int) -> np.ndarray:
    """Return a linear ramp 0..256 in a random direction, int16 [height, width]."""
    across, down = (int(v) for v in DIRECTIONS[draws.one(0, 256)])
    low = min(down * (height - 1), 0) + min(across * (width - 1), 0)
    span = abs(down) * (height - 1) + abs(across) * (width - 1)
    # 2^24 / span keeps ramp * scale under 2^31.
    scale = (1 << 24) // max(span, 1)
    rows = np.arange(height, dtype=np.int32)[:, None] * down - low
    columns = np.arange(width, dtype=np.int32) * across
    return (((rows + columns) * scale) >> 16).astype(np.int16)


def value_noise(draws: RandomIntegers, size: int, period: int) -> np.ndarray:
    """Return smooth noise 0..255, int16 [size, size]: a random lattice, interpolated linearly.

    period: the distance between lattice points in pixels.
    """
    lattice = draws.many(0, 256, (size // period + 2,) * 2).astype(np.int16)
    position = np.arange(size, dtype=np.int16)
    cell, part = position // period, (position % period) * np.int16(128) // period
    rows = (lattice[cell] * (128 - part)[:, None] + lattice[cell + 1] * part[:, None]) >> 7
    return (rows[:, cell] * (128 - part) + rows[:, cell + 1] * part) >> 7


def _stripes(draws: RandomIntegers, size: int, period: int, checks: bool) -> np.ndarray:
    """Return random stripes or checks of width `period`, 0 or 1, int16 [size, size]."""
    across, down = (int(v) for v in DIRECTIONS[draws.one(0, 256)])
    y, x = np.arange(size, dtype=np.int32)[:, None], np.arange(size, dtype=np.int32)
    wave = (y * down + x * across) // (period << 12)
    if checks:
        wave += (y * across - x * down) // (period << 12)
    return (wave & 1).astype(np.int16)


def blend(region: np.ndarray, colour: np.ndarray, weight: np.ndarray | int) -> None:
    """Mix `weight` / 128 of `colour` into `region` int16 [3, h, w], in place."""
    step = colour - region
    step *= weight
    step >>= 7
    region += step


def random_texture(draws: RandomIntegers, size: int, strength: int) -> np.ndarray:
    """Return a colour gradient with noise and stripes or checks, int16 [3, size, size]."""
    first = random_colour(draws)
    second = similar_colour(draws, first, 90)
    texture = linear_ramp(draws, size, size) * (second - first)
    texture >>= 8
    texture += first
    for period in (draws.one(28, 80), draws.one(6, 20)):
        noise = (value_noise(draws, size, period) - 128) * random_offset(draws, strength)
        noise >>= 8
        texture += noise
    pattern = draws.one(0, 4)
    if pattern < 2:
        wave = _stripes(draws, size, draws.one(5, 30), checks=pattern == 1)
        texture += wave * random_offset(draws, strength // 2)
    return np.clip(texture, 0, 255, out=texture)
