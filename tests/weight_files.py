"""Small files of weights in every form that is read, written without torch and without Keras."""

import io
import json
import pickle
import struct
import zipfile
from typing import Any, NamedTuple

import h5py
import numpy as np

# What the valid files hold; names as in torch.
ARRAYS = {
    "conv.weight": np.arange(54, dtype=np.float32).reshape(2, 3, 3, 3) / 7,
    "conv.bias": np.array([0.5, -1.5], np.float32),
    "norm.count": np.array(7, np.int64),
    "head.weight": np.arange(12, dtype=np.float64).reshape(3, 4),
    "head.flags": np.array([True, False, True]),
}
STORAGES = {"f4": "Float", "f8": "Double", "i8": "Long", "b1": "Bool", "f2": "Half"}
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C


# Pickles, opcode by opcode, so that they may say what Python's own pickler never would.


class Global(NamedTuple):
    """A name that a pickle asks for."""

    module: str
    name: str


class Call(NamedTuple):
    """A call of `function` with a tuple of arguments."""

    function: Any
    arguments: tuple


class Persistent(NamedTuple):
    """A persistent id: of a storage, in torch's files."""

    id: tuple


class Raw(NamedTuple):
    """Opcodes as they are, which leave one value."""

    code: bytes


def _opcodes(value) -> bytes:
    """The opcodes of protocol 2 that push `value`."""
    match value:
        case None | True | False:
            return {None: pickle.NONE, True: pickle.NEWTRUE, False: pickle.NEWFALSE}[value]
        case Raw(code):
            return code
        case Global(module, name):
            return pickle.GLOBAL + f"{module}\n{name}\n".encode()
        case Call(function, arguments):
            return _opcodes(function) + _opcodes(arguments) + pickle.REDUCE
        case Persistent(identity):
            return _opcodes(identity) + pickle.BINPERSID
        case int():
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return pickle.LONG1 + bytes([len(data)]) + data
        case float():
            return pickle.BINFLOAT + struct.pack(">d", value)
        case str():
            return pickle.BINUNICODE + struct.pack("<I", len(value.encode())) + value.encode()
        case bytes():
            return pickle.BINBYTES + struct.pack("<I", len(value)) + value
        case tuple():
            return pickle.MARK + b"".join(map(_opcodes, value)) + pickle.TUPLE
        case list():
            return pickle.EMPTY_LIST + pickle.MARK + b"".join(map(_opcodes, value)) + pickle.APPENDS
        case dict():
            items = b"".join(_opcodes(part) for pair in value.items() for part in pair)
            return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS
    raise TypeError(type(value))


def pickled(value, protocol=2) -> bytes:
    """A pickle of plain values and of the types above."""
    return pickle.PROTO + bytes([protocol]) + _opcodes(value) + pickle.STOP


# torch's forms.


def storage(key, kind, count, legacy=False):
    """A storage; kind: as `Float`."""
    more = (None,) if legacy else ()
    return Persistent(("storage", Global("torch", f"{kind}Storage"), key, "cpu", count, *more))


def tensor(of, shape, strides=None, offset=0):
    """A tensor that is a view of a storage; its numbers lie in order if no strides are given."""
    if strides is None:
        strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, (of, offset, tuple(shape), tuple(strides), False, {}))


def torch_value(arrays, legacy=False):
    """The value that torch.save pickles for `arrays`, and the bytes of the storages by key."""
    value, data = {}, {}
    for i, (name, array) in enumerate(arrays.items()):
        key = f"{94000 + i}" if legacy else str(i)
        kind = STORAGES[array.dtype.str[1:]]
        value[name] = tensor(storage(key, kind, array.size, legacy), array.shape)
        data[key] = array.tobytes()
    return value, data


def torch_zip(pickle_data: bytes, data: dict[str, bytes], method=zipfile.ZIP_STORED, more=()):
    """An archive as torch.save writes it: a pickle and storages; more: members and their bytes."""
    return zip_file(
        {
            "archive/data.pkl": pickle_data,
            "archive/byteorder": b"little",
            **{f"archive/data/{key}": value for key, value in data.items()},
            "archive/version": b"3\n",
            **dict(more),
        },
        method,
    )


