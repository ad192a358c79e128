"""What the heads of RetinaNet and FCOS have in common: convolutions shared by all levels."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from convmesh.models.layers import Conv, GroupNorm, at_least_float32
from convmesh.ops.points import to_points

BACKGROUND_LOGIT = -math.log(99)  # a probability of 0.01 (arXiv 1708.02002, section 4.1)
_normal = nn.initializers.normal(0.01)

HeadConv = partial(Conv, bias=True, kernel_init=_normal)


class Tower(nn.Module):
    """`depth` 3x3 convolutions, each with a ReLU and, if `groups` is not 0, a group norm before it.

    Levels [batch, rows, columns, c] -> levels [..., features].
    """

    features: int
    depth: int = 4
    groups: int = 0
    bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, levels: Sequence[jax.Array]) -> list[jax.Array]:
        levels = list(levels)
        for i in range(self.depth):
            conv = HeadConv(self.features, bias=self.bias, dtype=self.dtype, name=f"conv{i}")
            levels = [conv(x) for x in levels]
            if self.groups:
                norm = GroupNorm(self.groups, self.dtype, name=f"norm{i}")
                levels = [norm(x) for x in levels]
            levels = [nn.relu(x) for x in levels]
        return levels


def points_of(layer: Conv, levels: Sequence[jax.Array], anchors: int) -> jax.Array:
    """The outputs of `layer` for all levels: [batch, rows * columns * anchors of each, channels].

    The channels of the layer are those of each anchor in turn. In at least float32.
    """
    outputs = [to_points(layer(x)) for x in levels]
    batch, channels = outputs[0].shape[0], layer.features // anchors
    dtype = at_least_float32(layer.dtype)
    return jnp.concatenate([x.reshape(batch, -1, channels) for x in outputs], 1).astype(dtype)


def detector_torch_names(
    backbone: Any, pyramid: dict[str, str], towers: dict[str, str]
) -> dict[str, str]:
    """Torchvision's names of a detector's backbone, of its pyramid `fpn`, and of its towers.

    pyramid: of `fpn_torch_names`. towers: of each layer, below the head.
    """
    body = backbone(parent=None).torch_names()  # no submodule of the detector that is asked
    names = {f"backbone/{k}": f"backbone.body.{v}" for k, v in body.items()}
    names |= {f"fpn/{k}": f"backbone.fpn.{v}" for k, v in pyramid.items()}
    return names | {k: f"head.{v}" for k, v in towers.items()}


def backbone_levels(
    backbone: Any, x: jax.Array, train: bool, options: dict[str, Any]
) -> list[jax.Array]:
    """C3, C4 and C5 of `backbone`, as the submodule of that name, made with its own of `options`.

    Some backbones have no batch norm, and so no `norm_group`.
    """
    fields = getattr(backbone, "func", backbone).__dataclass_fields__
    taken = {key: value for key, value in options.items() if key in fields}
    return backbone(name="backbone", **taken)(x, train)
