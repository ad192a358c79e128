"""Where an image comes to lie in the network's input: one description for its pixels and its boxes.

Coordinates are continuous: pixel i covers [i, i + 1) and its centre lies at i + 0.5, so a box that
ends at the last pixel ends at the width; a mirror takes x to width - x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

# What lies outside of the image in the network's input.
FILL = 114


def blank(size: tuple[int, int]) -> np.ndarray:
    """Return an input without an image, uint8 [height, width, 3]; `size` is (height, width)."""
    return np.full((*size, 3), FILL, np.uint8)


class Placement:
    """How an image is put into an input of `size` (height, width); each kind says where."""

    size: tuple[int, int]

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """Return the input, uint8 [height, width, 3], from `image` uint8 [h, w, 3]."""
        canvas = blank(self.size)
        self.write(image, canvas)
        return canvas

    def write(self, image: np.ndarray, canvas: np.ndarray) -> None:
        """Write the input into `canvas` uint8 [height, width, 3], which must be blank."""
        raise NotImplementedError

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Return `boxes` float32 [n, 4] of the image in pixels of the input, not clipped."""
        raise NotImplementedError


@dataclass(frozen=True)
class View(Placement):
    """A part of an image, put into a part of the network's input.

    source and target: x0 y0 x1 y1 in whole pixels of the image and of the input. blocks: (x, y),
    how many pixels are averaged first; they divide the sides of `source`. size: (height, width) of
    the input. mirror: whether the input is then mirrored, x -> width - x.
    """

    source: tuple[int, int, int, int]
    target: tuple[int, int, int, int]
    blocks: tuple[int, int]
    size: tuple[int, int]
    mirror: bool = False

    def write(self, image: np.ndarray, canvas: np.ndarray) -> None:
        """Write the input into `canvas`.

        `cv2.resize` does it in an eighth of the time that `cv2.warpAffine` takes, which is why the
        rectangles are whole pixels.
        """
        x0, y0, x1, y1 = self.source
        part = image[y0:y1, x0:x1]
        if max(self.blocks) > 1:
            part = average(part, self.blocks)
        x0, y0, x1, y1 = self.target
        if self.mirror:
            x0, x1 = self.size[1] - x1, self.size[1] - x0
        # Written in place: fresh pages cost more than the arithmetic.
        target = canvas[y0:y1, x0:x1]
        if part.shape == target.shape:
            target[...] = part
        else:
            cv2.resize(part, (x1 - x0, y1 - y0), target, interpolation=cv2.INTER_LINEAR)
        if self.mirror:
            cv2.flip(target, 1, target)

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Return `boxes` in pixels of the input."""
        source, target = np.array(self.source, np.float64), np.array(self.target, np.float64)
        scale = (target[2:] - target[:2]) / (source[2:] - source[:2])
        moved = (boxes.reshape(-1, 2, 2) - source[:2]) * scale + target[:2]
        if self.mirror:
            moved[:, :, 0] = self.size[1] - moved[:, ::-1, 0]
        return moved.reshape(-1, 4).astype(np.float32)

    def slanted(self, shape: np.ndarray) -> SlantedView:
        """Return the view bent by `shape` [2, 2] about the middle of what is in view."""
        x0, y0, x1, y1 = self.source
        left, top, right, bottom = self.target
        scale = np.diag([(right - left) / (x1 - x0), (bottom - top) / (y1 - y0)])
        middle = np.array([(left + right) / 2, (top + bottom) / 2])
        if self.mirror:
            scale[0, 0] *= -1
            middle[0] = self.size[1] - middle[0]
        linear = shape @ scale
        start = middle - linear @ [(x0 + x1) / 2, (y0 + y1) / 2]
        return SlantedView(np.column_stack([linear, start]), self.size)


@dataclass(frozen=True)
class SlantedView(Placement):
    """An image turned by any angle, or sheared: its (x, y) comes to `matrix` @ (x, y, 1).

    matrix: float64 [2, 3]. size: (height, width) of the input.
    """

    matrix: np.ndarray
    size: tuple[int, int]

    def write(self, image: np.ndarray, canvas: np.ndarray) -> None:
        """Write the input into `canvas`: bilinear, after averaging blocks where it shrinks."""
        height, width = self.size
        # Only what can be seen is averaged, and the pixels around it that are interpolated with.
        back = cv2.invertAffineTransform(self.matrix)
        [[left, top, right, bottom]] = _bounds(np.array([[0, 0, width, height]]), back)
        steps = np.hypot(*self.matrix[:, :2])  # in the input, of one pixel to the right, and down
        x0, x1, bx = _seen(left, right, image.shape[1], steps[0])
        y0, y1, by = _seen(top, bottom, image.shape[0], steps[1])
        if x0 >= x1 or y0 >= y1:
            return
        part = image[y0:y1, x0:x1]
        if max(bx, by) > 1:
            part = average(part, (bx, by))
        linear = self.matrix[:, :2] * [bx, by]
        start = self.matrix[:, 2] + self.matrix[:, :2] @ [x0, y0]
        # OpenCV counts pixel centres in whole numbers, hence the halves.
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
        """Return the boxes around the four corners of `boxes`, in pixels of the input.

        Around what they hold they are too large, unless that fills its corners: the share of the
        object is not known.
        """
        return _bounds(boxes, self.matrix).astype(np.float32)


@dataclass(frozen=True)
class TurnedView(Placement):
    """A view whose input is then turned clockwise and mirrored: exact, no pixel is interpolated.

    view: of the input before that; its size is `turned_size`. quarters: of a turn, 0..3.
    upside_down: whether it is then mirrored top to bottom, y -> height - y. size: (height, width)
    of the input.
    """

    view: Placement
    quarters: int
    upside_down: bool
    size: tuple[int, int]

    def write(self, image: np.ndarray, canvas: np.ndarray) -> None:
        """Write the input into `canvas`."""
        if self.quarters:
            code = (cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE)
            cv2.rotate(self.view.pixels(image), code[self.quarters - 1], canvas)
        else:
            self.view.write(image, canvas)
        if self.upside_down:
            cv2.flip(canvas, 0, canvas)

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Return `boxes` in pixels of the input."""
        x0, y0, x1, y1 = self.view.boxes(boxes).T
        height, _ = self.view.size
        for _ in range(self.quarters):
            # The input's left side is then what was its lower one.
            x0, y0, x1, y1 = height - y1, x0, height - y0, x1
            height = sum(self.size) - height
        if self.upside_down:
            y0, y1 = height - y1, height - y0
        return np.stack([x0, y0, x1, y1], 1).astype(np.float32)