def zip_file(members: dict[str, bytes], method=zipfile.ZIP_STORED) -> bytes:
    """A zip archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return file.getvalue()


def torch_legacy(pickle_data: bytes, data: dict[str, tuple[int, bytes]]) -> bytes:
    """A file of torch.save before 1.6; data: for each storage its count and its bytes."""
    about = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    start = b"".join(map(pickled, (MAGIC_NUMBER, 1001, about)))
    storages = b"".join(struct.pack("<q", count) + value for count, value in data.values())
    return start + pickle_data + pickled(list(data)) + storages


def as_torch_zip(arrays=ARRAYS, method=zipfile.ZIP_STORED) -> bytes:
    """`arrays` in torch's zip form."""
    value, data = torch_value(arrays)
    return torch_zip(pickled(value), data, method)


def as_torch_legacy(arrays=ARRAYS) -> bytes:
    """`arrays` in torch's legacy form."""
    value, data = torch_value(arrays, legacy=True)
    counts = [array.size for array in arrays.values()]
    return torch_legacy(
        pickled(value), {k: (n, v) for n, (k, v) in zip(counts, data.items(), strict=True)}
    )


# Other forms.


def safetensors_file(header, data: bytes) -> bytes:
    """A file with a header, text or what becomes JSON, and the bytes of its arrays."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + data


def as_safetensors(arrays=ARRAYS) -> bytes:
    """`arrays` as `.safetensors`."""
    names = {"f4": "F32", "f8": "F64", "i8": "I64", "b1": "BOOL"}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        place = [len(data), len(data) + array.nbytes]
        kind = names[array.dtype.str[1:]]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": place}
        data += array.tobytes()
    return safetensors_file(header, data)


def hdf5_file(write) -> bytes:
    """The bytes of an HDF5 file that `write` fills."""
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        write(file)
    return memory.getvalue()


def as_keras_2(arrays=ARRAYS) -> bytes:
    """`arrays` as a whole model of Keras 2, compressed: model_weights/LAYER/LAYER/WEIGHT:0."""

    def write(file):
        file.attrs["model_config"] = '{"class_name": "Sequential"}'
        for name, array in arrays.items():
            layer, _, weight = name.partition(".")
            group = file.require_group(f"model_weights/{layer}/{layer}")
            how = {"compression": "gzip", "shuffle": True} if array.ndim else {}
            group.create_dataset(f"{weight}:0", data=array, **how)
        file["optimizer_weights/iteration"] = np.array(3)

    return hdf5_file(write)


def as_keras_3(arrays=ARRAYS) -> bytes:
    """`arrays` as `.weights.h5` of Keras 3: layers/CLASS_N/vars/INDEX; `vars` names the layer."""

    def write(file):
        layers = list(dict.fromkeys(name.partition(".")[0] for name in arrays))
        for i, layer in enumerate(layers):
            group = file.create_group(f"layers/class_{i}/vars")
            group.attrs["name"] = layer
            held = [a for name, a in arrays.items() if name.startswith(f"{layer}.")]
            for j, array in enumerate(held):
                group[str(j)] = array
        file["optimizer/vars/0"] = np.array(3)

    return hdf5_file(write)


def as_keras_archive(arrays=ARRAYS, method=zipfile.ZIP_STORED) -> bytes:
    """`arrays` as `.keras`."""
    config = b'{"class_name": "Lambda", "config": {"function": ["4wEA", null, null]}}'
    return zip_file({"config.json": config, "model.weights.h5": as_keras_3(arrays)}, method)


VALID = {
    "safetensors": as_safetensors,
    "torch zip": as_torch_zip,
    "torch zip, deflated": lambda: as_torch_zip(method=zipfile.ZIP_DEFLATED),
    "torch legacy": as_torch_legacy,
    "Keras 2 h5": as_keras_2,
    "Keras 3 h5": as_keras_3,
    "Keras archive": as_keras_archive,
}
