"""FCOS (arXiv 2006.09214) as torchvision defines it: a feature pyramid with strides 8 to 128.

For each point the logits of its class, the distances to the sides of its box, and the logit of its
centre-ness, a part of the branch of the box. As in `retinanet`, the first class logit is of a class
that no box has.
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from convmesh.models.dense_head import (
    BACKGROUND_LOGIT,
    HeadConv,
    Tower,
    backbone_levels,
    detector_torch_names,
    points_of,
)
from convmesh.models.fpn import FROM_LAST, FeaturePyramid, fpn_torch_names
from convmesh.models.resnet import ResNet50Backbone


class FCOSOutput(NamedTuple):
    """What is predicted for each point, level by level, in at least float32."""

    class_logits: Any  # [batch, points, 1 + classes]; the first is of no class
    distances: Any  # [batch, points, 4]: left, top, right, bottom, in strides; not negative
    centre_logits: Any  # [batch, points]


class FCOS(nn.Module):
    """Images [batch, rows, columns, 3] -> FCOSOutput.

    backbone: module class, or partial of one, that gives C3, C4 and C5. depth: convolutions of a
    branch of the head. groups: of its group norms. The batch norms of the backbone are frozen, in
    training too.
    """

    classes: int
    backbone: Any = ResNet50Backbone
    dtype: Any = jnp.float32
    norm_group: int = 0
    remat: bool = False
    features: int = 256
    depth: int = 4
    groups: int = 32

    frozen_norm = True
    detection = "fcos"

    @property
    def detection_options(self) -> dict[str, Any]:
        """Options of its task."""
        return {}

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> FCOSOutput:
        options = {"dtype": self.dtype, "norm_group": self.norm_group, "remat": self.remat}
        levels = backbone_levels(self.backbone, x, train, options)
        levels = FeaturePyramid(FROM_LAST, self.features, self.dtype, name="fpn")(levels)
        conv = partial(HeadConv, dtype=self.dtype)
        tower = partial(Tower, self.features, self.depth, self.groups, dtype=self.dtype)
        to_class = conv(
            1 + self.classes, bias_init=nn.initializers.constant(BACKGROUND_LOGIT), name="class"
        )
        boxes = tower(name="box_tower")(levels)
        return FCOSOutput(
            class_logits=points_of(to_class, tower(name="class_tower")(levels), 1),
            distances=nn.relu(points_of(conv(4, name="box"), boxes, 1)),
            centre_logits=points_of(conv(1, name="centre"), boxes, 1)[..., 0],
        )

    def torch_names(self) -> dict[str, str]:
        """Torch's name of each layer (see `convmesh.weights.torch_names`)."""
        head = {
            "class": "classification_head.cls_logits",
            "box": "regression_head.bbox_reg",
            "centre": "regression_head.bbox_ctrness",
        }
        for tower, name in (("class", "classification"), ("box", "regression")):
            for i in range(self.depth):
                head[f"{tower}_tower/conv{i}"] = f"{name}_head.conv.{3 * i}"
                head[f"{tower}_tower/norm{i}"] = f"{name}_head.conv.{3 * i + 1}"
        return detector_torch_names(self.backbone, fpn_torch_names(FROM_LAST, 3), head)


FCOSResNet50 = FCOS
