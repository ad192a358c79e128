"""Faster R-CNN: how both stages learn, and decoding, as in torchvision.

Anchors are matched to boxes as in arXiv 1506.01497, section 3.1.2; of each image 256 are drawn, at
most half of them positive. Of the proposals, to which the boxes themselves are added, 512 are
drawn, at most a quarter of them positive (1504.08083, section 2.3).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convmesh import mesh
from convmesh.distributed.batch import Batch
from convmesh.models.faster_rcnn import FasterRCNNOutput, Sample, anchors_of
from convmesh.ops.anchors import boxes_to_offsets, clip_to_image, offsets_to_boxes
from convmesh.ops.boxes import area
from convmesh.ops.losses import binary_cross_entropy, cross_entropy, smooth_l1
from convmesh.ops.selection import among_largest, top_k
from convmesh.ops.suppression import best_distinct
from convmesh.tasks.anchor_matching import Match, match_anchors
from convmesh.tasks.assignment import GroundTruth
from convmesh.tasks.detection import Detection

WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the offsets of the second stage
BETA = 1 / 9  # of smooth L1
SMALLEST = 1e-2  # side of a detection in pixels


def draw(
    positive: jax.Array, negative: jax.Array, count: int, fraction: float, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Draws `count` of the candidates of one image without replacement: index, valid [count].

    positive, negative: bool [n], of which at most `fraction * count` positives are drawn, and as
    many negatives as are left to draw; fewer if there are not enough. A function of `key` alone.
    """
    most = min(int(count * fraction), len(positive))
    count = min(count, len(positive))
    priority = jax.random.uniform(key, positive.shape)
    # Positives before all others.
    first = among_largest(jnp.where(positive, priority, -jnp.inf), most)
    order = jnp.where(first, 2, jnp.where(negative & ~positive, priority, -1))
    best, index = top_k(order, count)
    return index, best >= 0


