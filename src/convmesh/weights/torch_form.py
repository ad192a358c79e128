"""Reads what `torch.save` writes: today's zip archive, and the legacy form of torch before 1.6.

The zip form holds data.pkl, whose tensors name storages, and data/KEY for each of these. The legacy
form is five pickles (a magic number, the version, the machine, the object, the keys of its
storages), then for each key 8 bytes of count and the numbers. Both as in torch/serialization.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from convmesh.weights.binary_file import BinaryFile, Refused, printable
from convmesh.weights.number_forms import numbers, stored_dtype
from convmesh.weights.pickle_machine import LONGEST_PICKLE, PickleMachine
from convmesh.weights.state_dict import state_dict
from convmesh.weights.torch_objects import Storage, Tensor, find_global, find_storage
from convmesh.weights.zip_archive import ZipArchive

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_LONGEST_NOTE = 100  # bytes of the members that hold a word or a number


def read_zip(archive: ZipArchive) -> dict[str, np.ndarray]:
    """Return the arrays of an archive that has a member data.pkl. Raises Refused."""
    roots = [name.removesuffix("data.pkl") for name in archive.names if is_pickle(name)]
    if len(roots) != 1:
        raise Refused("it has more than one data.pkl")
    [root] = roots
    members = {name.removeprefix(root) for name in archive.names if name.startswith(root)}
    if "constants.pkl" in members or any(name.startswith("code/") for name in members):
        raise Refused(
            "a TorchScript archive, which is a program; save its weights alone:"
            " torch.save(torch.jit.load(FILE).state_dict(), OUTPUT)"
        )
    big_endian = False
    if "byteorder" in members:
        big_endian = archive.read(f"{root}byteorder", _LONGEST_NOTE).strip() == b"big"
    data = archive.read(f"{root}data.pkl", LONGEST_PICKLE)
    value, _ = PickleMachine(data, find_global, find_storage).run()
    tensors = state_dict(value)

    def read_storage(storage: Storage, dtype: np.dtype, count: int) -> np.ndarray:
        return archive.array(f"{root}data/{storage.key}", dtype, count)

    return _arrays(tensors, read_storage, big_endian)


def is_pickle(name: str) -> bool:
    """Whether a member of an archive is the pickle of the zip form."""
    folder, _, rest = name.partition("/")
    return name == "data.pkl" or (bool(folder) and rest == "data.pkl")


def read_legacy(file: BinaryFile) -> dict[str, np.ndarray]:
    """Return the arrays of a file that begins with a pickle. Raises Refused."""
    data = file.read(0, min(file.size, LONGEST_PICKLE))
    storages: dict[str, Storage] = {}

    def find_and_keep(persistent_id: Any) -> Storage:
        found = find_storage(persistent_id)
        kept = storages.setdefault(found.key, found)
        if (kept.form, kept.count) != (found.form, found.count):
            raise Refused(f"the storage {printable(found.key[:40])} is described in two ways")
        return found

    machine = PickleMachine(data, find_global, find_and_keep)
    magic, at = machine.run()
    if magic != _MAGIC_NUMBER:
        raise Refused("a pickle that torch.save did not write")
    version, at = machine.run(at)
    about, at = machine.run(at)
    if version != _VERSION:
        raise Refused(f"damaged, or of another version than {_VERSION}, which can be read")
    if isinstance(about, dict) and about.get("little_endian") is False:
        raise Refused("written by a big-endian machine; save it again in today's form")
    value, at = machine.run(at)
    keys, at = machine.run(at)
    tensors = state_dict(value)
    places = _storage_places(file, at, keys, storages)

    def read_storage(storage: Storage, dtype: np.dtype, count: int) -> np.ndarray:
        return file.array(places[storage.key], dtype, count)

    return _arrays(tensors, read_storage)


def _storage_places(
    file: BinaryFile, at: int, keys: Any, storages: dict[str, Storage]
) -> dict[str, int]:
    """Return where the numbers of each storage begin, in the legacy form. Raises Refused."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Refused("its list of storages is damaged")
    if len(set(keys)) != len(keys) or set(keys) != set(storages):
        raise Refused("its list of storages does not fit its tensors")
    places = {}
    for key in keys:
        storage = storages[key]
        count = int.from_bytes(file.read(at, 8), "little")
        if count != storage.count:
            raise Refused(
                f"damaged: the storage {printable(key[:40])} has {count} numbers,"
                f" not the {storage.count} that its tensors say"
            )
        file.check(at + 8, count * storage.itemsize)
        places[key] = at + 8
        at += 8 + count * storage.itemsize
    return places


def _arrays(
    tensors: dict[str, Tensor],
    read_storage: Callable[[Storage, np.dtype, int], np.ndarray],
    big_endian: bool = False,
) -> dict[str, np.ndarray]:
    """Return the arrays that `tensors` describe; each storage is read once.

    read_storage: returns that many numbers of a dtype from the beginning of a storage.
    """
    read: dict[str, tuple[str, np.ndarray]] = {}
    for tensor in tensors.values():
        key, form = tensor.storage.key, tensor.form
        if key not in read:
            dtype = stored_dtype(form, big_endian)
            count, odd = divmod(tensor.storage.count * tensor.storage.itemsize, dtype.itemsize)
            if odd:
                raise Refused(f"the storage {printable(key[:40])} is no array of {form}")
            read[key] = form, numbers(read_storage(tensor.storage, dtype, count), form)
        if read[key][0] != form:  # each form of it would take memory
            raise Refused(f"the storage {printable(key[:40])} has numbers of two types")
    return {name: tensor.view_of(read[tensor.storage.key][1]) for name, tensor in tensors.items()}
