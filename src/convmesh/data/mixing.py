"""Several examples in one, for detection: mosaics, and blends of two (mixup).

A mosaic shows four examples, one in each quarter around a random point of the input (Bochkovskiy et
al. 2020); mixup blends two finished inputs and keeps the boxes of both (Zhang et al. 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from cv2 import addWeighted

from convmesh.data.augment import Settings, boxes_in_view, jitter_colour, view_for_detection
from convmesh.data.record import Record
from convmesh.data.views import blank

# The partners that an example may have: three in a mosaic, and then one that is blended in.
IN_MOSAIC = 3
PARTNERS = IN_MOSAIC + 1
# Where the quarters of a mosaic meet, as a part of the input's sides.
MEET = (0.25, 0.75)
# The weights of a blend come from Beta(BLEND, BLEND): 95% of them lie in 0.27..0.73.
BLEND = 8.0


class Labelled(NamedTuple):
    """Boxes float32 [n, 4] in pixels of the input, their labels int32 [n], and crowd bool [n]."""

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray


def draw_partners(size: int, settings: Settings, rng: np.random.Generator) -> np.ndarray:
    """Return whom an example is mixed with: int64 [PARTNERS] of the `size` examples, or -1.

    Drawn with replacement, so that an example may also meet itself. Either all IN_MOSAIC first ones
    are -1, where there is no mosaic, or none.
    """
    # Drawn always, all: settings do not shift each other.
    mosaic, mixup = rng.uniform(size=2) < (settings.mosaic, settings.mixup)
    partners = rng.integers(0, size, PARTNERS)
    return np.where([mosaic] * IN_MOSAIC + [mixup], partners, -1)


def mix(
    record: Record,
    quarters: Sequence[Record | None] | None,
    blended: Record | None,
    size: tuple[int, int],
    settings: Settings,
    rng: np.random.Generator,
    more: np.random.Generator,
) -> tuple[np.ndarray, Labelled]:
    """Return an input with a random view of `record`, and of what it is mixed with.

    quarters: the IN_MOSAIC others of a mosaic, None for one that cannot be read: its quarter stays
    FILL; None: no mosaic. blended: whom the finished input is blended with; None: it is not. size:
    (height, width). rng: draws what an example alone would draw, in the same order; more: the rest.
    Returns the input uint8 [height, width, 3] and its boxes. See `boxes_in_view` for those on an
    edge.
    """
    if quarters is None:
        image, labelled = blank(size), []
        labelled.append(_show(record, image, size, settings, rng))
    else:
        image, labelled = mosaic([record, *quarters], size, settings, rng, more)
    if blended is not None:
        other = blank(size)
        labelled.append(_show(blended, other, size, settings, more))
        weight = more.beta(BLEND, BLEND)
        addWeighted(image, weight, other, 1 - weight, 0, image)
    # Once, of all that is in view.
    jitter_colour(image, settings.color, rng)
    return image, Labelled(*map(np.concatenate, zip(*labelled, strict=True)))


def mosaic(
    records: Sequence[Record | None],
    size: tuple[int, int],
    settings: Settings,
    rng: np.random.Generator,
    more: np.random.Generator,
) -> tuple[np.ndarray, list[Labelled]]:
    """Return an input with views of four records in its quarters, and the boxes of each.

    The first record comes into any of the quarters and draws its view from `rng`, the others from
    `more`. Zoom is relative to an image that fits the whole input: objects are as large as in an
    input of one image, and a quarter holds a smaller part of them. A quarter of None stays FILL.
    """
    height, width = size
    image = blank(size)
    y, x = (
        int(np.clip(round(n * part), 1, max(1, n - 1)))
        for n, part in zip(size, more.uniform(*MEET, 2), strict=True)
    )
    corners = [(0, 0, x, y), (x, 0, width, y), (x, y, width, height), (0, y, x, height)]
    first = int(len(corners) * more.uniform())
    labelled = []
    for i, record in enumerate(records):
        x0, y0, x1, y1 = corners[(first + i) % len(corners)]
        quarter = image[y0:y1, x0:x1]
        if record is None or not quarter.size:
            continue
        found = _show(record, quarter, size, settings, more if i else rng)
        offset = np.array([x0, y0, x0, y0], np.float32)
        labelled.append(found._replace(boxes=found.boxes + offset))
    return image, labelled


def _show(
    record: Record,
    canvas: np.ndarray,
    fitted: tuple[int, int],
    settings: Settings,
    rng: np.random.Generator,
) -> Labelled:
    """Write a random view of `record` into `canvas`, which is blank; return the boxes in it."""
    size = canvas.shape[0], canvas.shape[1]
    view = view_for_detection(record.image.shape[:2], size, settings, rng, fitted)
    view.write(record.image, canvas)
    boxes, crowd, kept = boxes_in_view(view.boxes(record.boxes), record.crowd, size)
    return Labelled(boxes, record.labels[kept], crowd)
