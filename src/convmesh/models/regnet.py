"""RegNetY: bottlenecks in groups, with squeeze-and-excitation (arXiv 2003.13678).

The widths and depths of the stages are those that the paper's rule, a line quantised to a geometric
sequence, gives for the settings of each size.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from convmesh.models.layers import (
    ConvNorm,
    Dense,
    SqueezeExcitation,
    at_least_float32,
    conv_norm_names,
    crop_to_cells,
    rematerialised,
    residual_stage,
)


class RegNetBlock(nn.Module):
    """1x1, 3x3 in groups of `group_width` channels, squeeze-and-excitation, 1x1, and a shortcut.

    The squeeze is to a quarter of the block's input channels. [batch, rows, columns, c] ->
    [batch, rows / stride, columns / stride, features].
    """

    features: int
    stride: int = 1
    dtype: Any = jnp.float32
    norm_group: int = 0
    group_width: int = 8

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv_norm = partial(
            ConvNorm, self.features, dtype=self.dtype, norm_group=self.norm_group, activation=None
        )
        groups = self.features // self.group_width
        y = nn.relu(conv_norm(kernel=1, name="conv1")(x, train))
        y = nn.relu(conv_norm(stride=self.stride, groups=groups, name="conv2")(y, train))
        y = SqueezeExcitation(round(x.shape[-1] / 4), dtype=self.dtype, name="se")(y)
        y = conv_norm(kernel=1, name="conv3")(y, train)
        if x.shape != y.shape:
            x = conv_norm(kernel=1, stride=self.stride, name="shortcut")(x, train)
        return nn.relu(x + y)


class RegNet(nn.Module):
    """Stem, stages of blocks, global mean, dense. [batch, rows, columns, 3] -> [batch, classes]."""

    classes: int
    widths: tuple[int, ...]  # channels of each stage
    blocks: tuple[int, ...]
    group_width: int
    dtype: Any = jnp.float32
    stem: int = 32
    norm_group: int = 0
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = _stage_features(self, x, train)[-1]
        x = x.mean(axis=(1, 2), dtype=at_least_float32(self.dtype))
        return Dense(self.classes, dtype=at_least_float32(self.dtype), name="head")(x)

    def torch_names(self) -> dict[str, str]:
        """Torch's name of each layer (see `convmesh.weights.torch_names`)."""
        return _torch_names(self) | {"head": "fc"}


class RegNetBackbone(nn.Module):
    """Images [batch, rows, columns, 3] -> features of strides 8, 16, 32 (C3, C4, C5).

    For detectors. Its variables have the names and shapes of `RegNet`'s: a classifier's weights
    fit.
    """

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    group_width: int
    dtype: Any = jnp.float32
    stem: int = 32
    norm_group: int = 0
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        return _stage_features(self, crop_to_cells(x), train)[1:]

    def torch_names(self) -> dict[str, str]:
        """Torch's name of each layer (see `convmesh.weights.torch_names`)."""
        return _torch_names(self)


def _stage_features(net: RegNet | RegNetBackbone, x: jax.Array, train: bool) -> list[jax.Array]:
    """The features after each stage. The layers become submodules of `net`."""
    options = {"dtype": net.dtype, "norm_group": net.norm_group}
    x = ConvNorm(net.stem, stride=2, activation=nn.relu, name="stem", **options)(x, train)
    block = rematerialised(RegNetBlock) if net.remat else RegNetBlock
    block = partial(block, group_width=net.group_width, **options)
    features = []
    for i, (width, depth) in enumerate(zip(net.widths, net.blocks, strict=True), 1):
        x = residual_stage(block, x, train, stage=i, width=width, depth=depth, stride=2)
        features.append(x)
    return features


def _torch_names(net: RegNet | RegNetBackbone) -> dict[str, str]:
    """Torchvision's names of the stem and the stages."""
    names = conv_norm_names("stem", "stem.0", "stem.1")
    for stage, depth in enumerate(net.blocks, 1):
        for block in range(1, depth + 1):
            ours = f"stage{stage}_block{block}"
            theirs = f"trunk_output.block{stage}.block{stage}-{block - 1}"
            layers = {"conv1": "f.a", "conv2": "f.b", "conv3": "f.c"}
            if block == 1:  # each stage halves the image
                layers["shortcut"] = "proj"
            for layer, name in layers.items():
                start = f"{theirs}.{name}"
                names |= conv_norm_names(f"{ours}/{layer}", f"{start}.0", f"{start}.1")
            names |= {f"{ours}/se/fc{i}": f"{theirs}.f.se.fc{i}" for i in (1, 2)}
    return names


RegNetY400MF = partial(RegNet, widths=(48, 104, 208, 440), blocks=(1, 3, 6, 6), group_width=8)
RegNetY800MF = partial(RegNet, widths=(64, 144, 320, 784), blocks=(1, 3, 8, 2), group_width=16)
RegNetY1_6GF = partial(RegNet, widths=(48, 120, 336, 888), blocks=(2, 6, 17, 2), group_width=24)
RegNetY3_2GF = partial(RegNet, widths=(72, 216, 576, 1512), blocks=(2, 5, 13, 1), group_width=24)
RegNetY8GF = partial(RegNet, widths=(224, 448, 896, 2016), blocks=(2, 4, 10, 1), group_width=56)
