"""Conversions of functions as a whole: suppression, nearest up-sampling; and of short loops."""

from __future__ import annotations

from typing import Any

import numpy as np

from convmesh.export.onnx_arrays import NCHW, Array, constant, identity, is_one, tensor
from convmesh.export.onnx_elementwise import elementwise
from convmesh.export.onnx_graph import onnx_type
from convmesh.export.onnx_structure import reshape, top_k
from convmesh.export.onnx_trace import Converter, NotConvertible, converts, converts_function

_ROUNDS = 64  # of a loop that is written out


@converts("scan")
def _scan(converter: Converter, equation: Any, *arrays: Array) -> list[Array]:
    """A loop of known length, written out."""
    params = equation.params
    length, jaxpr = params["length"], params["jaxpr"]
    if not isinstance(length, int) or length > _ROUNDS or params["reverse"]:
        raise NotConvertible(f"the program holds a loop ('scan') of {length} rounds")
    consts, carry = params["num_consts"], params["num_carry"]
    fixed, state = list(arrays[:consts]), list(arrays[consts : consts + carry])
    inputs = arrays[consts + carry :]
    results: list[list[Array]] = []
    for i in range(length):
        slices = [_at(converter, array, i) for array in inputs]
        found = converter.run(jaxpr.jaxpr, jaxpr.consts, [*fixed, *state, *slices])
        state, each = found[:carry], found[carry:]
        results.append(each)
    stacked = [_stack(converter, list(each)) for each in zip(*results, strict=True)]
    return [*state, *stacked]


def _at(converter: Converter, array: Array, i: int) -> Array:
    """`array[i]`."""
    if array.value is not None:
        return constant(array.value[min(i, len(array.value) - 1)], array.shape[1:])
    index = converter.graph.weight(np.array(i, np.int64))
    name = converter.graph.add("Gather", converter.whole(array), index, axis=0)
    return tensor(name, array.shape[1:], array.dtype)


def _stack(converter: Converter, arrays: list[Array]) -> Array:
    axis = converter.graph.ints(0)
    names = [converter.graph.add("Unsqueeze", converter.whole(a), axis) for a in arrays]
    name = converter.graph.add("Concat", *names, axis=0)
    return tensor(name, (len(arrays), *arrays[0].shape), arrays[0].dtype)


@converts_function("repeat_pixels")
def _repeat_pixels(converter: Converter, equation: Any, x: Array) -> Array:
    """Nearest up-sampling, see `ops.pool.upsample_nearest`."""
    aval = equation.outvars[0].aval
    factor = aval.shape[1] / x.shape[1]
    scales = converter.graph.weight(np.array([1, 1, factor, factor], np.float32))
    name = converter.graph.add(
        "Resize",
        *(converter.whole(x, NCHW), "", scales),
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )
    return tensor(name, aval.shape, aval.dtype, NCHW)


@converts_function("sums_of_blocks")
def _sums_of_blocks(
    converter: Converter, equation: Any, pixels: Array, starts: Array, block: Array
) -> Array:
    """See `input_view.sums_of_blocks`: differences of running sums, cheaper than a product."""
    graph, aval = converter.graph, equation.outvars[0].aval
    pixels = converter.as_whole(pixels)
    axis = pixels.perm.index(2)
    start = converter.whole(starts)
    stop = graph.add("Add", start, converter.whole(block))
    # The last row again beyond the end, as far as blocks reach, and once more: the running sum
    # before a row is known for each row that there is.
    rows = graph.add("Cast", graph.size(pixels.shape[2]), to=onnx_type(np.int32))
    farthest = graph.add("ReduceMax", stop, graph.ints(0), keepdims=1)
    reach = graph.add("Max", graph.add("Sub", farthest, rows), graph.weight(np.zeros(1, np.int32)))
    reach = graph.add("Cast", reach, to=onnx_type(np.int64))
    more = graph.add("Add", reach, graph.ints(1))
    after = [more if i == axis else graph.ints(0) for i in range(4)]
    pads = graph.add("Concat", graph.ints(0, 0, 0, 0), *after, axis=0)
    longer = graph.add("Pad", converter.whole(pixels, pixels.perm), pads, mode="edge")
    sums = graph.add("CumSum", longer, graph.weight(np.array(axis, np.int64)), exclusive=1)
    upto, before = (graph.add("Gather", sums, at, axis=axis) for at in (stop, start))
    name = graph.add("Sub", upto, before)
    # The rows become the last axis, and columns the one before.
    place = {0: 0, 1: 1, 2: 3, 3: 2}
    return tensor(name, aval.shape, aval.dtype, tuple(place[i] for i in pixels.perm))


@converts_function("greedy_suppression")
def _suppress(converter: Converter, equation: Any, *arrays: Array) -> Array:
    """Which boxes are kept, see `ops.suppression.suppress`: [n] or [batch, n]."""
    boxes, labels, valid, threshold = arrays
    shape = equation.outvars[0].aval.shape
    if len(shape) == 1 or len(labels.shape) == 1:
        labels = _with_batch(converter, labels, shape[0] if len(shape) == 2 else 1)
    if len(shape) == 1:
        boxes, valid = (_with_batch(converter, a) for a in (boxes, valid))
    keep = _kept(converter, boxes, labels, valid, threshold)
    return keep if len(shape) == 2 else reshape(converter, keep, shape)


