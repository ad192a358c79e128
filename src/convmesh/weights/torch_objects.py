"""What the pickles of `torch.save` may name: storages, tensors and the objects that go with them.

A tensor is read as a description (`Tensor`): its storage, and which numbers of it. Numbers are read
for the arrays that are wanted, when all descriptions are checked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from convmesh.weights.binary_file import Refused, printable
from convmesh.weights.number_forms import STORED, stored_dtype
from convmesh.weights.pickle_machine import Function, Inert, refused_global

_MOST_AXES = 32
# A tensor may have more numbers than its storage (`expand`) up to this: a buffer, no bomb.
_MOST_REPEATED = 2**16


@dataclass(frozen=True)
class Storage:
    """Numbers in a file, of which tensors are views.

    key: name in the file. form: of its numbers, a key of `STORED`, or "untyped" for bytes. count:
    of its numbers. view: (first number, count) of the part that is meant, in the legacy form.
    """

    key: str
    form: str
    count: int
    view: tuple[int, int] | None = None

    @property
    def itemsize(self) -> int:
        """The bytes of a number."""
        return 1 if self.form == "untyped" else stored_dtype(self.form).itemsize


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides count numbers of the form `form`."""

    storage: Storage
    form: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def view_of(self, numbers: np.ndarray) -> np.ndarray:
        """Return the array, which may not be written to, as a view of its storage's numbers."""
        if 0 in self.shape:
            return np.zeros(self.shape, numbers.dtype)
        strides = [stride * numbers.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(
            numbers[self.offset :], self.shape, strides, writeable=False
        )


@dataclass(frozen=True)
class _StorageType:
    """A storage class of torch; form: of its numbers."""

    form: str


@dataclass(frozen=True)
class _NumberType:
    """A `torch.dtype`; form: a key of `STORED`."""

    form: str


def find_global(module: str, name: str) -> Any:
    """Return what stands for a name; raises Refused for one that is not on the allow-list."""
    if (module, name) not in _GLOBALS:
        raise refused_global(module, name)
    return _GLOBALS[module, name]


def find_storage(persistent_id: Any) -> Storage:
    """Return the storage that a persistent id describes.

    ("storage", type, key, device, count), and in the legacy form a sixth value: None, or (key of
    the view, first number, count). Raises Refused.
    """
    match persistent_id:
        case ["storage", _StorageType(form), str(key), str(), int(count)]:
            view = None
        case ["storage", _StorageType(form), str(key), str(), int(count), None]:
            view = None
        case ["storage", _StorageType(form), str(key), str(), int(count), [_, int(i), int(n)]]:
            view = (i, n)
        case _:
            raise Refused("its pickle is damaged: a storage is not described as torch does")
    if count < 0 or (view and (min(view) < 0 or sum(view) > count)):
        raise Refused(f"its pickle is damaged: the storage {printable(key[:40])} has no such size")
    return Storage(key, form, count, view)


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *more: Any
) -> Tensor:  # requires_grad, hooks, metadata
    """torch._utils._rebuild_tensor and _rebuild_tensor_v2."""
    _check_no_sign(more[2:])
    if not isinstance(storage, Storage) or storage.form == "untyped":
        raise Refused("its pickle is damaged: a tensor has no typed storage")
    return _checked(storage, storage.form, (offset, shape, strides))


def _untyped_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *more: Any
) -> Tensor:  # requires_grad, hooks, dtype, metadata
    """torch._utils._rebuild_tensor_v3."""
    _check_no_sign(more[3:])
    dtype = more[2] if len(more) > 2 else None
    if not isinstance(storage, Storage) or not isinstance(dtype, _NumberType):
        raise Refused("its pickle is damaged: a tensor has no storage or type")
    return _checked(storage, dtype.form, (offset, shape, strides))


def _check_no_sign(metadata: tuple[Any, ...]) -> None:
    """Raise Refused if a tensor's numbers are to be negated or conjugated: lazily, by its metadata.

    metadata: none, or the dictionary of torch._utils.get_tensor_metadata.
    """
    for stated in metadata[:1]:
        if not isinstance(stated, dict) and stated is not None:
            raise Refused("its pickle is damaged: a tensor's metadata are no dictionary")
        for bit in ("neg", "conj"):
            if stated and stated.get(bit):
                raise Refused(
                    f"a tensor states {bit}: its numbers are stored with another sign; save "
                    f"TENSOR.resolve_{bit}()"
                )


