"""The device mesh, and the shardings of arrays over it.

Three axes: `data` shards examples, `spatial` image rows, `model` channels. Only this module and
`ops` deal with devices; models, losses and the training loop use global arrays (jit's global view).
The layout of an array is a function of its global shape alone:

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

An axis is used if its size divides the dimension; otherwise the dimension is replicated, which is
slower but correct. (A kernel whose input channels do not divide is sharded over data by its output
channels.) Optimiser state and EMA have the shapes of their parameters, and so the same layout.
"""

import contextlib
import contextvars
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, use_abstract_mesh
from jax.sharding import PartitionSpec as P

from convmesh.distributed.batch import Batch, ProcessShard
from convmesh.errors import ConfigError

DATA, SPATIAL, MODEL = AXES = ("data", "spatial", "model")
# A fourth axis, of size 1, marks a mesh with fsdp: this makes the switch part of the mesh, and of
# jit's cache key.
FSDP = "fsdp"

MOST_PAIRS = 2**22  # elements of an array of the images that are handled at once

AnyMesh = Mesh | AbstractMesh
Shape = tuple[int, ...]

jax.tree_util.register_dataclass(
    Batch, data_fields=[field.name for field in dataclasses.fields(Batch)], meta_fields=[]
)


def make_mesh(
    data: int = -1,
    spatial: int = 1,
    model: int = 1,
    devices: Sequence[Any] | None = None,
    fsdp: bool = False,
) -> Mesh:
    """A mesh of `devices` (all of them by default) with axes (data, spatial, model).

    One size may be -1: all devices that the others leave. `fsdp` shards parameters, optimiser state
    and EMA over data too. Devices along model are neighbours (in one host, if it has enough), then
    those along spatial; data goes across hosts and, if possible, is the only axis across slices of
    TPUs. Raises ConfigError if the sizes do not use every device exactly once.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = {"mesh.data": data, "mesh.spatial": spatial, "mesh.model": model}
    known = math.prod(size for size in sizes.values() if size != -1)
    if list(sizes.values()).count(-1) == 1 and known and len(devices) % known == 0:
        sizes = {k: len(devices) // known if size == -1 else size for k, size in sizes.items()}
    if math.prod(sizes.values()) != len(devices) or min(sizes.values()) < 1:
        requested = ", ".join(f"{key}={size}" for key, size in sizes.items())
        raise ConfigError(
            f"{requested}: this mesh does not fit the {len(devices)} device(s) here; the product "
            f"of the sizes must be {len(devices)} (one of them may be -1)"
        )
    array = _device_array(tuple(sizes.values()), list(devices))
    if fsdp:
        array = array[..., None]
    names = (*AXES, FSDP)[: array.ndim]
    return Mesh(array, names, axis_types=(AxisType.Auto,) * len(names))


def _device_array(shape: tuple[int, ...], devices: list[Any]) -> np.ndarray:
    """The devices as an array of `shape`; devices along its last axes are neighbours."""
    slices = {getattr(device, "slice_index", 0) for device in devices}
    if len(slices) > 1 and shape[0] % len(slices) == 0:
        shape_in_slice = (shape[0] // len(slices), *shape[1:])
        return mesh_utils.create_hybrid_device_mesh(
            shape_in_slice, (len(slices), 1, 1), devices=devices, allow_split_physical_axes=True
        )
    return mesh_utils.create_device_mesh(shape, devices=devices, allow_split_physical_axes=True)


def describe(mesh: Mesh) -> str:
    """The sizes of the axes as text: `data 4, spatial 2, model 1, fsdp`."""
    sizes = ", ".join(f"{axis} {mesh.shape[axis]}" for axis in AXES)
    return sizes + (f", {FSDP}" if FSDP in mesh.shape else "")


def platform(mesh: Mesh) -> str:
    """The platform of the devices: "cpu", "gpu" or "tpu"."""
    return mesh.devices.flat[0].platform


def on_mesh(mesh: Mesh, function: Callable) -> Callable:
    """`function`, traced and run with `mesh` as the current mesh, which the ops read."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _current_while_tracing(mesh):
            return function(*args, **kwargs)

    if hasattr(function, "lower"):  # jitted: can be lowered and compiled without running it
        call.lower = on_mesh(mesh, function.lower)  # type: ignore[attr-defined]
    return call


