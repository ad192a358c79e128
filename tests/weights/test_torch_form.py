"""torch's two forms, against files that torch 2.13 wrote, and by opcodes that older ones wrote."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import weight_files as files
from weight_files import Call, Global, Raw

from convmesh.errors import DataError
from convmesh.weights.files import read_weights

DATA = Path(__file__).parent / "data"
NUMBERS = np.arange(24, dtype=np.float32)

# data/*_form.pth: torch.save of {"epoch": 3, "best": torch.tensor(0.5), "args": Namespace,
# "state_dict": {"module.rows": ...}, "optimizer": {...}}, where `rows`, `columns` and `part` are
# views of one torch.arange(24.0): view(2, 3, 4), view(4, 6).t(), [5:9].
WRITTEN_BY_TORCH = {
    "rows": NUMBERS.reshape(2, 3, 4),
    "columns": NUMBERS.reshape(4, 6).T,
    "part": NUMBERS[5:9],
    "last": NUMBERS.reshape(1, 2, 3, 4),  # channels_last
    "count": np.array(7),
    "bytes": np.array([250, 3], np.uint8),
    "flags": np.array([True, False]),
    "double": np.array([1 / 3]),
    "half": np.array([1 / 3, -2, 6e-8], np.float16).astype(np.float32),
    "brain": np.array([0x3EAB0000, 0xC0000000, 0x714A0000], np.uint32).view(np.float32),
    "none": np.zeros((0, 3), np.float32),
    "same": np.ones(4, np.float32),  # expanded: four times one number
    "parameter": np.array([[0.5]], np.float32),
}


@pytest.mark.parametrize("form", ["zip_form", "legacy_form"])
def test_a_checkpoint_of_torch_is_read(form):
    found = read_weights(DATA / f"{form}.pth")
    assert list(found) == list(WRITTEN_BY_TORCH)
    for name, array in WRITTEN_BY_TORCH.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


def test_views_of_one_storage_share_its_memory():
    found = read_weights(DATA / "zip_form.pth")
    assert np.shares_memory(found["rows"], found["columns"])
    assert not found["rows"].flags.writeable


def read(tmp_path, data):
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    return read_weights(path)


def test_big_endian_numbers(tmp_path):
    value = {"a": files.tensor(files.storage("0", "Float", 3), (3,))}
    data = np.array([1, 2, 3], ">f4").tobytes()
    archive = files.torch_zip(files.pickled(value), {"0": data}, more={"archive/byteorder": b"big"})
    found = read(tmp_path, archive)["a"]
    assert found.tolist() == [1, 2, 3] and found.dtype == np.float32


def test_a_view_in_the_legacy_form(tmp_path):
    identity = ("storage", Global("torch", "FloatStorage"), "1", "cuda:0", 10, ("2", 4, 5))
    value = {"a": files.tensor(files.Persistent(identity), (2, 2), (2, 1), offset=1)}
    data = NUMBERS[:10].tobytes()
    found = read(tmp_path, files.torch_legacy(files.pickled(value), {"1": (10, data)}))
    assert found["a"].tolist() == [[5, 6], [7, 8]]
    value = {"a": files.tensor(files.Persistent(identity), (5,), offset=1)}
    with pytest.raises(DataError, match="outside its storage"):
        read(tmp_path, files.torch_legacy(files.pickled(value), {"1": (10, data)}))


def test_a_pickle_of_python_2(tmp_path):
    """OrderedDict of a list of lists, and names as `str` of bytes."""
    name = pickle.SHORT_BINSTRING + b"\x01a"
    of = files.storage("0", "Float", 4, legacy=True)
    rebuild = Global("torch._utils", "_rebuild_tensor")
    pairs = [[Raw(name), Call(rebuild, (of, 0, (4,), (1,)))]]
    value = Call(Global("collections", "OrderedDict"), (pairs,))
    found = read(
        tmp_path, files.torch_legacy(files.pickled(value), {"0": (4, NUMBERS[:4].tobytes())})
    )
    assert list(found) == ["a"] and found["a"].tolist() == [0, 1, 2, 3]


def test_numbers_of_an_untyped_storage(tmp_path):
    of = files.Persistent(("storage", Global("torch.storage", "UntypedStorage"), "0", "cpu", 8))
    rebuild = Global("torch._utils", "_rebuild_tensor_v3")

    def tensor(form, offset, shape):
        more = (False, {}, Global("torch", form))
        return Call(rebuild, (of, offset, shape, (1,), *more))

    data = np.arange(4, dtype=np.uint16).tobytes()
    value = {"a": tensor("uint16", 1, (3,))}
    assert read(tmp_path, files.torch_zip(files.pickled(value), {"0": data}))["a"].tolist() == [
        1,
        2,
        3,
    ]
    with pytest.raises(DataError, match="outside its storage"):
        read(
            tmp_path, files.torch_zip(files.pickled({"a": tensor("uint16", 2, (3,))}), {"0": data})
        )
    two = {"a": tensor("uint16", 0, (4,)), "b": tensor("uint8", 0, (8,))}
    with pytest.raises(DataError, match="two types"):
        read(tmp_path, files.torch_zip(files.pickled(two), {"0": data}))


@pytest.mark.parametrize("bit", ["neg", "conj"])
@pytest.mark.parametrize("version", ["v2", "v3"])
def test_numbers_stored_with_another_sign_are_refused(tmp_path, version, bit):
    """As torch.save writes a view by torch._neg_view."""
    of = files.storage("0", "Float", 3)
    rebuild = Global("torch._utils", f"_rebuild_tensor_{version}")
    dtype = (Global("torch", "float32"),) if version == "v3" else ()

    def archive(metadata):
        tensor = Call(rebuild, (of, 0, (3,), (1,), False, {}, *dtype, metadata))
        return files.torch_zip(files.pickled({"a": tensor}), {"0": NUMBERS[:3].tobytes()})

    for plain in ({}, {bit: False}, None):
        assert read(tmp_path, archive(plain))["a"].tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=rf"a tensor states {bit}: .* TENSOR.resolve_{bit}\(\)"):
        read(tmp_path, archive({bit: True}))
    with pytest.raises(DataError, match="metadata are no dictionary"):
        read(tmp_path, archive([1]))


def test_storages_of_the_legacy_form_must_fit_its_tensors(tmp_path):
    value = {"a": files.tensor(files.storage("1", "Float", 4, legacy=True), (4,))}
    data = files.pickled(value)
    for storages, words in (
        ({}, "does not fit"),
        ({"2": (4, bytes(16))}, "does not fit"),
        ({"1": (5, bytes(20))}, "has 5 numbers, not the 4"),
        ({"1": (-1, bytes(16))}, "numbers, not the 4"),
        ({"1": (4, bytes(15))}, "cut short"),
    ):
        with pytest.raises(DataError, match=words):
            read(tmp_path, files.torch_legacy(data, storages))


def test_a_damaged_storage_of_the_zip_form_is_found(tmp_path):
    data = bytearray(files.as_torch_zip())
    at = data.index(files.ARRAYS["conv.weight"].tobytes())
    data[at + 9] ^= 4
    with pytest.raises(DataError, match="Bad CRC-32"):
        read(tmp_path, bytes(data))


def test_the_first_version_of_the_legacy_form_is_the_only_one(tmp_path):
    start = b"".join(map(files.pickled, (files.MAGIC_NUMBER, 1002, {}, {}, [])))
    with pytest.raises(DataError, match="another version than 1001"):
        read(tmp_path, start)
    about = {"little_endian": False}
    start = b"".join(map(files.pickled, (files.MAGIC_NUMBER, 1001, about, {}, [])))
    with pytest.raises(DataError, match="big-endian"):
        read(tmp_path, start)
