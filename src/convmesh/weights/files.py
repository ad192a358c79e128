"""`read_weights`: the arrays of a file of weights, by name, whatever form it has.

Files of other people's making are not trusted. Nothing of them is executed, nothing is written,
and what they say about sizes is checked against what they have: reading takes the memory of the
arrays and at most a few hundred MB more. The form is found by the content; a name may say anything.
"""

from __future__ import annotations

import os
import zipfile

import numpy as np

from convmesh.errors import DataError, first_line
from convmesh.weights import keras_form, safetensors_form, torch_form
from convmesh.weights.binary_file import BinaryFile, Refused, opened, printable
from convmesh.weights.state_dict import without_prefix
from convmesh.weights.zip_archive import ZipArchive

READABLE = ".safetensors, .pth, .pt and .bin of torch.save, .h5 and .keras of Keras"
_HEAD = 512  # bytes that tell the form
# Beginnings of files that people take for weights: what they are, and what to do.
_OTHERS = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself: run `git lfs pull`"),
    (b"<!DOCTYPE", "a web page: the download failed"),
    (b"<!doctype", "a web page: the download failed"),
    (b"<html", "a web page: the download failed"),
    (b"\x1f\x8b", "compressed by gzip: unpack it"),
    (b"\x93NUMPY", "one array of NumPy, without a name"),
)


def read_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the arrays of a file of weights by name; they may share memory and be read-only.

    Names are those of the file. Of a checkpoint in nested dictionaries the weights alone are read,
    averaged ones (`model_ema`, ...) rather than others; a prefix that DataParallel or torch.compile
    gave to all names is removed. A name of a Keras file is the path in it: LAYER/.../kernel, and
    in Keras 3's own form layers/LAYER/vars/INDEX. float16 and bfloat16 become float32, exactly;
    numbers of other types stay what they are.

    Raises DataError with the file and the reason, in one line: damaged, cut short, of another form,
    or made to do more than hold weights.
    """
    with opened(path) as file:
        try:
            arrays = _read(file)
        except Refused as refusal:
            raise DataError(f"{path}: {printable(str(refusal))}") from None
        except Exception as error:  # of damaged bytes, parsers raise nearly every type
            reason = printable(f"{type(error).__name__}: {first_line(error)}")
            raise DataError(f"{path}: damaged, cannot be read ({reason})") from error
    if not arrays:
        raise DataError(f"{path}: holds no arrays")
    return arrays


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the texts by name that a `.safetensors` has beside its arrays; {} of other forms.

    Raises DataError with the file and the reason, in one line.
    """
    with opened(path) as file:
        if not safetensors_form.looks_like(file.read(0, min(file.size, _HEAD))):
            return {}
        try:
            return safetensors_form.read_metadata(file)
        except (Refused, ValueError, RecursionError) as error:
            raise DataError(f"{path}: {printable(first_line(error))}") from None


def _read(file: BinaryFile) -> dict[str, np.ndarray]:
    """Return the arrays of an open file. Raises Refused, and what parsers raise."""
    head = file.read(0, min(file.size, _HEAD))
    if not head:
        raise Refused("the file is empty")
    # First: the length that it begins with can have the first bytes of any of the other forms.
    if safetensors_form.looks_like(head):
        return without_prefix(safetensors_form.read(file))
    if head.startswith(b"PK"):
        return _read_archive(file)
    if head.startswith(b"\x80"):
        return without_prefix(torch_form.read_legacy(file))
    if keras_form.looks_like(head):
        return keras_form.read(file)
    for beginning, what in _OTHERS:
        if head.startswith(beginning):
            raise Refused(what)
    if head[257:262] == b"ustar":
        raise Refused("a tar archive; unpack it, or if torch wrote it (before 0.2), save it again")
    raise Refused(f"no weights of a form that can be read: {READABLE}")


def _read_archive(file: BinaryFile) -> dict[str, np.ndarray]:
    """Return the arrays of a zip archive of torch or Keras. Raises Refused, BadZipFile."""
    try:
        archive = ZipArchive(file)
    except zipfile.BadZipFile as error:
        raise Refused(f"a zip archive that is cut short or damaged ({error})") from None
    if any(torch_form.is_pickle(name) for name in archive.names):
        return without_prefix(torch_form.read_zip(archive))
    if keras_form.WEIGHTS_MEMBER in archive.names:
        return keras_form.read_archive(archive)
    if archive.names and all(name.endswith(".npy") for name in archive.names):
        raise Refused(f"arrays of NumPy (.npz); what can be read: {READABLE}")
    raise Refused(f"a zip archive without weights in it; unpack it. What can be read: {READABLE}")
