"""ResNet v1.5, ResNeXt and Wide ResNet: stages of basic blocks or of bottlenecks.

Sources: arXiv 1512.03385 (in v1.5 the stride of a bottleneck is in its 3x3 convolution), 1611.05431
(ResNeXt: a 3x3 convolution in groups), 1605.07146 (Wide ResNet).
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from convmesh.models.layers import (
    ConvNorm,
    Dense,
    Dropout,
    ResidualBlock,
    StochasticDepth,
    at_least_float32,
    conv_norm_names,
    crop_to_cells,
    depth_rates,
    rematerialised,
    residual_stage,
)
from convmesh.ops.pool import max_pool

BasicBlock = partial(ResidualBlock, activation=nn.relu, last_scale_init=nn.initializers.zeros)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 to four times `features` channels, added to the shortcut.

    Inside, each of `groups` groups has `features * base_width / 64` channels. `drop`: the rate of
    `StochasticDepth`.
    """

    features: int
    stride: int = 1
    dtype: Any = jnp.float32
    norm_group: int = 0
    groups: int = 1
    base_width: int = 64
    drop: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv_norm = partial(ConvNorm, dtype=self.dtype, norm_group=self.norm_group, activation=None)
        wide, inner = 4 * self.features, self.features * self.base_width // 64 * self.groups
        y = nn.relu(conv_norm(inner, kernel=1, name="conv1")(x, train))
        y = conv_norm(inner, stride=self.stride, groups=self.groups, name="conv2")(y, train)
        y = nn.relu(y)
        y = conv_norm(wide, kernel=1, scale_init=nn.initializers.zeros, name="conv3")(y, train)
        y = StochasticDepth(self.drop)(y, train)
        if x.shape != y.shape:
            x = conv_norm(wide, kernel=1, stride=self.stride, name="shortcut")(x, train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Stem, stages of blocks, global mean, dense. [batch, rows, columns, 3] -> [batch, classes].

    `stochastic_depth`: its rate in the last block, see `depth_rates`; `dropout`: of what the dense
    layer gets.
    """

    classes: int
    blocks: tuple[int, ...]
    dtype: Any = jnp.float32
    width: int = 64
    norm_group: int = 0
    block: Any = BasicBlock
    remat: bool = False
    stochastic_depth: float = 0.0
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = _stage_features(self, x, train)[-1]
        x = x.mean(axis=(1, 2), dtype=at_least_float32(self.dtype))
        x = Dropout(self.dropout)(x, train)
        return Dense(self.classes, dtype=at_least_float32(self.dtype), name="head")(x)

    def torch_names(self) -> dict[str, str]:
        """Torch's name of each layer (see `convmesh.weights.torch_names`)."""
        return _torch_names(self) | {"head": "fc"}


class ResNetBackbone(nn.Module):
    """Images [batch, rows, columns, 3] -> features of strides 8, 16, 32 (C3, C4, C5).

    For detectors; `finest` adds C2, of stride 4. Its variables have the names and shapes of
    `ResNet`'s: a classifier's weights fit.
    """

    blocks: tuple[int, ...]
    dtype: Any = jnp.float32
    width: int = 64
    norm_group: int = 0
    block: Any = BasicBlock
    remat: bool = False
    finest: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        return _stage_features(self, crop_to_cells(x), train)[0 if self.finest else 1 :]

    def torch_names(self) -> dict[str, str]:
        """Torch's name of each layer (see `convmesh.weights.torch_names`)."""
        return _torch_names(self)


def _stage_features(net: ResNet | ResNetBackbone, x: jax.Array, train: bool) -> list[jax.Array]:
    """The features after each stage. The layers become submodules of `net`."""
    options = {"dtype": net.dtype, "norm_group": net.norm_group}
    stem = ConvNorm(net.width, 7, stride=2, activation=nn.relu, name="stem", **options)
    x = max_pool(stem(x, train), 3, stride=2, padding=1)
    block = partial(rematerialised(net.block) if net.remat else net.block, **options)
    rates = iter(depth_rates(getattr(net, "stochastic_depth", 0.0), sum(net.blocks)))
    features = []
    for i, depth in enumerate(net.blocks):
        width, stride = net.width * 2**i, 2 if i else 1
        blocks = [partial(block, drop=next(rates)) for _ in range(depth)]
        x = residual_stage(blocks, x, train, stage=i + 1, width=width, depth=depth, stride=stride)
        features.append(x)
    return features


def _torch_names(net: ResNet | ResNetBackbone) -> dict[str, str]:
    """Torchvision's names of the stem and the stages."""
    bottleneck = getattr(net.block, "func", net.block) is Bottleneck
    names = conv_norm_names("stem", "conv1", "bn1")
    for stage, depth in enumerate(net.blocks, 1):
        for block in range(1, depth + 1):
            ours, theirs = f"stage{stage}_block{block}", f"layer{stage}.{block - 1}"
            for i in range(1, 4 if bottleneck else 3):
                names |= conv_norm_names(f"{ours}/conv{i}", f"{theirs}.conv{i}", f"{theirs}.bn{i}")
            if block == 1 and (stage > 1 or bottleneck):
                down = f"{theirs}.downsample"
                names |= conv_norm_names(f"{ours}/shortcut", f"{down}.0", f"{down}.1")
    return names


ResNet18 = partial(ResNet, blocks=(2, 2, 2, 2))
ResNet18Half = partial(ResNet18, width=32)  # a quarter of the arithmetic, for CPUs
ResNet34 = partial(ResNet, blocks=(3, 4, 6, 3))
ResNet50 = partial(ResNet, blocks=(3, 4, 6, 3), block=Bottleneck)
ResNet101 = partial(ResNet, blocks=(3, 4, 23, 3), block=Bottleneck)
ResNet152 = partial(ResNet, blocks=(3, 8, 36, 3), block=Bottleneck)
ResNeXt50_32x4d = partial(ResNet50, block=partial(Bottleneck, groups=32, base_width=4))
ResNeXt101_32x8d = partial(ResNet101, block=partial(Bottleneck, groups=32, base_width=8))
ResNeXt101_64x4d = partial(ResNet101, block=partial(Bottleneck, groups=64, base_width=4))
WideResNet50_2 = partial(ResNet50, block=partial(Bottleneck, base_width=128))
WideResNet101_2 = partial(ResNet101, block=partial(Bottleneck, base_width=128))
ResNet50Backbone = partial(ResNetBackbone, blocks=(3, 4, 6, 3), block=Bottleneck)
