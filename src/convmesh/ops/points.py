"""From feature maps to lists of points, for what looks at all points of an example at once."""

import jax
from jax import lax

from convmesh import mesh
from convmesh.mesh import MODEL, SPATIAL, P


def to_points(x):
    """[batch, rows, columns, channels] -> [batch, rows * columns, channels], row by row.

    Each example becomes whole on one device: those that shared its rows or channels exchange them
    and share out the examples instead, as far as these divide (`mesh.whole`). Assignment, losses
    and suppression then need nothing of each other.
    """
    if mesh.current() is None:
        return _flat(x)
    used = mesh.whole(x.shape)[0] or ()
    spec = mesh.activation(x.shape, rows=SPATIAL in used, channels=MODEL in used)
    x = lax.with_sharding_constraint(x, spec)  # gathers what stays shared by no one

    def local(x):
        for axis, dimension in ((SPATIAL, 1), (MODEL, 3)):
            if axis in used and axis in spec:
                x = lax.all_to_all(x, axis, split_axis=0, concat_axis=dimension, tiled=True)
            elif axis in used:
                size = x.shape[0] // lax.axis_size(axis)
                x = lax.dynamic_slice_in_dim(x, lax.axis_index(axis) * size, size)
        return _flat(x)

    return jax.shard_map(local, in_specs=spec, out_specs=P(used or None))(x)


def _flat(x):
    batch, rows, columns, channels = x.shape
    return x.reshape(batch, rows * columns, channels)
