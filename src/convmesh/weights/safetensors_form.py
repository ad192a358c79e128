"""Reads and writes `.safetensors`: a JSON header, which places each array, then bytes.

The format: https://github.com/huggingface/safetensors#format. It is done here and not by the
library, which opens the path a second time, maps it (a file that shrinks ends the process) and has
no bfloat16 for NumPy. What the library refuses is refused here too: arrays that overlap, gaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from convmesh.weights.binary_file import BinaryFile, Refused, printable
from convmesh.weights.number_forms import numbers, stored_dtype

_LONGEST_HEADER = 2**23  # bytes, about 80,000 arrays
_MOST_AXES = 32
_METADATA = "__metadata__"
_FORMS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def looks_like(head: bytes) -> bool:
    """Whether a file begins as `.safetensors` does: 8 bytes of length, then a JSON object."""
    return head[8:9] == b"{" and head[6:8] == b"\0\0"


def read(file: BinaryFile) -> dict[str, np.ndarray]:
    """Return the arrays by name. Raises Refused, and ValueError for what is no JSON."""
    header, start = _header(file)
    header.pop(_METADATA, None)
    entries = {name: _entry(name, about) for name, about in header.items()}
    _check_places([place for *_, place in entries.values()], file.size - start)
    arrays = {}
    for name, (form, shape, (begin, _)) in entries.items():
        data = file.array(start + begin, stored_dtype(form), math.prod(shape))
        arrays[name] = numbers(data, form).reshape(shape)
    return arrays


def read_metadata(file: BinaryFile) -> dict[str, str]:
    """Return the texts by name that a file has beside its arrays. Raises as `read`."""
    found = _header(file)[0].get(_METADATA, {})
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise Refused("its metadata are no texts by name")
    return found


def to_bytes(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Return a file of contiguous arrays and texts by name: the same bytes for the same content."""
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    names, end = {form: name for name, form in _FORMS.items()}, 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        kind, place = names[array.dtype.name], [begin, end]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": place}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the library aligns what follows
    little = (array.astype(array.dtype.newbyteorder("<"), copy=False) for array in arrays.values())
    return b"".join([len(text).to_bytes(8, "little"), text, *(a.tobytes() for a in little)])


def _header(file: BinaryFile) -> tuple[dict[str, Any], int]:
    """Return the header, and the first byte after it. Raises as `read`."""
    length = int.from_bytes(file.read(0, 8), "little")
    if length > _LONGEST_HEADER:
        raise Refused(f"its header has {length} bytes; {_LONGEST_HEADER} are the most")
    file.check(8, length)
    header = json.loads(file.read(8, length).decode(), object_pairs_hook=_object)
    if not isinstance(header, dict):
        raise Refused("its header is no JSON object")
    return header, 8 + length


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object whose keys are all different."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Refused("its header has a name twice")
    return found


def _entry(name: str, about: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """Return form, shape and place (first byte, end) of an array that the header describes."""
    shown = printable(name[:100])
    if not isinstance(about, dict) or set(about) != {"dtype", "shape", "data_offsets"}:
        raise Refused(f"its header does not give dtype, shape and data_offsets of {shown!r}")
    dtype, shape, place = about["dtype"], about["shape"], about["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _FORMS:
        raise Refused(f"{shown!r} has the type {printable(str(dtype)[:40])}, which cannot be read")
    if not _sizes(shape) or len(shape) > _MOST_AXES:
        raise Refused(f"the shape of {shown!r} is no list of at most {_MOST_AXES} sizes")
    if not _sizes(place) or len(place) != 2:
        raise Refused(f"the data_offsets of {shown!r} are no two places")
    form = _FORMS[dtype]
    count = math.prod(shape) * stored_dtype(form).itemsize
    if place[1] - place[0] != count:
        raise Refused(f"{shown!r} has {place[1] - place[0]} bytes, its shape needs another number")
    return form, tuple(shape), (place[0], place[1])


def _sizes(value: Any) -> bool:
    """Whether a value of the header is a list of sizes or places."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def _check_places(places: list[tuple[int, int]], available: int) -> None:
    """Raise Refused unless the places fill the `available` bytes, each byte once."""
    at = 0
    for begin, end in sorted(places):
        if begin != at:
            what = "overlap" if begin < at else "leave a gap"
            raise Refused(f"its arrays {what} at byte {min(begin, at)} of the data")
        at = end
    if at != available:
        what = "it is cut short" if at > available else "it has bytes after its arrays"
        raise Refused(f"{what}: the header describes {at} bytes of data, it has {available}")
