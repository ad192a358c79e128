"""Whether the boxes of a whole split are corners in pixels, as its format says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from convmesh.data.formats.annotated import AnnotatedImage
from convmesh.data.problems import Problem

# A few boxes without area are mistakes of their own, not another form of box.
_MIN_BAD = 3
_MIN_SIZES = 10  # boxes from which a form is concluded although most of them could be corners


def unit_problems(splits: Mapping[str, Sequence[AnnotatedImage]], folder: str) -> list[Problem]:
    """Return what shows that the boxes of a split are fractions, or a corner and a size.

    That is an error if most of them are; `check-data` warns of single ones. splits: the images of
    each. folder: the file of the problems.
    """
    return [
        replace(problem, split=split)
        for split, images in splits.items()
        for problem in _unit_problems(images, folder)
    ]


def _unit_problems(images: Sequence[AnnotatedImage], folder: str) -> list[Problem]:
    used = [image for image in images if len(image.boxes) and not image.relative]
    if not used:
        return []
    boxes = np.concatenate([image.boxes for image in used])
    owner = np.repeat(np.arange(len(used)), [len(image.boxes) for image in used])

    def example(index: int) -> str:
        image = used[owner[index]]
        k = index - int(np.searchsorted(owner, owner[index]))
        corners = ", ".join(f"{value:g}" for value in boxes[index])
        return f"({corners}) in {image.file}: {image.location(k)}"

    return [
        *_fractions(boxes, folder, example),
        *_sizes(boxes, np.array([image.size or (0, 0) for image in used])[owner], folder, example),
    ]


def _fractions(boxes: np.ndarray, folder: str, example: Callable[[int], str]) -> list[Problem]:
    """Return the problem that boxes float64 [n, 4] are fractions of the image size."""
    inside = ((boxes >= 0) & (boxes <= 1)).all(1) & (boxes[:, 2:] != boxes[:, :2]).all(1)
    broken = (boxes != np.round(boxes)).any(1)
    if inside.mean() <= 0.5 or not (inside & broken).any():
        return []
    shown = example(int(np.argmax(inside & broken)))
    what = f"{int(inside.sum())} of {len(boxes)} boxes are between 0 and 1, such as {shown};"
    what += " fractions of the image size? They must be in pixels"
    return [Problem(folder, what)]


def _sizes(
    boxes: np.ndarray, sizes: np.ndarray, folder: str, example: Callable[[int], str]
) -> list[Problem]:
    """Return the problem that boxes float64 [n, 4] are no corners x0, y0, x1, y1.

    sizes: int [n, 2], (height, width) of the image of each, 0 if unknown.
    """
    bad = (boxes[:, 2:] <= boxes[:, :2]).any(1)
    ends = boxes[:, :2] + boxes[:, 2:]
    fit = (boxes >= 0).all(1) & (boxes[:, 2:] > 0).all(1) & (ends <= sizes[:, ::-1]).all(1)
    as_sizes = bool(fit.all())
    most = bad.mean() > 0.5
    turned = (boxes[:, 2:] < boxes[:, :2]).any(1).mean() > 0.1
    some = as_sizes and len(boxes) >= _MIN_SIZES and turned
    if bad.sum() < _MIN_BAD or not (most or some):
        return []
    swapped = (boxes[bad, 2:] < boxes[bad, :2]).all(1).mean() > 0.5 and not as_sizes
    guess = "swapped corners" if swapped else "x, y, width and height"
    what = f"{int(bad.sum())} of {len(boxes)} boxes end before they begin, such as"
    what += f" {example(int(np.argmax(bad)))}; {guess}? They must be x0, y0, x1, y1"
    return [Problem(folder, what)]
