"""Files of weights that were made to do harm, each with words of the line that refuses it.

canary: a path that must not exist afterwards; those that execute would create it.
"""

import io
import json
import pickle
import struct
import zipfile

import h5py
import numpy as np
import weight_files as files
from weight_files import Call, Global, Raw

GB = 2**30


def calls(canary):
    """Values whose pickles would run a command that creates `canary`, by name."""
    command = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w')"
    name = Global("os", "system")
    return {
        "os.system": Call(name, (command,)),
        "posix.system": Call(Global("posix", "system"), (command,)),
        "builtins.eval": Call(Global("builtins", "eval"), (code,)),
        "__builtin__.exec": Call(Global("__builtin__", "exec"), (code,)),
        "subprocess.Popen": Call(Global("subprocess", "Popen"), (["touch", str(canary)],)),
        "torch.hub.load": Call(Global("torch.hub", "load"), (str(canary), "m")),
        "torch.os.system": Call(Global("torch", "os.system"), (command,)),
        "builtins.getattr": Call(Global("builtins", "getattr"), (name, "__class__")),
        "numpy.load": Call(Global("numpy", "load"), (str(canary),)),
        "pip.main": Call(Global("pip", "main"), (["install", "x"],)),
        # Calls of what is allowed, with what is not.
        "_rebuild_from_type_v2": Call(
            Global("torch._tensor", "_rebuild_from_type_v2"), (name, name, (command,), {})
        ),
    }


def code(value) -> bytes:
    """The opcodes of a value, without the beginning and the end of a pickle."""
    return files.pickled(value)[2:-1]


def other_ways(canary):
    """Pickles that reach the same by other opcodes, by name, and words of the refusal."""
    command = f"touch {canary}"
    stack = code("os") + code("system") + pickle.STACK_GLOBAL + code((command,)) + pickle.REDUCE
    inst = pickle.MARK + code(command) + pickle.INST + b"os\nsystem\n"
    obj = pickle.MARK + code(Global("os", "system")) + code(command) + pickle.OBJ
    new = code(Global("os", "system")) + code((command,)) + code({}) + pickle.NEWOBJ_EX
    state = code(Global("collections", "OrderedDict")) + code(()) + pickle.REDUCE
    return {
        "STACK_GLOBAL": (stack, "asks for os.system"),
        "INST": (inst, "opcode b'i'"),
        "OBJ": (obj, "asks for os.system"),
        "NEWOBJ_EX": (new, "asks for os.system"),
        "EXT1": (pickle.EXT1 + b"\x01", "opcode b'\\x82'"),
        "PERSID": (pickle.PERSID + b"x\n", "opcode b'P'"),
        "call of text": (code("os.system") + code((command,)) + pickle.REDUCE, "calls a str"),
        "attributes": (code("x") + code({"a": 1}) + pickle.BUILD, "sets attributes of a str"),
        "state with a name": (
            state + code({"__class__": Global("os", "system")}) + pickle.BUILD,
            "asks for os.system",
        ),
        "memo index": (code("x") + pickle.LONG_BINPUT + b"\xff\xff\xff\xff", "holds one str"),
        "long text": (pickle.BINUNICODE8 + struct.pack("<Q", 2**62), "cut short"),
        "long bytes": (pickle.BINBYTES8 + struct.pack("<Q", 2**40), "cut short"),
        "bytearray": (pickle.BYTEARRAY8 + struct.pack("<Q", 2**40), "opcode"),
        "long integer": (pickle.LONG1 + b"\xff" + b"\x7f" * 255, "integer of 255 bytes"),
        "LONG4": (pickle.LONG4 + b"\xff\xff\xff\x7f", "opcode"),
        "deep tuples": (code(0) + pickle.TUPLE1 * 300_000, "holds one tuple"),
        "deep lists": (pickle.EMPTY_LIST * 100_000 + pickle.APPEND * 99_999, "holds one list"),
        "many marks": (pickle.MARK * 3_000_000, "operations"),
        "tuple as a key": (
            pickle.EMPTY_DICT + code(0) + pickle.TUPLE1 * 300_000 + code(1) + pickle.SETITEM,
            "tuple as a key",
        ),
        "integers of one hash": (
            pickle.EMPTY_DICT
            + pickle.MARK
            + b"".join(code(i * (2**61 - 1)) + pickle.NONE for i in range(1, 100_000))
            + pickle.SETITEMS,
            "integers as keys",
        ),
        "one list made many dictionaries": (_many_dictionaries(), "operations"),
        "a dictionary in itself": (
            pickle.EMPTY_DICT + pickle.MEMOIZE + code("x") + pickle.BINGET + b"\0" + pickle.SETITEM,
            "nested too deeply",
        ),
        "multiplied dictionaries": (_multiplied(), "too many values"),
        "empty stack": (pickle.TUPLE3, "takes a value that is not there"),
        "no mark": (pickle.SETITEMS, "without a mark"),
        "unknown memo": (pickle.BINGET + b"\x07", "no value number 7"),
        "control characters": (code(Global("os\x1b[2J\r", "system")), "asks for os?[2J?.system"),
    }


