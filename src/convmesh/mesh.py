"""The device mesh, and the ONE table of what is sharded over it.

Three axes: `data` holds examples, `spatial` holds image rows, `model` holds channels. Everything
that convmesh knows of devices stands here and in `ops`; models, losses and the loop see whole
arrays (jit's global view). The layout of an array is a function of its global shape alone:

==================  =======================  ==================================================
array               shape                    sharded over
==================  =======================  ==================================================
activation, image   [batch, rows, cols, c]   (data, spatial, -, model)
other batch leaves  [batch, ...]             (data, -, ...)
kernel              [kh, kw, c_in, c_out]    (-, -, -, model)
dense kernel        [c_in, c_out]            (-, model)
channel vector      [c]                      (model)
==================  =======================  ==================================================

An axis is used where its size divides the dimension; elsewhere that dimension is whole on every
device, which is slower and never wrong. Optimiser state and EMA have their parameters' shapes and
so their layout.
"""

import functools
import math
from collections.abc import Callable

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from convmesh.errors import ConfigError

DATA, SPATIAL, MODEL = AXES = ("data", "spatial", "model")


def make_mesh(data: int = -1, spatial: int = 1, model: int = 1, devices=None) -> Mesh:
    """A mesh of `devices` (all of them by default) with axes (data, spatial, model).

    One size may be -1: all devices that the others leave. Raises ConfigError if the sizes do not
    use every device exactly once.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {"mesh.data": data, "mesh.spatial": spatial, "mesh.model": model}
    known = math.prod(size for size in sizes.values() if size != -1)
    if list(sizes.values()).count(-1) == 1 and known and len(devices) % known == 0:
        sizes = {k: len(devices) // known if size == -1 else size for k, size in sizes.items()}
    if math.prod(sizes.values()) != len(devices) or min(sizes.values()) < 1:
        given = ", ".join(f"{key}={size}" for key, size in sizes.items())
        raise ConfigError(
            f"{given}: such a mesh does not fit the {len(devices)} device(s) here; the sizes must "
            f"multiply to {len(devices)} (one of them may be -1)"
        )
    auto = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=auto, devices=devices)


def on_mesh(mesh: Mesh, function: Callable) -> Callable:
    """`function`, traced and run with `mesh` current, so that the ops inside find it."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        with jax.set_mesh(mesh):
            return function(*args, **kwargs)

    return call


# --- what the ops ask ---------------------------------------------------------------------------


def current() -> AbstractMesh | None:
    """The mesh in force where a step is traced; None outside any, or where it is one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 else mesh


def axis_size(axis: str) -> int:
    """Devices along `axis` of the current mesh."""
    mesh = current()
    return 1 if mesh is None else mesh.shape[axis]


def _over(axis: str, size: int, mesh=None) -> str | None:
    """`axis` if it has more than one device and divides `size`, else None."""
    mesh = mesh or current()
    devices = mesh.shape[axis] if mesh is not None else 1
    return axis if devices > 1 and size % devices == 0 else None


# --- the table ----------------------------------------------------------------------------------


def activation(shape, mesh=None, *, rows: bool = True, channels: bool = True) -> P:
    """Layout of activations [batch, rows, columns, channels].

    An op passes `rows=False` (`channels=False`) where it needs all rows (channels) of its example.
    """
    return P(
        _over(DATA, shape[0], mesh),
        _over(SPATIAL, shape[1], mesh) if rows else None,
        None,
        _over(MODEL, shape[3], mesh) if channels else None,
    )


def examples(shape, mesh=None) -> P:
    """Layout of an array whose first dimension is the batch, the rest whole."""
    return P(_over(DATA, shape[0], mesh)) if shape else P()


def parameter(shape, mesh=None) -> P:
    """Layout of a parameter, or of an optimiser or EMA leaf of its shape: by output channels."""
    if not shape:
        return P()
    return P(*[None] * (len(shape) - 1), _over(MODEL, shape[-1], mesh))


def state_shardings(mesh: Mesh, state):
    """The layout of a whole train state (or any part of it), leaf by leaf."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, parameter(leaf.shape, mesh)), state)


def batch_shardings(mesh: Mesh, batch: dict) -> dict:
    """The layout of a batch: examples over data; the rows of `image` over spatial too."""

    def spec(name, leaf):
        image = name == "image"
        return activation(leaf.shape, mesh, channels=False) if image else examples(leaf.shape, mesh)

    return {name: NamedSharding(mesh, spec(name, leaf)) for name, leaf in batch.items()}


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, P())


def per_example(function: Callable) -> Callable:
    """Runs `function` on each device's own examples: no communication can happen inside.

    All arguments and results have the batch as first dimension. For code that the partitioner
    would make talk at every step, such as top-k and loops (assignment, suppression).
    """

    @functools.wraps(function)
    def call(*args):
        mesh = current()
        if mesh is None:
            return function(*args)
        leaves = jax.tree.leaves(args)
        spec = examples(leaves[0].shape)
        # Results do not depend on where a replicated example stands, but loops with constants
        # inside cannot state that to the checker: nothing is differentiated here.
        return jax.shard_map(function, in_specs=spec, out_specs=spec, check_vma=False)(*args)

    return call
