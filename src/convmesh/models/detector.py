"""The dense detector: anchor-free, one stage, on the levels with strides 8, 16 and 32.

A backbone gives C3 to C5; a path-aggregation pyramid (arXiv 1803.01534) mixes them, and may add
levels with strides 64 and 128 for large images; a head
with convolutions shared across levels and norms apart (RTMDet, arXiv 2212.07784) gives, for each
point of each level, the class logits, the logits of the distances to the box's four sides
(distribution focal loss, arXiv 2006.04388), and one logit of box confidence.
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from convmesh.models.csp import CSPBackbone, CSPBlock
from convmesh.models.layers import BatchNorm, Conv, ConvNorm, ResidualBlock, rematerialised, stored
from convmesh.models.resnet import ResNet50Backbone
from convmesh.ops.points import to_points
from convmesh.ops.pool import upsample_nearest

STRIDES = (8, 16, 32)  # of the levels that every detector has
BINS = 16  # distances of 0 to 15 strides
PRIOR_LOGIT = -4.595  # a probability of 0.01: most points are ground
BIN_SLOPE = -0.4  # bias of bin k is BIN_SLOPE * k: boxes start at a mean side distance of 2 strides


class DetectorOutput(NamedTuple):
    """What the detector says of each point, levels one after another, in at least float32."""

    class_logits: Any  # [batch, points, classes]
    distance_logits: Any  # [batch, points, 4, BINS]: left, top, right, bottom
    confidence_logits: Any  # [batch, points]


def grid_points(
    image_size: tuple[int, int], strides: tuple[int, ...] = STRIDES
) -> tuple[np.ndarray, np.ndarray]:
    """Centres (x, y) in pixels [points, 2] and strides [points] of the points of an image.

    `image_size` is (height, width); `strides` are the model's (`Detector.strides`). Order: level,
    row, column, as in DetectorOutput.
    """
    centres, of_points = [], []
    for stride in strides:
        # Backbones make cells of 4 x 4 pixels and leave out what fills none; the rest rounds up.
        rows, columns = (-(-(side // 4) // (stride // 4)) for side in image_size)
        y, x = np.mgrid[:rows, :columns].reshape(2, -1)
        centres.append((np.stack([x, y], axis=1) + 0.5) * stride)
        of_points.append(np.full(rows * columns, stride))
    return np.concatenate(centres).astype(np.float32), np.concatenate(of_points).astype(np.float32)


class Backbone(nn.Module):
    """Images [batch, rows, columns, 3] -> features of strides 8, 16, 32 (C3, C4, C5).

    The stem goes to stride 4 in one convolution of 6 x 6, each window centred on its cell: on a
    CPU, anything at stride 2 costs more than the rest of the backbone.
    """

    widths: tuple[int, ...]  # channels at strides 4, 8, 16, 32
    depths: tuple[int, ...]  # residual blocks at strides 4, 8, 16, 32
    dtype: Any = jnp.float32
    norm_group: int = 0
    remat: bool = False

    @nn.compact
    def __call__(self, x, train: bool):
        kind = {"dtype": self.dtype, "norm_group": self.norm_group}
        block = rematerialised(ResidualBlock) if self.remat else ResidualBlock
        levels = []
        for i, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            if i == 0:
                x = ConvNorm(width, 6, stride=4, padding=1, name="stem", **kind)(x, train)
            else:
                x = ConvNorm(width, stride=2, name=f"down{i + 1}", **kind)(x, train)
            for j in range(depth):
                x = block(width, name=f"stage{i + 1}_block{j + 1}", **kind)(x, train)
            levels.append(x)
        return levels[1:]


class Pyramid(nn.Module):
    """PAFPN: top-down, then bottom-up; every level leaves with `features` channels.

    Levels beyond those that come in are made one from the other, each at half the size. `block`
    mixes two levels in place of a 3x3 convolution; it is what `remat` computes again.
    """

    features: int
    levels: int = 3
    block: Any = None
    dtype: Any = jnp.float32
    norm_group: int = 0
    remat: bool = False

    @nn.compact
    def __call__(self, levels, train: bool):
        brick = partial(ConvNorm, self.features, dtype=self.dtype, norm_group=self.norm_group)
        mix: Any = brick
        if self.block is not None:
            block = rematerialised(self.block) if self.remat else self.block
            mix = partial(block, self.features, dtype=self.dtype, norm_group=self.norm_group)
        levels = [brick(1, name=f"lateral{i}")(x, train) for i, x in enumerate(levels)]
        for i in reversed(range(len(levels) - 1)):
            # An image side that is no multiple of 32 leaves a row or column too many.
            up = upsample_nearest(levels[i + 1])[:, : levels[i].shape[1], : levels[i].shape[2]]
            both = jnp.concatenate([levels[i], up], -1)
            levels[i] = mix(name=f"top_down{i}")(both, train)
        for i in range(1, len(levels)):
            down = brick(3, 2, name=f"down{i}")(levels[i - 1], train)
            both = jnp.concatenate([levels[i], down], -1)
            levels[i] = mix(name=f"bottom_up{i}")(both, train)
        for i in range(len(levels), self.levels):
            levels.append(brick(3, 2, name=f"down{i}")(levels[i - 1], train))
        return levels


class Head(nn.Module):
    """Two branches of two convolutions, shared across levels; the norms of each level its own."""

    classes: int
    features: int
    dtype: Any = jnp.float32
    norm_group: int = 0

    @nn.compact
    def __call__(self, levels, train: bool):
        def branch(name):
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

        def output(name, features, bias_init):
            small = nn.initializers.normal(0.01)
            return Conv(
                features,
                kernel=1,
                bias=True,
                dtype=self.dtype,
                kernel_init=small,
                bias_init=bias_init,
                name=name,
            )

        rare = nn.initializers.constant(PRIOR_LOGIT)
        near = lambda key, shape, dtype: jnp.tile(BIN_SLOPE * jnp.arange(BINS, dtype=dtype), 4)  # noqa: E731
        to_class = output("class", self.classes, rare)
        to_distance = output("distance", 4 * BINS, near)
        to_confidence = output("confidence", 1, rare)

        def points(layer, levels):
            return jnp.concatenate([to_points(layer(x)) for x in levels], axis=1).astype(
                stored(self.dtype)
            )

        boxes = branch("box")
        distances = points(to_distance, boxes)
        return DetectorOutput(
            class_logits=points(to_class, branch("class")),
            distance_logits=distances.reshape(*distances.shape[:2], 4, BINS),
            confidence_logits=points(to_confidence, boxes)[..., 0],
        )


class Detector(nn.Module):
    """Images [batch, rows, columns, 3] -> DetectorOutput."""

    classes: int
    backbone: Any  # makes the module that gives C3, C4 and C5
    features: int  # channels of the pyramid and the head
    levels: int = 3
    block: Any = None  # of the pyramid
    dtype: Any = jnp.float32
    norm_group: int = 0
    remat: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """Of its levels, in pixels: what `grid_points` and the task take."""
        return tuple(STRIDES[0] * 2**i for i in range(self.levels))

    @nn.compact
    def __call__(self, x, train: bool = False) -> DetectorOutput:
        kind = {"dtype": self.dtype, "norm_group": self.norm_group}
        again = {"remat": self.remat} | kind
        levels = self.backbone(name="backbone", **again)(x, train)
        pyramid = Pyramid(self.features, self.levels, self.block, name="pyramid", **again)
        return Head(self.classes, self.features, name="head", **kind)(pyramid(levels, train), train)


# Made for CPUs: no depthwise convolution, no large pool, nothing at stride 2. 1 M parameters.
DetectorNano = partial(
    Detector,
    backbone=partial(Backbone, widths=(40, 48, 96, 144), depths=(0, 1, 1, 1)),
    features=40,
)
# For CPUs and GPUs. Of the same kind: a CSPBackbone of fewer parameters was slower on a CPU.
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
# The backbone that everybody has weights for.
DetectorResNet50 = partial(Detector, backbone=ResNet50Backbone, features=256)
DetectorResNet50P7 = partial(DetectorResNet50, levels=5)
# For tests: every part is there, nothing is large.
DetectorTiny = partial(
    Detector,
    backbone=partial(Backbone, widths=(8, 8, 16, 16), depths=(1, 1, 1, 1)),
    features=16,
)