def turned_size(size: tuple[int, int], quarters: int) -> tuple[int, int]:
    """Return `size` (height, width) after that many quarters of a turn."""
    return (size[1], size[0]) if quarters % 2 else size


def random_view(
    image_size: tuple[int, int],
    size: tuple[int, int],
    scale: tuple[float, float],
    rng: np.random.Generator,
    flip: float,
) -> View:
    """Return a view at `scale` (x, y) input pixels an image pixel, at a random place.

    `image_size` and `size` are (height, width). Where the scaled image is smaller than the input it
    lies anywhere inside; where it is larger any part of it is taken.
    """
    y, x = (
        _place(n, room, s, rng.uniform(0, 1))
        for n, room, s in zip(image_size, size, scale[::-1], strict=True)
    )
    return View(
        source=(x[0], y[0], x[1], y[1]),
        target=(x[2], y[2], x[3], y[3]),
        blocks=(x[4], y[4]),
        size=size,
        mirror=rng.uniform(0, 1) < flip,
    )


def _place(n: int, room: int, scale: float, where: float) -> tuple[int, int, int, int, int]:
    """Return source and target range of one axis, and the block length.

    n: pixels of the image; room: pixels of the input; where: 0..1, the first to the last place.
    """
    # What shrinks to less than half is averaged over blocks first. Pixels of a last block that is
    # not full are left out: less than one pixel of the input.
    block = min(n, max(1, math.floor(1 / scale)))
    if round(n * scale) <= room:
        length = n - n % block
        target = max(1, round(length * scale))
        start = min(math.floor(where * (room - target + 1)), room - target)
        return 0, length, start, start + target, block
    length = min(n, max(1, round(room / scale)))
    length = max(block, length - length % block)
    start = min(math.floor(where * (n - length + 1)), n - length)
    return start, start + length, 0, room, block


def _seen(low: float, high: float, n: int, scale: float) -> tuple[int, int, int]:
    """Return the range of pixels, of `n`, in whole blocks around `low` to `high`, and a block."""
    block = min(n, max(1, math.floor(1 / scale)))
    start = max(0, math.floor(low) - 2 * block)
    end = min(n, math.ceil(high) + 2 * block)
    return start, end - (end - start) % block, block


def _bounds(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the boxes, float64 [n, 4], around the corners of `boxes` [n, 4] moved by `matrix`."""
    corners = boxes.astype(np.float64)[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    moved = corners @ matrix[:, :2].T + matrix[:, 2]
    return np.concatenate([moved.min(1), moved.max(1)], 1)


def average(image: np.ndarray, blocks: tuple[int, int]) -> np.ndarray:
    """Return the means of `image` over blocks of (x, y) pixels, which divide its sides."""
    size = (image.shape[1] // blocks[0], image.shape[0] // blocks[1])
    # At exactly a half, between two pixels, interpolation is their mean; OpenCV takes four times as
    # long for INTER_AREA where the blocks are not square.
    halves = max(blocks) == 2
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR if halves else cv2.INTER_AREA)
