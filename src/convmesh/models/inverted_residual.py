"""Inverted residual blocks, and what the families made of them share.

MobileNetV2 (arXiv 1801.04381) widens the channels by a 1x1 convolution, filters each by itself, and
narrows them by another, without an activation; the narrow ends are added. MobileNetV3 and
EfficientNet put squeeze-and-excitation before the last convolution; EfficientNetV2's fused blocks
have one full convolution in place of the first two.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from convmesh.models.layers import (
    ConvNorm,
    Dense,
    Dropout,
    SqueezeExcitation,
    StochasticDepth,
    at_least_float32,
    conv_norm_names,
    crop_to_cells,
    depth_rates,
    rematerialised,
)

BACKBONE_STRIDES = (8, 16, 32)  # of C3, C4, C5


@dataclasses.dataclass(frozen=True)
class Block:
    """The shape of an inverted residual block."""

    inputs: int  # channels
    expanded: int
    features: int
    kernel: int = 3
    stride: int = 1
    squeeze: int = 0  # channels inside the squeeze-and-excitation; 0 for none
    fused: bool = False
    activation: Callable | None = None  # None: the net's

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of its layers, in order."""
        expand = ("expand",) if self.expanded != self.inputs else ()
        if self.fused:
            return (*expand, "project")
        return (*expand, "depthwise", *(("se",) if self.squeeze else ()), "project")


Stages = tuple[tuple[Block, ...], ...]


class InvertedResidual(nn.Module):
    """A block of the given shape. [batch, rows, columns, inputs] -> [..., features].

    The input is added where the shapes are equal. A fused block whose expansion is 1 is one
    convolution, with the activation. With `tapped` it returns (that, the expanded input). `drop`:
    the rate of `StochasticDepth` where the input is added.
    """

    shape: Block
    activation: Callable
    conv_norm: Any  # ConvNorm with the net's options
    squeeze: Any  # SqueezeExcitation with the net's options
    tapped: bool = False
    drop: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> Any:
        block = self.shape
        activation = block.activation or self.activation
        y, wide, expanded = x, block.expanded, x
        full = {"kernel": block.kernel, "stride": block.stride}  # of the convolution of pixels
        for name in block.layers:
            conv_norm = partial(self.conv_norm, activation=activation, name=name)
            if name == "expand":
                y = conv_norm(wide, **(full if block.fused else {"kernel": 1}))(y, train)
                expanded = y
            elif name == "depthwise":
                y = conv_norm(wide, groups=wide, **full)(y, train)
            elif name == "se":
                y = self.squeeze(block.squeeze, name=name)(y)
            elif block.layers == ("project",):
                y = conv_norm(block.features, **full)(y, train)
            else:
                y = conv_norm(block.features, kernel=1, activation=None)(y, train)
        y = x + StochasticDepth(self.drop)(y, train) if x.shape == y.shape else y
        return (y, expanded) if self.tapped else y


class InvertedResidualBackbone(nn.Module):
    """Images [batch, rows, columns, 3] -> features of strides 8, 16, 32 (C3, C4, C5).

    For detectors. Its variables have the names and shapes of the classifier's with the same stages.
    """

    stages: Stages = ()
    dtype: Any = jnp.float32
    norm_group: int = 0
    remat: bool = False
    activation: Callable = nn.relu6
    squeeze: Any = SqueezeExcitation  # with activation and gate
    padding: Any = None  # "SAME" for weights of TensorFlow
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        levels = stage_features(self, crop_to_cells(x), train)
        return [levels[stride] for stride in BACKBONE_STRIDES]


