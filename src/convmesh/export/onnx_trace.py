"""From a traced program (a jaxpr) to an ONNX graph, operation by operation.

Each operation of JAX (a primitive) has a function here that adds its nodes (`converts`). Operations
whose arguments are all constant are computed at once, by JAX. A program that holds another
operation is refused by its name.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from convmesh.errors import ConvmeshError
from convmesh.export.onnx_arrays import Array, Storage, constant, is_static, whole_value
from convmesh.export.onnx_graph import Graph

Convert = Callable[..., Array | list[Array]]
_CONVERT: dict[str, Convert] = {}
_NAMED: dict[str, Convert] = {}
_COMPUTED = 2**26  # elements of a constant result; larger ones are left to the runtime


class NotConvertible(ConvmeshError):
    """The program holds an operation, or a form of one, that has no conversion here."""


def converts(*primitives: str) -> Callable[[Convert], Convert]:
    """Registers the conversion of primitives: (converter, equation, *arrays) -> array or arrays."""

    def register(function: Convert) -> Convert:
        _CONVERT.update(dict.fromkeys(primitives, function))
        return function

    return register


def converts_function(name: str) -> Callable[[Convert], Convert]:
    """Registers the conversion of a jitted function as a whole, by its name."""

    def register(function: Convert) -> Convert:
        _NAMED[name] = function
        return function

    return register


class Converter(Storage):
    """Converts jaxprs into nodes of a graph. `classes`: all labels are below it."""

    def __init__(self, graph: Graph, classes: int) -> None:
        super().__init__(graph)
        self.classes = classes

    def run(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Array]) -> list[Array]:
        """The results of a jaxpr. Raises NotConvertible."""
        uses = collections.Counter(
            var
            for equation in jaxpr.eqns
            for var in equation.invars
            if not isinstance(var, Literal)
        )
        uses.update(var for var in jaxpr.outvars if not isinstance(var, Literal))
        known: dict[Any, Array] = dict(zip(jaxpr.invars, arguments, strict=True))
        known |= dict(zip(jaxpr.constvars, map(constant, consts), strict=True))

        def read(var: Any) -> Array:
            if isinstance(var, Literal):
                return constant(np.asarray(var.val, getattr(var.aval, "dtype", None)))
            if uses[var] > 1:  # else each use would fold into a convolution of its own
                known[var] = self.settled(known[var])
            return known[var]

        for equation in jaxpr.eqns:
            found = self._convert(equation, [read(var) for var in equation.invars])
            for var, array in zip(equation.outvars, found, strict=True):
                known[var] = array
        return [read(var) for var in jaxpr.outvars]

    def _convert(self, equation: Any, arrays: list[Array]) -> list[Array]:
        name = equation.primitive.name
        if name in ("jit", "pjit") and (named := _NAMED.get(equation.params["name"])):
            return _as_list(named(self, equation, *arrays))
        if inner := _inlined(equation):
            return self.run(inner.jaxpr, inner.consts, arrays)
        if _can_be_computed(equation, arrays):
            return _computed(equation, arrays)
        if name in _CONVERT:
            return _as_list(_CONVERT[name](self, equation, *arrays))
        raise NotConvertible(
            f"the program holds the operation {name!r}, which convmesh cannot write as ONNX; "
            "--format stablehlo holds any program"
        )


def _inlined(equation: Any) -> Any:
    """The closed jaxpr that an operation (jit, custom_jvp_call, ...) calls once, or None."""
    if equation.primitive.name in ("while", "scan", "cond"):
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        found = equation.params.get(key)
        if found is not None:
            return found if hasattr(found, "jaxpr") else ClosedJaxpr(found, ())
    return None


def _as_list(found: Array | list[Array]) -> list[Array]:
    return found if isinstance(found, list) else [found]


def _can_be_computed(equation: Any, arrays: Sequence[Array]) -> bool:
    """Whether all arguments are known now, and the results are worth being stored."""
    outputs = [var.aval.shape for var in equation.outvars]
    return (
        all(array.value is not None for array in arrays)
        and all(is_static(array.shape) for array in arrays)
        and all(is_static(shape) and np.prod(shape, dtype=float) <= _COMPUTED for shape in outputs)
        and equation.primitive.name not in ("broadcast_in_dim", "dim_as_value")
        and not equation.effects
    )


def _computed(equation: Any, arrays: Sequence[Array]) -> list[Array]:
    """The results of an operation on constants."""
    values = [whole_value(array) for array in arrays]
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        found = equation.primitive.bind(*values, **equation.params)
    found = found if equation.primitive.multiple_results else [found]
    return [constant(np.asarray(value)) for value in found]
