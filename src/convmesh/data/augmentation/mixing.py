"""Mosaic and mixup: other images mixed into an example, for detection.

A mosaic shows four images, one in each quarter around a random point of the input (Bochkovskiy et
al. 2020, arXiv 2004.10934); mixup blends two inputs and keeps the boxes of both (Zhang et al. 2018,
arXiv 1710.09412).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from cv2 import addWeighted

from convmesh.data.augmentation.augment import (
    AugmentSettings,
    clip_boxes,
    view_for_detection,
)
from convmesh.data.augmentation.colour import jitter_colour
from convmesh.data.augmentation.views import blank
from convmesh.data.record import Record

# An example may have three other images in its mosaic, and one that is blended in.
MOSAIC_PARTNERS = 3
PARTNERS = MOSAIC_PARTNERS + 1
# Range of the point where the quarters of a mosaic meet, as a fraction of the input's sides.
MOSAIC_CENTRE = (0.25, 0.75)
# Mixup weights are drawn from Beta(8, 8): 95% of them are in 0.27..0.73.
MIXUP_BETA = 8.0


class Instances(NamedTuple):
    """Boxes float32 [n, 4] in pixels of the input, their labels int32 [n], and crowd bool [n]."""

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray


@dataclass(frozen=True)
class Partners:
    """The images to be mixed into an example.

    mosaic: three records, None for an unreadable one, whose quarter stays FILL; or None for no
    mosaic. mixup: the record to blend with, or None.
    """

    mosaic: Sequence[Record | None] | None = None
    mixup: Record | None = None


def draw_partners(
    num_examples: int, settings: AugmentSettings, rng: np.random.Generator
) -> np.ndarray:
    """Return the indices of the images to mix into an example, int64 [PARTNERS]; -1 for none.

    Drawn with replacement from all examples, the example itself included. The first
    MOSAIC_PARTNERS are -1 either all or not at all.
    """
    # All values are always drawn, so that one setting does not change the values of another.
    mosaic, mixup = rng.uniform(size=2) < (settings.mosaic, settings.mixup)
    partners = rng.integers(0, num_examples, PARTNERS)
    return np.where([mosaic] * MOSAIC_PARTNERS + [mixup], partners, -1)


def mix(
    record: Record,
    partners: Partners,
    size: tuple[int, int],
    settings: AugmentSettings,
    rng: np.random.Generator,
    partner_rng: np.random.Generator,
) -> tuple[np.ndarray, Instances]:
    """Return an augmented input of `record` mixed with its partners, and the boxes of all.

    size: (height, width) of the input. rng: for the draws that an example without partners would
    make, in the same order; partner_rng: for all others.
    Returns the input uint8 [height, width, 3] and the boxes of all images, clipped by `clip_boxes`.
    """
    if partners.mosaic is None:
        image, instances = blank(size), []
        instances.append(_write_random_view(record, image, size, settings, rng))
    else:
        records = [record, *partners.mosaic]
        image, instances = _mosaic(records, size, settings, rng, partner_rng)
    if partners.mixup is not None:
        other = blank(size)
        instances.append(_write_random_view(partners.mixup, other, size, settings, partner_rng))
        weight = partner_rng.beta(MIXUP_BETA, MIXUP_BETA)
        addWeighted(image, weight, other, 1 - weight, 0, image)
    jitter_colour(image, settings.color, rng)  # once for all images
    return image, Instances(*map(np.concatenate, zip(*instances, strict=True)))


def _mosaic(
    records: Sequence[Record | None],
    size: tuple[int, int],
    settings: AugmentSettings,
    rng: np.random.Generator,
    partner_rng: np.random.Generator,
) -> tuple[np.ndarray, list[Instances]]:
    """Return an input with random views of four records in its quarters, and the boxes of each.

    The first record gets a random quarter and draws its view from `rng`, the others from
    `partner_rng`. The zoom is relative to an image that fits the full input: objects are as large
    as without a mosaic, and a quarter shows a smaller part of an image.
    """
    height, width = size
    image = blank(size)
    y, x = (
        int(np.clip(round(n * fraction), 1, max(1, n - 1)))
        for n, fraction in zip(size, partner_rng.uniform(*MOSAIC_CENTRE, 2), strict=True)
    )
    quarters = [(0, 0, x, y), (x, 0, width, y), (x, y, width, height), (0, y, x, height)]
    first = int(len(quarters) * partner_rng.uniform())
    instances = []
    for i, record in enumerate(records):
        x0, y0, x1, y1 = quarters[(first + i) % len(quarters)]
        quarter = image[y0:y1, x0:x1]
        if record is None or not quarter.size:
            continue
        found = _write_random_view(record, quarter, size, settings, partner_rng if i else rng)
        offset = np.array([x0, y0, x0, y0], np.float32)
        instances.append(found._replace(boxes=found.boxes + offset))
    return image, instances


def _write_random_view(
    record: Record,
    canvas: np.ndarray,
    fitted: tuple[int, int],
    settings: AugmentSettings,
    rng: np.random.Generator,
) -> Instances:
    """Write a random view of `record` into the empty `canvas`; return the visible boxes."""
    size = canvas.shape[0], canvas.shape[1]
    view = view_for_detection(record.image.shape[:2], size, settings, rng, fitted)
    view.write(record.image, canvas)
    boxes, crowd, kept = clip_boxes(view.boxes(record.boxes), record.crowd, size)
    return Instances(boxes, record.labels[kept], crowd)
