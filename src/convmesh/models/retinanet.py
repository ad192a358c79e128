"""RetinaNet (arXiv 1708.02002) as torchvision defines it: a feature pyramid with strides 8 to 128.

At each point nine anchors; for each the logits of its class and the offsets of its box. Torchvision
counts labels from 1: the first class logit is of the class 0, which no box has, so that it learns
to be low, and is never predicted.
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from convmesh.models.dense_head import (
    BACKGROUND_LOGIT,
    DEPTH,
    HeadConv,
    Tower,
    backbone_levels,
    detector_torch_names,
    points_of,
)
from convmesh.models.fpn import FROM_INPUT, FROM_LAST, FeaturePyramid, fpn_torch_names
from convmesh.models.resnet import ResNet50Backbone

ANCHORS = 9  # of a point: 3 sizes of 3 ratios


class RetinaNetOutput(NamedTuple):
    """What is predicted for each anchor, level by level, in at least float32."""

    class_logits: Any  # [batch, anchors, 1 + classes]; the first is of no class
    offsets: Any  # [batch, anchors, 4], see `ops.anchors.offsets_to_boxes`


class RetinaNet(nn.Module):
    """Images [batch, rows, columns, 3] -> RetinaNetOutput.

    backbone: module class, or partial of one, that gives C3, C4 and C5. extra: where the levels of
    strides 64 and 128 come from, see `FeaturePyramid`. groups: of the group norms of the head, 0
    for none. box_loss: see `tasks.retinanet`. frozen_norm: whether the batch norms of the backbone
    are frozen in training, too.
    """

    classes: int
    backbone: Any = ResNet50Backbone
    dtype: Any = jnp.float32
    norm_group: int = 0
    remat: bool = False
    features: int = 256
    extra: str = FROM_LAST
    groups: int = 0
    box_loss: str = "l1"
    frozen_norm: bool = True

    detection = "retinanet"

    @property
    def detection_options(self) -> dict[str, Any]:
        """Options of its task."""
        return {"box_loss": self.box_loss}

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> RetinaNetOutput:
        options = {"dtype": self.dtype, "norm_group": self.norm_group, "remat": self.remat}
        levels = backbone_levels(self.backbone, x, train, options)
        levels = FeaturePyramid(self.extra, self.features, self.dtype, name="fpn")(levels)
        conv = partial(HeadConv, dtype=self.dtype)
        tower = partial(Tower, self.features, self.groups, not self.groups, self.dtype)
        to_class = conv(
            ANCHORS * (1 + self.classes),
            bias_init=nn.initializers.constant(BACKGROUND_LOGIT),
            name="class",
        )
        to_box = conv(ANCHORS * 4, name="box")
        return RetinaNetOutput(
            class_logits=points_of(to_class, tower(name="class_tower")(levels), ANCHORS),
            offsets=points_of(to_box, tower(name="box_tower")(levels), ANCHORS),
        )

    def torch_names(self) -> dict[str, str]:
        """Torch's name of each layer (see `convmesh.weights.torch_names`)."""
        head = {"class": "classification_head.cls_logits", "box": "regression_head.bbox_reg"}
        for tower, name in (("class", "classification"), ("box", "regression")):
            for i in range(DEPTH):
                head[f"{tower}_tower/conv{i}"] = f"{name}_head.conv.{i}.0"
                if self.groups:
                    head[f"{tower}_tower/norm{i}"] = f"{name}_head.conv.{i}.1"
        return detector_torch_names(self.backbone, fpn_torch_names(self.extra, 3), head)


RetinaNetResNet50 = RetinaNet
# The second version: trained batch norms, group norms in the head, a GIoU loss.
RetinaNetResNet50V2 = partial(
    RetinaNet, extra=FROM_INPUT, groups=32, box_loss="giou", frozen_norm=False
)
