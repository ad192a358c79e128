"""MobileNetV2 (arXiv 1801.04381), as in torchvision; dropout is off unless set."""

from convmesh.models.inverted_residual import (
    Block,
    InvertedResidualBackbone,
    InvertedResidualNet,
    Net,
    Stages,
    head_names,
    named_blocks,
)
from convmesh.models.layers import conv_norm_names

STEM = 32
# Expansion, features, blocks, stride of the first (table 2 of the paper).
TABLE = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def make_stages(table: tuple[tuple[int, int, int, int], ...], inputs: int = STEM) -> Stages:
    """The stages of a table with the rows of `TABLE`, behind a stem of `inputs` channels."""
    stages = []
    for expansion, features, depth, stride in table:
        widths = [inputs, *(features for _ in range(depth))]
        stages.append(
            tuple(
                Block(w, expansion * w, features, stride=1 if i else stride)
                for i, w in enumerate(widths[:-1])
            )
        )
        inputs = features
    return tuple(stages)


STAGES = make_stages(TABLE)


class MobileNetV2(InvertedResidualNet):
    """The classifier. [batch, rows, columns, 3] -> [batch, classes]."""

    stages: Stages = STAGES

    def torch_names(self) -> dict[str, str]:
        """The torchvision module of each layer."""
        return _torch_names(self)


class MobileNetV2Backbone(InvertedResidualBackbone):
    """The features of strides 8, 16, 32: 32, 96 and 320 channels."""

    stages: Stages = STAGES

    def torch_names(self) -> dict[str, str]:
        """The torchvision module of each layer."""
        return _torch_names(self)


def _torch_names(net: Net) -> dict[str, str]:
    names = conv_norm_names("stem", "features.0.0", "features.0.1")
    index = 0
    for index, (path, block) in enumerate(named_blocks(net.stages), start=1):
        prefix = f"features.{index}.conv"
        *first, last = range(len(block.layers))
        for i in first:
            layer = f"{path}/{block.layers[i]}"
            names |= conv_norm_names(layer, f"{prefix}.{i}.0", f"{prefix}.{i}.1")
        names |= conv_norm_names(f"{path}/project", f"{prefix}.{last}", f"{prefix}.{last + 1}")
    return names | head_names(net, f"features.{index + 1}", "classifier.1")
