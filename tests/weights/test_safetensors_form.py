"""`.safetensors`, against the library that defines it."""

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import weight_files as files

from convmesh.errors import DataError
from convmesh.weights.files import read_metadata, read_weights
from convmesh.weights.safetensors_form import to_bytes


def test_files_of_the_library_are_read(tmp_path):
    draw = np.random.default_rng(0)
    arrays = {
        name: (draw.normal(size=(2, 3, 4)) * 50).astype(name)
        for name in ("f4", "f8", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")
    }
    arrays |= {"none": np.zeros((0, 3), "f4"), "scalar": np.array(2.5, "f4")}
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(arrays, path, metadata={"format": "pt"})
    found = read_weights(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def test_half_precision_becomes_float32_exactly(tmp_path):
    half = np.array([1 / 3, -65504, 6e-8, np.inf, np.nan], np.float16)
    wide = np.array([1 / 3, -1e30, 1e-40, np.inf, np.nan], np.float32)
    brain = (wide.view(np.uint32) >> 16).astype(np.uint16)
    header = {
        "half": {"dtype": "F16", "shape": [5], "data_offsets": [0, 10]},
        "brain": {"dtype": "BF16", "shape": [5], "data_offsets": [10, 20]},
    }
    path = tmp_path / "a.safetensors"
    path.write_bytes(files.safetensors_file(header, half.tobytes() + brain.tobytes()))
    assert safetensors.safe_open(path, "np").keys() == ["brain", "half"], "a valid file"
    found = read_weights(path)
    np.testing.assert_array_equal(found["half"], half.astype(np.float32))
    np.testing.assert_array_equal(found["brain"].view(np.uint32), brain.astype(np.uint32) << 16)
    assert found["half"].dtype == found["brain"].dtype == np.float32


def test_the_metadata_are_texts_by_name(tmp_path):
    path = tmp_path / "a.safetensors"
    arrays = {"a": np.zeros(3, "f4")}
    safetensors.numpy.save_file(arrays, path, metadata={"format": "pt", "classes": '["a"]'})
    assert read_metadata(path) == {"format": "pt", "classes": '["a"]'}
    safetensors.numpy.save_file(arrays, path)
    assert read_metadata(path) == {}
    path.write_bytes(files.as_torch_zip())
    assert read_metadata(path) == {}


@pytest.mark.parametrize(
    "header, message",
    [
        ({"__metadata__": {"a": 3}}, "its metadata are no texts by name"),
        ({"__metadata__": ["a"]}, "its metadata are no texts by name"),
        ('{"__metadata__": {"a": "b", "a": "c"}}', "its header has a name twice"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "recursion"),
        ("{", "Expecting"),
    ],
)
def test_other_metadata_are_refused_in_a_line(tmp_path, header, message):
    path = tmp_path / "a.safetensors"
    path.write_bytes(files.safetensors_file(header, b""))
    with pytest.raises(DataError, match=message) as error:
        read_metadata(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_what_is_written_is_read_by_the_library_and_always_the_same_bytes(tmp_path):
    path = tmp_path / "a.safetensors"
    arrays = {"b": np.arange(6, dtype="f4").reshape(2, 3), "a": np.array([True, False, True])}
    arrays |= {"none": np.zeros((0, 3), "f8"), "scalar": np.array(2, "i8")}
    path.write_bytes(to_bytes(arrays, {"format": "pt", "name": "ü"}))
    with safetensors.safe_open(path, "np") as opened:
        assert opened.metadata() == {"format": "pt", "name": "ü"}
        for name, array in arrays.items():
            found = opened.get_tensor(name)
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(found, array)
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0
    assert to_bytes(read_weights(path), read_metadata(path)) == path.read_bytes()
