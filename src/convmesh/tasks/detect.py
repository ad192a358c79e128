"""Detection: losses, decoding and metrics of the dense detector."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convmesh import mesh
from convmesh.models.detector import BINS, STRIDES, DetectorOutput, grid_points
from convmesh.ops import boxes as box_ops
from convmesh.ops.losses import distribution_focal, quality_focal
from convmesh.ops.suppression import suppress
from convmesh.tasks import Loss, average_precision, detection_report
from convmesh.tasks.assignment import ASSIGNMENTS

BOX_WEIGHT, DISTRIBUTION_WEIGHT = 2.0, 0.5


@dataclasses.dataclass(frozen=True)
class Detect(Loss):
    """The detection task for images of `image_size` (height, width)."""

    classes: int
    image_size: tuple[int, int]
    score_threshold: float = 0.001  # of evaluation; a picture wants more
    iou_threshold: float = 0.65
    candidates: int = 300  # (point, class) pairs that enter suppression
    max_detections: int = 100
    class_weight: float = 1.0  # of the class loss, beside BOX_WEIGHT
    distribution_weight: float = DISTRIBUTION_WEIGHT
    box_confidence: bool = True  # learned, and half of the score; else it is the class confidence
    assignment: str = "aligned"  # of ASSIGNMENTS
    strides: tuple[int, ...] = STRIDES  # the model's

    best_metric = "AP"

    def boxes(self, distance_logits):
        """Boxes [batch, points, 4] in pixels: distance = stride x the mean of the bins."""
        points, strides = grid_points(self.image_size, self.strides)
        bins = jnp.sum(jax.nn.softmax(distance_logits) * jnp.arange(BINS), axis=-1)
        return box_ops.distances_to_boxes(points, bins * strides[:, None])

    def assign(self, outputs: DetectorOutput, batch):
        """The assignment of each image, without gradient and without communication."""
        points, strides = grid_points(self.image_size, self.strides)

        def images(predicted, logits, boxes, labels, valid, crowd):
            one = lambda *args: ASSIGNMENTS[self.assignment](points, strides, *args)  # noqa: E731
            return jax.vmap(one)(predicted, logits, boxes, labels, valid, crowd)

        predicted = self.boxes(lax.stop_gradient(outputs.distance_logits))
        truth = (batch[name] for name in ("boxes", "labels", "valid", "crowd"))
        return mesh.per_example(images)(predicted, lax.stop_gradient(outputs.class_logits), *truth)

    def sums(self, outputs: DetectorOutput, batch, assignment=None):
        """The parts of the loss, and counts, summed over the examples.

        `total` is the sum of the targets. Padding examples (`present` False) have no boxes and
        weigh nothing.
        """
        assigned = self.assign(outputs, batch) if assignment is None else assignment
        points, strides = grid_points(self.image_size, self.strides)
        dtype = outputs.class_logits.dtype
        target = assigned.target.astype(dtype)
        weight = (batch["present"][:, None] & ~assigned.ignored).astype(dtype)  # [batch, points]

        label = jnp.take_along_axis(batch["labels"], assigned.box, axis=1)
        class_target = jax.nn.one_hot(label, self.classes, dtype=dtype) * target[..., None]
        class_loss = quality_focal(outputs.class_logits, class_target).sum(-1)

        confidence_loss = quality_focal(
            outputs.confidence_logits, assigned.confidence.astype(dtype)
        )

        # Points that are not positive get a box that is right, so that no arithmetic goes wrong.
        predicted = self.boxes(outputs.distance_logits)
        truth = jnp.take_along_axis(batch["boxes"].astype(dtype), assigned.box[..., None], axis=1)
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
            "images": batch["present"].sum(),
            "positive_points": assigned.positive.sum(),
            "boxes_without_point": assigned.missed.sum(),
            "boxes_truncated": batch["truncated"].sum(),
        }

    def finish(self, sums):
        """The loss and its parts, over the sum of the targets of all images, and the counts."""
        total = self.divisor(sums)
        numbers = {name: v / total for name, v in sums.items() if name.startswith("loss/")}
        numbers["positive_points"] = sums["positive_points"] / jnp.maximum(sums["images"], 1)
        for name in ("boxes_without_point", "boxes_truncated"):
            numbers[name] = sums[name]
        return sums["loss"] / total, numbers

    def predict(self, outputs: DetectorOutput) -> dict[str, Any]:
        """Detections of each image, best first, in pixels of the network's input.

        Returns `boxes` [batch, n, 4], `labels` int32, `scores`, `class_confidence`,
        `box_confidence`, `valid` bool, each [batch, n], n = max_detections.
        """

        def images(distance_logits, class_logits, confidence_logits):
            return jax.vmap(self._decode)(
                self.boxes(distance_logits), class_logits, confidence_logits
            )

        return mesh.per_example(images)(
            outputs.distance_logits, outputs.class_logits, outputs.confidence_logits
        )

    def _decode(self, boxes, class_logits, confidence_logits):
        """Detections of one image. The score is sqrt(class x box confidence)."""
        class_p, confidence = jax.nn.sigmoid(class_logits), jax.nn.sigmoid(confidence_logits)
        if not self.box_confidence:
            confidence = class_p.max(axis=1)
        scores = jnp.sqrt(class_p * confidence[:, None]) if self.box_confidence else class_p
        # Exact: a pair among the k best stands at a point whose best class is among the k best.
        _, best = lax.top_k(scores.max(axis=1), min(self.candidates, scores.shape[0]))
        k = min(self.candidates, best.size * self.classes)
        score, pair = lax.top_k(scores[best].reshape(-1), k)
        point, label = best[pair // self.classes], pair % self.classes
        boxes = boxes[point]
        keep = suppress(boxes, label, score >= self.score_threshold, self.iou_threshold)

        n = min(self.max_detections, k)
        _, order = lax.top_k(jnp.where(keep, score, -1), n)
        return {
            "boxes": boxes[order],
            "labels": label[order].astype(jnp.int32),
            "scores": score[order],
            "class_confidence": class_p[point, label][order],
            "box_confidence": confidence[point][order],
            "valid": keep[order],
        }

    # What follows runs on the host, with numpy.

    def to_host(self, one: dict[str, Any], placement: dict[str, Any]) -> dict[str, Any]:
        """The valid detections of one image, boxes in pixels of the original image.

        `one`: `predict`'s arrays of that image. `placement`: `scale`, `offset` (x, y) and
        `original_size` (height, width), with input = original x scale + offset.
        """
        one = {name: np.asarray(value)[one["valid"]] for name, value in one.items()}
        shift = np.tile(placement["offset"], 2)
        height, width = placement["original_size"]
        boxes = (one["boxes"] - shift) / placement["scale"]
        one["boxes"] = np.clip(boxes, 0, np.array([width, height] * 2)).astype(np.float32)
        del one["valid"]
        return one

    def distinct(self, found: dict[str, Any]) -> dict[str, Any]:
        """`to_host`'s detections without those that a better one covers, of whatever class.

        For pictures and users: evaluation keeps every class that a place might hold.
        """
        boxes = found["boxes"]
        low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
        both = np.prod(np.maximum(high - low, 0), axis=-1)
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1)
        overlap = both > self.iou_threshold * (area[:, None] + area[None, :] - both)
        kept: list[int] = []
        for i in range(len(boxes)):
            if not overlap[i, kept].any():
                kept.append(i)
        is_array = lambda value: isinstance(value, np.ndarray)  # noqa: E731
        return {k: v[kept] if is_array(v) else v for k, v in found.items()}

    def metrics(self, truth, found, classes) -> dict[str, float]:
        """AP and AR as COCO defines them, of `found` (`to_host`) against `truth` (dicts).

        And `best_threshold`, the score from which on detections give the best F1, with this `F1`.
        """
        metrics = average_precision.coco_metrics(truth, found, classes)
        return metrics | detection_report.numbers(detection_report.match(truth, found, classes))

    def results(self, found, classes, category_ids=None) -> list[dict]:
        """`found` in the COCO results format; `category_ids`: the source's number of each class."""
        return average_precision.coco_results(found, classes, category_ids)

    def table(self, metrics, classes) -> str:
        """The metrics for people."""
        return average_precision.ap_table(metrics, classes)