@converts_function("best_distinct_boxes")
def _best_distinct(converter: Converter, equation: Any, *arrays: Array) -> list[Array]:
    """The best boxes that are kept, see `ops.suppression.best_distinct`: indices, and whether."""
    boxes, labels, scores, threshold = arrays
    index_aval, found_aval = (var.aval for var in equation.outvars)
    batched = len(index_aval.shape) == 2  # then [count, batch]: a loop stacks along the first axis
    if not batched:
        boxes, scores = (_with_batch(converter, a) for a in (boxes, scores))
    if len(labels.shape) == 1:
        labels = _with_batch(converter, labels, scores.shape[0])
    count, n = index_aval.shape[0], scores.shape[-1]
    graph = converter.graph
    best_scores, order = top_k(converter, scores, n)
    zero = constant(np.zeros((1, 1), scores.dtype), scores.shape)
    valid = elementwise(converter, "GreaterOrEqual", [best_scores, zero], bool)
    boxes, labels = (_taken(converter, array, order) for array in (boxes, labels))
    keep = _kept(converter, boxes, labels, valid, threshold)
    # Those that are kept, in their order: the earlier, the higher.
    ranked = elementwise(converter, "Where", [keep, _ranks(n, keep), zero_like(keep)], np.float32)
    rank, place = top_k(converter, ranked, count)
    found = elementwise(converter, "Greater", [rank, zero_like(rank)], bool)
    index = _taken(converter, order, place)
    results = []
    for array, aval in ((index, index_aval), (found, found_aval)):
        name = graph.add("Cast", converter.whole(array), to=onnx_type(aval.dtype))
        if batched:
            results.append(tensor(name, aval.shape, aval.dtype, (1, 0)))
        else:
            results.append(reshape(converter, tensor(name, (1, count), aval.dtype), aval.shape))
    return results


def zero_like(array: Array) -> Array:
    """float32 zeros of the shape of a matrix."""
    return constant(np.zeros((1, 1), np.float32), array.shape)


def _ranks(n: int, like: Array) -> Array:
    """n, n - 1, ..., 1 in each row, as float32."""
    return constant(np.arange(n, 0, -1, dtype=np.float32)[None], like.shape)


def _with_batch(converter: Converter, array: Array, batch: Any = 1) -> Array:
    """[...] -> [batch, ...], the same for each example."""
    shape = (batch, *array.shape)
    if array.value is not None:
        return constant(array.value[None], shape)
    name = converter.graph.add("Unsqueeze", converter.name(array), converter.graph.ints(0))
    full = (is_one(batch), *array.full)
    return Array(shape, array.dtype, full, identity(len(shape)), tensor=name)


def _taken(converter: Converter, array: Array, index: Array) -> Array:
    """array[b, index[b]] for each example: [batch, n, ...]."""
    graph = converter.graph
    if len(array.shape) < 2 or not array.full[0]:
        array = converter.as_whole(array)
    last = graph.add("Unsqueeze", converter.whole(index), graph.ints(2))
    last = graph.add("Cast", last, to=onnx_type(np.int64))
    name = graph.add("GatherND", converter.whole(array), last, batch_dims=1)
    return tensor(name, (*index.shape, *array.shape[2:]), array.dtype)


def _kept(
    converter: Converter, boxes: Array, labels: Array, valid: Array, threshold: Array
) -> Array:
    """Which boxes greedy suppression keeps: bool [batch, n].

    boxes: [batch, n, 4], best first. labels, valid: [batch, n]. An ONNX NonMaxSuppression with a
    row of scores for each class, in which boxes of other classes have none.
    """
    graph, n = converter.graph, valid.shape[1]
    batch = valid.shape[0]
    classes = converter.classes
    if labels.value is not None:
        classes = int(labels.value.max()) + 1
    of_class = elementwise(
        converter,
        "Equal",
        [_for_classes(converter, labels, classes), _all_classes(classes, labels, batch, n)],
        bool,
    )
    of_class = elementwise(
        converter, "And", [of_class, _for_classes(converter, valid, classes)], bool
    )
    shape = (batch, classes, n)
    ranks = constant(np.arange(n, 0, -1, dtype=np.float32)[None, None], shape)
    zeros = constant(np.zeros((1, 1, 1), np.float32), shape)
    scores = elementwise(converter, "Where", [of_class, ranks, zeros], np.float32)
    corners = elementwise(converter, "Cast", [boxes], np.float32, to=onnx_type(np.float32))
    assert threshold.value is not None
    selected = graph.add(
        "NonMaxSuppression",
        converter.whole(corners),
        converter.whole(scores),
        graph.ints(n),
        graph.weight(threshold.value.astype(np.float32).reshape(1)),
        graph.weight(np.array([0.5], np.float32)),
    )
    at = graph.add("Gather", selected, graph.ints(0, 2), axis=1)  # example, box
    rows = graph.size_along(at, 0)
    one = graph.add("Expand", graph.weight(np.ones(1, np.int32)), rows)
    none = graph.add("Expand", graph.weight(np.zeros((1, 1), np.int32)), graph.sizes((batch, n)))
    kept = graph.add("ScatterND", none, at, one)
    return tensor(graph.add("Cast", kept, to=onnx_type(bool)), (batch, n), bool)


def _for_classes(converter: Converter, array: Array, classes: int) -> Array:
    """[batch, n] -> [batch, classes, n], the same for each class."""
    batch, n = array.shape
    shape = (batch, classes, n)
    if array.value is not None:
        return constant(array.value[:, None], shape)
    graph = converter.graph
    name = graph.add("Unsqueeze", converter.name(array), graph.ints(1))
    full = (array.full[0], classes == 1, array.full[1])
    return Array(shape, array.dtype, full, identity(3), tensor=name)


def _all_classes(classes: int, labels: Array, batch: Any, n: int) -> Array:
    """0, 1, ... along the second axis: [batch, classes, n]."""
    numbers = np.arange(classes, dtype=labels.dtype).reshape(1, classes, 1)
    return constant(numbers, (batch, classes, n))
