"""Geometric transforms of an image into the network's input, applied to pixels and boxes alike.

Coordinates are continuous: pixel i covers [i, i + 1) and its centre is at i + 0.5, so a box that
ends with the last pixel ends at the width, and a horizontal flip maps x to width - x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

# The grey level of the input outside the image.
FILL = 114


def blank(size: tuple[int, int]) -> np.ndarray:
    """Return an empty input, uint8 [height, width, 3]; `size` is (height, width)."""
    return np.full((*size, 3), FILL, np.uint8)


class Placement:
    """A transform of an image into an input of `size` (height, width); subclasses define it."""

    size: tuple[int, int]

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """Return the input, uint8 [height, width, 3], for `image` uint8 [h, w, 3]."""
        canvas = blank(self.size)
        self.write(image, canvas)
        return canvas

    def write(self, image: np.ndarray, canvas: np.ndarray) -> None:
        """Write the input into `canvas` uint8 [height, width, 3], which must be empty."""
        raise NotImplementedError

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Map `boxes` float32 [n, 4] from pixels of the image to pixels of the input, unclipped."""
        raise NotImplementedError


@dataclass(frozen=True)
class View(Placement):
    """A crop of an image, resized to a rectangle of the network's input.

    source and target: x0 y0 x1 y1 in whole pixels of the image and of the input. blocks: (x, y),
    the pixels of a block that is averaged before resizing; they divide the sides of `source`.
    size: (height, width) of the input. flip: whether the input is then flipped, x -> width - x.
    """

    source: tuple[int, int, int, int]
    target: tuple[int, int, int, int]
    blocks: tuple[int, int]
    size: tuple[int, int]
    flip: bool = False

    def write(self, image: np.ndarray, canvas: np.ndarray) -> None:
        """Write the input into `canvas`.

        Rectangles are whole pixels because `cv2.resize` takes an eighth of the time of
        `cv2.warpAffine`.
        """
        x0, y0, x1, y1 = self.source
        part = image[y0:y1, x0:x1]
        if max(self.blocks) > 1:
            part = block_average(part, self.blocks)
        x0, y0, x1, y1 = self.target
        if self.flip:
            x0, x1 = self.size[1] - x1, self.size[1] - x0
        # In place: allocating new pages costs more than the arithmetic.
        target = canvas[y0:y1, x0:x1]
        if part.shape == target.shape:
            target[...] = part
        else:
            cv2.resize(part, (x1 - x0, y1 - y0), target, interpolation=cv2.INTER_LINEAR)
        if self.flip:
            cv2.flip(target, 1, target)

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Map `boxes` to pixels of the input."""
        source, target = np.array(self.source, np.float64), np.array(self.target, np.float64)
        scale = (target[2:] - target[:2]) / (source[2:] - source[:2])
        moved = (boxes.reshape(-1, 2, 2) - source[:2]) * scale + target[:2]
        if self.flip:
            moved[:, :, 0] = self.size[1] - moved[:, ::-1, 0]
        return moved.reshape(-1, 4).astype(np.float32)

    def deformed(self, shape: np.ndarray) -> AffineView:
        """Return this view followed by the linear map `shape` [2, 2] about the target's centre."""
        x0, y0, x1, y1 = self.source
        left, top, right, bottom = self.target
        scale = np.diag([(right - left) / (x1 - x0), (bottom - top) / (y1 - y0)])
        centre = np.array([(left + right) / 2, (top + bottom) / 2])
        if self.flip:
            scale[0, 0] *= -1
            centre[0] = self.size[1] - centre[0]
        linear = shape @ scale
        start = centre - linear @ [(x0 + x1) / 2, (y0 + y1) / 2]
        return AffineView(np.column_stack([linear, start]), self.size)


