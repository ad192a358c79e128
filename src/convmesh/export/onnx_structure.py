"""Conversions of operations on shapes and axes: reshape, slice, reduce, top-k, gather, ..."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from convmesh.export.onnx_arrays import (
    Array,
    common_order,
    constant,
    identity,
    is_one,
    is_static,
    tensor,
    whole_value,
)
from convmesh.export.onnx_elementwise import elementwise
from convmesh.export.onnx_graph import onnx_type
from convmesh.export.onnx_trace import Converter, NotConvertible, converts


@converts("reshape")
def _reshape(converter: Converter, equation: Any, x: Array, *sizes: Array) -> Array:
    return reshape(converter, x, equation.outvars[0].aval.shape)


def reshape(converter: Converter, x: Array, shape: Sequence[Any]) -> Array:
    """The same elements in another shape, of which one size may be a symbol or hold one."""
    x = converter.as_whole(x)
    unknown = [size for size in shape if not isinstance(size, int)]
    if len(unknown) > 1:
        sizes = converter.graph.sizes(shape)
    else:
        sizes = converter.graph.ints(*(s if isinstance(s, int) else -1 for s in shape))
    name = converter.graph.add("Reshape", converter.whole(x), sizes)
    return tensor(name, shape, x.dtype)


@converts("squeeze")
def _squeeze(converter: Converter, equation: Any, x: Array) -> Array:
    return _squeezed(converter, x, equation.params["dimensions"])


def _squeezed(converter: Converter, x: Array, gone: Sequence[int]) -> Array:
    """`x` without the axes `gone`, of size 1."""
    shape = [size for axis, size in enumerate(x.shape) if axis not in gone]
    if not gone:
        return x
    if x.value is not None:
        return constant(np.squeeze(x.value, tuple(gone)), shape)
    x = converter.settled(x)
    kept = [axis for axis in range(len(x.shape)) if axis not in gone]
    axes = converter.graph.ints(*sorted(x.perm.index(axis) for axis in gone))
    perm = tuple(kept.index(axis) for axis in x.perm if axis in kept)
    name = converter.graph.add("Squeeze", x.tensor, axes)
    return Array(tuple(shape), x.dtype, tuple(x.full[axis] for axis in kept), perm, tensor=name)


@converts("broadcast_in_dim")
def _broadcast(converter: Converter, equation: Any, x: Array, *sizes: Array) -> Array:
    shape, places = equation.params["shape"], equation.params["broadcast_dimensions"]
    if x.value is not None:
        stored = [1] * len(shape)
        for size, place in zip(x.value.shape, places, strict=True):
            stored[place] = size
        return constant(x.value.reshape(stored), shape)
    x = converter.settled(x)
    full = [False if not is_one(size) else True for size in shape]
    for axis, place in enumerate(places):
        full[place] = x.full[axis] and (not is_one(x.shape[axis]) or is_one(shape[place]))
    added = [axis for axis in range(len(shape)) if axis not in places]
    name, perm = x.tensor, tuple(places[axis] for axis in x.perm)
    if added:
        name = converter.graph.add("Unsqueeze", converter.name(x), converter.graph.ints(*added))
        perm = identity(len(shape))
    return Array(tuple(shape), x.dtype, tuple(full), perm, tensor=name)


@converts("transpose")
def _transpose(converter: Converter, equation: Any, x: Array) -> Array:
    order = equation.params["permutation"]
    x = converter.settled(x)
    shape, full = (tuple(each[axis] for axis in order) for each in (x.shape, x.full))
    if x.value is not None:
        return dataclasses.replace(x, shape=shape, full=full, value=x.value.transpose(order))
    perm = tuple(order.index(axis) for axis in x.perm)
    return dataclasses.replace(x, shape=shape, full=full, perm=perm)


@converts("concatenate")
def _concatenate(converter: Converter, equation: Any, *arrays: Array) -> Array:
    axis, aval = equation.params["dimension"], equation.outvars[0].aval
    settled = [converter.settled(array) for array in arrays if not _is_empty(array)]
    perm = common_order(settled, len(aval.shape))
    names = [converter.whole(array, perm) for array in settled]
    name = converter.graph.add("Concat", *names, axis=perm.index(axis))
    return tensor(name, aval.shape, aval.dtype, perm)


def _is_empty(array: Array) -> bool:
    return any(isinstance(size, int) and size == 0 for size in array.shape)


@converts("stack")
def _stack(converter: Converter, equation: Any, *arrays: Array) -> Array:
    axis, aval = equation.params["axis"], equation.outvars[0].aval
    at = converter.graph.ints(axis)
    names = [converter.graph.add("Unsqueeze", converter.whole(a), at) for a in arrays]
    return tensor(converter.graph.add("Concat", *names, axis=axis), aval.shape, aval.dtype)


@converts("tile")
def _tile(converter: Converter, equation: Any, x: Array) -> Array:
    aval = equation.outvars[0].aval
    repeats = converter.graph.ints(*equation.params["reps"])
    return tensor(converter.graph.add("Tile", converter.whole(x), repeats), aval.shape, aval.dtype)


@converts("slice")
def _slice(converter: Converter, equation: Any, x: Array) -> Array:
    params = equation.params
    shape = equation.outvars[0].aval.shape
    strides = params["strides"] or (1,) * len(shape)
    x = converter.settled(x)
    cut = [
        axis
        for axis, (start, stop, stride) in enumerate(
            zip(params["start_indices"], params["limit_indices"], strides, strict=True)
        )
        if (start, stop, stride) != (0, x.shape[axis], 1)
    ]
    parts = {
        axis: (params["start_indices"][axis], params["limit_indices"][axis], strides[axis])
        for axis in cut
    }
    return _sliced(converter, x, parts, shape)


def _sliced(
    converter: Converter, x: Array, parts: dict[int, tuple[int, int, int]], shape: Sequence[Any]
) -> Array:
    """The part of `x` from a start to a stop in steps, along each of the axes in `parts`."""
    x = converter.settled(x)
    if not all(is_static(part) for part in parts.values()):
        raise NotConvertible("the program holds 'slice' up to a size that is not known")
    parts = {axis: part for axis, part in parts.items() if x.full[axis]}
    if x.value is not None:
        at = [slice(*parts[axis]) if axis in parts else slice(None) for axis in range(len(shape))]
        return constant(x.value[tuple(at)], shape)
    name = x.tensor
    if parts:
        ints = converter.graph.ints
        starts, stops, steps = zip(*parts.values(), strict=True)
        axes = [x.perm.index(axis) for axis in parts]
        name = converter.graph.add(
            "Slice", name, ints(*starts), ints(*stops), ints(*axes), ints(*steps)
        )
    return dataclasses.replace(x, shape=tuple(shape), tensor=name)


@converts("pad")
def _pad(converter: Converter, equation: Any, x: Array, value: Array) -> Array:
    config, aval = equation.params["padding_config"], equation.outvars[0].aval
    if any(interior for _, _, interior in config):
        raise NotConvertible("the program holds 'pad' between the elements")
    x = converter.as_whole(x)
    perm = x.perm
    before, after = ([config[axis][side] for axis in perm] for side in (0, 1))
    name = converter.graph.add(
        "Pad",
        converter.whole(x, perm),
        converter.graph.ints(*before, *after),
        converter.name(value),
    )
    return tensor(name, aval.shape, aval.dtype, perm)


@converts("iota")
def _iota(converter: Converter, equation: Any, *sizes: Array) -> Array:
    shape, axis = equation.params["shape"], equation.params["dimension"]
    dtype = np.dtype(equation.params["dtype"])
    stored = [1] * len(shape)
    if isinstance(shape[axis], int):
        stored[axis] = shape[axis]
        return constant(np.arange(shape[axis]).astype(dtype).reshape(stored), shape)
    graph = converter.graph
    scalar = graph.ints(0)
    stop = graph.add("Squeeze", graph.size(shape[axis]), scalar)
    start, step = (graph.weight(np.array(number, np.int64)) for number in (0, 1))
    name = graph.add("Cast", graph.add("Range", start, stop, step), to=onnx_type(dtype))
    stored[axis] = -1
    name = graph.add("Reshape", name, graph.ints(*stored))
    full = tuple(i == axis or is_one(size) for i, size in enumerate(shape))
    return Array(tuple(shape), dtype, full, identity(len(shape)), tensor=name)


@converts("dim_as_value")
def _size(converter: Converter, equation: Any, *sizes: Array) -> Array:
    graph, dtype = converter.graph, equation.outvars[0].aval.dtype
    name = graph.add("Squeeze", graph.size(equation.params["dim"]), graph.ints(0))
    return tensor(graph.add("Cast", name, to=onnx_type(dtype)), (), dtype)


_REDUCE = {
    "reduce_sum": "ReduceSum",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
    "reduce_or": "ReduceMax",
    "reduce_and": "ReduceMin",
}


@converts(*_REDUCE)
def _reduce(converter: Converter, equation: Any, x: Array) -> Array:
    axes, aval = equation.params["axes"], equation.outvars[0].aval
    x = converter.as_whole(x)
    if aval.dtype.kind == "b":
        x = elementwise(converter, "Cast", [x], np.int32, to=onnx_type(np.int32))
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    perm = tuple(kept.index(axis) for axis in x.perm if axis in kept)
    stored = converter.graph.ints(*sorted(x.perm.index(axis) for axis in axes))
    op = _REDUCE[equation.primitive.name]
    name = converter.graph.add(op, converter.name(x, x.perm), stored, keepdims=0)
    if aval.dtype.kind == "b":
        name = converter.graph.add("Cast", name, to=onnx_type(bool))
    return tensor(name, aval.shape, aval.dtype, perm)


@converts("argmax", "argmin")
def _arg(converter: Converter, equation: Any, x: Array) -> Array:
    (axis,), aval = equation.params["axes"], equation.outvars[0].aval
    op = "ArgMax" if equation.primitive.name == "argmax" else "ArgMin"
    name = converter.graph.add(op, converter.whole(x), axis=axis, keepdims=0)
    return tensor(
        converter.graph.add("Cast", name, to=onnx_type(aval.dtype)), aval.shape, aval.dtype
    )


@converts("top_k")
def _top_k(converter: Converter, equation: Any, x: Array) -> list[Array]:
    values, indices = (var.aval for var in equation.outvars)
    return list(top_k(converter, x, values.shape[-1], indices.dtype))


def top_k(converter: Converter, x: Array, k: int, dtype: Any = np.int32) -> tuple[Array, Array]:
    """The `k` largest along the last axis, largest first, and their indices; ties by index."""
    graph = converter.graph
    found, index = graph.add_many("TopK", [converter.whole(x), graph.ints(k)], 2, axis=-1)
    shape = (*x.shape[:-1], k)
    index = graph.add("Cast", index, to=onnx_type(dtype))
    return tensor(found, shape, x.dtype), tensor(index, shape, dtype)


# --- gather ---------------------------------------------------------------------------------------


@converts("gather")
def _gather(converter: Converter, equation: Any, x: Array, indices: Array) -> Array:
    """Whole rows, columns, ... of `x` at indices along one or more axes."""
    dims, aval = equation.params["dimension_numbers"], equation.outvars[0].aval
    sizes, rank = equation.params["slice_sizes"], len(x.shape)
    if indices.value is not None and len(indices.shape) == 1:
        return _one_window(converter, equation, x, indices.value)
    batch, along = dims.operand_batching_dims, dims.start_index_map
    rest = [axis for axis in range(rank) if axis not in (*batch, *along)]
    plain = all(is_one(sizes[axis]) for axis in along) and all(
        _same_size(sizes[axis], x.shape[axis]) for axis in rest
    )
    index_batch = tuple(range(len(batch)))
    if not plain or dims.start_indices_batching_dims != index_batch:
        raise NotConvertible(f"the program holds 'gather' of parts of size {sizes}")

    index = _bounded(converter, indices, [x.shape[axis] for axis in along])
    ordered = converter.whole(x, (*batch, *along, *rest))
    name = converter.graph.add("GatherND", ordered, index, batch_dims=len(batch))
    # The axes of the result: those of the indices, and of each axis that is not collapsed. Where
    # that is one along which is gathered, its size is 1.
    kept = [a for a in range(rank) if a not in (*batch, *dims.collapsed_slice_dims)]
    place = dict(zip(kept, dims.offset_dims, strict=True))
    of_indices = [axis for axis in range(len(aval.shape)) if axis not in dims.offset_dims]
    ones = sorted(place[axis] for axis in kept if axis in along)
    perm = [axis for axis in (*of_indices, *(place[axis] for axis in rest))]
    stored = sorted(perm)
    shape = [aval.shape[axis] for axis in stored]
    found = tensor(name, shape, aval.dtype, tuple(stored.index(axis) for axis in perm))
    if not ones:
        return found
    name = converter.graph.add("Unsqueeze", converter.name(found), converter.graph.ints(*ones))
    return tensor(name, aval.shape, aval.dtype)


def _one_window(converter: Converter, equation: Any, x: Array, start: np.ndarray) -> Array:
    """A part of `x` at a known place: what slicing is traced as where a size is not known."""
    dims, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    parts = {
        axis: (first, first + sizes[axis], 1)
        for axis, first in zip(dims.start_index_map, start.tolist(), strict=True)
        if not _same_size(sizes[axis], x.shape[axis])
    }
    part = _sliced(converter, x, parts, sizes)
    return _squeezed(converter, part, dims.collapsed_slice_dims)


def _same_size(a: Any, b: Any) -> bool:
    return isinstance(a, int) == isinstance(b, int) and bool(a == b)


def _bounded(converter: Converter, indices: Array, sizes: Sequence[Any]) -> str:
    """Indices [..., n] as int64, brought into their bounds as JAX does."""
    if not is_static(sizes):
        raise NotConvertible("the program holds 'gather' along an axis of unknown size")
    highest = np.array(sizes, indices.dtype) - 1
    if indices.value is not None:
        value = np.clip(whole_value(indices), 0, highest)
        return converter.graph.weight(value.astype(np.int64))
    shape = (1,) * (len(indices.shape) - 1) + (len(sizes),)
    last = constant(highest.reshape(shape), indices.shape)
    zero = constant(np.zeros((1,) * len(indices.shape), indices.dtype), indices.shape)
    index = elementwise(converter, "Max", [indices, zero], indices.dtype)
    index = elementwise(converter, "Min", [index, last], indices.dtype)
    index = elementwise(converter, "Cast", [index], np.int64, to=onnx_type(np.int64))
    return converter.whole(index)
