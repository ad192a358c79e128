"""Conversions of elementwise operations; those on a convolution's channels are folded into it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from convmesh.export.onnx_arrays import Array, common_order, constant, is_one
from convmesh.export.onnx_graph import onnx_type
from convmesh.export.onnx_trace import Converter, NotConvertible, converts

# JAX's name of an operation, and ONNX's, where one does what the other does.
_SAME = {
    "add": "Add",
    "add_any": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "pow": "Pow",
    "max": "Max",
    "min": "Min",
    "and": "And",
    "or": "Or",
    "xor": "Xor",
    "not": "Not",
    "eq": "Equal",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
    "logistic": "Sigmoid",
    "abs": "Abs",
    "neg": "Neg",
    "sign": "Sign",
    "floor": "Floor",
    "ceil": "Ceil",
    "erf": "Erf",
    "sin": "Sin",
    "cos": "Cos",
}
_OF_BOOL = ("and", "or", "xor", "not")
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")


def elementwise(
    converter: Converter, op: str, arrays: list[Array], dtype: Any, **attributes: Any
) -> Array:
    """One node on arrays of one shape, sides of 1, or numbers, stored in one order of axes."""
    rank = max(len(array.shape) for array in arrays)
    sizes = zip(*(array.shape for array in arrays if len(array.shape) == rank), strict=True)
    shape = tuple(next((s for s in each if not is_one(s)), 1) for each in sizes)
    perm = common_order(arrays, rank)
    names = [converter.name(a, perm if len(a.shape) == rank else None) for a in arrays]
    name = converter.graph.add(op, *names, **attributes)
    of_rank = [a for a in arrays if len(a.shape) == rank]
    full = tuple(
        is_one(shape[axis]) or any(a.full[axis] and not is_one(a.shape[axis]) for a in of_rank)
        for axis in range(rank)
    )
    return Array(shape, np.dtype(dtype), full, perm, tensor=name)


@converts(*_SAME)
def _same(converter: Converter, equation: Any, *arrays: Array) -> Array:
    primitive, dtype = equation.primitive.name, equation.outvars[0].aval.dtype
    if primitive in _OF_BOOL and dtype.kind != "b":
        raise NotConvertible(f"the program holds {primitive!r} of integers' bits")
    if folded := _folded(primitive, arrays):
        return folded
    if primitive == "max" and any(_is_number(a, 0) for a in arrays):
        if np.issubdtype(dtype, np.floating):
            x = next(a for a in arrays if not _is_number(a, 0))
            return elementwise(converter, "Relu", [x], dtype)
    return elementwise(converter, _SAME[primitive], list(arrays), dtype)


def _is_number(array: Array, number: float) -> bool:
    return array.value is not None and array.value.size == 1 and array.value.item() == number


def _folded(primitive: str, arrays: tuple[Array, ...]) -> Array | None:
    """The convolution with a number for each channel folded in, if the operation is that."""
    if len(arrays) != 2 or primitive not in ("add", "sub", "mul", "div"):
        return None
    first, second = arrays
    if first.conv is None and primitive in ("add", "mul"):
        first, second = second, first
    if first.conv is None or second.value is None:
        return None
    value = second.value.astype(np.float64)
    if value.ndim and value.size != value.shape[-1]:
        return None  # not one for each channel
    channels = value.reshape(-1)
    conv = first.conv
    if primitive == "add":
        conv = conv.shifted(channels)
    elif primitive == "sub":
        conv = conv.shifted(-channels)
    else:
        conv = conv.scaled(channels if primitive == "mul" else 1 / channels)
    return dataclasses.replace(first, conv=conv)


@converts("convert_element_type")
def _cast(converter: Converter, equation: Any, array: Array) -> Array:
    dtype = np.dtype(equation.params["new_dtype"])
    if dtype == array.dtype:
        return array
    if array.value is not None:  # of symbolic shape
        return dataclasses.replace(array, value=array.value.astype(dtype), dtype=dtype)
    if array.conv is not None and np.issubdtype(dtype, np.floating):
        return dataclasses.replace(array, dtype=dtype)  # batch norm may follow
    return elementwise(converter, "Cast", [array], dtype, to=onnx_type(dtype))


@converts("stop_gradient", "copy", "copy_p", "optimization_barrier", "sharding_constraint", "pcast")
def _nothing(converter: Converter, equation: Any, *arrays: Array) -> list[Array]:
    return list(arrays)


@converts("ne")
def _not_equal(converter: Converter, equation: Any, *arrays: Array) -> Array:
    equal = elementwise(converter, "Equal", list(arrays), bool)
    return elementwise(converter, "Not", [equal], bool)


@converts("rsqrt")
def _rsqrt(converter: Converter, equation: Any, x: Array) -> Array:
    return elementwise(
        converter, "Reciprocal", [elementwise(converter, "Sqrt", [x], x.dtype)], x.dtype
    )


@converts("square")
def _square(converter: Converter, equation: Any, x: Array) -> Array:
    x = converter.settled(x)
    return elementwise(converter, "Mul", [x, x], x.dtype)


@converts("integer_pow")
def _integer_pow(converter: Converter, equation: Any, x: Array) -> Array:
    exponent = constant(np.array(equation.params["y"], x.dtype))
    return elementwise(converter, "Pow", [x, exponent], x.dtype)


@converts("erfc")
def _erfc(converter: Converter, equation: Any, x: Array) -> Array:
    one = constant(np.array(1, x.dtype))
    erf = elementwise(converter, "Erf", [x], x.dtype)
    return elementwise(converter, "Sub", [one, erf], x.dtype)


@converts("expm1", "log1p")
def _near_one(converter: Converter, equation: Any, x: Array) -> Array:
    one = constant(np.array(1, x.dtype))
    if equation.primitive.name == "expm1":
        exp = elementwise(converter, "Exp", [x], x.dtype)
        return elementwise(converter, "Sub", [exp, one], x.dtype)
    return elementwise(
        converter, "Log", [elementwise(converter, "Add", [x, one], x.dtype)], x.dtype
    )


@converts("log2", "exp2")
def _base_two(converter: Converter, equation: Any, x: Array) -> Array:
    log = constant(np.array(np.log(2), x.dtype))
    if equation.primitive.name == "exp2":
        product = elementwise(converter, "Mul", [x, log], x.dtype)
        return elementwise(converter, "Exp", [product], x.dtype)
    return elementwise(
        converter, "Div", [elementwise(converter, "Log", [x], x.dtype), log], x.dtype
    )


@converts("round")
def _round(converter: Converter, equation: Any, x: Array) -> Array:
    if str(equation.params["rounding_method"]) not in ("1", "RoundingMethod.TO_NEAREST_EVEN"):
        raise NotConvertible("the program holds 'round' away from zero")
    return elementwise(converter, "Round", [x], x.dtype)


@converts("rem")
def _remainder(converter: Converter, equation: Any, *arrays: Array) -> Array:
    return elementwise(converter, "Mod", list(arrays), arrays[0].dtype, fmod=1)


@converts("is_finite")
def _is_finite(converter: Converter, equation: Any, x: Array) -> Array:
    # x - x is 0 for each finite number, and NaN for all others.
    x = converter.settled(x)
    zero = constant(np.array(0, x.dtype))
    difference = elementwise(converter, "Sub", [x, x], x.dtype)
    return elementwise(converter, "Equal", [difference, zero], bool)


@converts("select_n")
def _select(converter: Converter, equation: Any, which: Array, *cases: Array) -> Array:
    if which.dtype.kind != "b" or len(cases) != 2:
        raise NotConvertible("the program holds 'select_n' of more than two cases")
    if not which.shape and cases[0].shape:  # one choice for the whole array
        which = dataclasses.replace(
            which,
            shape=cases[0].shape,
            full=(False,) * len(cases[0].shape),
            perm=tuple(range(len(cases[0].shape))),
            value=None,
            tensor=converter.graph.add(
                "Reshape", converter.name(which), converter.graph.ints(*[1] * len(cases[0].shape))
            ),
        )
    return elementwise(converter, "Where", [which, cases[1], cases[0]], cases[0].dtype)


@converts("clamp")
def _clamp(converter: Converter, equation: Any, low: Array, x: Array, high: Array) -> Array:
    dtype = x.dtype
    return elementwise(
        converter, "Min", [elementwise(converter, "Max", [x, low], dtype), high], dtype
    )