def _many_dictionaries() -> bytes:
    """10,000 pairs, made 10,000 dictionaries: as Python 2 writes an OrderedDict."""
    pairs = code([(str(i), None) for i in range(10_000)])
    make = pickle.BINGET + b"\0" + pickle.BINGET + b"\1" + pickle.TUPLE1 + pickle.REDUCE
    start = code(Global("collections", "OrderedDict")) + pickle.MEMOIZE + pairs + pickle.MEMOIZE
    return start + make * 10_000


def _multiplied() -> bytes:
    """A dictionary with ten entries of the one before, and so on ten times: 10 ** 10 values."""
    made = code({"x": 1}) + pickle.MEMOIZE
    for i in range(10):
        items = b"".join(code(name) + pickle.BINGET + bytes([i]) for name in "abcdefghij")
        made += pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS + pickle.MEMOIZE
    return made


def tensors():
    """Tensors of a storage of 4 floats that reach beyond it or grow, and words of the refusal."""
    four = files.storage("0", "Float", 4)
    return {
        "huge shape": (files.tensor(four, (2**40,)), "outside its storage"),
        "repeated": (files.tensor(four, (2**20, 2**20), (0, 0)), "repeats the 4 numbers"),
        "overflow": (
            files.tensor(four, (2**61, 2**61, 2**61), (2**61,) * 3),
            "outside its storage",
        ),
        "negative stride": (files.tensor(four, (4,), (-1,), 3), "no size"),
        "negative offset": (files.tensor(four, (4,), (1,), -4), "no size"),
        "floats as a shape": (files.tensor(four, (2.0,), (1,)), "no size"),
        "more strides": (files.tensor(four, (4,), (1, 1)), "do not fit each other"),
        "many axes": (files.tensor(four, (1,) * 65, (1,) * 65), "do not fit each other"),
        "no storage": (files.tensor("0", (4,)), "no typed storage"),
        "count beyond the file": (
            files.tensor(files.storage("0", "Float", 2**40), (2**40,)),
            "not the 4398046511104",
        ),
        "another folder": (files.tensor(files.storage("../../x", "Float", 4), (4,)), "no member"),
        "quantized": (Call(Global("torch._utils", "_rebuild_qtensor"), ()), "_rebuild_qtensor"),
        "another number type": (
            {"a": files.tensor(files.storage("0", "ComplexFloat", 2), (2,))},
            "torch.ComplexFloatStorage",
        ),
    }


def torch_files(canary):
    """Files in torch's forms, by name: (bytes, words of the refusal)."""
    found = {}
    for name, value in calls(canary).items():
        words = "os.system" if name == "_rebuild_from_type_v2" else f"asks for {name},"
        data = files.pickled({"weight": value})
        found[f"zip: {name}"] = files.torch_zip(data, {}), words
        found[f"legacy: {name}"] = files.torch_legacy(data, {}), words
        found[f"plain pickle: {name}"] = data, words
    for name, (opcodes, words) in other_ways(canary).items():
        data = files.pickled(Raw(opcodes), protocol=4)
        found[f"zip: {name}"] = files.torch_zip(data, {}, zipfile.ZIP_DEFLATED), words
        found[f"legacy: {name}"] = files.torch_legacy(data, {}), words
    for name, (value, words) in tensors().items():
        data = files.pickled({"weight": value})
        found[f"zip: {name}"] = files.torch_zip(data, {"0": bytes(16)}), words
    return found | _archives(canary)


