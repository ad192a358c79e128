"""Conversions of convolutions, pooling and matrix products."""

from __future__ import annotations

import string
from typing import Any

import numpy as np

from convmesh.export.onnx_arrays import (
    NCHW,
    Array,
    Convolution,
    identity,
    tensor,
    whole_value,
)
from convmesh.export.onnx_graph import onnx_type
from convmesh.export.onnx_trace import Converter, NotConvertible, converts

NHWC_BY_HWIO = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # as JAX's ConvDimensionNumbers


@converts("conv_general_dilated")
def _convolution(converter: Converter, equation: Any, x: Array, kernel: Array) -> Array:
    params, aval = equation.params, equation.outvars[0].aval
    known = (
        tuple(params["dimension_numbers"]) == NHWC_BY_HWIO
        and params["lhs_dilation"] == (1, 1)
        and params["batch_group_count"] == 1
        and kernel.value is not None
        and min(side for ends in params["padding"] for side in ends) >= 0
    )
    if not known:
        raise NotConvertible("the program holds a convolution of a form that models do not have")
    attributes = {
        "kernel_shape": list(kernel.shape[:2]),
        "strides": list(params["window_strides"]),
        "dilations": list(params["rhs_dilation"]),
        "pads": _pads(params["padding"]),
        "group": params["feature_group_count"],
    }
    weights = whole_value(kernel).astype(np.float64)
    bias = np.zeros(kernel.shape[3])
    images = converter.whole(x, NCHW)
    conv = Convolution(images, weights, bias, np.dtype(x.dtype), attributes)
    return Array(tuple(aval.shape), np.dtype(aval.dtype), (True,) * 4, NCHW, conv=conv)


def _pads(padding: Any) -> list[int]:
    """Padding in ONNX's order: before each axis, then after each."""
    return [ends[side] for side in (0, 1) for ends in padding]


@converts("reduce_window_max", "reduce_window_sum")
def _pool(converter: Converter, equation: Any, x: Array) -> Array:
    params, aval = equation.params, equation.outvars[0].aval
    sides = params["window_dimensions"]
    outer = (sides[0], sides[3], *params["padding"][0], *params["padding"][3])
    dilated = {*params["base_dilation"], *params["window_dilation"]} != {1}
    if len(sides) != 4 or outer != (1, 1, 0, 0, 0, 0) or dilated:
        raise NotConvertible("the program holds a pooling of a form that models do not have")
    attributes = {
        "kernel_shape": list(sides[1:3]),
        "strides": list(params["window_strides"][1:3]),
        "pads": _pads(params["padding"][1:3]),
    }
    images = converter.whole(x, NCHW)
    if equation.primitive.name == "reduce_window_max":
        name = converter.graph.add("MaxPool", images, **attributes)
    else:
        mean = converter.graph.add("AveragePool", images, count_include_pad=1, **attributes)
        count = converter.graph.weight(np.array(sides[1] * sides[2], aval.dtype))
        name = converter.graph.add("Mul", mean, count)
    return tensor(name, aval.shape, aval.dtype, NCHW)


@converts("dot_general")
def _product(converter: Converter, equation: Any, a: Array, b: Array) -> Array:
    (of_a, of_b), (batch_a, _) = equation.params["dimension_numbers"]
    aval, dtype = equation.outvars[0].aval, np.dtype(a.dtype)
    rank, perm = len(aval.shape), None
    a = converter.settled(a)
    if len(b.shape) == 2 and len(of_a) == 1 and not batch_a:
        name, perm = _by_matrix(converter, a, of_a[0], converter.whole(b, (*of_b, 1 - of_b[0])))
    else:
        text = _einsum(equation.params["dimension_numbers"], len(a.shape), len(b.shape))
        name = converter.graph.add("Einsum", converter.whole(a), converter.whole(b), equation=text)
    if aval.dtype != dtype:
        name = converter.graph.add("Cast", name, to=onnx_type(aval.dtype))
    return tensor(name, aval.shape, aval.dtype, perm or identity(rank))


def _by_matrix(converter: Converter, a: Array, axis: int, matrix: str) -> tuple[str, tuple]:
    """`axis` of `a` multiplied by a matrix [old, new]: the tensor, and the order of its axes.

    The new axis is the last one of the result.
    """
    # As the right factor: onnxruntime then has one large product for all images and rows.
    kept = [i for i in range(len(a.shape)) if i != axis]
    stored = (*(i for i in a.perm if i != axis), axis)
    name = converter.graph.add("MatMul", converter.whole(a, stored), matrix)
    return name, (*(kept.index(i) for i in stored[:-1]), len(kept))


def _einsum(dimensions: Any, rank_a: int, rank_b: int) -> str:
    """A product's equation: first the axes of the batch in the result, then those left of each."""
    (of_a, of_b), (batch_a, batch_b) = dimensions
    letters = iter(string.ascii_lowercase)
    in_a = [next(letters) for _ in range(rank_a)]
    in_b = [next(letters) for _ in range(rank_b)]
    for i, j in (*zip(of_a, of_b, strict=True), *zip(batch_a, batch_b, strict=True)):
        in_b[j] = in_a[i]
    free_a = [in_a[i] for i in range(rank_a) if i not in (*of_a, *batch_a)]
    free_b = [in_b[i] for i in range(rank_b) if i not in (*of_b, *batch_b)]
    out = "".join([*(in_a[i] for i in batch_a), *free_a, *free_b])
    return f"{''.join(in_a)},{''.join(in_b)}->{out}"
