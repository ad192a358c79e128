"""The cross-stage partial backbone (CSP, arXiv 1911.11929), with dense convolutions only.

As in CSPDarknet and RTMDet, half of a stage's channels go through its residual blocks and the other
half bypasses them: about half the arithmetic of a plain stage of that width. Depthwise convolutions
and large pooling windows are not used, since they are slow where they are not fused.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from convmesh.models.layers import ConvNorm, ResidualBlock, crop_to_cells, rematerialised


class CSPBlock(nn.Module):
    """Half of the channels through `depth` residual blocks, half around them, mixed by a 1x1.

    [batch, rows, columns, c], or several arrays with c channels in all -> [batch, rows, columns,
    features].
    """

    features: int
    depth: int = 1
    dtype: Any = jnp.float32
    norm_group: int = 0

    @nn.compact
    def __call__(self, x: jax.Array | Sequence[jax.Array], train: bool) -> jax.Array:
        options = {"dtype": self.dtype, "norm_group": self.norm_group}
        half = self.features // 2
        # Two convolutions, not one whose result is split: with channels sharded over devices, each
        # half would be on half of them.
        past = ConvNorm(half, 1, name="past", **options)(x, train)
        through = ConvNorm(half, 1, name="through", **options)(x, train)
        for i in range(self.depth):
            through = ResidualBlock(half, name=f"block{i + 1}", **options)(through, train)
        return ConvNorm(self.features, 1, name="merge", **options)([through, past], train)


class CSPBackbone(nn.Module):
    """Images [batch, rows, columns, 3] -> features of strides 8, 16, 32 (C3, C4, C5).

    Each stage is one CSPBlock.
    """

    widths: tuple[int, ...]  # channels at strides 4, 8, 16, 32
    depths: tuple[int, ...]  # residual blocks at strides 4, 8, 16, 32
    dtype: Any = jnp.float32
    norm_group: int = 0
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        options = {"dtype": self.dtype, "norm_group": self.norm_group}
        block = rematerialised(CSPBlock) if self.remat else CSPBlock
        x = ConvNorm(self.widths[0] // 2, stride=2, name="stem", **options)(crop_to_cells(x), train)
        levels = []
        for i, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            x = ConvNorm(width, stride=2, name=f"down{i + 1}", **options)(x, train)
            x = block(width, depth, name=f"stage{i + 1}_block1", **options)(x, train)
            levels.append(x)
        return levels[1:]