def _archives(canary):
    value, _ = files.torch_value({"a": np.zeros(4, np.float32)})
    good = files.pickled(value)
    big = files.tensor(files.storage("0", "Float", GB // 4), (GB // 4,))
    many = {str(i): files.tensor(files.storage(str(i), "Float", 2**24), (1,)) for i in range(8)}
    zeros = bytes(2**26)
    bomb = files.torch_zip(
        files.pickled(many), {str(i): zeros for i in range(8)}, zipfile.ZIP_DEFLATED
    )
    script = files.torch_zip(
        good, {"0": bytes(16)}, more={"archive/constants.pkl": b"", "archive/code/m.py": b"x"}
    )
    encrypted = bytearray(files.torch_zip(good, {"0": bytes(16)}))
    encrypted[6] |= 1
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    other = files.torch_zip(good, {"0": bytes(16)}, zipfile.ZIP_LZMA)
    twice = {"a/data.pkl": good, "b/data.pkl": good}
    return {
        "zip bomb": (bomb, "grow too much"),
        "pickle bomb": (files.torch_zip(zeros, {}, zipfile.ZIP_DEFLATED), "are the most"),
        "member of another size": (
            files.torch_zip(files.pickled({"a": big}), {"0": b"1234"}),
            "4 bytes",
        ),
        "TorchScript": (script, "torch.jit.load"),
        "encrypted": (bytes(encrypted), "encrypted"),
        "lzma": (other, "another method"),
        "two pickles": (files.zip_file(twice), "more than one data.pkl"),
        "nested zip": (files.zip_file({"model.pth": script}), "without weights in it"),
        "npz": (files.zip_file({"a.npy": b""}), "NumPy (.npz)"),
        "no directory": (b"PK\x03\x04" + bytes(50), "cut short or damaged"),
        "long list of members": (_long_list(), "list of members"),
    }


def _long_list() -> bytes:
    """A zip archive that says its list of members has 20 MB, which it has."""
    size = 20 * 2**20
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, size, 4, 0)
    return b"PK\x03\x04" + bytes(size) + end


def safetensors_files():
    """Files of this form, by name: (bytes, words of the refusal)."""

    def one(data=bytes(16), **changes):
        about = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes
        return files.safetensors_file({"a": about}, data)

    pair = {
        name: {"dtype": "F32", "shape": [2], "data_offsets": [i, i + 8]}
        for name, i in (("a", 0), ("b", 4))
    }
    entry = json.dumps({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]})
    return {
        "header beyond the file": (struct.pack("<Q", 2**40) + b'{"a"', "are the most"),
        "header of 8 MB": (struct.pack("<Q", 2**23) + b'{"a"', "cut short"),
        "no JSON": (files.safetensors_file("{" + "[" * 5, b""), "cannot be read"),
        "deep JSON": (files.safetensors_file('{"a":' + "[" * 10**6, b""), "cannot be read"),
        "huge number": (files.safetensors_file('{"a":' + "9" * 10**5 + "}", b""), "cannot be read"),
        "huge shape": (one(shape=[2**40]), "needs another number"),
        "negative shape": (one(shape=[-4]), "no list"),
        "true as a size": (one(shape=[True, 4]), "no list"),
        "huge shape and places": (
            one(shape=[2**40], data_offsets=[0, 2**42]),
            "cut short",
        ),
        "places in reverse": (one(data_offsets=[16, 0]), "needs another number"),
        "overlap": (files.safetensors_file(pair, bytes(12)), "overlap"),
        "gap": (one(bytes(20), data_offsets=[4, 20]), "leave a gap"),
        "more bytes": (one(bytes(17)), "bytes after its arrays"),
        "cut short": (one(bytes(15)), "cut short"),
        "unknown type": (one(dtype="F8_E4M3"), "F8_E4M3"),
        "more keys": (one(run="os.system"), "does not give"),
        "name twice": (
            files.safetensors_file(f'{{"a": {entry}, "a": {entry}}}', bytes(16)),
            "a name twice",
        ),
        "control characters": (
            files.safetensors_file({"a\x1b[2J\n": {}}, b""),
            "dtype, shape",
        ),
    }


