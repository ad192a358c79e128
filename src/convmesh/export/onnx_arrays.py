"""Traced arrays as ONNX tensors: stored in any order of axes, and broadcast only where needed.

JAX's images are NHWC, and runtimes of ONNX are fast with NCHW. So an array may be stored with its
axes in another order (`perm`): a transposition costs nothing, convolutions store their results as
NCHW, and what follows keeps that order as far as it goes. A broadcast array is stored with sides of
1 (`full` says of which axes), since ONNX's operators broadcast by themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from convmesh.export.onnx_graph import Graph, onnx_type

NCHW = (0, 3, 1, 2)  # the order in which an image NHWC is stored


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution that is not in the graph yet: batch norm and bias are folded into it first.

    images: the tensor NCHW. kernel: float64 [kh, kw, c_in / groups, c_out]. bias: float64 [c_out].
    dtype: of the arithmetic.
    """

    images: str
    kernel: np.ndarray
    bias: np.ndarray
    dtype: np.dtype
    attributes: dict[str, Any]

    def scaled(self, factor: np.ndarray) -> Convolution:
        """The same with its result times `factor`, a number for each channel."""
        return dataclasses.replace(self, kernel=self.kernel * factor, bias=self.bias * factor)

    def shifted(self, shift: np.ndarray) -> Convolution:
        """The same with `shift` added to its result, a number for each channel."""
        return dataclasses.replace(self, bias=self.bias + shift)


@dataclasses.dataclass(frozen=True)
class Array:
    """A traced array: a constant, a tensor of the graph, or a convolution that is to come.

    shape: sizes, numbers or symbols. value: the constant, with its axes in their own order. tensor:
    stored with the axes `perm`. full: of each axis, whether it is stored in full, not as 1.
    """

    shape: tuple[Any, ...]
    dtype: np.dtype
    full: tuple[bool, ...]
    perm: tuple[int, ...]
    value: np.ndarray | None = None
    tensor: str = ""
    conv: Convolution | None = None

    @property
    def stored_shape(self) -> tuple[Any, ...]:
        """The sizes as stored, in the own order of the axes."""
        return tuple(s if full else 1 for s, full in zip(self.shape, self.full, strict=True))


def is_static(shape: Sequence[Any]) -> bool:
    """Whether all sizes are numbers."""
    return all(isinstance(size, int) for size in shape)


def is_one(size: Any) -> bool:
    """Whether a size is the number 1; a symbol is not."""
    return isinstance(size, int) and size == 1


def identity(rank: int) -> tuple[int, ...]:
    """The own order of the axes."""
    return tuple(range(rank))


def constant(value: Any, shape: Sequence[Any] | None = None) -> Array:
    """A constant; `shape` is its shape after broadcasting, if that differs."""
    value = np.asarray(value)
    shape = tuple(value.shape if shape is None else shape)
    full = tuple(
        not (stored == 1 and (not isinstance(size, int) or size != 1))
        for stored, size in zip(value.shape, shape, strict=True)
    )
    return Array(shape, value.dtype, full, identity(value.ndim), value)


def whole_value(array: Array) -> np.ndarray:
    """All elements of a constant of known shape."""
    assert array.value is not None
    return np.broadcast_to(array.value, array.shape)


def tensor(
    name: str, shape: Sequence[Any], dtype: Any, perm: tuple[int, ...] | None = None
) -> Array:
    """A tensor of the graph, stored in full."""
    rank = len(shape)
    return Array(tuple(shape), np.dtype(dtype), (True,) * rank, perm or identity(rank), tensor=name)


class Storage:
    """Puts arrays into the graph, in the order of axes and with the sizes that a node needs."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def settled(self, array: Array) -> Array:
        """The array; a convolution that is to come is put into the graph now."""
        conv = array.conv
        if conv is None:
            return array
        kernel = conv.kernel.transpose(3, 2, 0, 1).astype(conv.dtype)
        inputs = [conv.images, self.graph.weight(kernel)]
        if conv.bias.any():
            inputs.append(self.graph.weight(conv.bias.astype(conv.dtype)))
        name = self.graph.add("Conv", *inputs, **conv.attributes)
        if array.dtype != conv.dtype:
            name = self.graph.add("Cast", name, to=onnx_type(array.dtype))
        return tensor(name, array.shape, array.dtype, NCHW)

    def name(self, array: Array, perm: tuple[int, ...] | None = None) -> str:
        """The tensor, its axes in the order `perm`, or their own; sides of 1 stay."""
        array, perm = self.settled(array), perm or identity(len(array.shape))
        if array.value is not None:
            return self.graph.weight(array.value.transpose(perm))
        if perm == array.perm:
            return array.tensor
        order = [array.perm.index(axis) for axis in perm]
        return self.graph.add("Transpose", array.tensor, perm=order)

    def whole(self, array: Array, perm: tuple[int, ...] | None = None) -> str:
        """The tensor with all its elements, its axes in the order `perm`, or their own."""
        name, perm = self.name(array, perm), perm or identity(len(array.shape))
        if all(array.full):
            return name
        return self.graph.add("Expand", name, self.graph.sizes([array.shape[a] for a in perm]))

    def as_whole(self, array: Array) -> Array:
        """The array with all its elements stored; in the order it had."""
        array = self.settled(array)
        if all(array.full) and array.value is None:
            return array
        if array.value is not None and is_static(array.shape):
            return constant(whole_value(array))
        return tensor(self.whole(array, array.perm), array.shape, array.dtype, array.perm)


def common_order(arrays: Sequence[Array], rank: int) -> tuple[int, ...]:
    """The order of axes in which arrays meet: that of the one with most elements stored."""
    stored = [a for a in arrays if a.value is None and len(a.shape) == rank]
    if not stored:
        return identity(rank)
    return max(stored, key=lambda a: (sum(a.full), a.perm != identity(rank))).perm
