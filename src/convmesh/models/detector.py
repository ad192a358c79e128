"""The dense detector: anchor-free, one stage, on the levels with strides 8, 16 and 32.

A backbone returns C3 to C5; a path-aggregation pyramid (arXiv 1803.01534) mixes them and may add
levels with strides 64 and 128 for large images. A head, whose convolutions are shared across levels
but whose norms are not (RTMDet, arXiv 2212.07784), returns for each point of each level the class
logits, the logits of the distances to the four sides of the box (distribution focal loss, arXiv
2006.04388), and one box confidence logit.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from convmesh.geometry import STRIDES
from convmesh.models.csp import CSPBackbone, CSPBlock
from convmesh.models.layers import (
    BatchNorm,
    Conv,
    ConvNorm,
    ResidualBlock,
    at_least_float32,
    rematerialised,
    residual_stage,
)
from convmesh.models.resnet import ResNet50Backbone
from convmesh.ops.points import to_points
from convmesh.ops.pool import upsample_nearest

BINS = 16  # distances of 0 to 15 strides
PRIOR_LOGIT = -4.595  # a probability of 0.01: most points are background
BIN_SLOPE = -0.4  # bias of bin k is BIN_SLOPE * k: boxes start at a mean side distance of 2 strides


class DetectorOutput(NamedTuple):
    """The logits of each point, level by level, in at least float32."""

    class_logits: Any  # [batch, points, classes]
    distance_logits: Any  # [batch, points, 4, BINS]: left, top, right, bottom
    confidence_logits: Any  # [batch, points]


class Backbone(nn.Module):
    """Images [batch, rows, columns, 3] -> features of strides 8, 16, 32 (C3, C4, C5).

    The stem is one 6 x 6 convolution with stride 4, each window centred on its cell: on a CPU, a
    layer at stride 2 would cost more than the rest of the backbone.
    """

    widths: tuple[int, ...]  # channels at strides 4, 8, 16, 32
    depths: tuple[int, ...]  # residual blocks at strides 4, 8, 16, 32
    dtype: Any = jnp.float32
    norm_group: int = 0
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        options = {"dtype": self.dtype, "norm_group": self.norm_group}
        block = rematerialised(ResidualBlock) if self.remat else ResidualBlock
        block = partial(block, **options)
        levels = []
        for i, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            if i == 0:
                x = ConvNorm(width, 6, stride=4, padding=1, name="stem", **options)(x, train)
            else:
                x = ConvNorm(width, stride=2, name=f"down{i + 1}", **options)(x, train)
            x = residual_stage(block, x, train, stage=i + 1, width=width, depth=depth)
            levels.append(x)
        return levels[1:]


class Pyramid(nn.Module):
    """PAFPN: top-down, then bottom-up; every output level has `features` channels.

    `levels` beyond those of the input are each computed from the previous one, at half the size.
    `block` mixes two levels, in place of a 3x3 convolution; `remat` recomputes it.
    """

    features: int
    levels: int = 3
    block: Any = None
    dtype: Any = jnp.float32
    norm_group: int = 0
    remat: bool = False

    @nn.compact
    def __call__(self, levels: list[jax.Array], train: bool) -> list[jax.Array]:
        conv_norm = partial(ConvNorm, self.features, dtype=self.dtype, norm_group=self.norm_group)
        mix: Any = conv_norm
        if self.block is not None:
            block = rematerialised(self.block) if self.remat else self.block
            mix = partial(block, self.features, dtype=self.dtype, norm_group=self.norm_group)
        levels = [conv_norm(1, name=f"lateral{i}")(x, train) for i, x in enumerate(levels)]
        for i in reversed(range(len(levels) - 1)):
            # If an image side is not a multiple of 32 there is a row or column too many.
            up = upsample_nearest(levels[i + 1])[:, : levels[i].shape[1], : levels[i].shape[2]]
            levels[i] = mix(name=f"top_down{i}")([levels[i], up], train)
        for i in range(1, len(levels)):
            down = conv_norm(3, 2, name=f"down{i}")(levels[i - 1], train)
            levels[i] = mix(name=f"bottom_up{i}")([levels[i], down], train)
        for i in range(len(levels), self.levels):
            levels.append(conv_norm(3, 2, name=f"down{i}")(levels[i - 1], train))
        return levels


class Head(nn.Module):
    """Two branches of two convolutions, shared across levels; each level has its own norms."""

    classes: int
    features: int
    dtype: Any = jnp.float32
    norm_group: int = 0

    @nn.compact
    def __call__(self, levels: list[jax.Array], train: bool) -> DetectorOutput:
        def branch(name: str) -> list[jax.Array]:
            convs = [Conv(self.features, dtype=self.dtype, name=f"{name}_conv{i}") for i in (0, 1)]
            outputs = []
            for level, x in enumerate(levels):
                for i, conv in enumerate(convs):
                    norm = BatchNorm(
                        self.dtype, self.norm_group, name=f"{name}_norm{i}_level{level}"
                    )
                    x = nn.silu(norm(conv(x), train))
                outputs.append(x)
            return outputs

        def output(name: str, features: int, bias_init: Callable) -> Conv:
            kernel_init = nn.initializers.normal(0.01)
            return Conv(
                features,
                kernel=1,
                bias=True,
                dtype=self.dtype,
                kernel_init=kernel_init,
                bias_init=bias_init,
                name=name,
            )

        to_class = output("class", self.classes, nn.initializers.constant(PRIOR_LOGIT))
        to_distance = output("distance", 4 * BINS, _distance_bias)
        to_confidence = output("confidence", 1, nn.initializers.constant(PRIOR_LOGIT))

        def points(layer: Conv, levels: list[jax.Array]) -> jax.Array:
            logits = jnp.concatenate([to_points(layer(x)) for x in levels], axis=1)
            return logits.astype(at_least_float32(self.dtype))

        boxes = branch("box")
        distances = points(to_distance, boxes)
        return DetectorOutput(
            class_logits=points(to_class, branch("class")),
            distance_logits=distances.reshape(*distances.shape[:2], 4, BINS),
            confidence_logits=points(to_confidence, boxes)[..., 0],
        )


def _distance_bias(key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Initial bias of the bins: boxes start near their points."""
    return jnp.tile(BIN_SLOPE * jnp.arange(BINS, dtype=dtype), 4)


