"""An ONNX graph under construction: nodes, weights and the sizes that are known at run time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 18
IR_VERSION = 9  # the newest that runtimes of the last years read


class Graph:
    """Nodes in order, each an operator on named tensors; the same node is never added twice.

    Sizes of the inputs that are not known are symbols (`jax.export.symbolic_shape`): `set_sizes`
    says which input has each, and `sizes` makes a shape of them at run time.
    """

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._known: dict[Any, list[str]] = {}  # what was added, by what it computes
        self._inputs: list[onnx.ValueInfoProto] = []
        self._size_names: dict[str, str] = {}
        self._count = 0

    def add_input(self, name: str, dtype: Any, shape: Sequence[Any]) -> None:
        """An input; its sizes are numbers or symbols, which get their names from it."""
        sizes = [size if isinstance(size, int) else str(size) for size in shape]
        self._inputs.append(helper.make_tensor_value_info(name, onnx_type(dtype), sizes))
        for axis, size in enumerate(sizes):
            if isinstance(size, str):
                self._size_names[size] = self.size_along(name, axis)

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node of one output; returns the output's name."""
        return self.add_many(op, inputs, 1, **attributes)[0]

    def add_many(
        self, op: str, inputs: Sequence[str], outputs: int, **attributes: Any
    ) -> list[str]:
        """Adds a node of several outputs; returns their names."""
        key = (op, tuple(inputs), outputs, repr(sorted(attributes.items())))
        if key not in self._known:
            self._count += 1
            names = [f"{op}_{self._count}" + f"_{i}" * (outputs > 1) for i in range(outputs)]
            self._nodes.append(helper.make_node(op, inputs, names, **attributes))
            self._known[key] = names
        return self._known[key]

    def weight(self, value: Any) -> str:
        """The name of a constant tensor."""
        value = np.asarray(value, order="C")  # keeps a number a number
        key = ("weight", value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).digest())
        if key not in self._known:
            name = f"weight_{len(self._weights) + 1}"
            self._weights[name] = numpy_helper.from_array(value, name)
            self._known[key] = [name]
        return self._known[key][0]

    def ints(self, *values: int) -> str:
        """The name of a constant vector of int64, as operators take axes and shapes."""
        return self.weight(np.array(values, np.int64))

    def size_along(self, tensor: str, axis: int) -> str:
        """The name of a vector int64 [1] that holds the size of a tensor along an axis."""
        # Not by the attributes of Shape, which some converters do not know.
        return self.add("Gather", self.add("Shape", tensor), self.ints(axis), axis=0)

    def size(self, size: Any) -> str:
        """The name of a vector int64 [1] that holds a size, a number or a symbol.

        Raises KeyError for an expression of symbols.
        """
        return self.ints(size) if isinstance(size, int) else self._size_names[str(size)]

    def sizes(self, shape: Sequence[Any]) -> str:
        """The name of a vector int64 that holds a shape of numbers and symbols."""
        if all(isinstance(size, int) for size in shape):
            return self.ints(*shape)
        return self.add("Concat", *map(self.size, shape), axis=0)

    def model(
        self, outputs: Mapping[str, tuple[str, Any, Sequence[Any]]], metadata: Mapping[str, str]
    ) -> onnx.ModelProto:
        """The complete model. `outputs`: tensor, dtype and shape of each, by its public name.

        Raises ValueError (`onnx.checker.ValidationError`) if the graph is not valid.
        """
        infos = []
        for name, (tensor, dtype, shape) in outputs.items():
            self._nodes.append(helper.make_node("Identity", [tensor], [name]))
            sizes = [size if isinstance(size, int) else str(size) for size in shape]
            infos.append(helper.make_tensor_value_info(name, onnx_type(dtype), sizes))
        graph = helper.make_graph(
            self._needed([info.name for info in infos]),
            "convmesh",
            self._inputs,
            infos,
            initializer=list(self._weights.values()),
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="convmesh"
        )
        model.ir_version = IR_VERSION
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model)
        return model

    def _needed(self, outputs: Sequence[str]) -> list[onnx.NodeProto]:
        """The nodes that the outputs depend on, in order; drops the weights of the others."""
        needed = set(outputs)
        kept = []
        for node in reversed(self._nodes):
            if needed & set(node.output):
                needed |= set(node.input)
                kept.append(node)
        self._weights = {name: w for name, w in self._weights.items() if name in needed}
        return kept[::-1]


def onnx_type(dtype: Any) -> int:
    """ONNX's number of a numpy dtype."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