@dataclasses.dataclass(frozen=True)
class FasterRCNNDetection(Detection):
    """The detection task of `models.faster_rcnn`."""

    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    anchors_drawn: int = 256  # of each image
    boxes_drawn: int = 512

    @property
    def anchors(self) -> np.ndarray:
        """The anchors of an image: float32 [anchors, 4]."""
        return np.concatenate(anchors_of(self.image_size))

    def assign(self, outputs: FasterRCNNOutput, batch: Batch) -> tuple[Match, Match]:
        """What the anchors and the boxes of the second stage learn, of each image.

        `choose` has matched them in a train step; without it, it is done here.
        """
        if outputs.targets is not None:
            return outputs.targets

        def match(boxes: jax.Array, truth: GroundTruth) -> tuple[Match, Match]:
            return self._match_anchors(truth, boxes.dtype), _match_proposals(boxes, truth)

        return mesh.per_example(jax.vmap(match))(outputs.boxes, _truth(batch))

    def _match_anchors(self, truth: GroundTruth, dtype: Any) -> Match:
        return match_anchors(jnp.asarray(self.anchors, dtype), truth, 0.7, 0.3)

    def choose(self, batch: Batch, key: jax.Array) -> Any:
        """The function with which a train step calls the model, see `models.faster_rcnn.Choose`.

        key: of the step. What is drawn of an image depends on it and on the index of the example in
        its split, and so neither on the mesh nor on the rest of the batch.
        """
        truth = _truth(batch)
        fold = jax.vmap(functools.partial(jax.random.fold_in, key))
        seeds = jax.random.key_data(fold(batch.index))

        def choose_image(
            proposals: jax.Array, valid: jax.Array, truth: GroundTruth, seed: jax.Array
        ) -> Sample:
            keys = jax.random.split(jax.random.wrap_key_data(seed))
            dtype = proposals.dtype
            first = self._match_anchors(truth, dtype)
            negative = ~first.positive & ~first.ignored
            drawn, real = draw(first.positive, negative, self.anchors_drawn, 0.5, keys[0])
            sampled = jnp.zeros(len(self.anchors), bool).at[drawn].set(real, unique_indices=True)

            boxes = truth.boxes.astype(dtype)
            proposals = jnp.concatenate([proposals, boxes])
            is_box = truth.valid & ~truth.crowd & (area(boxes) > 0)
            valid = jnp.concatenate([valid, is_box])
            second = _match_proposals(proposals, truth)
            negative = valid & ~second.positive & ~second.ignored
            drawn, real = draw(valid & second.positive, negative, self.boxes_drawn, 0.25, keys[1])
            second = second.of(drawn)
            return Sample(sampled, proposals[drawn], real, (first, second))

        def choose(proposals: jax.Array, valid: jax.Array) -> Sample:
            images = jax.vmap(choose_image)
            return mesh.per_example(images)(proposals, valid, truth, seeds)

        return choose

    def sums(self, outputs: FasterRCNNOutput, batch: Batch) -> dict[str, Any]:
        """The parts of the loss, and counts, summed over the examples.

        As in torchvision, each part is a mean over what was drawn of all images of the batch (of a
        micro-batch, by its own count); `total` is the number of images, by which the parts are
        multiplied here.
        """
        first, second = self.assign(outputs, batch)
        dtype = outputs.class_logits.dtype
        images = batch.present.sum().astype(dtype)

        present = batch.present[:, None]
        drawn = (outputs.sampled & present & (first.positive | ~first.ignored)).astype(dtype)
        scale = images / jnp.maximum(drawn.sum(), 1)
        is_object = first.positive.astype(dtype)
        object_loss = binary_cross_entropy(outputs.object_logits, is_object) * drawn
        anchors = jnp.asarray(self.anchors, dtype)
        target = boxes_to_offsets(_boxes_of(first, batch, anchors), anchors)
        error = smooth_l1(outputs.anchor_offsets - target, BETA).sum(-1)
        parts = {
            "object": scale * object_loss.sum(),
            "proposal": scale * jnp.sum(error * drawn * is_object),
        }

        drawn = (outputs.valid & present & (second.positive | ~second.ignored)).astype(dtype)
        scale = images / jnp.maximum(drawn.sum(), 1)
        label = jnp.take_along_axis(batch.labels, second.box, axis=1)
        label = jnp.where(second.positive, 1 + label, 0)
        class_loss = cross_entropy(outputs.class_logits, label) * drawn
        # Boxes that are only padding have no area.
        boxes = jnp.where(outputs.valid[..., None], outputs.boxes, jnp.arange(4) // 2)
        boxes = boxes.astype(dtype)
        target = boxes_to_offsets(_boxes_of(second, batch, boxes), boxes, WEIGHTS)
        offsets = jnp.take_along_axis(outputs.offsets, label[..., None, None], axis=2)[:, :, 0]
        error = smooth_l1(offsets - target, BETA).sum(-1)
        parts |= {
            "class": scale * class_loss.sum(),
            "box": scale * jnp.sum(error * drawn * second.positive),
        }
        return {
            "loss": sum(parts.values()),
            **{f"loss/{name}": part for name, part in parts.items()},
            "total": images,
            "images": batch.present.sum(),
            "positive_points": jnp.sum(first.positive & present),
            "boxes_without_point": first.missed.sum(),
            "boxes_truncated": batch.truncated.sum(),
        }

    def predict(self, outputs: FasterRCNNOutput) -> dict[str, Any]:
        """Detections of each image, see `Detection`.

        The score is the probability of the class: the box confidence, that it is no background,
        times the class confidence.
        """
        decode = jax.vmap(self._decode)
        return mesh.per_example(decode)(
            outputs.boxes, outputs.valid, outputs.class_logits, outputs.offsets
        )

    def _decode(
        self, proposals: jax.Array, valid: jax.Array, class_logits: jax.Array, offsets: jax.Array
    ) -> dict[str, jax.Array]:
        """Detections of one image; a proposal whose outputs are not finite gives none."""
        probability = jax.nn.softmax(class_logits)
        finite = jnp.isfinite(class_logits).all(-1) & jnp.isfinite(offsets).all((-2, -1))
        boxes = offsets_to_boxes(offsets[:, 1:], proposals[:, None], WEIGHTS)
        boxes = clip_to_image(boxes, self.image_size)
        large = ((boxes[..., 2:] - boxes[..., :2]) >= SMALLEST).all(-1)
        scores = probability[:, 1:]
        candidate = (valid & finite)[:, None] & large & (scores > self.score_threshold)
        scores = jnp.where(candidate, scores, -1).reshape(-1)
        labels = jnp.tile(jnp.arange(self.classes), len(proposals))
        boxes = boxes.reshape(-1, 4)
        n = min(self.max_detections, len(boxes))
        order, found = best_distinct(boxes, labels, scores, self.iou_threshold, n)
        score = scores[order]
        object_p = probability[order // self.classes][:, 1:].sum(-1)
        return {
            "boxes": boxes[order],
            "labels": labels[order].astype(jnp.int32),
            "scores": score,
            "class_confidence": score / jnp.maximum(object_p, jnp.finfo(score.dtype).tiny),
            "box_confidence": object_p,
            "valid": found,
        }


def _truth(batch: Batch) -> GroundTruth:
    return GroundTruth(batch.boxes, batch.labels, batch.valid, batch.crowd)


def _match_proposals(boxes: jax.Array, truth: GroundTruth) -> Match:
    return match_anchors(boxes, truth, 0.5, 0.5, best_anchors=False)


def _boxes_of(match: Match, batch: Batch, otherwise: jax.Array) -> jax.Array:
    """The box that each learns; `otherwise` where it learns none, to keep the loss finite."""
    boxes = jnp.take_along_axis(batch.boxes.astype(otherwise.dtype), match.box[..., None], axis=1)
    return jnp.where(match.positive[..., None], boxes, otherwise)