class Detector(nn.Module):
    """Images [batch, rows, columns, 3] -> DetectorOutput."""

    classes: int
    backbone: Any  # module class, or partial of one, that gives C3, C4 and C5
    features: int  # channels of the pyramid and the head
    levels: int = 3
    block: Any = None  # see Pyramid
    dtype: Any = jnp.float32
    norm_group: int = 0
    remat: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides of its levels in pixels, for `grid_points` and the task."""
        return tuple(STRIDES[0] * 2**i for i in range(self.levels))

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> DetectorOutput:
        options = {"dtype": self.dtype, "norm_group": self.norm_group}
        blocks = {"remat": self.remat} | options
        # One without batch norm has no `norm_group`.
        fields = getattr(self.backbone, "func", self.backbone).__dataclass_fields__
        taken = {key: value for key, value in blocks.items() if key in fields}
        levels = self.backbone(name="backbone", **taken)(x, train)
        pyramid = Pyramid(self.features, self.levels, self.block, name="pyramid", **blocks)
        levels = pyramid(levels, train)
        return Head(self.classes, self.features, name="head", **options)(levels, train)


# For CPUs: no depthwise convolution, no pooling, no stride 2 in the stem. 1 M parameters.
DetectorNano = partial(
    Detector,
    backbone=partial(Backbone, widths=(40, 48, 96, 144), depths=(0, 1, 1, 1)),
    features=40,
)
# For CPUs and GPUs. A CSPBackbone with fewer parameters was slower on a CPU.
DetectorSmall = partial(
    Detector,
    backbone=partial(Backbone, widths=(48, 64, 128, 224), depths=(0, 1, 2, 1)),
    features=64,
)
DetectorMedium = partial(
    Detector,
    backbone=partial(CSPBackbone, widths=(64, 128, 256, 512), depths=(1, 3, 5, 3)),
    features=128,
    block=CSPBlock,
)
DetectorLarge = partial(
    Detector,
    backbone=partial(CSPBackbone, widths=(96, 192, 384, 768), depths=(2, 4, 6, 4)),
    features=192,
    block=partial(CSPBlock, depth=2),
)
# With the backbone for which most pretrained weights exist.
DetectorResNet50 = partial(Detector, backbone=ResNet50Backbone, features=256)
DetectorResNet50P7 = partial(DetectorResNet50, levels=5)
# For tests: all parts, at a small size.
DetectorTiny = partial(
    Detector,
    backbone=partial(Backbone, widths=(8, 8, 16, 16), depths=(1, 1, 1, 1)),
    features=16,
)
