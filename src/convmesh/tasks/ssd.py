"""SSD (arXiv 1512.02325), as torchvision trains and decodes it.

Each point of a level has default boxes of several shapes. A box of the image is learned by all
default boxes that overlap it by half, and by its best one. Their offsets learn by smooth L1, their
classes by cross entropy, together with three times as many of the others: those that look least
like background.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convmesh import mesh
from convmesh.distributed.batch import Batch
from convmesh.geometry import grid_shape
from convmesh.models.ssdlite import SSDOutput
from convmesh.ops.anchors import boxes_to_offsets, clip_to_image, offsets_to_boxes
from convmesh.ops.boxes import area, pairwise_iou
from convmesh.ops.losses import cross_entropy, smooth_l1
from convmesh.ops.selection import among_largest, top_k
from convmesh.ops.suppression import best_distinct
from convmesh.tasks.anchor_matching import covered
from convmesh.tasks.assignment import GroundTruth
from convmesh.tasks.detection import Detection

SCALES = 0.2, 0.95  # of the default boxes of the first and the last level, in image sides
RATIOS = 2.0, 3.0  # of their sides, beside 1
WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the offsets
OVERLAP = 0.5  # IoU from which a default box learns a box
NEGATIVES = 3  # for each positive


class SSDAssignment(NamedTuple):
    """What the default boxes of one image (or, with a batch dimension in front, many) learn."""

    box: Any  # int32 [default boxes]: index of the box; undefined where not positive
    positive: Any  # bool [default boxes]
    negative: Any  # bool [default boxes]: learns that it is background; the rest learns nothing
    missed: Any  # int32 []: boxes that no default box learns


def default_boxes(image_size: tuple[int, int], strides: tuple[int, ...]) -> np.ndarray:
    """The default boxes of an image (height, width), float64 [n, 4]: x0 y0 x1 y1 in pixels.

    In the order of `SSDOutput`. At each point of a level with scale s: squares of the sides s and
    sqrt(s s'), with s' that of the next level, and for each ratio r sides of s sqrt(r) and
    s / sqrt(r), lying and standing; none larger than the image (paper, section 2.2).
    """
    first, last = SCALES
    steps = max(1, len(strides) - 1)
    scales = [first + (last - first) * k / steps for k in range(len(strides))] + [1.0]
    found = []
    for stride, scale, next_scale in zip(strides, scales[:-1], scales[1:], strict=True):
        sides = [(scale, scale), (math.sqrt(scale * next_scale),) * 2]
        for ratio in RATIOS:
            wide, narrow = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            sides += [(wide, narrow), (narrow, wide)]
        # In float32, as torchvision has them whatever the type of the rest.
        half = np.minimum(np.array(sides, np.float32), 1).astype(np.float64) / 2
        rows, columns = grid_shape(image_size, stride)
        y, x = ((np.arange(n, dtype=np.float32) + 0.5) / np.float32(n) for n in (rows, columns))
        centre = np.stack(np.broadcast_arrays(x, y[:, None]), -1).reshape(-1, 1, 2)
        boxes = np.concatenate([centre - half, centre + half], axis=-1)
        found.append(boxes.reshape(-1, 4) * np.tile(image_size[::-1], 2))
    return np.concatenate(found)


def assign(reference: np.ndarray, class_logits: jax.Array, truth: GroundTruth) -> SSDAssignment:
    """Assigns the default boxes `reference` [n, 4] of one image; class_logits: [n, 1 + classes].

    A default box learns the box that it overlaps most, from an IoU of 0.5 on; and of each box the
    one that overlaps it most learns it in any case, the last of several boxes. Negative are three
    for each positive, by cross entropy with background. One of which more than half lies in a crowd
    region is no negative. (Where too few are left, torchvision's loss counts positives twice.)
    """
    dtype = jnp.promote_types(class_logits.dtype, jnp.float32)
    places, boxes = jnp.asarray(reference, dtype), jnp.asarray(truth.boxes, dtype)
    real = truth.valid & ~truth.crowd & (area(boxes) > 0)
    overlap = jnp.where(real[:, None], pairwise_iou(boxes, places), -1)  # [max_boxes, n]
    index = jnp.arange(len(boxes))[:, None]
    forced = real[:, None] & (overlap.argmax(1)[:, None] == jnp.arange(len(places)))
    forced_box = jnp.max(jnp.where(forced, index, -1), axis=0)
    box = jnp.where(forced_box >= 0, forced_box, overlap.argmax(0))
    positive = (forced_box >= 0) | (overlap.max(0) >= OVERLAP)

    free = ~positive & ~covered(places, boxes, truth.valid & truth.crowd)
    surprise = -jax.nn.log_softmax(class_logits.astype(dtype))[:, 0]
    most = NEGATIVES * positive.sum(keepdims=True)
    return SSDAssignment(
        box=box.astype(jnp.int32),
        positive=positive,
        negative=free & among_largest(jnp.where(free, surprise, -jnp.inf), most),
        missed=jnp.sum(real & ~jnp.any(positive & (box == index), axis=1)).astype(jnp.int32),
    )


@dataclasses.dataclass(frozen=True)
class SSD(Detection):
    """The detection task of SSD models, with the options of torchvision's SSDLite."""

    iou_threshold: float = 0.55
    max_detections: int = 300
    candidates: int = 300  # of each class, before suppression
    strides: tuple[int, ...] = (16, 32, 64, 128, 256, 512)  # those of the model

    @property
    def default_boxes(self) -> np.ndarray:
        """The default boxes of an image: float64 [n, 4], in pixels."""
        return default_boxes(self.image_size, self.strides)

    def assign(self, outputs: SSDOutput, batch: Batch) -> SSDAssignment:
        """The assignment of each image, without gradients and without communication."""
        assign_image = functools.partial(assign, self.default_boxes)
        logits = lax.stop_gradient(outputs.class_logits)
        truth = GroundTruth(batch.boxes, batch.labels, batch.valid, batch.crowd)
        return mesh.per_example(jax.vmap(assign_image))(logits, truth)

    def sums(self, outputs: SSDOutput, batch: Batch) -> dict[str, Any]:
        """The parts of the loss, and counts, summed over the examples.

        `total` is the number of positive default boxes. Padding examples have none.
        """
        assigned = self.assign(outputs, batch)
        dtype = outputs.class_logits.dtype
        positive = (assigned.positive & batch.present[:, None]).astype(dtype)
        negative = (assigned.negative & batch.present[:, None]).astype(dtype)

        label = jnp.take_along_axis(batch.labels, assigned.box, axis=1)
        target = jnp.where(assigned.positive, 1 + label, 0)
        class_loss = cross_entropy(outputs.class_logits, target) * (positive + negative)

        # Those that are not positive learn themselves, to keep loss and gradient finite.
        reference = jnp.asarray(self.default_boxes, dtype)
        truth = jnp.take_along_axis(batch.boxes.astype(dtype), assigned.box[..., None], axis=1)
        truth = jnp.where(assigned.positive[..., None], truth, reference)
        error = outputs.offsets - boxes_to_offsets(truth, reference, WEIGHTS)
        box_loss = smooth_l1(error).sum(-1) * positive

        parts = {"class": class_loss.sum(), "box": box_loss.sum()}
        return {
            "loss": sum(parts.values()),
            **{f"loss/{name}": part for name, part in parts.items()},
            "total": positive.sum(),
            "images": batch.present.sum(),
            "positive_points": assigned.positive.sum(),
            "boxes_without_point": assigned.missed.sum(),
            "boxes_truncated": batch.truncated.sum(),
        }

    def predict(self, outputs: SSDOutput) -> dict[str, Any]:
        """Detections of each image, see `Detection`.

        The score is the probability of the class: the box confidence, that it is no background,
        times the class confidence.
        """
        decode = jax.vmap(self._decode)
        return mesh.per_example(decode)(outputs.class_logits, outputs.offsets)

    def _decode(self, class_logits: jax.Array, offsets: jax.Array) -> dict[str, jax.Array]:
        """Detections of one image; a default box of outputs that are not finite gives none."""
        dtype = class_logits.dtype
        probability = jax.nn.softmax(class_logits)
        finite = jnp.isfinite(class_logits).all(-1) & jnp.isfinite(offsets).all(-1)
        reference = jnp.asarray(self.default_boxes, dtype)
        boxes = clip_to_image(offsets_to_boxes(offsets, reference, WEIGHTS), self.image_size)
        scores = jnp.where(finite[:, None], probability[:, 1:], -1).T  # [classes, n]
        scores, best = top_k(scores, min(self.candidates, len(reference)))
        labels = jnp.broadcast_to(jnp.arange(len(best))[:, None], best.shape).reshape(-1)
        best, scores = best.reshape(-1), scores.reshape(-1)
        candidates = jnp.where(scores > self.score_threshold, scores, -1)
        n = min(self.max_detections, len(best))
        order, valid = best_distinct(boxes[best], labels, candidates, self.iou_threshold, n)
        at, label, score = best[order], labels[order], scores[order]
        object_p = probability[at][:, 1:].sum(-1)
        class_p = score / jnp.maximum(object_p, jnp.finfo(dtype).tiny)
        return {
            "boxes": boxes[at],
            "labels": label.astype(jnp.int32),
            "scores": score,
            "class_confidence": class_p,
            "box_confidence": object_p,
            "valid": valid,
        }
