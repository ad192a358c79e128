"""Paths: a compact sequence of names, in memory or in files."""

import pickle

import numpy as np
import pytest

from convmesh.data.formats.folder import paths
from convmesh.data.formats.folder.paths import Paths

NAMES = ["a/1.png", "a/22.png", "b/ü.png", "b/\udcff.png", "a/x/3.png", "a/4.png", "top.png"]


@pytest.fixture(params=["in memory", "in files", "pickled", "pickled files"])
def held(request, tmp_path):
    found = Paths.of(iter(NAMES))
    if "files" in request.param:
        found = Paths.load(tmp_path, found.save(tmp_path))
    return pickle.loads(pickle.dumps(found)) if "pickled" in request.param else found


def test_it_is_a_sequence_of_the_paths(held):
    assert len(held) == len(NAMES)
    assert list(held) == [held[i] for i in range(len(NAMES))] == NAMES
    assert held[-1] == "top.png"
    assert held[1:4] == NAMES[1:4]
    with pytest.raises(IndexError):
        held[len(NAMES)]


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_parts(held, monkeypatch, at_once):
    monkeypatch.setattr(paths, "_AT_ONCE", at_once)
    for start in range(len(NAMES)):
        for stop in range(start, len(NAMES) + 1):
            assert list(held.part(start, stop)) == NAMES[start:stop]


def test_none(tmp_path):
    found = Paths.of([])
    assert (len(found), list(found)) == (0, [])
    assert list(Paths.load(tmp_path, found.save(tmp_path))) == []


def test_files_hold_names_that_processes_share(tmp_path):
    found = Paths.of(NAMES)
    loaded = Paths.load(tmp_path, found.save(tmp_path))
    assert isinstance(loaded._names, np.memmap)
    assert len(pickle.dumps(loaded)) < 500


def test_a_file_that_is_cut_short_is_refused(tmp_path):
    rest = Paths.of(NAMES).save(tmp_path)
    with (tmp_path / "names.bin").open("r+b") as file:
        file.truncate(5)
    with pytest.raises(ValueError, match="cut short"):
        Paths.load(tmp_path, rest)
