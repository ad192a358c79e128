"""DigitScenes: real handwritten digits in generated scenes, a small data set without a download.

A scene of 224 x 224 pixels holds 1 to 8 digits, 16 to 110 pixels long, rotated, sheared and
coloured, on a background of gradients, noise, stripes, shapes and strokes that are no digits.
Digits may partly hide one another.

Every scene satisfies:

* The ink of a digit is where its opacity is at least `INK` (128 of 255). Its box is tight on all of
  the ink, including hidden parts, and inside the image, at least `RIM` (2) pixels from its edge.
* The longer side of a box is `SHORTEST` to `LONGEST` (16 to 110) pixels.
* At least `MIN_VISIBLE` percent (60) of the ink of a digit is visible.
* No two boxes have an IoU over `MAX_IOU` percent (35).
* In a box enlarged by `RIM`, at least `MIN_CLEAR` percent (90) of the pixels that were there before
  the digit was drawn differ from the colour of the digit by `MIN_CONTRAST` (80) or more, in
  (3 |dR| + 6 |dG| + |dB|) / 10.

The splits take their digits from contiguous ranges that do not overlap (`DIGIT_RANGES`): test
0..299, validation 300..599, train 600..1796 in scikit-learn's order, where neighbours were often
written by one person. Test and validation are equally hard: a support vector machine on the plain
digits, trained on the train range, gets 97.0% and 97.3%. (With the last 600 held out it would get
99.3% of 1197..1496 and 94.7% of 1497..1796, and validation would predict test badly.)

Everything is integer arithmetic on the raw words of Philox, keyed by (seed, split, index): a scene
has the same pixels on every machine, and any scene can be generated alone.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from convmesh.data.digit_scenes.clutter import cluttered_background
from convmesh.data.digit_scenes.digits import DIGIT_RANGES, INK, RIM, render_digit, source_digits
from convmesh.data.digit_scenes.random_integers import RandomIntegers
from convmesh.data.digit_scenes.textures import (
    blend,
    linear_ramp,
    random_colour,
    random_offset,
    random_texture,
    similar_colour,
    value_noise,
)
from convmesh.errors import ConfigError

SIZE = 224  # pixels of a side of a scene
DIGIT_SIZE = 32  # pixels of a side of an image of one digit
MAX_DIGITS = 8
MIN_VISIBLE = 60
MAX_IOU = 35
MIN_CONTRAST = 80
MIN_CLEAR = 90

_STREAMS = {"train": 0, "validation": 1, "test": 2}
# The bounds of 15 ranges of lengths. Ranges are equally likely, and so are the lengths in one:
# small digits are more frequent than large ones, but do not dominate.
_LENGTHS = (18, 22, 27, 32, 37, 42, 47, 52, 58, 64, 70, 76, 83, 90, 98, 107)


@dataclasses.dataclass
class SceneDigit:
    """A digit in a scene. Its arrays [h, w] start at `corner` (x, y) of the image."""

    label: int
    opacity: np.ndarray
    corner: tuple[int, int]
    box: tuple[int, int, int, int]  # x0 y0 x1 y1, half-open, tight on the ink
    ink: int  # pixels
    visible: int  # pixels of ink that no later digit hides
    fill: np.ndarray  # its colour, int16 [3, h, w]
    background: np.ndarray  # the pixels before it was drawn, int16 [3, h, w]


def compose(
    seed: int, split: str, index: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Generate one scene.

    Returns the image, uint8 [224, 224, 3] RGB; boxes, int32 [n, 4], x0 y0 x1 y1 in pixels,
    half-open; labels, int32 [n]; the visible fraction of each digit's ink, float32 [n].
    Raises ConfigError for an unknown split or a seed or index out of range.
    """
    image, digits = compose_parts(seed, split, index)
    boxes = np.array([digit.box for digit in digits], np.int32).reshape(-1, 4)
    labels = np.array([digit.label for digit in digits], np.int32)
    visible = np.array([digit.visible / digit.ink for digit in digits], np.float32)
    return image, boxes, labels, visible


def compose_parts(seed: int, split: str, index: int) -> tuple[np.ndarray, list[SceneDigit]]:
    """Generate one scene: image uint8 [224, 224, 3] RGB, and its digits in drawing order.

    Raises ConfigError for an unknown split or a seed or index out of range.
    """
    draws = _random_integers(seed, split, index, variant=0)
    glyphs, labels = source_digits()
    sources = DIGIT_RANGES[split]
    scene = _Scene(cluttered_background(draws, SIZE))
    wanted = draws.one(1, MAX_DIGITS + 1)
    # A digit that fits nowhere is left out, but every scene gets at least one.
    for attempt in range(64):
        if attempt >= wanted and scene.digits:
            break
        i = draws.one(0, len(_LENGTHS) - 1)
        length = draws.one(_LENGTHS[i], _LENGTHS[i + 1])
        source = draws.one(sources.start, sources.stop)
        opacity = render_digit(draws, glyphs[source], length)
        scene.draw(draws, opacity, int(labels[source]))
    return _to_image(scene.planes), scene.digits


