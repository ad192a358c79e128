"""ResNet v1.5 (arXiv 1512.03385; the stride of a bottleneck is in its 3x3 convolution)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from convmesh.models.layers import (
    ConvNorm,
    Dense,
    ResidualBlock,
    at_least_float32,
    crop_to_cells,
    rematerialised,
    residual_stage,
)
from convmesh.ops.pool import max_pool

BasicBlock = partial(ResidualBlock, activation=nn.relu, last_scale_init=nn.initializers.zeros)


class Bottleneck(nn.Module):
    """1x1 to `features` channels, 3x3, 1x1 to four times as many, added to the shortcut."""

    features: int
    stride: int = 1
    dtype: Any = jnp.float32
    norm_group: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv_norm = partial(ConvNorm, dtype=self.dtype, norm_group=self.norm_group, activation=None)
        wide = 4 * self.features
        y = nn.relu(conv_norm(self.features, kernel=1, name="conv1")(x, train))
        y = nn.relu(conv_norm(self.features, stride=self.stride, name="conv2")(y, train))
        y = conv_norm(wide, kernel=1, scale_init=nn.initializers.zeros, name="conv3")(y, train)
        if x.shape != y.shape:
            x = conv_norm(wide, kernel=1, stride=self.stride, name="shortcut")(x, train)
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
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = _stage_features(self, x, train)[-1]
        x = x.mean(axis=(1, 2), dtype=at_least_float32(self.dtype))
        return Dense(self.classes, dtype=at_least_float32(self.dtype), name="head")(x)


class ResNetBackbone(nn.Module):
    """Images [batch, rows, columns, 3] -> features of strides 8, 16, 32 (C3, C4, C5).

    For detectors. Its variables have the names and shapes of `ResNet`'s: a classifier's weights
    fit.
    """

    blocks: tuple[int, ...]
    dtype: Any = jnp.float32
    width: int = 64
    norm_group: int = 0
    block: Any = BasicBlock
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        return _stage_features(self, crop_to_cells(x), train)[1:]


def _stage_features(net: ResNet | ResNetBackbone, x: jax.Array, train: bool) -> list[jax.Array]:
    """The features after each stage. The layers become submodules of `net`."""
    options = {"dtype": net.dtype, "norm_group": net.norm_group}
    stem = ConvNorm(net.width, 7, stride=2, activation=nn.relu, name="stem", **options)
    x = max_pool(stem(x, train), 3, stride=2, padding=1)
    block = partial(rematerialised(net.block) if net.remat else net.block, **options)
    features = []
    for i, depth in enumerate(net.blocks):
        width, stride = net.width * 2**i, 2 if i else 1
        x = residual_stage(block, x, train, stage=i + 1, width=width, depth=depth, stride=stride)
        features.append(x)
    return features


ResNet18 = partial(ResNet, blocks=(2, 2, 2, 2))
ResNet34 = partial(ResNet, blocks=(3, 4, 6, 3))
ResNet50 = partial(ResNet, blocks=(3, 4, 6, 3), block=Bottleneck)
ResNet50Backbone = partial(ResNetBackbone, blocks=(3, 4, 6, 3), block=Bottleneck)