@dataclass(frozen=True)
class AffineView(Placement):
    """An affine transform, for any rotation or shear: (x, y) maps to `matrix` @ (x, y, 1).

    matrix: float64 [2, 3]. size: (height, width) of the input.
    """

    matrix: np.ndarray
    size: tuple[int, int]

    def write(self, image: np.ndarray, canvas: np.ndarray) -> None:
        """Write the input into `canvas`: bilinear, after averaging blocks if the image shrinks."""
        height, width = self.size
        # Only the visible part is averaged, and the pixels around it that interpolation needs.
        inverse = cv2.invertAffineTransform(self.matrix)
        [[left, top, right, bottom]] = _bounds(np.array([[0, 0, width, height]]), inverse)
        scales = np.hypot(*self.matrix[:, :2])  # input pixels per image pixel to the right and down
        x0, x1, bx = _visible_range(left, right, image.shape[1], scales[0])
        y0, y1, by = _visible_range(top, bottom, image.shape[0], scales[1])
        if x0 >= x1 or y0 >= y1:
            return
        part = image[y0:y1, x0:x1]
        if max(bx, by) > 1:
            part = block_average(part, (bx, by))
        linear = self.matrix[:, :2] * [bx, by]
        start = self.matrix[:, 2] + self.matrix[:, :2] @ [x0, y0]
        # OpenCV puts pixel centres at whole numbers, hence the halves.
        start += linear @ [0.5, 0.5] - 0.5
        cv2.warpAffine(
            part,
            np.column_stack([linear, start]),
            (width, height),
            canvas,
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(FILL, FILL, FILL),
        )

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Return the bounding boxes of the transformed corners of `boxes`, in pixels of the input.

        They are larger than tight boxes of the objects unless an object fills its corners: the
        outlines are not known.
        """
        return _bounds(boxes, self.matrix).astype(np.float32)


@dataclass(frozen=True)
class RotatedView(Placement):
    """A view followed by a rotation by 90 degree steps and a vertical flip, without resampling.

    view: the first transform, whose size is `rotated_size`. quarter_turns: clockwise, 0..3.
    vertical_flip: whether a flip y -> height - y follows. size: (height, width) of the input.
    """

    view: Placement
    quarter_turns: int
    vertical_flip: bool
    size: tuple[int, int]

    def write(self, image: np.ndarray, canvas: np.ndarray) -> None:
        """Write the input into `canvas`."""
        if self.quarter_turns:
            code = (cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE)
            cv2.rotate(self.view.pixels(image), code[self.quarter_turns - 1], canvas)
        else:
            self.view.write(image, canvas)
        if self.vertical_flip:
            cv2.flip(canvas, 0, canvas)

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Map `boxes` to pixels of the input."""
        x0, y0, x1, y1 = self.view.boxes(boxes).T
        height, _ = self.view.size
        for _ in range(self.quarter_turns):
            # Clockwise: the lower side becomes the left one.
            x0, y0, x1, y1 = height - y1, x0, height - y0, x1
            height = sum(self.size) - height
        if self.vertical_flip:
            y0, y1 = height - y1, height - y0
        return np.stack([x0, y0, x1, y1], 1).astype(np.float32)


def rotated_size(size: tuple[int, int], quarter_turns: int) -> tuple[int, int]:
    """Return `size` (height, width) after rotations by 90 degrees."""
    return (size[1], size[0]) if quarter_turns % 2 else size


def random_view(
    image_size: tuple[int, int],
    size: tuple[int, int],
    scale: tuple[float, float],
    rng: np.random.Generator,
    flip: float,
) -> View:
    """Return a view at a random position with `scale` (x, y), input pixels per image pixel.

    `image_size` and `size` are (height, width); flip: probability of a horizontal flip.
    """
    where = rng.uniform(0, 1), rng.uniform(0, 1)
    return placed_view(image_size, size, scale, where, rng.uniform(0, 1) < flip)


def placed_view(
    image_size: tuple[int, int],
    size: tuple[int, int],
    scale: tuple[float, float],
    where: tuple[float, float],
    flip: bool,
) -> View:
    """Return the view with `scale` at the position `where` (y, x); arguments as of `random_view`.

    where: 0..1 along each axis. Along one where the scaled image is smaller than the input that is
    its place inside; where it is larger, the place of the crop.
    """
    y = _fit_axis(image_size[0], size[0], scale[1], where[0])
    x = _fit_axis(image_size[1], size[1], scale[0], where[1])
    return View(
        source=(x[0], y[0], x[1], y[1]),
        target=(x[2], y[2], x[3], y[3]),
        blocks=(x[4], y[4]),
        size=size,
        flip=flip,
    )


def _fit_axis(n: int, limit: int, scale: float, where: float) -> tuple[int, int, int, int, int]:
    """Return (source start, source end, target start, target end, block length) along one axis.

    n: pixels of the image; limit: pixels of the input; where: 0..1, from the first possible
    position to the last.
    """
    # An axis that shrinks to less than half is averaged over blocks first. Pixels of an incomplete
    # last block are dropped: less than one pixel of the input.
    block = min(n, max(1, math.floor(1 / scale)))
    if round(n * scale) < limit:
        length = n - n % block
        target = max(1, round(length * scale))
        start = min(math.floor(where * (limit - target + 1)), limit - target)
        return 0, length, start, start + target, block
    length = min(n, max(1, round(limit / scale)))
    length = max(block, length - length % block)
    start = min(math.floor(where * (n - length + 1)), n - length)
    return start, start + length, 0, limit, block


def _visible_range(low: float, high: float, n: int, scale: float) -> tuple[int, int, int]:
    """Return start, end and length of whole blocks around `low` to `high`, within `n` pixels."""
    block = min(n, max(1, math.floor(1 / scale)))
    start = max(0, math.floor(low) - 2 * block)
    end = min(n, math.ceil(high) + 2 * block)
    return start, end - (end - start) % block, block


def _bounds(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the bounding boxes, float64 [n, 4], of the corners of `boxes` mapped by `matrix`."""
    corners = boxes.astype(np.float64)[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    moved = corners @ matrix[:, :2].T + matrix[:, 2]
    return np.concatenate([moved.min(1), moved.max(1)], 1)


def block_average(image: np.ndarray, blocks: tuple[int, int]) -> np.ndarray:
    """Return the means of `image` over blocks of (x, y) pixels, which must divide its sides."""
    size = (image.shape[1] // blocks[0], image.shape[0] // blocks[1])
    # Bilinear interpolation at exactly a half is the mean of two pixels; INTER_AREA takes four
    # times as long where blocks are not square.
    halves = max(blocks) == 2
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR if halves else cv2.INTER_AREA)
