"""Detection: losses and decoding of FCOS (arXiv 2006.09214), as torchvision defines them."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from convmesh import mesh
from convmesh.distributed.batch import Batch
from convmesh.models.fcos import FCOSOutput
from convmesh.ops.anchors import cell_anchors, clip_to_image, grid_anchors
from convmesh.ops.boxes import area, boxes_to_distances, distances_to_boxes, giou, inside
from convmesh.ops.losses import binary_cross_entropy, focal
from convmesh.tasks.assignment import GroundTruth
from convmesh.tasks.candidates import Candidates, best_pairs, distinct
from convmesh.tasks.detection import Detection

STRIDES = (8, 16, 32, 64, 128)
CENTRE_RADIUS = 1.5  # strides
LARGEST_SIDE = 8  # strides from a point to the farthest side, of the boxes of its level


class Points(NamedTuple):
    """The points that boxes are predicted from, level by level, row by row."""

    points: Any  # [points, 2]: x, y in pixels
    strides: Any  # [points]: in pixels


class Targets(NamedTuple):
    """What the points of one image (or, with a batch dimension in front, of many) learn."""

    box: Any  # int32 [points]: index of the box a point learns; undefined where not positive
    positive: Any  # bool [points]
    ignored: Any  # bool [points]: covered by a crowd region, and not positive
    missed: Any  # int32 []: boxes left without a point


def assign_points(grid: Points, truth: GroundTruth) -> Targets:
    """Assigns the points of one image, whose type is that of the arithmetic.

    A box takes the points inside it, nearer to its centre than 1.5 strides (in x and in y), on the
    level whose strides suit its size: the farthest side is within 8 strides, except on the coarsest
    level, and, except on the finest one, not within 4. A point taken twice learns the smaller box.
    """
    points, strides = grid
    boxes = truth.boxes.astype(points.dtype)
    size = area(boxes)
    real = truth.valid & ~truth.crowd & (size > 0)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = jnp.abs(points - centre[:, None]).max(-1) < CENTRE_RADIUS * strides
    distances = boxes_to_distances(points, boxes[:, None])  # [max_boxes, points, 4]
    farthest = distances.max(-1)
    fits = (farthest < LARGEST_SIDE * strides) | (strides == STRIDES[-1])
    fits &= (farthest > LARGEST_SIDE / 2 * strides) | (strides == STRIDES[0])
    taken = (distances.min(-1) > 0) & near & fits & real[:, None]

    box = jnp.argmin(jnp.where(taken, size[:, None], jnp.inf), axis=0).astype(jnp.int32)
    positive = jnp.any(taken, axis=0)
    learned = jnp.zeros(len(boxes), bool).at[box].max(positive)
    crowd = jnp.any(inside(points, boxes) & (truth.valid & truth.crowd)[:, None], axis=0)
    missed = jnp.sum(real & ~learned).astype(jnp.int32)
    return Targets(box, positive, crowd & ~positive, missed)


@dataclasses.dataclass(frozen=True)
class FCOSDetection(Detection):
    """The detection task of `models.fcos`. The box confidence is the centre-ness."""

    score_threshold: float = 0.2
    iou_threshold: float = 0.6
    candidates: int = 1000  # (point, class) pairs of each level before suppression

    @property
    def levels(self) -> list[Points]:
        """The points of each level and their strides; they are on the corners of cells."""
        cells = [cell_anchors((stride,), (1.0,)) for stride in STRIDES]
        anchors = grid_anchors(self.image_size, STRIDES, cells)
        return [Points((a[:, :2] + a[:, 2:]) / 2, a[:, 2] - a[:, 0]) for a in anchors]

    def grid(self, dtype: Any) -> Points:
        """The points of all levels."""
        points, strides = (np.concatenate(part) for part in zip(*self.levels, strict=True))
        return Points(jnp.asarray(points, dtype), jnp.asarray(strides, dtype))

    def assign(self, outputs: FCOSOutput, batch: Batch) -> Targets:
        """The targets of each image's points, without communication."""
        grid = self.grid(outputs.distances.dtype)
        truth = GroundTruth(batch.boxes, batch.labels, batch.valid, batch.crowd)
        return mesh.per_example(jax.vmap(lambda truth: assign_points(grid, truth)))(truth)

    def sums(self, outputs: FCOSOutput, batch: Batch) -> dict[str, Any]:
        """The parts of the loss, and counts, summed over the examples.

        `total` is the number of positive points. Padding examples (`present` False) have no boxes
        and weight 0.
        """
        assigned = self.assign(outputs, batch)
        dtype = outputs.class_logits.dtype
        positive = assigned.positive & batch.present[:, None]
        counted = batch.present[:, None] & ~assigned.ignored

        label = 1 + jnp.take_along_axis(batch.labels, assigned.box, axis=1)
        target = jax.nn.one_hot(label, 1 + self.classes, dtype=dtype) * positive[..., None]
        class_loss = focal(outputs.class_logits, target).sum(-1)

        # Points that are not positive learn a box around them, to keep loss and gradient finite.
        points, strides = self.grid(dtype)
        own = distances_to_boxes(points, jnp.ones((len(points), 4), dtype) * strides[:, None])
        truth = jnp.take_along_axis(batch.boxes.astype(dtype), assigned.box[..., None], axis=1)
        truth = jnp.where(positive[..., None], truth, own)
        predicted = distances_to_boxes(points, outputs.distances * strides[:, None])
        box_loss = 1 - giou(predicted, truth)
        centre_loss = binary_cross_entropy(
            outputs.centre_logits, centreness(boxes_to_distances(points, truth))
        )

        parts = {
            "class": jnp.sum(class_loss * counted),
            "box": jnp.sum(box_loss * positive),
            "centre": jnp.sum(centre_loss * positive),
        }
        return {
            "loss": sum(parts.values()),
            **{f"loss/{name}": part for name, part in parts.items()},
            "total": positive.sum(),
            "images": batch.present.sum(),
            "positive_points": positive.sum(),
            "boxes_without_point": assigned.missed.sum(),
            "boxes_truncated": batch.truncated.sum(),
        }

    def predict(self, outputs: FCOSOutput) -> dict[str, Any]:
        """Detections of each image, see `Detection`."""
        return mesh.per_example(jax.vmap(self._decode))(*outputs)

    def _decode(
        self, class_logits: jax.Array, distances: jax.Array, centre_logits: jax.Array
    ) -> Candidates:
        """Detections of one image. The score is sqrt(class probability x centre-ness).

        Points whose outputs are not finite give none.
        """
        finite = jnp.isfinite(distances).all(-1) & jnp.isfinite(centre_logits)
        class_p, centre = jax.nn.sigmoid(class_logits)[:, 1:], jax.nn.sigmoid(centre_logits)
        scores = jnp.sqrt(class_p * centre[:, None])
        finite = finite[:, None] & jnp.isfinite(scores)
        scores = jnp.where(finite & (scores > self.score_threshold), scores, -1)
        levels, first = [], 0
        for points, strides in self.levels:
            level = slice(first, first + len(points))
            first += len(points)
            score, point, label = best_pairs(scores[level], self.candidates)
            sides = distances[level][point] * jnp.asarray(strides)[point, None]
            boxes = distances_to_boxes(jnp.asarray(points)[point], sides)
            levels.append(
                {
                    "boxes": clip_to_image(boxes, self.image_size),
                    "labels": label.astype(jnp.int32),
                    "scores": score,
                    "class_confidence": class_p[level][point, label],
                    "box_confidence": centre[level][point],
                }
            )
        return distinct(levels, self.iou_threshold, self.max_detections)


def centreness(distances: jax.Array) -> jax.Array:
    """The centre-ness (arXiv 2006.09214, eq. 3) of a point by its distances to the sides [..., 4].

    1 in the centre of its box, 0 on a side; the point must be inside.
    """
    near = jnp.minimum(distances[..., :2], distances[..., 2:])
    far = jnp.maximum(distances[..., :2], distances[..., 2:])
    return jnp.sqrt((near / far).prod(-1))
