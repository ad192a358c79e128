"""Conversions of convolutions, pooling and matrix products."""

from __future__ import annotations

import string
from typing import Any

import numpy as np

from convmesh.export.onnx_arrays import NCHW, Array, Convolution, tensor, whole_value
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
    (of_a, of_b), (batch_a, batch_b) = equation.params["dimension_numbers"]
    aval = equation.outvars[0].aval
    dtype = np.dtype(a.dtype)
    graph, rank_a, rank_b = converter.graph, len(a.shape), len(b.shape)
    plain = (of_a, of_b, batch_a, batch_b) == ((rank_a - 1,), (0,), (), ())
    if plain and rank_b == 2:
        name = graph.add("MatMul", converter.whole(a), converter.whole(b))
    else:
        letters = iter(string.ascii_lowercase)
        in_a = [next(letters) for _ in range(rank_a)]
        in_b = [next(letters) for _ in range(rank_b)]
        for i, j in (*zip(of_a, of_b, strict=True), *zip(batch_a, batch_b, strict=True)):
            in_b[j] = in_a[i]
        free_a = [in_a[i] for i in range(rank_a) if i not in (*of_a, *batch_a)]
        free_b = [in_b[i] for i in range(rank_b) if i not in (*of_b, *batch_b)]
        out = "".join([*(in_a[i] for i in batch_a), *free_a, *free_b])
        equation_text = f"{''.join(in_a)},{''.join(in_b)}->{out}"
        name = graph.add("Einsum", converter.whole(a), converter.whole(b), equation=equation_text)
    if aval.dtype != dtype:
        name = graph.add("Cast", name, to=onnx_type(aval.dtype))
    return tensor(name, aval.shape, aval.dtype)
