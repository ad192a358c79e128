"""read_weights: every form by its content, and one line for everything else."""

import os
import sys
from pathlib import Path

import hostile_weights
import numpy as np
import pytest
import weight_files as files

from convmesh.errors import DataError
from convmesh.weights.files import read_weights

HOSTILE = hostile_weights.hostile(Path("canary"))


def written(folder, data, name="weights"):
    path = folder / name
    path.write_bytes(data)
    return path


def same(found, wanted):
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize(
    "form", ["safetensors", "torch zip", "torch zip, deflated", "torch legacy"]
)
def test_torch_names_are_read_from_every_form_of_torch(form, tmp_path):
    same(read_weights(written(tmp_path, files.VALID[form]())), files.ARRAYS)


def test_the_names_of_keras_2_are_paths_in_the_file(tmp_path):
    found = read_weights(written(tmp_path, files.as_keras_2()))
    named = {
        f"{name.partition('.')[0]}/{name.replace('.', '/')}": a for name, a in files.ARRAYS.items()
    }
    same({name: found[name] for name in named}, named)
    assert len(found) == len(named), "no optimizer"


@pytest.mark.parametrize("form", ["Keras 3 h5", "Keras archive"])
def test_the_names_of_keras_3_have_the_names_of_its_layers(form, tmp_path):
    names = ["conv/vars/0", "conv/vars/1", "norm/vars/0", "head/vars/0", "head/vars/1"]
    wanted = zip(names, files.ARRAYS.values(), strict=True)
    found = read_weights(written(tmp_path, files.VALID[form]()))
    same(found, {f"layers/{name}": array for name, array in wanted})


@pytest.mark.parametrize("suffix", [".pth", ".h5", ".safetensors", ".txt"])
def test_the_content_tells_the_form_not_the_name(suffix, tmp_path):
    for form in ("safetensors", "torch legacy"):
        path = written(tmp_path, files.VALID[form](), f"weights{suffix}")
        same(read_weights(str(path)), files.ARRAYS)


@pytest.mark.parametrize("beginning", [b"\x80", b"PK"])
def test_safetensors_whose_length_begins_as_another_form_does(beginning, tmp_path):
    """The header's length, little-endian, comes first: any bytes may."""
    plain = files.as_safetensors()
    length = int.from_bytes(plain[:8], "little")
    wanted = int.from_bytes(beginning, "little")
    while wanted < length:
        wanted += 256 ** len(beginning)
    header = plain[8 : 8 + length].decode().ljust(wanted)  # spaces at its end are allowed
    data = files.safetensors_file(header, plain[8 + length :])
    assert data.startswith(beginning)
    same(read_weights(written(tmp_path, data)), files.ARRAYS)


def test_a_prefix_of_all_names_is_removed(tmp_path):
    for form in (files.as_safetensors, files.as_torch_zip):
        arrays = {f"module._orig_mod.{name}": array for name, array in files.ARRAYS.items()}
        same(read_weights(written(tmp_path, form(arrays))), files.ARRAYS)
        arrays["other"] = np.zeros(1, np.float32)
        assert list(read_weights(written(tmp_path, form(arrays)))) == list(arrays)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_a_line(name, tmp_path, monkeypatch):
    data, words = HOSTILE[name]
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, data)
    with pytest.raises(DataError) as caught:
        read_weights(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and words in line
    assert line.isprintable() and len(line) < len(str(path)) + 500
    assert [p.name for p in tmp_path.iterdir()] == ["weights"], "something was written"


@pytest.mark.parametrize("form", files.VALID)
def test_a_file_that_is_cut_short_is_refused(form, tmp_path):
    data = files.VALID[form]()
    for count in (9, 60, len(data) // 2, len(data) - 1):
        path = written(tmp_path, data[:count])
        with pytest.raises(DataError, match="^[^\n]*(cut short|damaged|form that can be read)"):
            read_weights(path)


def refusal(path):
    with pytest.raises(DataError) as caught:
        read_weights(path)
    return str(caught.value).removeprefix(f"{path}: ")


def test_what_is_no_file_is_refused(tmp_path):
    assert refusal(tmp_path / "none") == "No such file or directory"
    assert refusal(tmp_path) == "a folder; name the file of weights"
    written(tmp_path, b"", "model.safetensors")
    assert refusal(tmp_path).endswith("in it, such as model.safetensors")
    os.mkfifo(tmp_path / "fifo")
    assert refusal(tmp_path / "fifo") == "not a regular file"
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    assert refusal(tmp_path / "link") == "not a regular file"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "symbolic links" in refusal(tmp_path / "loop")
    assert refusal(Path("/dev/zero")) == "not a regular file"
    with pytest.raises(DataError, match="null"):
        read_weights("a\0b")


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    path = written(tmp_path, files.as_torch_zip())

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)  # the superuser may read everything
    assert refusal(path) == "Permission denied"


def test_a_symbolic_link_to_a_file_is_read(tmp_path):
    written(tmp_path, files.as_torch_zip())
    (tmp_path / "link").symlink_to("weights")
    same(read_weights(tmp_path / "link"), files.ARRAYS)


def test_torch_is_not_imported(tmp_path):
    read_weights(written(tmp_path, files.as_torch_zip()))
    assert "torch" not in sys.modules