class InvertedResidualNet(nn.Module):
    """Stem, stages of blocks, 1x1 convolution, global mean, dense layers.

    [batch, rows, columns, 3] -> [batch, classes]. `hidden` is the width of a dense layer before the
    last, 0 for none. `stochastic_depth`: its rate in the last block, see `depth_rates`; `dropout`:
    of what the last dense layer gets.
    """

    classes: int
    stages: Stages = ()
    last: int = 1280  # channels of the 1x1 convolution after all stages
    hidden: int = 0
    dtype: Any = jnp.float32
    norm_group: int = 0
    remat: bool = False
    activation: Callable = nn.relu6
    squeeze: Any = SqueezeExcitation
    padding: Any = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    stochastic_depth: float = 0.0
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        *_, x = stage_features(self, x, train).values()
        conv_norm = conv_norm_of(self)
        x = conv_norm(self.last, kernel=1, activation=self.activation, name="head_conv")(x, train)
        dtype = at_least_float32(self.dtype)
        x = x.mean(axis=(1, 2), dtype=dtype)
        if self.hidden:
            x = self.activation(Dense(self.hidden, dtype=dtype, name="head_hidden")(x))
        x = Dropout(self.dropout)(x, train)
        return Dense(self.classes, dtype=dtype, name="head")(x)


Net = InvertedResidualNet | InvertedResidualBackbone


def stage_features(net: Net, x: jax.Array, train: bool, tapped: str = "") -> dict[int, jax.Array]:
    """The last features of each stride. The layers become submodules of `net`.

    `tapped`: the name of a block whose expanded input is the last of its stride, or none.
    """
    conv_norm = conv_norm_of(net)
    stem = partial(conv_norm, net.stages[0][0].inputs, stride=2, name="stem")
    x, stride = stem(activation=net.activation)(x, train), 2
    block = partial(
        rematerialised(InvertedResidual) if net.remat else InvertedResidual,
        activation=net.activation,
        conv_norm=conv_norm,
        squeeze=partial(net.squeeze, dtype=net.dtype),
    )
    rates = depth_rates(getattr(net, "stochastic_depth", 0.0), sum(map(len, net.stages)))
    features = {}
    for (name, shape), rate in zip(named_blocks(net.stages), rates, strict=True):
        if name == tapped:
            x, features[stride] = block(shape, name=name, tapped=True, drop=rate)(x, train)
        else:
            x = block(shape, name=name, drop=rate)(x, train)
        stride *= shape.stride
        features[stride] = x
    return features


def conv_norm_of(net: Net) -> Any:
    """ConvNorm with the options of `net`."""
    return partial(
        ConvNorm,
        dtype=net.dtype,
        norm_group=net.norm_group,
        padding=net.padding,
        momentum=net.momentum,
        epsilon=net.epsilon,
    )


def named_blocks(stages: Stages) -> Iterator[tuple[str, Block]]:
    """Every block in order, with its name: stage1_block1, ..."""
    for i, stage in enumerate(stages):
        for j, block in enumerate(stage):
            yield f"stage{i + 1}_block{j + 1}", block


def block_names(path: str, prefix: str, layers: Sequence[str]) -> dict[str, str]:
    """The names in torchvision of a block whose layers are numbered: PREFIX.0.0, PREFIX.0.1, ..."""
    names: dict[str, str] = {}
    for i, layer in enumerate(layers):
        if layer == "se":
            names |= {f"{path}/se/{fc}": f"{prefix}.{i}.{fc}" for fc in ("fc1", "fc2")}
        else:
            names |= conv_norm_names(f"{path}/{layer}", f"{prefix}.{i}.0", f"{prefix}.{i}.1")
    return names


def head_names(net: Net, last: str, *dense: str) -> dict[str, str]:
    """The names in torchvision of what a classifier has after its stages; nothing for a backbone.

    `last` is the prefix of the 1x1 convolution, `dense` those of the dense layers.
    """
    if not isinstance(net, InvertedResidualNet):
        return {}
    layers = ("head_hidden", "head") if net.hidden else ("head",)
    dense_names = dict(zip(layers, dense, strict=True))
    return conv_norm_names("head_conv", f"{last}.0", f"{last}.1") | dense_names


def divisible(channels: float) -> int:
    """The nearest multiple of 8, or the next one above where that loses more than a tenth."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
