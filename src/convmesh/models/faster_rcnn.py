"""Faster R-CNN (arXiv 1506.01497) on a feature pyramid (1612.03144), as torchvision defines it.

The first stage, the region proposal network, says for each anchor whether there is an object, and
where. The best of its boxes that are not suppressed are the proposals; from the features in each of
them the second stage tells the class, and for each class the offsets of the box.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from convmesh import mesh
from convmesh.errors import ConfigError
from convmesh.models.dense_head import HeadConv, backbone_levels, points_of
from convmesh.models.fpn import POOL, FeaturePyramid, fpn_torch_names
from convmesh.models.layers import Dense, at_least_float32
from convmesh.models.resnet import ResNet50Backbone
from convmesh.ops.anchors import cell_anchors, clip_to_image, grid_anchors, offsets_to_boxes
from convmesh.ops.points import to_points
from convmesh.ops.roi_align import pool_boxes
from convmesh.ops.selection import top_k
from convmesh.ops.suppression import suppress

STRIDES = (4, 8, 16, 32, 64)
SIZES, RATIOS = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0)  # of the anchors: a size for each level
ANCHORS = len(RATIOS)  # of a point
BINS = 7  # of the features of a proposal, along each side
PROPOSALS = {False: 1000, True: 2000}  # of each level, and then of all; in training more
OVERLAP = 0.7  # IoU above which a proposal suppresses another of its level
SMALLEST = 1e-3  # side of a proposal in pixels


class Sample(NamedTuple):
    """What the two stages learn from in a train step, chosen by the task."""

    anchors: Any  # bool [batch, anchors]
    boxes: Any  # float [batch, n, 4], in place of the proposals
    valid: Any  # bool [batch, n]
    targets: Any  # what anchors and boxes learn, for the loss; the model only hands it on


class FasterRCNNOutput(NamedTuple):
    """The outputs of both stages, in at least float32."""

    object_logits: Any  # [batch, anchors]: whether there is an object
    anchor_offsets: Any  # [batch, anchors, 4], see `ops.anchors.offsets_to_boxes`
    sampled: Any  # bool [batch, anchors]: those that are learned; all without a sample
    boxes: Any  # [batch, n, 4]: proposals, or boxes of the sample
    valid: Any  # bool [batch, n]
    class_logits: Any  # [batch, n, 1 + classes]; the first is background
    offsets: Any  # [batch, n, 1 + classes, 4], from `boxes`
    targets: Any = None  # of the sample


# Chooses from proposals [batch, n, 4] and which of them are valid, bool [batch, n].
Choose = Callable[[jax.Array, jax.Array], Sample]


def anchors_of(image_size: tuple[int, int]) -> list[Any]:
    """The anchors of each level for images (height, width): float32 [n, 4]."""
    return grid_anchors(image_size, STRIDES, [cell_anchors((size,), RATIOS) for size in SIZES])


class FasterRCNN(nn.Module):
    """Images [batch, rows, columns, 3] -> FasterRCNNOutput.

    The second stage learns from chosen proposals, and the choice needs the boxes of the image: so a
    train step calls the model with `choose`, of its task (`steps.step`); `two_stage` says so. No
    gradient passes through boxes. Raises ConfigError if the backbone has no features of stride 4.
    """

    classes: int
    backbone: Any = ResNet50Backbone
    dtype: Any = jnp.float32
    norm_group: int = 0
    remat: bool = False
    features: int = 256
    hidden: int = 1024
    proposals: tuple[int, int] = (PROPOSALS[False], PROPOSALS[True])  # in evaluation, in training

    detection = "faster_rcnn"
    frozen_norm = True
    two_stage = True
    classes_first = True  # of its columns: a class's offsets are side by side

    @property
    def detection_options(self) -> dict[str, Any]:
        """Options of its task: none."""
        return {}

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, choose: Choose | None = None
    ) -> FasterRCNNOutput:
        image_size = (x.shape[1], x.shape[2])
        options = {"dtype": self.dtype, "norm_group": self.norm_group, "remat": self.remat}
        levels = backbone_levels(self.backbone, x, train, options | {"finest": True})
        if len(levels) != len(STRIDES) - 1:
            raise ConfigError(
                "model.backbone: Faster R-CNN needs features of stride 4, which only the backbones "
                "of the ResNets have; leave it empty, or name one of these"
            )
        levels = FeaturePyramid(POOL, self.features, self.dtype, name="fpn")(levels)

        conv = partial(HeadConv, dtype=self.dtype)
        shared = conv(self.features, name="rpn_conv")
        hidden = [nn.relu(shared(level)) for level in levels]
        objects = points_of(conv(ANCHORS, kernel=1, name="rpn_object"), hidden, ANCHORS)[..., 0]
        anchor_offsets = points_of(conv(ANCHORS * 4, kernel=1, name="rpn_box"), hidden, ANCHORS)

        decode = partial(propose, image_size=image_size, count=self.proposals[train])
        boxes, valid = mesh.per_example(jax.vmap(decode))(
            *lax.stop_gradient((objects, anchor_offsets))
        )
        sampled, targets = jnp.ones(objects.shape, bool), None
        if choose is not None:
            sampled, boxes, valid, targets = lax.stop_gradient(choose(boxes, valid))
        pooled = pool_boxes(levels[:-1], boxes, STRIDES[:-1], BINS)
        class_logits, offsets = self._second_stage(pooled)
        return FasterRCNNOutput(
            objects, anchor_offsets, sampled, boxes, valid, class_logits, offsets, targets
        )

    def _second_stage(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Class logits and offsets from the features of boxes [batch, n, 1, channels * bins**2]."""
        for name in ("box_hidden1", "box_hidden2"):
            x = nn.relu(Dense(self.hidden, dtype=self.dtype, name=name)(x))

        def output(name: str, features: int) -> jax.Array:
            y = to_points(Dense(features, dtype=self.dtype, name=name)(x))
            return y.astype(at_least_float32(self.dtype))

        columns = 1 + self.classes
        offsets = output("box_offsets", 4 * columns)
        return output("box_class", columns), offsets.reshape(*offsets.shape[:2], columns, 4)

    def torch_names(self) -> dict[str, str]:
        """Torch's name of each layer (see `convmesh.weights.torch_names`)."""
        body = self.backbone(parent=None).torch_names()
        names = {f"backbone/{k}": f"backbone.body.{v}" for k, v in body.items()}
        pyramid = fpn_torch_names(POOL, len(STRIDES) - 1)
        names |= {f"fpn/{k}": f"backbone.fpn.{v}" for k, v in pyramid.items()}
        return names | {
            "rpn_conv": "rpn.head.conv.0.0",
            "rpn_object": "rpn.head.cls_logits",
            "rpn_box": "rpn.head.bbox_pred",
            "box_hidden1": "roi_heads.box_head.fc6",
            "box_hidden2": "roi_heads.box_head.fc7",
            "box_class": "roi_heads.box_predictor.cls_score",
            "box_offsets": "roi_heads.box_predictor.bbox_pred",
        }