def _checked(storage: Storage, form: str, place: tuple[Any, Any, Any]) -> Tensor:
    """Return a tensor whose numbers are all in its storage. Raises Refused."""
    offset, shape, strides = place
    lengths = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides)
    if not lengths or len(shape) > _MOST_AXES:
        raise Refused("its pickle is damaged: a tensor's shape and strides do not fit each other")
    if not all(type(n) is int and 0 <= n < 2**62 for n in (offset, *shape, *strides)):
        raise Refused("its pickle is damaged: a tensor's shape or stride is no size")
    first, count = storage.view or (0, storage.count)
    count = count * storage.itemsize // stored_dtype(form).itemsize
    size = math.prod(shape)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if size and last >= count:
        raise Refused(f"its pickle is damaged: a tensor of shape {shape} is outside its storage")
    if size > max(count, _MOST_REPEATED):
        raise Refused(f"a tensor of shape {shape} repeats the {count} numbers of its storage")
    return Tensor(storage, form, first + offset, shape, strides)


def _parameter(data: Any, *_: Any) -> Any:
    """torch._utils._rebuild_parameter and _rebuild_parameter_with_state."""
    if not isinstance(data, Tensor):
        raise Refused("its pickle is damaged: a parameter is no tensor")
    return data


def _subclass(function: Any, _: Any, arguments: Any, *state: Any) -> Any:
    """torch._tensor._rebuild_from_type_v2: a tensor with attributes."""
    if not isinstance(function, Function) or not isinstance(arguments, tuple):
        raise Refused("its pickle is damaged: a tensor is not described as torch does")
    if function not in (_TENSOR, _PARAMETER):
        raise Refused(f"its pickle has a tensor made by {function.name}")
    return function.apply(*arguments)


def _size(numbers: Any = ()) -> tuple[Any, ...]:
    """torch.Size; of a tuple, which is not copied."""
    if not isinstance(numbers, tuple):
        raise Refused("its pickle is damaged: a size is no tuple")
    return numbers


def _inert(*_: Any, **__: Any) -> Inert:
    """An object without use for weights."""
    return Inert()


_TENSOR, _PARAMETER = Function("_rebuild_tensor_v2", _tensor), Function("parameter", _parameter)
_STORAGE_NAMES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
}
# Part of a checkpoint, but not of its weights: options, counters, scores of NumPy's types.
_INERT_NAMES = [
    ("_codecs", "encode"),
    ("argparse", "Namespace"),
    ("builtins", "complex"),
    ("builtins", "set"),
    ("__builtin__", "set"),
    ("collections", "Counter"),
    ("collections", "defaultdict"),
    ("datetime", "datetime"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("pathlib", "PosixPath"),
    ("pathlib", "PurePosixPath"),
    ("pathlib", "WindowsPath"),
    ("torch", "device"),
]
_GLOBALS: dict[tuple[str, str], Any] = {
    **{
        (module, f"{name}Storage"): _StorageType(form)
        for module in ("torch", "torch.cuda")
        for name, form in _STORAGE_NAMES.items()
    },
    ("torch.storage", "UntypedStorage"): _StorageType("untyped"),
    ("torch", "UntypedStorage"): _StorageType("untyped"),
    **{("torch", form): _NumberType(form) for form in STORED},
    **{names: Function(".".join(names), _inert) for names in _INERT_NAMES},
    ("collections", "OrderedDict"): Function("OrderedDict", dict),
    ("builtins", "dict"): Inert(),
    ("torch", "Size"): Function("torch.Size", _size),
    ("torch", "Tensor"): Inert(),
    ("torch.nn.parameter", "Parameter"): Function("Parameter", _parameter),
    ("torch._utils", "_rebuild_tensor"): _TENSOR,
    ("torch._utils", "_rebuild_tensor_v2"): _TENSOR,
    ("torch._utils", "_rebuild_tensor_v3"): Function("_rebuild_tensor_v3", _untyped_tensor),
    ("torch._utils", "_rebuild_parameter"): _PARAMETER,
    ("torch._utils", "_rebuild_parameter_with_state"): _PARAMETER,
    ("torch._tensor", "_rebuild_from_type_v2"): Function("_rebuild_from_type_v2", _subclass),
}
