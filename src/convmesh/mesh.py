"""The device mesh, and the ONE table of what is sharded over it.

Three axes: `data` holds examples, `spatial` holds image rows, `model` holds channels. Everything
that convmesh knows of devices stands here and in `ops`; models, losses and the loop see whole
arrays (jit's global view). The layout of an array is a function of its global shape alone:

==================  =======================  ==================================================
array               shape                    sharded over
==================  =======================  ==================================================
activation, image   [batch, rows, cols, c]   (data, spatial, -, model)
other batch leaves  [batch, ...]             (data, -, ...)
head outputs        [batch, points, ...]     ((data, spatial, model), -, ...)
kernel              [kh, kw, c_in, c_out]    (-, -, -, model); with fsdp (-, -, data, model)
dense kernel        [c_in, c_out]            (-, model); with fsdp (data, model)
channel vector      [c]                      (model)
==================  =======================  ==================================================

An axis is used where its size divides the dimension; elsewhere that dimension is whole on every
device, which is slower and never wrong. (A kernel whose input channels do not divide is sharded
over data by its output channels.) Optimiser state and EMA have their parameters' shapes and so
their layout.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from convmesh.errors import ConfigError
from convmesh.share import Share

DATA, SPATIAL, MODEL = AXES = ("data", "spatial", "model")
# A fourth axis, of one device, marks a mesh with fsdp: so the switch goes wherever the mesh goes,
# and is part of what jit remembers a program by.
FSDP = "fsdp"
# The leaf of a batch that holds one number for each device, so that processes can tell each other.
NOTE = "note"


def make_mesh(
    data: int = -1, spatial: int = 1, model: int = 1, devices=None, fsdp: bool = False
) -> Mesh:
    """A mesh of `devices` (all of them by default) with axes (data, spatial, model).

    One size may be -1: all devices that the others leave. `fsdp` shards the parameters, and what
    has their shape, over data too. Devices that differ in model are neighbours (in one host, where
    it holds enough), then those that differ in spatial; data goes across hosts, and it alone, if it
    can, across slices of TPUs. Raises ConfigError if the sizes do not use every device exactly
    once.
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
    placed = _placed(tuple(sizes.values()), list(devices))
    if fsdp:
        placed = placed[..., None]
    names = (*AXES, FSDP)[: placed.ndim]
    return Mesh(placed, names, axis_types=(AxisType.Auto,) * len(names))