def propose(
    logits: jax.Array, offsets: jax.Array, image_size: tuple[int, int], count: int
) -> tuple[jax.Array, jax.Array]:
    """The proposals of one image, best first, and which of them are valid: [n, 4], bool [n].

    logits: [anchors]; offsets: [anchors, 4]. Of each level the `count` best; those that are not
    suppressed by a better one of their level; of these the `count` best. An anchor whose outputs
    are not finite gives none.
    """
    found_boxes, found_scores, start = [], [], 0
    for anchors in anchors_of(image_size):
        level = slice(start, start + len(anchors))
        start += len(anchors)
        finite = jnp.isfinite(logits[level]) & jnp.isfinite(offsets[level]).all(-1)
        scores, best = top_k(jnp.where(finite, logits[level], -jnp.inf), min(count, len(anchors)))
        reference = jnp.asarray(anchors, offsets.dtype)[best]
        boxes = clip_to_image(offsets_to_boxes(offsets[level][best], reference), image_size)
        valid = ((boxes[:, 2:] - boxes[:, :2]) >= SMALLEST).all(-1) & (scores > -jnp.inf)
        keep = suppress(boxes, jnp.zeros_like(best), valid, OVERLAP)
        found_boxes.append(boxes)
        found_scores.append(jnp.where(keep, scores, -jnp.inf))
    scores, boxes = jnp.concatenate(found_scores), jnp.concatenate(found_boxes)
    scores, best = top_k(scores, min(count, len(scores)))
    valid = scores > -jnp.inf
    return jnp.where(valid[:, None], boxes[best], 0), valid


FasterRCNNResNet50 = FasterRCNN
