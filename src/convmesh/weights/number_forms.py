"""The forms of numbers in files of weights, and the arrays that they become.

Half precision becomes float32, which holds each of its values; all else stays as it is.
"""

from __future__ import annotations

import numpy as np

# Stored as -> dtype of what is stored. NumPy has no bfloat16: the upper half of a float32.
STORED = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "bfloat16": "u2",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint64": "u8",
    "uint32": "u4",
    "uint16": "u2",
    "uint8": "u1",
    "bool": "u1",
}


def stored_dtype(form: str, big_endian: bool = False) -> np.dtype:
    """Return the dtype of numbers of a form (a key of `STORED`) as they lie in a file."""
    return np.dtype(STORED[form]).newbyteorder(">" if big_endian else "<")


def numbers(stored: np.ndarray, form: str) -> np.ndarray:
    """Return what `stored`, of `stored_dtype(form)`, means: the same shape, native byte order."""
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if form == "bfloat16":
        wide = stored.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    if form == "float16":
        return stored.astype(np.float32)
    if form == "bool":
        return stored != 0
    return stored
