"""The feature pyramid of torchvision's detectors (arXiv 1612.03144), without norms."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from convmesh.models.layers import Conv
from convmesh.ops.pool import max_pool, upsample_nearest

# Where the levels beyond those of the backbone come from.
POOL, FROM_LAST, FROM_INPUT = "pool", "last", "input"


class FeaturePyramid(nn.Module):
    """Levels of a backbone, finest first -> the same levels with `features` channels, and more.

    Each level is a 1x1 convolution of the backbone's, plus the coarser level at twice its size, and
    then a 3x3 convolution. `extra` are further levels, each of half the size: POOL one, every
    second pixel of the last; FROM_LAST and FROM_INPUT two, a convolution of stride 2 of the last
    level of the pyramid or of the backbone, and one of it.
    """

    extra: str = POOL
    features: int = 256
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, levels: list[jax.Array]) -> list[jax.Array]:
        uniform = nn.initializers.lecun_uniform()
        conv = partial(Conv, self.features, bias=True, dtype=self.dtype, kernel_init=uniform)
        inner = [conv(kernel=1, name=f"inner{i}")(x) for i, x in enumerate(levels)]
        for i in reversed(range(len(inner) - 1)):
            rows, columns = inner[i].shape[1:3]
            # If a side of the finer level is odd there is a row or column too many.
            inner[i] = inner[i] + upsample_nearest(inner[i + 1])[:, :rows, :columns]
        outputs = [conv(name=f"layer{i}")(x) for i, x in enumerate(inner)]
        if self.extra == POOL:
            return [*outputs, max_pool(outputs[-1], 1, stride=2)]
        p6 = conv(stride=2, name="p6")(outputs[-1] if self.extra == FROM_LAST else levels[-1])
        return [*outputs, p6, conv(stride=2, name="p7")(nn.relu(p6))]


def fpn_torch_names(extra: str, levels: int) -> dict[str, str]:
    """Torchvision's names of the layers of a pyramid, for so many levels of the backbone."""
    names: dict[str, str] = {}
    for i in range(levels):
        names |= {f"inner{i}": f"inner_blocks.{i}.0", f"layer{i}": f"layer_blocks.{i}.0"}
    more = () if extra == POOL else ("p6", "p7")
    return names | {name: f"extra_blocks.{name}" for name in more}