def are_here(mesh: Mesh) -> bool:
    """Whether programs run on the devices of `mesh`; for those of a topology they only compile."""
    return mesh.devices.flat[0].client is jax.devices()[0].client


def _current_while_tracing(mesh: Mesh) -> contextlib.AbstractContextManager:
    # set_mesh places constants on the devices.
    return jax.set_mesh(mesh) if are_here(mesh) else use_abstract_mesh(mesh.abstract_mesh)


# --- the current mesh, for the ops ----------------------------------------------------------------


def current() -> AbstractMesh | None:
    """The mesh of the program being traced; None if there is none, or only one device.

    None also inside `sum_over_devices`.
    """
    if _examples_of_device.get() > 1:
        return None
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 else mesh


def _is_fsdp(mesh: AnyMesh | None = None) -> bool:
    mesh = mesh or current()
    return mesh is not None and FSDP in mesh.shape


def shards_parameters(mesh: AnyMesh) -> bool:
    """Whether a device holds only a part of the parameters."""
    return _is_fsdp(mesh) or mesh.shape[MODEL] > 1


def axis_size(axis: str) -> int:
    """Devices along `axis` of the current mesh."""
    return _size(axis)


def _size(axis: str, mesh: AnyMesh | None = None) -> int:
    mesh = mesh or current()
    return 1 if mesh is None else mesh.shape[axis]


def _over(axis: str, size: int, mesh: AnyMesh | None = None) -> str | None:
    """`axis` if it has more than one device and divides `size`, else None."""
    devices = _size(axis, mesh)
    return axis if devices > 1 and size % devices == 0 else None


# --- layouts --------------------------------------------------------------------------------------


def activation_spec(
    shape: Shape, mesh: AnyMesh | None = None, *, rows: bool = True, channels: bool = True
) -> P:
    """Layout of activations [batch, rows, columns, channels].

    `rows=False` and `channels=False` replicate them, for ops that need all rows or channels.
    """
    return P(
        _over(DATA, shape[0], mesh),
        _over(SPATIAL, shape[1], mesh) if rows else None,
        None,
        _over(MODEL, shape[3], mesh) if channels else None,
    )


def batch_spec(shape: Shape, mesh: AnyMesh | None = None) -> P:
    """Layout of an array [batch, ...]: the batch over data, the rest replicated."""
    return P(_over(DATA, shape[0], mesh)) if shape else P()


def example_spec(shape: Shape, mesh: AnyMesh | None = None) -> P:
    """Layout of an array [batch, ...]: the batch over all axes, in turn, that divide it.

    For work on complete examples: devices along spatial and model get different examples.
    """
    used: tuple[str, ...] = ()
    for axis in AXES:
        devices = math.prod(_size(a, mesh) for a in (*used, axis))
        if _size(axis, mesh) > 1 and shape[0] % devices == 0:
            used = (*used, axis)
    return P(used or None)


def parameter_spec(shape: Shape, mesh: AnyMesh | None = None) -> P:
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


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """The shardings of a train state, or any part of it, leaf by leaf."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, parameter_spec(leaf.shape, mesh)), state)


def batch_shardings(mesh: Mesh, batch: Batch, stacked: bool = False) -> Batch:
    """The shardings of a batch: examples over data, and the rows of `image` over spatial.

    `stacked`: the leaves are [micro-batches, batch, ...], and each micro-batch is sharded this way.
    """

    def sharding(name: str, leaf: Any) -> NamedSharding:
        shape = leaf.shape[1:] if stacked else leaf.shape
        image = name == "image"
        inner = activation_spec(shape, mesh, channels=False) if image else batch_spec(shape, mesh)
        return NamedSharding(mesh, P(None, *inner) if stacked else inner)

    return batch.map(sharding)


def like_a_parameter(array: jax.Array) -> jax.Array:
    """`array`, in a traced program, constrained to the sharding of a parameter of its shape."""
    if current() is None:
        return array
    return jax.lax.with_sharding_constraint(array, parameter_spec(array.shape))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that is replicated on every device."""
    return NamedSharding(mesh, P())


