"""FLOPs and bytes of a program, from its jaxpr."""

import math
import re
from typing import Any

from jax.extend import core

from convmesh.programs.jaxpr import equations

# The scope of the products of a convolution that is written as a sum of them, one for each tap.
TAP_PRODUCTS = "tap_products"
# The scope, with _ and a number, of an ungrouped convolution that stands for one of so many groups.
SPREAD_GROUPS = "spread_groups"


def flops(jaxpr: core.Jaxpr) -> float:
    """FLOPs of a program's convolutions and matrix products; a loop's body is counted once."""
    total = 0.0
    for equation in equations(jaxpr):
        shapes: list[Any] = [variable.aval for variable in (*equation.invars, *equation.outvars)]
        if equation.primitive.name == "conv_general_dilated":
            kernel = shapes[1].shape
            out_channels = equation.params["dimension_numbers"].rhs_spec[0]
            taps = math.prod(kernel) / kernel[out_channels]
            total += 2.0 * shapes[-1].size * taps / _groups_spread(equation)
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = shapes[0].shape
            length = math.prod(left[axis] for axis in contracted)
            total += 2.0 * shapes[-1].size * length
        elif equation.primitive.name == "mul" and _of_a_tap(equation):
            total += 2.0 * shapes[-1].size
    return total


def _groups_spread(equation: core.JaxprEqn) -> int:
    found = re.search(rf"{SPREAD_GROUPS}_(\d+)", str(equation.source_info.name_stack))
    return int(found[1]) if found else 1


def _of_a_tap(equation: core.JaxprEqn) -> bool:
    return TAP_PRODUCTS in str(equation.source_info.name_stack).split("/")


def result_bytes(jaxpr: core.Jaxpr) -> float:
    """Bytes of the results of a program's convolutions and matrix products."""
    total = 0.0
    for equation in equations(jaxpr):
        sums_taps = any(
            _of_a_tap(each)
            for inner in core.jaxprs_in_params(equation.params)
            for each in inner.eqns
        )
        if equation.primitive.name in ("conv_general_dilated", "dot_general") or sums_taps:
            result: Any = equation.outvars[0].aval
            total += result.size * result.dtype.itemsize
    return total
