"""DigitScenes: real handwritten digits in made scenes, a small data set that needs no download.

The ink is real: the 1,797 digits of 8 x 8 grey levels inside scikit-learn (Alpaydin and Kaynak,
"Optical Recognition of Handwritten Digits", UCI 1998). A scene of 224 x 224 pixels holds 1 to 8 of
them, 16 to 110 pixels long, turned, sheared and coloured, on a ground of gradients, noise, stripes,
shapes and strokes that are no digits. Digits may hide one another in part.

What holds for every scene:

* A digit's ink is where its opacity is at least `INK` (128 of 255). Its box is tight on the whole
  ink, the hidden part too, and lies inside the image, `RIM` (2) pixels or more from its edge.
* The longer side of a box is `SHORTEST` to `LONGEST` (16 to 110) pixels.
* At least `LEAST_VISIBLE` percent (60) of a digit's ink is visible.
* No two boxes have an IoU over `MOST_IOU` percent (35).
* Of the pixels in a digit's box grown by `RIM`, at least `LEAST_CLEAR` percent (90) of what lay
  there before the digit was drawn differ from the digit's colour by `LEAST_CONTRAST` (80) or more,
  in (3 |dR| + 6 |dG| + |dB|) / 10.

The splits take their digits from contiguous ranges that share nothing (`DIGIT_RANGES`): test
0..299, validation 300..599, train 600..1796 in scikit-learn's order, where neighbours tend to be of
one hand. Test and validation are equally hard: a support vector machine on the bare digits, trained
on the train range, gets 97.0% and 97.3%. (Were the last 600 held out, it
would get 99.3% of 1197..1496 and 94.7% of 1497..1796: validation would say little of test.)

Everything is integer arithmetic on Philox's raw words, keyed by (seed, split, index): a scene has
the same pixels on every machine, and any scene can be made alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import os
from collections.abc import Iterator

import cv2
import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging
from etils import epath

from convmesh.errors import ConfigError, DataError

SIZE = 224
INK = 128
RIM = 2
SHORTEST, LONGEST = 16, 110
MOST_DIGITS = 8
LEAST_VISIBLE = 60
MOST_IOU = 35
LEAST_CONTRAST = 80
LEAST_CLEAR = 90
DIGIT_RANGES = {
    "test": range(0, 300),
    "validation": range(300, 600),
    "train": range(600, 1797),
}
CLASSES = tuple("0123456789")

_STREAMS = {"train": 0, "validation": 1, "test": 2}
# Between two rungs all lengths are equally common, and so are the rungs: the smaller the likelier,
# but not so much that most digits were specks.
_LADDER = (18, 22, 27, 32, 37, 42, 47, 52, 58, 64, 70, 76, 83, 90, 98, 107)


class Draws:
    """Random integers that are the same for ever.

    numpy promises a stable stream for a bit generator's raw words only, not for the methods of
    `Generator`, so words are mapped to ranges here.
    """

    def __init__(self, seed: int, stream: int, index: int):
        """Key the stream by `seed` (64 bits), `stream` and `index` (32 bits each)."""
        key = np.array([seed, (stream << 32) | index], np.uint64)
        self._bits = np.random.Philox(key=key)

    def one(self, low: int, high: int) -> int:
        """Draw an integer, `low` <= it < `high`."""
        return low + (((int(self._bits.random_raw()) >> 32) * (high - low)) >> 32)

    def many(self, low: int, high: int, shape: tuple[int, ...]) -> np.ndarray:
        """Draw an int64 array of `shape` with `low` <= values < `high`."""
        words = self._bits.random_raw(math.prod(shape)) >> np.uint64(32)
        scaled = (words * np.uint64(high - low)) >> np.uint64(32)
        return scaled.astype(np.int64).reshape(shape) + low


@functools.cache
def source_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits: grey levels 0..16, int32 [1797, 8, 8], and labels int32.

    Raises DataError if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "digit_scenes takes its digits from scikit-learn: pip install scikit-learn"
        ) from error
    found = load_digits()
    return found.images.astype(np.int32), found.target.astype(np.int32)


def _circle() -> np.ndarray:
    """Return 256 directions, int64 [256, 2] (x, y) in 1/4096, without cosines.

    t = tan(angle / 2) gives cos = (1 - t^2) / (1 + t^2) and sin = 2 t / (1 + t^2), all rational.
    """
    t = np.arange(64)
    x, y = ((4096 - t * t) << 12) // (4096 + t * t), ((128 * t) << 12) // (4096 + t * t)
    return np.concatenate([np.stack(p, 1) for p in ((x, y), (-y, x), (-x, -y), (y, -x))])


_DIRECTIONS = _circle()


# ---- the ground -----------------------------------------------------------------------------


# Scenes are made in planes, int16 [3, height, width]: no product below passes 2^15, and numpy is
# several times faster on them than on int32 pixels.


def _colour(draws: Draws) -> np.ndarray:
    return draws.many(0, 256, (3, 1, 1)).astype(np.int16)


def _near(draws: Draws, colour: np.ndarray, reach: int) -> np.ndarray:
    return np.clip(colour + _swing(draws, reach), 0, 255).astype(np.int16)


def _swing(draws: Draws, reach: int) -> np.ndarray:
    return draws.many(-reach, reach + 1, (3, 1, 1)).astype(np.int16)


def _ramp(draws: Draws, height: int, width: int) -> np.ndarray:
    """Return a linear ramp 0..256 in a random direction, int16 [height, width]."""
    across, down = (int(v) for v in _DIRECTIONS[draws.one(0, 256)])
    low = min(down * (height - 1), 0) + min(across * (width - 1), 0)
    span = abs(down) * (height - 1) + abs(across) * (width - 1)
    # 2^24 / span keeps ramp * scale under 2^31.
    scale = (1 << 24) // max(span, 1)
    rows = np.arange(height, dtype=np.int32)[:, None] * down - low
    columns = np.arange(width, dtype=np.int32) * across
    return (((rows + columns) * scale) >> 16).astype(np.int16)


def _value_noise(draws: Draws, size: int, period: int) -> np.ndarray:
    """Return smooth noise 0..255, int16 [size, size]: random values each `period` px, blended."""
    lattice = draws.many(0, 256, (size // period + 2,) * 2).astype(np.int16)
    place = np.arange(size, dtype=np.int16)
    cell, part = place // period, (place % period) * np.int16(128) // period
    rows = (lattice[cell] * (128 - part)[:, None] + lattice[cell + 1] * part[:, None]) >> 7
    return (rows[:, cell] * (128 - part) + rows[:, cell + 1] * part) >> 7


def _stripes(draws: Draws, height: int, width: int, period: int, checks: bool) -> np.ndarray:
    """Return random stripes or checks `period` px wide, 0 or 1, int16 [height, width]."""
    across, down = (int(v) for v in _DIRECTIONS[draws.one(0, 256)])
    y, x = np.arange(height, dtype=np.int32)[:, None], np.arange(width, dtype=np.int32)
    wave = (y * down + x * across) // (period << 12)
    if checks:
        wave += (y * across - x * down) // (period << 12)
    return (wave & 1).astype(np.int16)


def _blend(region: np.ndarray, colour: np.ndarray, weight: np.ndarray | int) -> None:
    """Move `region` towards `colour` by `weight` of 128, in place."""
    step = colour - region
    step *= weight
    step >>= 7
    region += step


def _texture(draws: Draws, size: int, strength: int) -> np.ndarray:
    """Return a colour gradient under noise and stripes or checks, int16 [3, size, size]."""
    first = _colour(draws)
    second = _near(draws, first, 90)
    ground = _ramp(draws, size, size) * (second - first)
    ground >>= 8
    ground += first
    for period in (draws.one(28, 80), draws.one(6, 20)):
        noise = (_value_noise(draws, size, period) - 128) * _swing(draws, strength)
        noise >>= 8
        ground += noise
    kind = draws.one(0, 4)
    if kind < 2:
        wave = _stripes(draws, size, size, draws.one(5, 30), checks=kind == 1)
        ground += wave * _swing(draws, strength // 2)
    return np.clip(ground, 0, 255, out=ground)


def _rectangle(draws: Draws, ground: np.ndarray) -> None:
    size = ground.shape[1]
    height, width = draws.one(8, size // 2), draws.one(8, size // 2)
    top, left = draws.one(-height // 2, size - 4), draws.one(-width // 2, size - 4)
    region = ground[:, max(top, 0) : top + height, max(left, 0) : left + width]
    _blend(region, _colour(draws), draws.one(30, 115))


def _blob(draws: Draws, ground: np.ndarray) -> None:
    size = ground.shape[1]
    ry, rx = draws.one(5, size // 4), draws.one(5, size // 4)
    cy, cx = draws.one(0, size), draws.one(0, size)
    top, left = max(cy - ry, 0), max(cx - rx, 0)
    region = ground[:, top : cy + ry + 1, left : cx + rx + 1]
    y = np.arange(top, top + region.shape[1])[:, None] - cy
    x = np.arange(left, left + region.shape[2]) - cx
    inside = (y * rx) ** 2 + (x * ry) ** 2 <= (rx * ry) ** 2
    _blend(region, _colour(draws), inside * np.int16(draws.one(30, 115)))


@functools.cache
def _disk(radius: int) -> np.ndarray:
    """Return the offsets (y, x) within `radius` of 0, int64 [n, 2]."""
    reach = np.arange(-radius, radius + 1)
    y, x = np.meshgrid(reach, reach, indexing="ij")
    inside = y * y + x * x <= radius * radius + radius // 2
    return np.stack([y[inside], x[inside]], 1)


def _stroke(draws: Draws, ground: np.ndarray) -> None:
    """Draw a line, an arc or a squiggle; long for its thickness, as no digit's stroke is."""
    size = ground.shape[1]
    radius = draws.one(0, 4)
    length = draws.one(40 + 24 * radius, 90 + 40 * radius)
    kind = draws.one(0, 3)
    if kind == 0:
        turns = np.zeros(length, np.int64)
    elif kind == 1:  # At most 180 degrees, so that no arc closes into a 0.
        sweep = draws.one(40, 128) * (1 - 2 * draws.one(0, 2))
        turns = np.full(length, (sweep << 12) // length)
    else:  # Bends to the left and to the right in turn.
        pieces = draws.one(3, 7)
        sweeps = draws.many(30, 120, (pieces,)) * (1 - 2 * (np.arange(pieces) & 1))
        piece = np.arange(length) * pieces // length
        turns = (sweeps[piece] << 12) * pieces // length
    heading = (draws.one(0, 256) << 12) + np.cumsum(turns)
    path = np.cumsum(_DIRECTIONS[(heading >> 12) & 255], 0) >> 12
    path = path[:: 1 + radius // 2, ::-1] + draws.many(0, size, (2,))
    path = path[((path > -8) & (path < size + 8)).all(1)]
    colour = _colour(draws)
    # A half-opaque rim, then the core: the edge is as soft as a digit's.
    corner = path.min(0) - 5
    weight = np.zeros(path.max(0) - corner + 6, np.int16)
    for reach, strength in ((radius + 1, 55), (radius, 127)):
        spots = (path - corner)[:, None] + _disk(reach)
        weight[spots[..., 0], spots[..., 1]] = strength
    top, left = (max(int(v), 0) for v in corner)
    region = ground[
        :, top : int(corner[0]) + weight.shape[0], left : int(corner[1]) + weight.shape[1]
    ]
    inside = weight[top - int(corner[0]) :, left - int(corner[1]) :]
    _blend(region, colour, inside[: region.shape[1], : region.shape[2]])


def _ground(draws: Draws) -> np.ndarray:
    """Return a cluttered ground without digits, int16 [3, SIZE, SIZE]."""
    ground = _texture(draws, SIZE, 70)
    if draws.one(0, 3) == 0:  # Patches with a ragged edge.
        patches = _value_noise(draws, SIZE, draws.one(16, 60)) > draws.one(140, 190)
        _blend(ground, _colour(draws), patches * np.int16(draws.one(30, 100)))
    for _ in range(draws.one(0, 6)):
        (_rectangle, _blob)[draws.one(0, 2)](draws, ground)
    for _ in range(draws.one(1, 8)):
        _stroke(draws, ground)
    return ground


# ---- the digits -----------------------------------------------------------------------------


def _opacity(
    glyph: np.ndarray, inverse: np.ndarray, step: int, threshold: int, window: tuple[int, ...]
) -> np.ndarray:
    """Draw a padded glyph through an affine map, uint8 [height, width] opacity.

    glyph: int32 [12, 12], 0..16, with a rim of 2 zeros. inverse: the turn, shear and aspect from
    output to source, [2, 2] in 1/4096. step: source pixels per output pixel in 1/4096. threshold:
    the grey level in 1/256 that gets the opacity INK. window: x0 y0 x1 y1 in output pixels from
    the glyph's centre.
    """
    x0, y0, x1, y1 = window
    (a, b), (c, d) = ((inverse * step) >> 12).tolist()
    x = np.arange(x0, x1, dtype=np.int32)
    y = np.arange(y0, y1, dtype=np.int32)[:, None]
    centre = 11 << 11
    last = (11 << 12) - 1
    u = np.clip(x * a + y * b + centre, 0, last)
    v = np.clip(x * c + y * d + centre, 0, last)
    fu, fv = (u & 4095) >> 4, (v & 4095) >> 4
    at = (v >> 12) * 12 + (u >> 12)
    flat = glyph.reshape(-1)
    upper = flat[at] * (256 - fu) + flat[at + 1] * fu
    lower = flat[at + 12] * (256 - fu) + flat[at + 13] * fu
    grey = (upper * (256 - fv) + lower * fv) >> 8
    # A slope of opacity that spans about 2 output pixels at an edge, whatever the enlargement.
    return np.clip(INK + (grey - threshold) * 280 // step, 0, 255).astype(np.uint8)


def tight_box(ink: np.ndarray) -> tuple[int, int, int, int]:
    """Return the tight half-open box x0 y0 x1 y1 around a mask [height, width] that has ink."""
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _hand(draws: Draws, digit: np.ndarray, wished: int) -> np.ndarray:
    """Write a source digit `wished` pixels long, turned, sheared, stretched, thinner or thicker.

    Returns its opacity, uint8 [height, width], over the tight box of its ink grown by RIM.
    """
    glyph = np.pad(digit, 2)
    t = draws.one(-6, 7)  # tan of half the angle in 1/64: up to 11 degrees
    cos, sin = ((4096 - t * t) << 12) // (4096 + t * t), ((128 * t) << 12) // (4096 + t * t)
    shear, aspect = draws.one(-10, 11), draws.one(216, 300)
    u = [cos - ((shear * sin) >> 6), sin + ((shear * cos) >> 6)]
    inverse = np.array([[(v * aspect) >> 8 for v in u], [-sin, cos]])
    # Writers pressed harder or softer: a stroke is as thick as its own grey levels make it.
    level = (int(digit.sum()) << 8) // int(np.count_nonzero(digit))
    threshold = (level * draws.one(200, 257)) >> 8
    # A preview at 4 pixels a source pixel tells how far the ink reaches from the centre.
    preview, half = 4096 // 4, 36
    small = _opacity(glyph, inverse, preview, threshold, (-half, -half, half, half))
    reach = [v - half for v in tight_box(small >= INK)]
    length = max(reach[2] - reach[0], reach[3] - reach[1])
    margin = 8
    while True:
        step = preview * length // wished
        rims = (-margin, -margin, margin + 1, margin + 1)
        window = [r * preview // step + rim for r, rim in zip(reach, rims, strict=True)]
        opacity = _opacity(glyph, inverse, step, threshold, tuple(window))
        left, top, right, bottom = tight_box(opacity >= INK)
        (height, width), longer = opacity.shape, max(right - left, bottom - top)
        if min(left, top, width - right, height - bottom) < RIM:
            margin += 8  # The preview missed a thin stroke that the enlargement brings out.
        elif longer < SHORTEST:
            wished += 1
        elif longer > LONGEST:
            wished -= 1
        else:
            return opacity[top - RIM : bottom + RIM, left - RIM : right + RIM]


def _clear_fill(draws: Draws, ground: np.ndarray) -> np.ndarray | None:
    """Return a digit's colour that stands out from `ground` [3, h, w], or None if it does not.

    It is a ramp under noise, int16 like the ground. Most colours are refused by a look at every
    fourth row and column, before the ramp is made.
    """
    first = _colour(draws)
    if not _clear(first, ground[:, ::4, ::4]):
        return None
    height, width = ground.shape[1:]
    second = _near(draws, first, 40)
    fill = first + ((_ramp(draws, height, width) * (second - first)) >> 8)
    noise = _value_noise(draws, max(height, width), draws.one(3, 12))[:height, :width]
    fill += ((noise - 128) * _swing(draws, 50)) >> 8
    np.clip(fill, 0, 255, out=fill)
    return fill if _clear(fill, ground) else None


def contrast(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the difference of int16 planes [3, ...] of 0..255, (3 |dR| + 6 |dG| + |dB|) // 10."""
    red, green, blue = np.abs(first - second)
    red *= 3
    green *= 6
    red += green
    red += blue
    return red // 10


def _clear(fill: np.ndarray, ground: np.ndarray) -> bool:
    """Tell whether a digit's colour stands out from its ground."""
    apart = contrast(fill, ground) >= LEAST_CONTRAST
    return int(np.count_nonzero(apart)) * 100 >= LEAST_CLEAR * apart.size


def _weight(opacity: np.ndarray) -> np.ndarray:
    """Return opacity 0..255 as a blending weight 0..128."""
    return (opacity.astype(np.int16) + 1) >> 1


def _iou_too_high(box: tuple[int, ...], other: tuple[int, ...]) -> bool:
    wide = min(box[2], other[2]) - max(box[0], other[0])
    high = min(box[3], other[3]) - max(box[1], other[1])
    if wide <= 0 or high <= 0:
        return False
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return wide * high * 100 > MOST_IOU * (areas - wide * high)


@dataclasses.dataclass
class Placed:
    """A digit in a scene. Its arrays [h, w] lie at `corner` (x, y) of the image."""

    label: int
    opacity: np.ndarray
    corner: tuple[int, int]
    box: tuple[int, int, int, int]  # x0 y0 x1 y1, half-open, tight on the ink
    ink: int  # pixels
    visible: int  # pixels of ink that no later digit hides
    fill: np.ndarray  # its colour, int16 [3, h, w]
    ground: np.ndarray  # what lay there before, int16 [3, h, w]


def _place(
    draws: Draws,
    scene: np.ndarray,
    owner: np.ndarray,
    placed: list[Placed],
    label: int,
    opacity: np.ndarray,
) -> bool:
    """Draw a digit where the module's promises hold; False if 24 random places do not do."""
    height, width = opacity.shape
    ink = opacity >= INK
    weight = _weight(opacity)
    for _ in range(24):
        x, y = draws.one(0, SIZE - width + 1), draws.one(0, SIZE - height + 1)
        box = (x + RIM, y + RIM, x + width - RIM, y + height - RIM)
        if any(_iou_too_high(box, other.box) for other in placed):
            continue
        below = owner[y : y + height, x : x + width]
        hidden = np.bincount(below[ink], minlength=len(placed) + 1)[1:]
        left = [other.visible - int(h) for other, h in zip(placed, hidden, strict=True)]
        if any(v * 100 < LEAST_VISIBLE * p.ink for v, p in zip(left, placed, strict=True)):
            continue
        region = scene[:, y : y + height, x : x + width]
        for _ in range(6):
            fill = _clear_fill(draws, region)
            if fill is None:
                continue
            for other, visible in zip(placed, left, strict=True):
                other.visible = visible
            count = int(np.count_nonzero(ink))
            ground = region.copy()
            _blend(region, fill, weight)
            placed.append(Placed(label, opacity, (x, y), box, count, count, fill, ground))
            below[ink] = len(placed)
            return True
    return False


def scene_parts(seed: int, split: str, index: int) -> tuple[np.ndarray, list[Placed]]:
    """Make one scene: image uint8 [224, 224, 3] RGB, and its digits in the order drawn.

    Raises ConfigError for an unknown split or a negative seed or index.
    """
    draws = _draws(seed, split, index, view=0)
    digits, labels = source_digits()
    chosen = DIGIT_RANGES[split]
    scene = _ground(draws)
    owner = np.zeros((SIZE, SIZE), np.int64)  # the digit whose ink is on top, from 1
    placed: list[Placed] = []
    wanted = draws.one(1, MOST_DIGITS + 1)
    # A digit that fits nowhere is left out, but each scene gets one.
    for attempt in range(64):
        if attempt >= wanted and placed:
            break
        rung = draws.one(0, len(_LADDER) - 1)
        wished = draws.one(_LADDER[rung], _LADDER[rung + 1])
        source = draws.one(chosen.start, chosen.stop)
        opacity = _hand(draws, digits[source], wished)
        _place(draws, scene, owner, placed, int(labels[source]), opacity)
    return _pixels(scene), placed


def compose(
    seed: int, split: str, index: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Make one scene.

    Returns the image, uint8 [224, 224, 3] RGB; boxes, int32 [n, 4], x0 y0 x1 y1 in pixels,
    half-open; labels, int32 [n]; the visible fraction of each digit's ink, float32 [n].
    Raises ConfigError for an unknown split or a negative seed or index.
    """
    image, placed = scene_parts(seed, split, index)
    boxes = np.array([p.box for p in placed], np.int32).reshape(-1, 4)
    labels = np.array([p.label for p in placed], np.int32)
    visible = np.array([p.visible / p.ink for p in placed], np.float32)
    return image, boxes, labels, visible


def compose_digit(seed: int, split: str, index: int) -> tuple[np.ndarray, int]:
    """Make one picture of one digit: uint8 [32, 32, 3] RGB and its label.

    Picture `index` of a split shows the source digit `DIGIT_RANGES[split][index]`, so each
    is shown once. Raises ConfigError for an unknown split or an index outside its range.
    """
    draws = _draws(seed, split, index, view=1)
    if index >= len(DIGIT_RANGES[split]):
        raise ConfigError(
            f"digit_scenes: index {index} of split {split!r} is over {len(DIGIT_RANGES[split]) - 1}"
        )
    digits, labels = source_digits()
    source = DIGIT_RANGES[split][index]
    opacity = _hand(draws, digits[source], draws.one(20, 28))
    height, width = opacity.shape
    weight = _weight(opacity)
    ground = _texture(draws, 32, 60)
    x, y = draws.one(0, 32 - width + 1), draws.one(0, 32 - height + 1)
    region = ground[:, y : y + height, x : x + width]
    while (fill := _clear_fill(draws, region)) is None:
        pass
    _blend(region, fill, weight)
    return _pixels(ground), int(labels[source])


def _pixels(planes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(planes.astype(np.uint8).transpose(1, 2, 0))


def _draws(seed: int, split: str, index: int, view: int) -> Draws:
    if split not in _STREAMS:
        raise ConfigError(f"digit_scenes: no split {split!r}; choose from {', '.join(_STREAMS)}")
    if not (0 <= seed < 1 << 64 and 0 <= index < 1 << 32):
        raise ConfigError(f"digit_scenes: seed {seed} or index {index} is out of range")
    return Draws(seed, _STREAMS[split] + 8 * view, index)


# ---- the builder ----------------------------------------------------------------------------


@dataclasses.dataclass(eq=False)
class DigitScenesConfig(tfds.core.BuilderConfig):
    """One variant: its seed, and how many examples each split has."""

    seed: int = 0
    counts: dict[str, int] = dataclasses.field(default_factory=dict)


class DigitScenes(tfds.core.GeneratorBasedBuilder):
    """Handwritten digits in cluttered scenes; `image/id` is the scene's index."""

    # Every change of the pixels is a new version: TFDS would go on reading what it wrote before.
    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS = [
        DigitScenesConfig(
            name="full",
            description="Scenes of seed 0.",
            counts={"train": 4000, "validation": 500, "test": 500},
        ),
        DigitScenesConfig(
            name="other_seed",
            description="Test scenes of seed 1, from the same held-out digits.",
            seed=1,
            counts={"test": 500},
        ),
        DigitScenesConfig(
            name="tiny",
            description="The first scenes of `full`.",
            counts={"train": 64, "validation": 16, "test": 16},
        ),
        DigitScenesConfig(
            name="digits",
            description="Each digit once, alone, 32 x 32, for classification.",
            counts={split: len(found) for split, found in DIGIT_RANGES.items()},
        ),
    ]

    # TFDS would look beside this file for checksums of downloads, of which there are none, and
    # needs importlib_resources for that, which it installs on old Pythons alone.
    code_path = epath.Path(__file__)

    def _info(self) -> tfds.core.DatasetInfo:
        label = tfds.features.ClassLabel(names=list(CLASSES))
        features = {"image/id": tfds.features.Scalar(np.int64)}
        if self.builder_config.name == "digits":
            size, features["label"] = 32, label
        else:
            size = SIZE
            features["objects"] = tfds.features.Sequence(
                {
                    "bbox": tfds.features.BBoxFeature(),
                    "label": label,
                    "visible": tfds.features.Scalar(np.float32),
                }
            )
        features["image"] = tfds.features.Image(shape=(size, size, 3), encoding_format="png")
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits in made scenes.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # keeps example i of a split scene i
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {
            split: self._generate_examples(split, count)
            for split, count in self.builder_config.counts.items()
        }

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[int, dict]]:
        make = self._digit if self.builder_config.name == "digits" else self._scene
        for index in range(count):
            yield index, {"image/id": index} | make(split, index)

    def _scene(self, split: str, index: int) -> dict:
        image, boxes, labels, visible = compose(self.builder_config.seed, split, index)
        objects = [
            {
                "bbox": tfds.features.BBox(
                    ymin=y0 / SIZE, xmin=x0 / SIZE, ymax=y1 / SIZE, xmax=x1 / SIZE
                ),
                "label": int(label),
                "visible": part,
            }
            for (x0, y0, x1, y1), label, part in zip(boxes.tolist(), labels, visible, strict=True)
        ]
        return {"image": _png(image), "objects": objects}

    def _digit(self, split: str, index: int) -> dict:
        image, label = compose_digit(self.builder_config.seed, split, index)
        return {"image": _png(image), "label": label}


# One filter and entropy coding alone: soft noise has no repeats, and this reads the quickest too.
_PNG = [
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY),
]


def _png(image: np.ndarray) -> io.BytesIO:
    bgr = np.ascontiguousarray(image[..., ::-1])
    done, data = cv2.imencode(".png", bgr, _PNG)
    if not done:
        raise DataError("digit_scenes: OpenCV could not write a PNG")
    return io.BytesIO(data.tobytes())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what TFDS prints and logs, but its errors."""
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl_logging.set_verbosity(before)
        tfds.enable_progress_bar()


def prepare(config_name: str, data_dir: str | os.PathLike | None = None) -> DigitScenes:
    """Return the builder of `digit_scenes/<config_name>`, written to disk first if it is not there.

    data_dir: TFDS's folder of data sets; None is TFDS's own default. Two processes may call this
    at once: each writes beside, the first to finish is kept, the other takes that one. Needs no
    network and no TensorFlow. Read it with `builder.as_data_source(split)`.

    Raises ConfigError for an unknown config.
    """
    names = [config.name for config in DigitScenes.BUILDER_CONFIGS]
    if config_name not in names:
        raise ConfigError(
            f"digit_scenes: no config {config_name!r}; choose from {', '.join(names)}"
        )

    def find() -> tuple[DigitScenes, bool]:
        with _quiet():
            found = DigitScenes(config=config_name, data_dir=data_dir, file_format="array_record")
            return found, found.is_prepared()

    found, ready = find()
    if ready:
        return found
    counts = sum(found.builder_config.counts.values())
    print(f"digit_scenes/{config_name}: making {counts:,} examples in {found.data_dir}", flush=True)
    try:
        with _quiet():
            found.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
    except OSError:
        # Another process has put its own there meanwhile: the examples are the same.
        found, ready = find()
        if not ready:
            raise
    return found
