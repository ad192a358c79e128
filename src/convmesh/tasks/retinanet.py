"""Detection: losses and decoding of RetinaNet (arXiv 1708.02002), as torchvision defines them."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convmesh import mesh
from convmesh.distributed.batch import Batch
from convmesh.models.retinanet import RetinaNetOutput
from convmesh.ops.anchors import (
    boxes_to_offsets,
    cell_anchors,
    clip_to_image,
    grid_anchors,
    offsets_to_boxes,
)
from convmesh.ops.boxes import giou
from convmesh.ops.losses import focal
from convmesh.tasks.anchor_matching import Match, match_anchors
from convmesh.tasks.assignment import GroundTruth
from convmesh.tasks.candidates import Candidates, best_pairs, distinct
from convmesh.tasks.detection import Detection

STRIDES = (8, 16, 32, 64, 128)
# Of an anchor's IoU with a box: positive from the first on, background below the second.
FOREGROUND, BACKGROUND = 0.5, 0.4


@dataclasses.dataclass(frozen=True)
class RetinaNetDetection(Detection):
    """The detection task of `models.retinanet`. It has no box confidence of its own."""

    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    max_detections: int = 300
    candidates: int = 1000  # (anchor, class) pairs of each level before suppression
    box_loss: str = "l1"  # of the offsets; or "giou", of the boxes

    @property
    def levels(self) -> list[np.ndarray]:
        """The anchors of each level: sides of 4, 5 and 6.3 strides, heights of 0.5 to 2 widths."""
        cells = []
        for stride in STRIDES:
            sizes = [int(4 * stride * 2 ** (third / 3)) for third in range(3)]
            cells.append(cell_anchors(sizes, (0.5, 1.0, 2.0)))
        return grid_anchors(self.image_size, STRIDES, cells)

    def anchors(self, dtype: Any) -> jax.Array:
        """The anchors of all levels: [anchors, 4]."""
        return jnp.asarray(np.concatenate(self.levels), dtype)

    def assign(self, outputs: RetinaNetOutput, batch: Batch) -> Match:
        """The targets of each image's anchors, without communication."""
        anchors = self.anchors(outputs.offsets.dtype)
        match = functools.partial(match_anchors, anchors, high=FOREGROUND, low=BACKGROUND)
        truth = GroundTruth(batch.boxes, batch.labels, batch.valid, batch.crowd)
        return mesh.per_example(jax.vmap(match))(truth)

    def sums(self, outputs: RetinaNetOutput, batch: Batch) -> dict[str, Any]:
        """The parts of the loss, and counts, summed over the examples.

        The losses of an image are divided by its number of positive anchors; `total` is the number
        of images. Padding examples (`present` False) have no boxes and weight 0.
        """
        assigned = self.assign(outputs, batch)
        dtype = outputs.class_logits.dtype
        positive = assigned.positive & batch.present[:, None]
        share = 1 / jnp.maximum(positive.sum(1, keepdims=True), 1).astype(dtype)
        counted = batch.present[:, None] & ~assigned.ignored

        label = 1 + jnp.take_along_axis(batch.labels, assigned.box, axis=1)
        target = jax.nn.one_hot(label, 1 + self.classes, dtype=dtype) * positive[..., None]
        class_loss = focal(outputs.class_logits, target).sum(-1)

        # Anchors that are not positive are their own truth, to keep loss and gradient finite.
        anchors = self.anchors(dtype)
        truth = jnp.take_along_axis(batch.boxes.astype(dtype), assigned.box[..., None], axis=1)
        truth = jnp.where(positive[..., None], truth, anchors)
        if self.box_loss == "giou":
            box_loss = 1 - giou(offsets_to_boxes(outputs.offsets, anchors), truth)
        else:
            box_loss = jnp.abs(outputs.offsets - boxes_to_offsets(truth, anchors)).sum(-1)

        parts = {
            "class": jnp.sum(class_loss * counted * share),
            "box": jnp.sum(box_loss * positive * share),
        }
        images = batch.present.sum()
        return {
            "loss": sum(parts.values()),
            **{f"loss/{name}": part for name, part in parts.items()},
            "total": images,
            "images": images,
            "positive_points": positive.sum(),
            "boxes_without_point": assigned.missed.sum(),
            "boxes_truncated": batch.truncated.sum(),
        }

    def predict(self, outputs: RetinaNetOutput) -> dict[str, Any]:
        """Detections of each image, see `Detection`."""
        return mesh.per_example(jax.vmap(self._decode))(outputs.class_logits, outputs.offsets)

    def _decode(self, class_logits: jax.Array, offsets: jax.Array) -> Candidates:
        """Detections of one image; anchors whose outputs are not finite give none."""
        finite = jnp.isfinite(offsets).all(-1, keepdims=True) & jnp.isfinite(class_logits)
        scores = jax.nn.sigmoid(class_logits)
        scores = jnp.where(finite & (scores > self.score_threshold), scores, -1)[:, 1:]
        levels, first = [], 0
        for anchors in self.levels:
            level = slice(first, first + len(anchors))
            first += len(anchors)
            score, anchor, label = best_pairs(scores[level], self.candidates)
            boxes = offsets_to_boxes(offsets[level][anchor], jnp.asarray(anchors)[anchor])
            levels.append(
                {
                    "boxes": clip_to_image(boxes, self.image_size),
                    "labels": label.astype(jnp.int32),
                    "scores": score,
                    "class_confidence": score,
                    "box_confidence": score,
                }
            )
        return distinct(levels, self.iou_threshold, self.max_detections)
