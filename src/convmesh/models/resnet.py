"""ResNet v1.5 (arXiv 1512.03385; the stride of a bottleneck stands in its 3x3 convolution)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from convmesh.models.layers import (
    ConvNorm,
    Dense,
    ResidualBlock,
    rematerialised,
    stored,
    whole_cells,
)
from convmesh.ops.pool import max_pool

BasicBlock = partial(ResidualBlock, activation=nn.relu, last_scale_init=nn.initializers.zeros)


class Bottleneck(nn.Module):
    """1x1 to `features`, 3x3, 1x1 to four times as many, beside the shortcut."""

    features: int
    stride: int = 1
    dtype: Any = jnp.float32
    norm_group: int = 0

    @nn.compact
    def __call__(self, x, train: bool):
        brick = partial(ConvNorm, dtype=self.dtype, norm_group=self.norm_group, activation=None)
        wide = 4 * self.features
        y = nn.relu(brick(self.features, kernel=1, name="conv1")(x, train))
        y = nn.relu(brick(self.features, stride=self.stride, name="conv2")(y, train))
        y = brick(wide, kernel=1, scale_init=nn.initializers.zeros, name="conv3")(y, train)
        if x.shape != y.shape:
            x = brick(wide, kernel=1, stride=self.stride, name="shortcut")(x, train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Stem, stages of blocks, global mean, dense. [batch, rows, columns, 3] -> [batch, classes]."""

    classes: int
    blocks: tuple[int, ...]
    dtype: Any = jnp.float32
    width: int = 64
    norm_group: int = 0
    block: Any = BasicBlock
    remat: bool = False

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = _stages(self, x, train)[-1]
        x = x.mean(axis=(1, 2), dtype=stored(self.dtype))
        return Dense(self.classes, dtype=stored(self.dtype), name="head")(x)


class ResNetBackbone(nn.Module):
    """Images [batch, rows, columns, 3] -> features of strides 8, 16, 32 (C3, C4, C5).

    For detectors. Its variables have the names and shapes that `ResNet`'s have, so a classifier's
    weights fit it.
    """

    blocks: tuple[int, ...]
    dtype: Any = jnp.float32
    width: int = 64
    norm_group: int = 0
    block: Any = BasicBlock
    remat: bool = False

    @nn.compact
    def __call__(self, x, train: bool):
        return _stages(self, whole_cells(x), train)[1:]


def _stages(net, x, train: bool) -> list:
    """The features after each stage of `net`, whose parts the layers become."""
    kind = {"dtype": net.dtype, "norm_group": net.norm_group}
    stem = ConvNorm(net.width, 7, stride=2, activation=nn.relu, name="stem", **kind)
    x = max_pool(stem(x, train), 3, stride=2, padding=1)
    block = rematerialised(net.block) if net.remat else net.block
    levels = []
    for stage, blocks in enumerate(net.blocks):
        for i in range(blocks):
            stride = 2 if stage and not i else 1
            name = f"stage{stage + 1}_block{i + 1}"
            x = block(net.width * 2**stage, stride, name=name, **kind)(x, train)
        levels.append(x)
    return levels


ResNet18 = partial(ResNet, blocks=(2, 2, 2, 2))
ResNet34 = partial(ResNet, blocks=(3, 4, 6, 3))
ResNet50 = partial(ResNet, blocks=(3, 4, 6, 3), block=Bottleneck)
ResNet50Backbone = partial(ResNetBackbone, blocks=(3, 4, 6, 3), block=Bottleneck)