def _placed(shape: tuple[int, ...], devices: list) -> np.ndarray:
    """The devices as an array of `shape`, neighbours along its last axes."""
    slices = {getattr(device, "slice_index", 0) for device in devices}
    if len(slices) > 1 and shape[0] % len(slices) == 0:
        in_each = (shape[0] // len(slices), *shape[1:])
        return mesh_utils.create_hybrid_device_mesh(
            in_each, (len(slices), 1, 1), devices=devices, allow_split_physical_axes=True
        )
    return mesh_utils.create_device_mesh(shape, devices=devices, allow_split_physical_axes=True)


def describe(mesh: Mesh) -> str:
    """`data 4, spatial 2, model 1, fsdp`: for people."""
    sizes = ", ".join(f"{axis} {mesh.shape[axis]}" for axis in AXES)
    return sizes + (f", {FSDP}" if FSDP in mesh.shape else "")


def platform(mesh: Mesh) -> str:
    """What the devices are: "cpu", "gpu" or "tpu"."""
    return mesh.devices.flat[0].platform


def on_mesh(mesh: Mesh, function: Callable) -> Callable:
    """`function`, traced and run with `mesh` current, so that the ops inside find it."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        with jax.set_mesh(mesh):
            return function(*args, **kwargs)

    if hasattr(function, "lower"):  # jitted: to be compiled without being run
        call.lower = on_mesh(mesh, function.lower)  # type: ignore[attr-defined]
    return call


# --- what the ops ask ---------------------------------------------------------------------------


def current() -> AbstractMesh | None:
    """The mesh in force where a step is traced; None outside any, or where it is one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 else mesh


def _is_fsdp(mesh=None) -> bool:
    mesh = mesh or current()
    return mesh is not None and FSDP in mesh.shape


def axis_size(axis: str) -> int:
    """Devices along `axis` of the current mesh."""
    return _size(axis)


def _size(axis: str, mesh=None) -> int:
    mesh = mesh or current()
    return 1 if mesh is None else mesh.shape[axis]


def _over(axis: str, size: int, mesh=None) -> str | None:
    """`axis` if it has more than one device and divides `size`, else None."""
    devices = _size(axis, mesh)
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


def whole(shape, mesh=None) -> P:
    """Layout of an array [batch, ...] for work on whole examples: these over all axes that divide.

    Devices that shared the rows or channels of their examples so share out the examples instead.
    """
    used: tuple[str, ...] = ()
    for axis in AXES:
        devices = math.prod(_size(a, mesh) for a in (*used, axis))
        if _size(axis, mesh) > 1 and shape[0] % devices == 0:
            used = (*used, axis)
    return P(used or None)


def parameter(shape, mesh=None) -> P:
    """Layout of a parameter, or of an optimiser or EMA leaf of its shape: by output channels.

    With fsdp, kernels also by input channels over data, or by output channels over both axes.
    """
    if not shape:
        return P()
    out = _over(MODEL, shape[-1], mesh)
    spec: list = [*[None] * (len(shape) - 1), out]
    if len(shape) > 1 and _is_fsdp(mesh):
        own = shape[-1] // (_size(MODEL, mesh) if out else 1)
        if _over(DATA, shape[-2], mesh):
            spec[-2] = DATA
        elif _over(DATA, own, mesh):
            spec[-1] = (out, DATA) if out else DATA
    return P(*spec)


def state_shardings(mesh: Mesh, state):
    """The layout of a whole train state (or any part of it), leaf by leaf."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, parameter(leaf.shape, mesh)), state)


def batch_shardings(mesh: Mesh, batch: dict, stacked: bool = False) -> dict:
    """The layout of a batch: examples over data; the rows of `image` over spatial too.

    `stacked`: the leaves are [micro-batches, batch, ...], each micro-batch laid out so.
    """

    def spec(name, leaf):
        if name == NOTE:
            return P(AXES)
        shape = leaf.shape[1:] if stacked else leaf.shape
        image = name == "image"
        inner = activation(shape, mesh, channels=False) if image else examples(shape, mesh)
        return P(None, *inner) if stacked else inner

    return {name: NamedSharding(mesh, spec(name, leaf)) for name, leaf in batch.items()}


def like_a_parameter(array):
    """`array`, inside a traced program, laid out as a parameter of its shape."""
    if current() is None:
        return array
    return jax.lax.with_sharding_constraint(array, parameter(array.shape))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, P())


def per_example(function: Callable) -> Callable:
    """Runs `function` on whole examples, each device on its own: no communication inside.

    All arguments and results have the batch as first dimension. For code that the partitioner
    would make talk at every step, such as top-k and loops (assignment, suppression).
    """

    @functools.wraps(function)
    def call(*args):
        mesh = current()
        if mesh is None:
            return function(*args)
        leaves = jax.tree.leaves(args)
        spec = whole(leaves[0].shape)
        # Results do not depend on where a replicated example stands, but loops with constants
        # inside cannot state that to the checker: nothing is differentiated here.
        return jax.shard_map(function, in_specs=spec, out_specs=spec, check_vma=False)(*args)

    return call


# --- from host arrays to the mesh, on any number of processes -------------------------------------


def share_of(mesh: Mesh, batch_size: int, height: int, micro_batches: int = 1, process=None):
    """The Share of `process` (this one by default) of batches on `mesh`."""
    process = jax.process_index() if process is None else process
    size = batch_size // micro_batches
    layout = NamedSharding(mesh, P(_over(DATA, size, mesh), _over(SPATIAL, height, mesh)))
    owner = np.full(size, np.iinfo(np.int64).max)
    mine, rows = np.zeros(size, bool), []
    device: Any
    for device, (some, part) in layout.devices_indices_map((size, height)).items():
        owner[some] = np.minimum(owner[some], device.process_index)
        if device.process_index == process:
            mine[some] = True
            rows.append(part.indices(height)[:2])
    # Each micro-batch is laid out alike.
    examples = np.flatnonzero(np.tile(mine, micro_batches))
    first, last = min(start for start, _ in rows), max(stop for _, stop in rows)
    return Share(
        batch_size=batch_size,
        height=height,
        micro_batches=micro_batches,
        examples=examples,
        owned=(np.tile(owner, micro_batches) == process)[examples],
        rows=slice(first, last),
    )


def place(mesh: Mesh, batch: dict, share: Share | None = None) -> dict:
    """Global arrays, laid out as `batch_shardings` says, of the part that this process has read.

    `batch` holds arrays [examples of the share, ...], `image` only the share's rows; without a
    share it is the whole batch. With several micro-batches the results are [micro-batches, batch /
    micro-batches, ...].
    """
    share = share or Share.of_all(*batch["image"].shape[:2])
    parts, size = share.micro_batches, share.batch_size // share.micro_batches
    held = share.examples[: len(share.examples) // parts]  # of each micro-batch

    def global_shape(name, leaf):
        rows = (share.height,) if name == "image" else leaf.shape[1:2]
        return ((parts,) if parts > 1 else ()) + (size, *rows, *leaf.shape[2:])

    shapes = {
        name: jax.ShapeDtypeStruct(
            global_shape(name, leaf), jax.dtypes.canonicalize_dtype(leaf.dtype)
        )
        for name, leaf in batch.items()
    }
    layout = batch_shardings(mesh, shapes, stacked=parts > 1)

    def put(name, leaf):
        leaf = np.asarray(leaf, shapes[name].dtype)
        if parts > 1:
            leaf = leaf.reshape(parts, -1, *leaf.shape[1:])

        def of_one_device(index):
            *micro, some = index[: 1 + (parts > 1)]
            start, stop, _ = some.indices(size)
            first = int(np.searchsorted(held, start))
            rest = index[1 + (parts > 1) :]
            if name == "image":
                top, bottom, _ = rest[0].indices(share.height)
                rest = (slice(top - share.rows.start, bottom - share.rows.start), *rest[1:])
            return leaf[(*micro, slice(first, first + stop - start), *rest)]

        return jax.make_array_from_callback(shapes[name].shape, layout[name], of_one_device)

    return {name: put(name, leaf) for name, leaf in batch.items()}


def note(mesh: Mesh, value: bool):
    """A batch's NOTE: each process's own `value` on all of its devices."""
    at = NamedSharding(mesh, P(AXES))
    return jax.make_array_from_callback((mesh.size,), at, lambda _: np.array([value]))


def on_host(mesh: Mesh, tree):
    """Whole numpy arrays of the arrays of `tree`, on every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    whole = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))
    local = len({d.process_index for d in mesh.devices.flat}) == 1
    return jax.device_get(tree if local else whole(tree))
