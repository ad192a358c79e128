"""tree: a folder as it is on the disk, with its names in order."""

import os

import pytest

from convmesh.data.formats.folder.folder_tree import Folder, Times, read_tree
from convmesh.errors import DataError

FILES = ["a/1.png", "a/b/2.jpg", "a/b.png", "a/c.txt", "a.png", "z/y/x/3.PNG", "note"]


@pytest.fixture
def top(tmp_path):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in (".hidden/4.png", "empty"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    return tmp_path


def test_folders_and_files(top):
    times = Times()
    tree = read_tree(top, times)
    assert list(tree.folders) == ["a", "z"]
    assert list(tree.files()) == sorted(FILES, key=lambda path: path.split("/"))
    assert (tree.images, tree.loose, list(tree.loose_names())) == (5, 1, ["a.png"])
    assert sorted(tree.names()) == ["1.png", "2.jpg", "3.PNG", "a.png", "b.png"]
    assert [folder.path for folder in tree.walk()] == ["", "a", "a/b", "z", "z/y", "z/y/x"]
    assert tree.folders["z"].first_image() == "z/y/x/3.PNG"
    assert set(times) == {"", "a", "a/b", "empty", "z", "z/y", "z/y/x"}
    assert times["a"][0] == os.stat(top / "a").st_mtime_ns
    assert not times.broken


def test_a_link_to_nothing_is_noticed(top):
    (top / "z" / "gone").symlink_to(top / "nowhere")
    times = Times()
    read_tree(top, times)
    assert times.broken


def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match="gone: No such file"):
        read_tree(tmp_path / "gone")


def test_an_empty_folder():
    folder = Folder("a")
    assert folder.is_empty
    assert (list(folder.files()), folder.images, folder.own_names()) == ([], 0, [])
