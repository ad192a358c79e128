"""Lists the arrays of an HDF5 file and writes them to the standard output: a program of its own.

    python -P keras_child.py < weights.h5

The HDF5 library is written for files that are trusted: a damaged one can crash it, or keep it busy
for ever. So it runs here, in a process with limits, and `keras_form` reads what it writes: a line
of JSON, {"arrays": [[name, dtype, shape], ...]}, then for each array "+" and its numbers. Where it
cannot go on it writes the line {"refused": why} instead, after "-" if it replaces an array. This
file imports nothing of the package.

Read are groups and plain arrays of numbers in the file itself, as they are or with gzip and
shuffle; links to other places, virtual arrays, objects and any other filter are refused before
anything is read.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import h5py
import numpy as np

MOST_ARRAYS = 10_000
DEEPEST = 32
GROWTH = 2**27  # bytes that all arrays may have more than the file
_LARGEST_CHUNK = 2**27
_MEMORY = 2**29  # bytes of memory, above twice the size of the file
_SECONDS = 20  # of the processor, and one more for each 10 MB
_NAME = "name"  # attribute of the group `vars` of a layer: the name that the layer was given
_LONGEST_NAME = 200
_LONGEST_REASON = 300


class Refused(Exception):
    """The file holds what is not read."""


def limit_process(size: int) -> None:
    """Bound memory and processor time, for a file of `size` bytes, where the system can."""
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return
    for limit, most in (
        (resource.RLIMIT_AS, used + 2 * size + _MEMORY),
        (resource.RLIMIT_CPU, _SECONDS + size // 10**7),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (most if hard < 0 else min(most, hard), hard))


def datasets(group: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield the name and dataset of each array in a group, in the order of the file's names.

    A name is the path; a layer's group of Keras 3 has the name that the layer was given, if it
    says so, and not that of its class. Raises Refused.
    """
    seen: set[int] = set()
    todo = [(group, "", 0)]
    while todo:
        group, path, depth = todo.pop()
        address = h5py.h5o.get_info(group.id).addr
        if depth > DEEPEST:
            raise Refused(f"its group {path!r} is nested too deeply")
        if address in seen:
            raise Refused(f"its group {path!r} is there twice")
        seen.add(address)
        inner = []
        for name in group:
            place = f"{path}{name}"
            if "/" in name or name in ("", "."):
                raise Refused(f"its group {path!r} has an item without a proper name")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise Refused(f"its {place!r} is a link to another place")
            item = group[name]
            if isinstance(item, h5py.Dataset):
                yield place, item
            elif isinstance(item, h5py.Group):
                inner.append((item, f"{path}{_given_name(item) or name}/", depth + 1))
            else:
                raise Refused(f"its {place!r} is neither a group nor an array")
            if len(seen) + len(todo) + len(inner) > MOST_ARRAYS:
                raise Refused(f"it has more than {MOST_ARRAYS} groups")
        todo.extend(reversed(inner))


def _given_name(group: h5py.Group) -> str:
    """Return the name that a layer of Keras 3 was given, '' if its group does not say one."""
    if not isinstance(group.get("vars", getlink=True), h5py.HardLink):
        return ""
    held = group["vars"]
    if not isinstance(held, h5py.Group) or _NAME not in held.attrs:
        return ""
    about = held.attrs.get_id(_NAME)
    text = h5py.check_string_dtype(about.dtype)
    if text is None or about.shape != () or about.get_storage_size() > _LONGEST_NAME:
        return ""
    name = held.attrs[_NAME]
    plain = isinstance(name, str) and name.isprintable() and "/" not in name
    return name if plain and len(name) <= _LONGEST_NAME else ""


def check(place: str, dataset: h5py.Dataset) -> None:
    """Raise Refused unless a dataset is an array of numbers that lies in the file."""
    kind = dataset.dtype.kind
    if kind not in "fiub" or dataset.dtype.itemsize > 8 or dataset.dtype.metadata:
        raise Refused(f"its {place!r} has the type {dataset.dtype}, not numbers")
    if dataset.shape is None:
        raise Refused(f"its {place!r} has no shape")
    plan = dataset.id.get_create_plist()
    if dataset.is_virtual or plan.get_external_count():
        raise Refused(f"its {place!r} has its numbers in another file")
    known = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE)
    for i in range(plan.get_nfilters()):
        if plan.get_filter(i)[0] not in known:
            raise Refused(f"its {place!r} is compressed by another filter than gzip")
    if dataset.chunks and math.prod(dataset.chunks) * dataset.dtype.itemsize > _LARGEST_CHUNK:
        raise Refused(f"its {place!r} has pieces of more than {_LARGEST_CHUNK} bytes")
    if dataset.size and not dataset.id.get_storage_size():
        raise Refused(f"its {place!r} has a shape, but no numbers")


class Array(NamedTuple):
    """An array of a file; path: in the file. The open dataset would take memory, for its pieces."""

    name: str
    path: str
    dtype: np.dtype
    shape: tuple[int, ...]


def weights_of(file: h5py.File, size: int) -> list[Array]:
    """Return the weights that a file of `size` bytes holds. Raises Refused."""
    found = []
    left = size + GROWTH
    root = file
    if isinstance(file.get("model_weights", getlink=True), h5py.HardLink):
        root = file["model_weights"]  # a whole model, with its optimizer beside
        if not isinstance(root, h5py.Group):
            raise Refused("its 'model_weights' is no group")
    for place, dataset in datasets(root):
        if place.startswith(("optimizer/", "optimizer_weights/")):
            continue
        check(place, dataset)
        left -= dataset.size * dataset.dtype.itemsize
        if left < 0:
            raise Refused(f"its arrays have more than {GROWTH} bytes more than the file")
        little = dataset.dtype.newbyteorder("<")
        found.append(Array(place, dataset.name, little, dataset.shape))
        if len(found) > MOST_ARRAYS:
            raise Refused(f"it has more than {MOST_ARRAYS} arrays")
    return found


def write_arrays(source: BinaryIO, size: int, output: BinaryIO) -> None:
    """Write the arrays of an HDF5 file to `output`, as the module's docstring says."""
    before = b""
    try:
        with h5py.File(source, "r") as file:
            found = weights_of(file, size)
            about = [[array.name, array.dtype.str, array.shape] for array in found]
            output.write(json.dumps({"arrays": about}).encode() + b"\n")
            before = b"-"
            for array in found:
                values = file[array.path][()].astype(array.dtype, order="C")
                output.write(b"+")
                output.write(memoryview(values).cast("B") if values.size else b"")
    except Refused as refusal:
        output.write(before + json.dumps({"refused": str(refusal)}).encode() + b"\n")
    except Exception as error:  # of a damaged file the library raises nearly every type
        said = f"damaged: {type(error).__name__}: {error}"
        output.write(before + json.dumps({"refused": said[:_LONGEST_REASON]}).encode() + b"\n")
    output.flush()


def main() -> None:
    """Read the standard input, which is the file itself or a pipe."""
    source: BinaryIO = sys.stdin.buffer
    if not source.seekable():
        source = io.BytesIO(source.read())
    size = source.seek(0, io.SEEK_END)
    source.seek(0)
    limit_process(size)
    write_arrays(source, size, sys.stdout.buffer)


if __name__ == "__main__":
    main()
