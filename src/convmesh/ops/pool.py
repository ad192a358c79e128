"""Pooling and up-sampling over a sharded image, each one `shard_map` (see `ops.conv`)."""

import jax
import jax.numpy as jnp
from jax import lax

from convmesh import mesh
from convmesh.mesh import SPATIAL
from convmesh.ops.halo import exchange, halo_rows


def max_pool(x, window: int, *, stride: int | None = None, padding: int = 0):
    """Largest value of each window; `padding` never wins. `x`: [batch, rows, columns, channels].

    `stride` is `window` by default, as in torch.
    """
    return _pool(x, window, stride or window, padding, fill=-jnp.inf, reduce=lax.max)


def avg_pool(x, window: int, *, stride: int | None = None, padding: int = 0):
    """Mean of each window, zeros of the padding counted (torch's count_include_pad)."""
    total = _pool(x, window, stride or window, padding, fill=0.0, reduce=lax.add)
    return total / (window * window)


def _pool(x, window, stride, padding, fill, reduce):
    def local(x, pad_rows):
        pads = ((0, 0), pad_rows, (padding, padding), (0, 0))
        return lax.reduce_window(
            x, fill, reduce, (1, window, window, 1), (1, stride, stride, 1), pads
        )

    if mesh.current() is None:
        return local(x, (padding, padding))
    halo = halo_rows(x.shape[1], mesh.axis_size(SPATIAL), window, stride, padding)
    spec = mesh.activation(x.shape, rows=halo is not None)

    def sharded(x):
        if spec[1]:
            return local(exchange(x, *halo, fill=fill), (0, 0))
        return local(x, (padding, padding))

    return jax.shard_map(sharded, in_specs=spec, out_specs=spec)(x)


def upsample_nearest(x, factor: int = 2):
    """Each pixel `factor` x `factor` times. `x`: [batch, rows, columns, channels]."""

    def local(x):
        b, h, w, c = x.shape
        x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, factor, w, factor, c))
        return x.reshape(b, h * factor, w * factor, c)

    if mesh.current() is None:
        return local(x)
    spec = mesh.activation(x.shape)
    return jax.shard_map(local, in_specs=spec, out_specs=spec)(x)
