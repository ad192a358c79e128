"""Reads Keras's files: `.h5`, `.weights.h5` and `.keras` (a zip archive with a `.weights.h5`).

Arrays only: the description of the model is not looked at, so no layer and no lambda is made. The
HDF5 library runs in a process of its own (`keras_child`), which a damaged file may end or keep
busy.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

import numpy as np

from convmesh.weights.binary_file import BinaryFile, Refused, printable
from convmesh.weights.number_forms import numbers
from convmesh.weights.zip_archive import ZipArchive

WEIGHTS_MEMBER = "model.weights.h5"  # of a .keras archive
_CHILD = Path(__file__).with_name("keras_child.py")
_LONGEST_LINE = 2**24  # bytes of the child's list of arrays
_MOST_AXES = 32
_GROWTH = 2**27  # bytes that all arrays may have more than the file, as in the child
_TOO_MUCH_TIME = -24  # how the child ends at its own limit, of processor time: SIGXCPU
_SECONDS = 60  # until the child is ended, and one more for each 5 MB
_DTYPES = {f"<{kind}" for kind in ("f8", "f4", "f2", "i8", "i4", "i2", "u8", "u4", "u2")}
_DTYPES |= {"|i1", "|u1", "|b1"}


def looks_like(head: bytes) -> bool:
    """Whether a file begins as HDF5 does."""
    return head.startswith(b"\x89HDF\r\n\x1a\n")


def read(file: BinaryFile) -> dict[str, np.ndarray]:
    """Return the arrays of an HDF5 file by their paths in it. Raises Refused."""
    with _child(file.file, file.size) as output:
        return _receive(output, file.size)


def read_archive(archive: ZipArchive) -> dict[str, np.ndarray]:
    """Return the arrays of a `.keras` archive. Raises Refused and `zipfile.BadZipFile`."""
    size = archive.size(WEIGHTS_MEMBER)
    data = archive.read(WEIGHTS_MEMBER, limit=size)
    with _child(data, size) as output:
        return _receive(output, size)


@contextmanager
def _child(source: Any, size: int) -> Iterator[BufferedReader]:
    """Run the child with `source`, an open file or bytes; the value is what it writes.

    Raises Refused if it crashed or took too long.
    """
    # No plug-in of the HDF5 library is loaded, and NumPy starts no threads.
    environment = os.environ | {"HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"}
    data = source if isinstance(source, bytes) else None
    child = subprocess.Popen(
        [sys.executable, "-P", "-B", str(_CHILD)],
        stdin=source if data is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    seconds = _SECONDS + size // (5 * 10**6)
    timed_out = threading.Event()

    def end() -> None:
        timed_out.set()
        child.kill()

    late = threading.Timer(seconds, end)
    feeder = threading.Thread(target=_feed, args=(child.stdin, data))
    late.start()
    feeder.start()
    try:
        assert isinstance(child.stdout, BufferedReader)
        with child.stdout as output:
            yield output
    except EOFError:
        ended = child.wait()
        if timed_out.is_set() or ended == _TOO_MUCH_TIME:
            raise Refused("the HDF5 library did not come to an end with it") from None
        raise Refused(f"the HDF5 library could not read it: it ended with {ended}") from None
    finally:
        late.cancel()
        child.kill()
        child.wait()
        feeder.join()
        late.join()


def _feed(stdin: IO[bytes] | None, data: bytes | None) -> None:
    """Write `data` to the child, which may have ended."""
    if stdin is not None and data is not None:
        with contextlib.suppress(OSError), stdin:
            stdin.write(data)


def _receive(output: BufferedReader, size: int) -> dict[str, np.ndarray]:
    """Return the arrays that the child writes. Raises Refused, and EOFError if it ended early."""
    about = _line(output)
    if "refused" in about:
        raise Refused(printable(str(about["refused"])))
    left = size + _GROWTH
    arrays: dict[str, np.ndarray] = {}
    for name, dtype, shape in about["arrays"]:
        name = name.encode().decode().removesuffix(":0")  # as in TensorFlow; no half characters
        if dtype not in _DTYPES or len(shape) > _MOST_AXES:
            raise Refused(f"its {printable(name)!r} has the type {printable(dtype)}")
        left -= math.prod(shape) * np.dtype(dtype).itemsize
        if left < 0 or name in arrays:
            raise Refused("its list of arrays is damaged")
        if output.read(1) != b"+":
            raise Refused(printable(str(_line(output)["refused"])))
        values = np.empty(math.prod(shape), dtype)
        if output.readinto(values.view(np.uint8).data) != values.nbytes:
            raise EOFError
        form = "float16" if dtype == "<f2" else values.dtype.name
        arrays[name] = numbers(values.view(np.uint8) if form == "bool" else values, form)
        arrays[name] = arrays[name].reshape(shape)
    return arrays


def _line(output: BufferedReader) -> dict[str, Any]:
    """Return a line of the child. Raises EOFError if it ended before."""
    line = output.readline(_LONGEST_LINE)
    if not line.endswith(b"\n"):
        raise EOFError
    return json.loads(line)
