"""Detection: losses and decoding of the dense detector."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from convmesh import mesh
from convmesh.distributed.batch import Batch
from convmesh.geometry import STRIDES, Grid, grid_points
from convmesh.models.detector import BINS, DetectorOutput
from convmesh.ops import boxes as box_ops
from convmesh.ops.losses import distribution_focal, quality_focal
from convmesh.ops.selection import top_k
from convmesh.ops.suppression import suppress
from convmesh.tasks.assignment import ASSIGNMENTS, Assignment, GroundTruth
from convmesh.tasks.candidates import best_pairs
from convmesh.tasks.detection import Detection

BOX_WEIGHT, DISTRIBUTION_WEIGHT = 2.0, 0.5


@dataclasses.dataclass(frozen=True)
class Detect(Detection):
    """The detection task of the dense detector, `models.detector`."""

    candidates: int = 300  # (point, class) pairs before suppression
    class_weight: float = 1.0  # of the class loss; BOX_WEIGHT is that of the box loss
    distribution_weight: float = DISTRIBUTION_WEIGHT
    box_confidence: bool = True  # whether it is trained and used in the score
    assignment: str = "aligned"  # a key of ASSIGNMENTS
    strides: tuple[int, ...] = STRIDES  # those of the model

    @property
    def grid(self) -> Grid:
        """The points of an image and their strides."""
        return grid_points(self.image_size, self.strides)

    def boxes(self, distance_logits: jax.Array) -> jax.Array:
        """Boxes [batch, points, 4] in pixels: distance = stride x the mean of the bins."""
        points, strides = self.grid
        bins = jnp.sum(jax.nn.softmax(distance_logits) * jnp.arange(BINS), axis=-1)
        return box_ops.distances_to_boxes(points, bins * strides[:, None])

    def assign(self, outputs: DetectorOutput, batch: Batch) -> Assignment:
        """The assignment of each image, without gradients and without communication."""
        assign_image = functools.partial(ASSIGNMENTS[self.assignment], self.grid)
        predicted = self.boxes(lax.stop_gradient(outputs.distance_logits))
        logits = lax.stop_gradient(outputs.class_logits)
        truth = GroundTruth(batch.boxes, batch.labels, batch.valid, batch.crowd)
        pairs = truth.boxes.shape[1] * predicted.shape[1]
        return mesh.per_example(mesh.by_images(assign_image, pairs))(predicted, logits, truth)

    def sums(
        self, outputs: DetectorOutput, batch: Batch, assignment: Assignment | None = None
    ) -> dict[str, Any]:
        """The parts of the loss, and counts, summed over the examples.

        `total` is the sum of the targets. Padding examples (`present` False) have no boxes and
        weight 0.
        """
        assigned = self.assign(outputs, batch) if assignment is None else assignment
        points, strides = self.grid
        dtype = outputs.class_logits.dtype
        target = assigned.target.astype(dtype)
        weight = (batch.present[:, None] & ~assigned.ignored).astype(dtype)  # [batch, points]

        label = jnp.take_along_axis(batch.labels, assigned.box, axis=1)
        class_target = jax.nn.one_hot(label, self.classes, dtype=dtype) * target[..., None]
        class_loss = quality_focal(outputs.class_logits, class_target).sum(-1)

        confidence_loss = quality_focal(
            outputs.confidence_logits, assigned.confidence.astype(dtype)
        )

        # Points that are not positive get their own prediction as truth, to keep loss and gradient
        # finite.
        predicted = self.boxes(outputs.distance_logits)
        truth = jnp.take_along_axis(batch.boxes.astype(dtype), assigned.box[..., None], axis=1)
        truth = jnp.where(assigned.positive[..., None], truth, lax.stop_gradient(predicted))
        box_loss = 1 - box_ops.giou(predicted, truth)
        distances = box_ops.boxes_to_distances(points, truth) / strides[:, None]
        bins_loss = distribution_focal(outputs.distance_logits, distances).mean(-1)

        parts = {
            "class": self.class_weight * jnp.sum(class_loss * weight),
            "confidence": self.box_confidence * jnp.sum(confidence_loss * weight),
            "box": BOX_WEIGHT * jnp.sum(box_loss * target),
            "distribution": self.distribution_weight * jnp.sum(bins_loss * target),
        }
        return {
            "loss": sum(parts.values()),
            **{f"loss/{name}": part for name, part in parts.items()},
            "total": target.sum(),
            "images": batch.present.sum(),
            "positive_points": assigned.positive.sum(),
            "boxes_without_point": assigned.missed.sum(),
            "boxes_truncated": batch.truncated.sum(),
        }

    def predict(self, outputs: DetectorOutput) -> dict[str, Any]:
        """Detections of each image, best first, in pixels of the network's input.

        Returns `boxes` [batch, n, 4], `labels` int32, `scores`, `class_confidence`,
        `box_confidence`, `valid` bool, each [batch, n], n = max_detections.
        """

        def decode_images(
            distance_logits: jax.Array, class_logits: jax.Array, confidence_logits: jax.Array
        ) -> dict[str, jax.Array]:
            boxes = self.boxes(distance_logits)
            finite = jnp.isfinite(distance_logits).all((-2, -1))
            return jax.vmap(self._decode)(boxes, finite, class_logits, confidence_logits)

        return mesh.per_example(decode_images)(
            outputs.distance_logits, outputs.class_logits, outputs.confidence_logits
        )

    def _decode(
        self,
        boxes: jax.Array,
        finite: jax.Array,
        class_logits: jax.Array,
        confidence_logits: jax.Array,
    ) -> dict[str, jax.Array]:
        """Detections of one image. The score is sqrt(class x box confidence).

        finite: bool [points], of the box; a point whose logits are not finite gives no detection.
        """
        class_p, confidence = jax.nn.sigmoid(class_logits), jax.nn.sigmoid(confidence_logits)
        if not self.box_confidence:
            confidence = class_p.max(axis=1)
        else:
            finite = finite & jnp.isfinite(confidence_logits)
        scores = jnp.sqrt(class_p * confidence[:, None]) if self.box_confidence else class_p
        scores = jnp.where(finite[:, None] & jnp.isfinite(class_logits), scores, -1)
        score, point, label = best_pairs(scores, self.candidates)
        boxes = boxes[point]
        keep = suppress(boxes, label, score >= self.score_threshold, self.iou_threshold)

        n = min(self.max_detections, score.size)
        _, order = top_k(jnp.where(keep, score, -1), n)
        return {
            "boxes": boxes[order],
            "labels": label[order].astype(jnp.int32),
            "scores": score[order],
            "class_confidence": class_p[point, label][order],
            "box_confidence": confidence[point][order],
            "valid": keep[order],
        }