def compose_digit(seed: int, split: str, index: int) -> tuple[np.ndarray, int]:
    """Generate one image of one digit: uint8 [32, 32, 3] RGB, and its label.

    Image `index` of a split shows the source digit `DIGIT_RANGES[split][index]`, so each digit is
    shown once. Raises ConfigError for an unknown split or an index outside its range.
    """
    draws = _random_integers(seed, split, index, variant=1)
    if index >= len(DIGIT_RANGES[split]):
        raise ConfigError(
            f"digit_scenes: index {index} of split {split!r} is over {len(DIGIT_RANGES[split]) - 1}"
        )
    glyphs, labels = source_digits()
    source = DIGIT_RANGES[split][index]
    opacity = render_digit(draws, glyphs[source], draws.one(20, 28))
    height, width = opacity.shape
    weight = _blend_weight(opacity)
    planes = random_texture(draws, DIGIT_SIZE, 60)
    x, y = draws.one(0, DIGIT_SIZE - width + 1), draws.one(0, DIGIT_SIZE - height + 1)
    region = planes[:, y : y + height, x : x + width]
    while (fill := _contrasting_fill(draws, region)) is None:
        pass
    blend(region, fill, weight)
    return _to_image(planes), int(labels[source])


class _Scene:
    """A scene under construction."""

    def __init__(self, background: np.ndarray):
        """Start from a background, int16 [3, SIZE, SIZE]."""
        self.planes = background
        self.digits: list[SceneDigit] = []
        # Of each pixel the digit whose ink is on top, counted from 1; 0 for the background.
        self._owner = np.zeros((SIZE, SIZE), np.int64)

    def draw(self, draws: RandomIntegers, opacity: np.ndarray, label: int) -> None:
        """Draw a digit at the first of 24 random positions that satisfies the module's conditions.

        Draws nothing if none of them does.
        """
        height, width = opacity.shape
        ink = opacity >= INK
        weight = _blend_weight(opacity)
        for _ in range(24):
            x, y = draws.one(0, SIZE - width + 1), draws.one(0, SIZE - height + 1)
            box = (x + RIM, y + RIM, x + width - RIM, y + height - RIM)
            if any(_overlaps(box, other.box) for other in self.digits):
                continue
            owner = self._owner[y : y + height, x : x + width]
            visible = self._visible_below(owner[ink])
            if any(
                v * 100 < MIN_VISIBLE * other.ink
                for v, other in zip(visible, self.digits, strict=True)
            ):
                continue
            region = self.planes[:, y : y + height, x : x + width]
            fill = next(
                (f for _ in range(6) if (f := _contrasting_fill(draws, region)) is not None), None
            )
            if fill is None:
                continue
            for other, v in zip(self.digits, visible, strict=True):
                other.visible = v
            count, background = int(np.count_nonzero(ink)), region.copy()
            blend(region, fill, weight)
            self.digits.append(
                SceneDigit(label, opacity, (x, y), box, count, count, fill, background)
            )
            owner[ink] = len(self.digits)
            return

    def _visible_below(self, covered: np.ndarray) -> list[int]:
        """Return the visible pixels of each digit once new ink covers pixels of these owners."""
        hidden = np.bincount(covered, minlength=len(self.digits) + 1)[1:]
        return [
            digit.visible - int(count) for digit, count in zip(self.digits, hidden, strict=True)
        ]


def _contrasting_fill(draws: RandomIntegers, background: np.ndarray) -> np.ndarray | None:
    """Return a digit's colour that stands out from `background` [3, h, w], or None.

    The colour is a gradient with noise, int16 like the background. Testing every fourth row and
    column first rejects most colours before the gradient is computed.
    """
    first = random_colour(draws)
    if not _stands_out(first, background[:, ::4, ::4]):
        return None
    height, width = background.shape[1:]
    second = similar_colour(draws, first, 40)
    fill = first + ((linear_ramp(draws, height, width) * (second - first)) >> 8)
    noise = value_noise(draws, max(height, width), draws.one(3, 12))[:height, :width]
    fill += ((noise - 128) * random_offset(draws, 50)) >> 8
    np.clip(fill, 0, 255, out=fill)
    return fill if _stands_out(fill, background) else None


def _stands_out(fill: np.ndarray, background: np.ndarray) -> bool:
    differs = _contrast(fill, background) >= MIN_CONTRAST
    return int(np.count_nonzero(differs)) * 100 >= MIN_CLEAR * differs.size


def _contrast(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the difference of int16 planes [3, ...] of 0..255, (3 |dR| + 6 |dG| + |dB|) // 10."""
    red, green, blue = np.abs(first - second)
    red *= 3
    green *= 6
    red += green
    red += blue
    return red // 10


def _blend_weight(opacity: np.ndarray) -> np.ndarray:
    """Return opacity 0..255 as a weight 0..128 for `blend`."""
    return (opacity.astype(np.int16) + 1) >> 1


def _overlaps(box: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether the IoU of two boxes is over MAX_IOU percent."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return False
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return width * height * 100 > MAX_IOU * (areas - width * height)


def _to_image(planes: np.ndarray) -> np.ndarray:
    """Return planes int16 [3, h, w] as an image, uint8 [h, w, 3]."""
    return np.ascontiguousarray(planes.astype(np.uint8).transpose(1, 2, 0))


def _random_integers(seed: int, split: str, index: int, variant: int) -> RandomIntegers:
    if split not in _STREAMS:
        raise ConfigError(f"digit_scenes: no split {split!r}; choose from {', '.join(_STREAMS)}")
    if not (0 <= seed < 1 << 64 and 0 <= index < 1 << 32):
        raise ConfigError(f"digit_scenes: seed {seed} or index {index} is out of range")
    return RandomIntegers(seed, _STREAMS[split] + 8 * variant, index)
