"""ResNet v1.5 (He et al., arXiv 1512.03385; the stride stands in a block's 3x3 convolution)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from convmesh.models.layers import ConvNorm, Dense, stored
from convmesh.ops.pool import max_pool


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut; the last norm starts at zero, so as the identity."""

    features: int
    stride: int = 1
    dtype: Any = jnp.float32
    norm_group: int = 0

    @nn.compact
    def __call__(self, x, train: bool):
        brick = partial(ConvNorm, self.features, dtype=self.dtype, norm_group=self.norm_group)
        y = brick(stride=self.stride, activation=nn.relu, name="conv1")(x, train)
        y = brick(activation=None, scale_init=nn.initializers.zeros, name="conv2")(y, train)
        if x.shape != y.shape:
            x = brick(kernel=1, stride=self.stride, activation=None, name="shortcut")(x, train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Stem, stages of blocks, global mean, dense. [batch, rows, columns, 3] -> [batch, classes]."""

    classes: int
    blocks: tuple[int, ...]
    dtype: Any = jnp.float32
    width: int = 64
    norm_group: int = 0

    @nn.compact
    def __call__(self, x, train: bool = False):
        kind = {"dtype": self.dtype, "norm_group": self.norm_group}
        stem = ConvNorm(self.width, 7, stride=2, activation=nn.relu, name="stem", **kind)
        x = max_pool(stem(x, train), 3, stride=2, padding=1)
        for stage, blocks in enumerate(self.blocks):
            for i in range(blocks):
                stride = 2 if stage and not i else 1
                name = f"stage{stage + 1}_block{i + 1}"
                x = BasicBlock(self.width * 2**stage, stride, name=name, **kind)(x, train)
        x = x.mean(axis=(1, 2), dtype=stored(self.dtype))
        return Dense(self.classes, dtype=stored(self.dtype), name="head")(x)


ResNet18 = partial(ResNet, blocks=(2, 2, 2, 2))