def keras_files(canary):
    """HDF5 files and archives, by name: (bytes, words of the refusal)."""

    def virtual(file):
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource(str(canary), "x", (4,))
        file.create_virtual_dataset("a", layout)

    def external(file):
        file.create_dataset("a", (4,), "f4", external=[(str(canary), 0, 16)])

    def link(file):
        file["a"] = h5py.ExternalLink("/etc/passwd", "/x")

    def soft(file):
        file["b"] = np.zeros(3)
        file["a"] = h5py.SoftLink("/b")

    def in_itself(file):
        file.create_group("a")["b"] = file["/"]

    def objects(file):
        file.create_dataset("a", data=np.array(["x", "y"], object), dtype=h5py.string_dtype())

    def references(file):
        file.create_dataset("a", data=[file.ref], dtype=h5py.ref_dtype)

    def compound(file):
        file["a"] = np.zeros(3, [("x", "f4"), ("y", "i4")])

    def filtered(file):
        file.create_dataset("a", data=np.zeros(100), compression="lzf")

    def unknown_filter(file):
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((4,))
        plan.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((4,))
        h5py.h5d.create(file.id, b"a", h5py.h5t.IEEE_F32LE, space, plan)

    def unallocated(file):
        file.create_dataset("a", (2**40,), "f4")

    def mostly_unallocated(file):
        made = file.create_dataset("a", (2**36,), "f4", chunks=(2**12,), compression="gzip")
        made[:4] = 1

    def large_chunk(file):
        made = file.create_dataset("a", (2**26,), "f8", chunks=(2**26,), compression="gzip")
        made.id.write_direct_chunk((0,), b"x")

    def deep(file):
        file.create_group("/".join("x" * 40))

    def empty(file):
        file["a"] = h5py.Empty("f4")

    def nothing(file):
        file.attrs["model_config"] = "x"

    words = {
        virtual: "in another file",
        external: "in another file",
        link: "a link to another place",
        soft: "a link to another place",
        in_itself: "there twice",
        objects: "not numbers",
        references: "not numbers",
        compound: "not numbers",
        filtered: "another filter",
        unknown_filter: "another filter",
        unallocated: "but no numbers",
        mostly_unallocated: "more than 134217728 bytes more",
        large_chunk: "pieces of more than",
        deep: "nested too deeply",
        empty: "no shape",
        nothing: "holds no arrays",
    }
    bodies = {write.__name__: (files.hdf5_file(write), said) for write, said in words.items()}
    found = {f"h5: {name}": both for name, both in bodies.items()}
    for name in ("link", "virtual", "unallocated"):
        data, said = bodies[name]
        found[f"keras: {name}"] = files.zip_file({"model.weights.h5": data}), said
    zeros = files.zip_file({"model.weights.h5": bytes(2**28)}, zipfile.ZIP_DEFLATED)
    found["keras: bomb"] = zeros, "grow too much"
    found["h5: signature alone"] = b"\x89HDF\r\n\x1a\n" + bytes(100), "damaged"
    return found


def no_weights():
    """Files that are something else, by name: (bytes, words of the refusal)."""
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    return {
        "empty": (b"", "the file is empty"),
        "text": (b"hello\n", "no weights of a form that can be read"),
        "protocol 0": (b"cos\nsystem\n(S'x'\ntR.", "no weights of a form that can be read"),
        "one byte": (b"\x80", "cut short"),
        "web page": (b"<!DOCTYPE html><html>", "a web page"),
        "Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        "npy": (array.getvalue(), "one array of NumPy"),
        "gzip": (b"\x1f\x8b" + bytes(20), "unpack it"),
        "tar": (bytes(257) + b"ustar" + bytes(100), "a tar archive"),
        "plain pickle": (files.pickled({"a": 1}), "torch.save did not write"),
        "no tensors": (files.torch_zip(files.pickled({"epoch": 3}), {}), "its keys: epoch"),
        "a list": (files.torch_zip(files.pickled([1]), {}), "holds one list"),
    }


def hostile(canary):
    """All of the above: name -> (bytes, words of the line that refuses it)."""
    return (
        torch_files(canary)
        | {f"safetensors: {name}": both for name, both in safetensors_files().items()}
        | keras_files(canary)
        | no_weights()
    )
