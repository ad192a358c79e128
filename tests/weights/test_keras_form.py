"""Keras's files: types of numbers, and a child process that does not do what it should."""

import threading

import numpy as np
import pytest
import weight_files as files

from convmesh.errors import DataError
from convmesh.weights import keras_form
from convmesh.weights.files import read_weights


def read(tmp_path, data):
    path = tmp_path / "weights.h5"
    path.write_bytes(data)
    return read_weights(path)


def test_every_type_of_number(tmp_path):
    arrays = {
        name: np.arange(6).reshape(2, 3).astype(name)
        for name in ("<f8", "<f4", "<f2", ">f4", ">i8", "<i4", "i1", "u1", "?", ">u2")
    }

    def write(file):
        for i, array in enumerate(arrays.values()):
            file[f"{i}"] = array
        file["empty"] = np.zeros((0, 4), np.float32)
        file["scalar"] = np.float32(2.5)

    found = read(tmp_path, files.hdf5_file(write))
    for i, array in enumerate(arrays.values()):
        native = array.dtype.newbyteorder("=")
        assert found[f"{i}"].dtype == (np.float32 if native == np.float16 else native)
        np.testing.assert_array_equal(found[f"{i}"], array)
    assert found["empty"].shape == (0, 4) and found["scalar"] == np.float32(2.5)


def test_a_large_archive_does_not_fill_the_pipe(tmp_path):
    arrays = {"conv.weight": np.random.default_rng(0).normal(size=(500, 500))}
    found = read(tmp_path, files.as_keras_archive(arrays))
    np.testing.assert_array_equal(found["layers/conv/vars/0"], arrays["conv.weight"])


@pytest.mark.parametrize(
    "program, words",
    [
        ("import os; os.abort()", "could not read it: it ended with -6"),
        ("print('{', flush=True)", "cannot be read"),
        ("import time; time.sleep(60)", "did not come to an end"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", "did not come to an end"),
        ("""print('{"arrays": [["a", "<f4", [1073741824]]]}')""", "list of arrays is damaged"),
        ("""print('{"arrays": [["a", "|O", [1]]]}')""", "has the type"),
        ("""print('{"arrays": [["a", "<f4", [2]]]}\\\\n+1234', end='')""", "ended with 0"),
        ("""print('{"arrays": [["a", "<f4", [2]]]}\\\\n-{"refused": "x"}')""", ": x$"),
    ],
)
def test_a_child_that_fails(program, words, tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    child.write_text(program.replace("\\\\n", "\\n"))
    monkeypatch.setattr(keras_form, "_CHILD", child)
    if "sleep" in program:
        monkeypatch.setattr(keras_form, "_SECONDS", 0)
    before = set(threading.enumerate())
    for data in (files.as_keras_3(), files.as_keras_archive()):
        with pytest.raises(DataError, match=words):
            read(tmp_path, data)
    assert set(threading.enumerate()) <= before, "the feeder and the timer have not ended"
