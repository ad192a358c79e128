"""MobileNetV3 small and large (arXiv 1905.02244), as in torchvision; dropout is off unless set."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn

from convmesh.models.inverted_residual import (
    Block,
    InvertedResidualBackbone,
    InvertedResidualNet,
    Net,
    Stages,
    block_names,
    divisible,
    head_names,
    named_blocks,
)
from convmesh.models.layers import SqueezeExcitation, conv_norm_names

STEM = 16
RELU, SWISH = nn.relu, nn.hard_swish
# Kernel, expanded, features, squeeze-and-excitation, activation, stride (tables 1 and 2).
Row = tuple[int, int, int, bool, Callable, int]
LARGE: tuple[Row, ...] = (
    (3, 16, 16, False, RELU, 1),
    (3, 64, 24, False, RELU, 2),
    (3, 72, 24, False, RELU, 1),
    (5, 72, 40, True, RELU, 2),
    (5, 120, 40, True, RELU, 1),
    (5, 120, 40, True, RELU, 1),
    (3, 240, 80, False, SWISH, 2),
    (3, 200, 80, False, SWISH, 1),
    (3, 184, 80, False, SWISH, 1),
    (3, 184, 80, False, SWISH, 1),
    (3, 480, 112, True, SWISH, 1),
    (3, 672, 112, True, SWISH, 1),
    (5, 672, 160, True, SWISH, 2),
    (5, 960, 160, True, SWISH, 1),
    (5, 960, 160, True, SWISH, 1),
)
SMALL: tuple[Row, ...] = (
    (3, 16, 16, True, RELU, 2),
    (3, 72, 24, False, RELU, 2),
    (3, 88, 24, False, RELU, 1),
    (5, 96, 40, True, SWISH, 2),
    (5, 240, 40, True, SWISH, 1),
    (5, 240, 40, True, SWISH, 1),
    (5, 120, 48, True, SWISH, 1),
    (5, 144, 48, True, SWISH, 1),
    (5, 288, 96, True, SWISH, 2),
    (5, 576, 96, True, SWISH, 1),
    (5, 576, 96, True, SWISH, 1),
)


def make_stages(rows: tuple[Row, ...], inputs: int = STEM) -> Stages:
    """The blocks of `rows`, behind a stem of `inputs` channels; stride 2 opens a stage."""
    stages: list[list[Block]] = []
    for kernel, expanded, features, squeezed, activation, stride in rows:
        if not stages or stride == 2:
            stages.append([])
        squeeze = divisible(expanded // 4) if squeezed else 0
        block = Block(inputs, expanded, features, kernel, stride, squeeze, activation=activation)
        stages[-1].append(block)
        inputs = features
    return tuple(map(tuple, stages))


_squeeze = partial(SqueezeExcitation, activation=nn.relu, gate=nn.hard_sigmoid)


class MobileNetV3(InvertedResidualNet):
    """The classifier. [batch, rows, columns, 3] -> [batch, classes]."""

    activation: Callable = SWISH
    squeeze: Any = _squeeze
    momentum: float = 0.99
    epsilon: float = 1e-3

    def torch_names(self) -> dict[str, str]:
        """The torchvision module of each layer."""
        return _torch_names(self)


class MobileNetV3Backbone(InvertedResidualBackbone):
    """The features of strides 8, 16, 32: 40, 112 and 160 channels, of the small one 24, 48, 96."""

    activation: Callable = SWISH
    squeeze: Any = _squeeze
    momentum: float = 0.99
    epsilon: float = 1e-3

    def torch_names(self) -> dict[str, str]:
        """The torchvision module of each layer."""
        return _torch_names(self)


def _torch_names(net: Net) -> dict[str, str]:
    names = conv_norm_names("stem", "features.0.0", "features.0.1")
    index = 0
    for index, (path, block) in enumerate(named_blocks(net.stages), start=1):
        names |= block_names(path, f"features.{index}.block", block.layers)
    return names | head_names(net, f"features.{index + 1}", "classifier.0", "classifier.3")


MobileNetV3Large = partial(MobileNetV3, stages=make_stages(LARGE), last=960, hidden=1280)
MobileNetV3Small = partial(MobileNetV3, stages=make_stages(SMALL), last=576, hidden=1024)