def per_example(function: Callable) -> Callable:
    """Runs `function` on each device's own examples (`example_spec`), without communication.

    The first dimension of all arguments and results is the batch. For code in which the partitioner
    would insert collectives at every step, such as top-k and loops (assignment, suppression).
    """

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        mesh = current()
        if mesh is None:
            return function(*args)
        leaves = jax.tree.leaves(args)
        spec = example_spec(leaves[0].shape)
        # check_vma rejects loops that start from constants; it is not needed, since nothing is
        # differentiated here.
        return jax.shard_map(function, in_specs=spec, out_specs=spec, check_vma=False)(*args)

    return call


def by_images(function: Callable, pairs: int) -> Callable:
    """`function` of one image, for a batch: of so many images at once that arrays stay small.

    pairs: elements of the largest array that `function` makes of an image, such as boxes x points.
    On CPUs all images at once, where XLA's loops are slow.
    """
    batched = jax.vmap(function)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        images = jax.tree.leaves(args)[0].shape[0]
        device = jax.sharding.get_abstract_mesh().abstract_device
        at_once = max(1, MOST_PAIRS // pairs)
        if device is None or device.platform == "cpu" or images <= at_once:
            return batched(*args)
        parts = next(n for n in range(-(-images // at_once), images + 1) if images % n == 0)
        split = jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), args)
        found = jax.lax.map(lambda part: batched(*part), split)
        return jax.tree.map(lambda leaf: leaf.reshape(images, *leaf.shape[2:]), found)

    return call


# --- each device by itself, where only examples are sharded ---------------------------------------

# Devices that share the batch, in a function that `sum_over_devices` is tracing; else 1.
_examples_of_device = contextvars.ContextVar("examples_of_device", default=1)
# Elements up to which arrays are summed as one on CPUs: between processes the time of each counts
# (170 of 6,000: 12 ms instead of 212), for large ones the copy. Elsewhere XLA combines sums itself.
_SMALL = 1_000_000


def shards_examples_only(mesh: AnyMesh) -> bool:
    """Whether several devices hold the same parameters and complete images."""
    return mesh.size == mesh.shape[DATA] > 1 and not _is_fsdp(mesh)


def sum_over_devices(function: Callable, stacked: bool = False) -> Callable:
    """`function(replicated, batch)` of each device's examples; the results summed over devices.

    The current mesh `shards_examples_only`. Inside, a device is alone, without a current mesh; only
    `mean_over_devices` reaches the others. All is summed at the end, small arrays as one.
    `stacked`: the leaves of `batch` are [micro-batches, batch, ...].
    """
    mesh = current()
    assert mesh is not None

    def alone(replicated: Any, batch: Any) -> Any:
        token = _examples_of_device.set(mesh.size)
        try:
            found = function(replicated, batch)
        finally:
            _examples_of_device.reset(token)
        return _summed(found)

    examples = P(None, DATA) if stacked else P(DATA)
    # check_vma rejects loops that start from constants, as in assignment.
    return jax.shard_map(alone, in_specs=(P(), examples), out_specs=P(), check_vma=False)


def _summed(tree: Any) -> Any:
    """The sum of each array over data."""
    leaves, structure = jax.tree.flatten(tree)
    small: dict[Any, list[int]] = {}
    device = jax.sharding.get_abstract_mesh().abstract_device
    limit = _SMALL if device is None or device.platform == "cpu" else 0
    for i, leaf in enumerate(leaves):
        if not leaf.size:
            continue
        if leaf.size <= limit:
            small.setdefault(leaf.dtype, []).append(i)
        else:
            leaves[i] = jax.lax.psum(leaf, DATA)
    for places in small.values():
        flat = jnp.concatenate([leaves[i].reshape(-1) for i in places])
        flat = jax.lax.psum(flat, DATA)
        ends = np.cumsum([leaves[i].size for i in places])[:-1]
        for i, part in zip(places, jnp.split(flat, ends), strict=True):
            leaves[i] = part.reshape(leaves[i].shape)
    return jax.tree.unflatten(structure, leaves)


def devices_of_batch() -> int:
    """Inside `sum_over_devices` the devices that share the batch, else 1."""
    return _examples_of_device.get()


def places_in_batch(examples: int) -> jax.Array:
    """int32 [examples]: the places in the (micro-)batch of those at hand.

    They are all of the batch or, inside `sum_over_devices`, those of a device.
    """
    places = jnp.arange(examples)
    return places if devices_of_batch() == 1 else places + examples * jax.lax.axis_index(DATA)


def mean_over_devices(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Inside `sum_over_devices` the means over the devices, with one sum; else the arrays.

    The arrays have one shape.
    """
    if devices_of_batch() == 1:
        return arrays
    return tuple(jax.lax.pmean(jnp.stack(arrays), DATA))


# --- from host arrays to the mesh, on any number of processes -------------------------------------


def process_shard(
    mesh: Mesh, batch_size: int, height: int, micro_batches: int = 1, process: int | None = None
) -> ProcessShard:
    """The part of each global batch on `mesh` that `process` (by default this one) holds."""
    process = jax.process_index() if process is None else process
    size = batch_size // micro_batches
    layout = NamedSharding(mesh, P(_over(DATA, size, mesh), _over(SPATIAL, height, mesh)))
    owner = np.full(size, np.iinfo(np.int64).max)
    local, rows = np.zeros(size, bool), []
    device: Any
    for device, (in_batch, in_image) in layout.devices_indices_map((size, height)).items():
        owner[in_batch] = np.minimum(owner[in_batch], device.process_index)
        if device.process_index == process:
            local[in_batch] = True
            rows.append(in_image.indices(height)[:2])
    # All micro-batches have the same layout.
    examples = np.flatnonzero(np.tile(local, micro_batches))
    first, last = min(start for start, _ in rows), max(stop for _, stop in rows)
    return ProcessShard(
        batch_size=batch_size,
        height=height,
        micro_batches=micro_batches,
        examples=examples,
        owned=(np.tile(owner, micro_batches) == process)[examples],
        rows=slice(first, last),
    )


def make_global_batch(mesh: Mesh, batch: Batch, shard: ProcessShard | None = None) -> Batch:
    """Global arrays, with `batch_shardings`, from this process's part of the batch.

    `batch` holds arrays [examples of the shard, ...], and only the shard's rows of `image`; without
    a shard it is the global batch. With several micro-batches the results are [micro-batches, batch
    / micro-batches, ...].
    """
    shard = shard or ProcessShard.whole_batch(*batch.image.shape[:2])
    parts, size = shard.micro_batches, shard.batch_size // shard.micro_batches
    examples = shard.examples[: len(shard.examples) // parts]  # of each micro-batch

    def global_shape(name: str, leaf: Any) -> jax.ShapeDtypeStruct:
        rows = (shard.height,) if name == "image" else leaf.shape[1:2]
        shape = ((parts,) if parts > 1 else ()) + (size, *rows, *leaf.shape[2:])
        return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(leaf.dtype))

    shapes = batch.map(global_shape)
    layout = batch_shardings(mesh, shapes, stacked=parts > 1)

    def put(name: str, leaf: Any) -> jax.Array:
        shape = getattr(shapes, name)
        leaf = np.asarray(leaf, shape.dtype)
        if parts > 1:
            leaf = leaf.reshape(parts, -1, *leaf.shape[1:])

        def device_part(index: Any) -> np.ndarray:
            *micro, in_batch = index[: 1 + (parts > 1)]
            start, stop, _ = in_batch.indices(size)
            first = int(np.searchsorted(examples, start))
            rest = index[1 + (parts > 1) :]
            if name == "image":
                top, bottom, _ = rest[0].indices(shard.height)
                rest = (slice(top - shard.rows.start, bottom - shard.rows.start), *rest[1:])
            return leaf[(*micro, slice(first, first + stop - start), *rest)]

        return jax.make_array_from_callback(shape.shape, getattr(layout, name), device_part)

    return batch.map(put)


def placed(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """The global array of a host array that every process has whole."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def on_host(mesh: Mesh, tree: Any) -> Any:
    """The global arrays of `tree` as numpy arrays, on every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    gather = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))
    local = len({d.process_index for d in mesh.devices.flat}) == 1
    return jax.device_get(tree if local else gather(tree))
