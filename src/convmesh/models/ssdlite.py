"""SSDLite on MobileNetV3 (arXiv 1801.04381, 6.2; 1905.02244, 6.3), as torchvision has it.

Six levels: what MobileNetV3's last stage begins with, widened, at a stride of 16; its last
convolution, at 32; and four extra blocks, each at half the size of the one before. From each level,
by depthwise convolutions, come the logits of all classes and the offsets of each default box.
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from convmesh.models import mobilenet_v3
from convmesh.models.inverted_residual import (
    Stages,
    block_names,
    conv_norm_of,
    named_blocks,
    stage_features,
)
from convmesh.models.layers import (
    Conv,
    ConvNorm,
    at_least_float32,
    conv_norm_names,
    crop_to_cells,
)
from convmesh.ops.points import to_points

BOXES = 6  # default boxes at each point of a level, see `tasks.ssd`
MOMENTUM, EPSILON = 0.97, 1e-3  # of all norms
_init = nn.initializers.normal(0.03)


class SSDOutput(NamedTuple):
    """The outputs of each default box: level by level, row by row, then the boxes of a point."""

    class_logits: Any  # [batch, boxes, 1 + classes], at least float32; the first is background
    offsets: Any  # [batch, boxes, 4], at least float32, see `ops.anchors`


class MobileNetV3SSDBackbone(mobilenet_v3.MobileNetV3Backbone):
    """Images [batch, rows, columns, 3] -> the first two levels.

    Its variables have the names and, up to the last stage, the shapes of the classifier's; that
    stage and the convolution behind it have half the channels ("reduced tail").
    """

    last: int = 480  # channels of the last convolution
    momentum: float = MOMENTUM
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        tapped = f"stage{len(self.stages)}_block1"
        *_, first, x = stage_features(self, x, train, tapped).values()
        last = conv_norm_of(self)(self.last, kernel=1, activation=self.activation, name="head_conv")
        return [first, last(x, train)]


class ExtraBlock(nn.Module):
    """1x1 to half of `features`, 3x3 depthwise at stride 2, 1x1: a level of half the size."""

    features: int
    conv_norm: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        half = self.features // 2
        x = self.conv_norm(half, kernel=1, name="reduce")(x, train)
        x = self.conv_norm(half, stride=2, groups=half, name="depthwise")(x, train)
        return self.conv_norm(self.features, kernel=1, name="project")(x, train)


class Predictor(nn.Module):
    """3x3 depthwise convolution, then 1x1 to `outputs` of each default box: [batch, boxes, n]."""

    outputs: int
    conv_norm: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.conv_norm(x.shape[-1], groups=x.shape[-1], name="depthwise")(x, train)
        wide = BOXES * self.outputs
        project = Conv(wide, 1, bias=True, dtype=self.dtype, kernel_init=_init, name="project")
        y = to_points(project(x)).astype(at_least_float32(self.dtype))
        return y.reshape(y.shape[0], -1, self.outputs)


class SSDLite(nn.Module):
    """Images [batch, rows, columns, 3] -> SSDOutput.

    `classes` counts no background: torchvision's `num_classes` is one more.
    """

    classes: int
    stages: Stages
    last: int = 480
    extra: tuple[int, ...] = (512, 256, 256, 128)  # channels of the extra levels
    dtype: Any = jnp.float32
    norm_group: int = 0
    remat: bool = False

    detection = "ssd"

    @property
    def detection_options(self) -> dict[str, Any]:
        """Options of its task: the strides of its levels, in pixels."""
        coarse = 2  # of the last stage; the stem has a stride of 2
        for _, block in named_blocks(self.stages):
            coarse *= block.stride
        return {"strides": tuple(coarse * 2**i // 2 for i in range(2 + len(self.extra)))}

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> SSDOutput:
        options = {"dtype": self.dtype, "norm_group": self.norm_group}
        conv_norm = partial(
            ConvNorm, activation=nn.relu6, momentum=MOMENTUM, epsilon=EPSILON, **options
        )
        backbone = MobileNetV3SSDBackbone(
            stages=self.stages,
            last=self.last,
            remat=self.remat,
            name="backbone",
            **options,
        )
        levels = backbone(crop_to_cells(x), train)
        for i, features in enumerate(self.extra, 1):
            levels.append(ExtraBlock(features, conv_norm, name=f"extra{i}")(levels[-1], train))

        def outputs(name: str, count: int) -> jax.Array:
            predictor = partial(Predictor, count, conv_norm, self.dtype)
            found = [predictor(name=f"{name}{i}")(x, train) for i, x in enumerate(levels, 1)]
            return jnp.concatenate(found, axis=1)

        return SSDOutput(outputs("class", 1 + self.classes), outputs("box", 4))

    def torch_names(self) -> dict[str, str]:
        """Torch's name of each layer (see `convmesh.weights.torch_names`).

        Torchvision cuts the backbone in two behind the first convolution of its last stage.
        """
        first, second = "backbone.features.0", "backbone.features.1"
        names = conv_norm_names("backbone/stem", f"{first}.0.0", f"{first}.0.1")
        blocks = list(named_blocks(self.stages))
        cut = len(blocks) - len(self.stages[-1])
        for i, (name, block) in enumerate(blocks):
            path, opens = f"backbone/{name}", i == cut
            theirs = f"{first}.{i + 1}" if i < cut else f"{second}.{i - cut}"
            names |= block_names(path, theirs if opens else f"{theirs}.block", block.layers)
            if opens:
                theirs = f"{first}.{i + 1}"
                names |= conv_norm_names(f"{path}/expand", f"{theirs}.0", f"{theirs}.1")
        last = f"{second}.{len(blocks) - cut}"
        names |= conv_norm_names("backbone/head_conv", f"{last}.0", f"{last}.1")
        for i in range(len(self.extra)):
            layers = ("reduce", "depthwise", "project")
            names |= block_names(f"extra{i + 1}", f"backbone.extra.{i}", layers)
        for ours, theirs in (("class", "classification"), ("box", "regression")):
            for i in range(2 + len(self.extra)):
                path, prefix = f"{ours}{i + 1}", f"head.{theirs}_head.module_list.{i}"
                names |= conv_norm_names(f"{path}/depthwise", f"{prefix}.0.0", f"{prefix}.0.1")
                names[f"{path}/project"] = f"{prefix}.1"
        return names


def reduced_tail(rows: tuple[mobilenet_v3.Row, ...]) -> tuple[mobilenet_v3.Row, ...]:
    """MobileNetV3's rows with half the channels in the blocks of the last stage."""
    opens = max(i for i, row in enumerate(rows) if row[-1] == 2)
    tail = []
    for i, (kernel, wide, features, squeezed, activation, stride) in enumerate(rows[opens:]):
        expanded = wide // 2 if i else wide
        tail.append((kernel, expanded, features // 2, squeezed, activation, stride))
    return (*rows[:opens], *tail)


SSDLite320MobileNetV3Large = partial(
    SSDLite, stages=mobilenet_v3.make_stages(reduced_tail(mobilenet_v3.LARGE))
)
