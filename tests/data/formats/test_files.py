"""Root folder, lists and names of files: src/convmesh/data/formats/files.py."""

from pathlib import Path

import pytest

from convmesh.config import defaults
from convmesh.data.formats.files import (
    Contents,
    by_normal_name,
    contents,
    folder_named,
    has_images,
    is_hidden,
    list_files,
    name_from,
    normal_name,
    root_folder,
    subfolders,
)
from convmesh.errors import ConfigError, DataError


def test_list_files_follows_links_but_no_cycles(tmp_path):
    for name in ("there/b.jpg", "root/a/c.jpg", "root/.hidden/d.jpg", "root/.e.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "there")
    (tmp_path / "root" / "a" / "up").symlink_to(tmp_path / "root")
    assert list_files(tmp_path / "root") == ["a/c.jpg", "link/b.jpg"]


def test_a_link_to_itself_is_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert list_files(tmp_path) == ["a.png", "loop.png"] and subfolders(tmp_path) == []


def test_a_folder_that_cannot_be_listed_is_named(tmp_path):
    with pytest.raises(DataError, match=f"^{tmp_path}/none: No such file"):
        list_files(tmp_path / "none")


def test_the_contents_of_a_folder(tmp_path):
    for name in ("b/c.jpg", "a.PNG", "n.txt", ".x.png", "__MACOSX/a.png", "Thumbs.db"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "b")
    assert contents(tmp_path) == Contents(["b", "link"], ["a.PNG"], ["n.txt"])
    with pytest.raises(DataError, match=f"^{tmp_path}/none: No such file"):
        contents(tmp_path / "none")


def test_whether_there_are_images_below(tmp_path):
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/x.txt").touch()
    assert not has_images(tmp_path)
    (tmp_path / "a/b/c/x.jpg").touch()
    assert has_images(tmp_path) and has_images(tmp_path, 3) and not has_images(tmp_path, 2)
    (tmp_path / "d").mkdir()
    (tmp_path / "d/up").symlink_to(tmp_path / "d")
    assert not has_images(tmp_path / "d")


def test_names_are_relative_to_the_root_for_files_inside():
    root = Path("/data/set")
    assert name_from(root, root / "a" / "b.jpg") == "a/b.jpg" and name_from(root, root) == "."
    assert name_from(root, Path("/data/other.jpg")) == "/data/other.jpg"


def test_the_root_must_be_a_folder(tmp_path, monkeypatch):
    config = defaults("detect")
    with pytest.raises(ConfigError, match="data.root: not set"):
        root_folder(config)
    config.data.root = "/not/there"
    with pytest.raises(ConfigError, match="data.root: /not/there is not a folder"):
        root_folder(config)
    monkeypatch.setenv("HOME", str(tmp_path))
    config.data.root = "~"
    assert root_folder(config) == tmp_path


def test_files_that_archives_add_are_passed_over(tmp_path):
    for name in ("a/b.jpg", "__MACOSX/a/b.jpg", "a/Thumbs.db", ".ipynb_checkpoints/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list_files(tmp_path) == ["a/b.jpg"]
    assert subfolders(tmp_path) == [tmp_path / "a"]
    assert is_hidden("desktop.ini") and not is_hidden("desktop")


def test_a_folder_is_found_in_any_case_and_the_exact_name_first(tmp_path):
    (tmp_path / "Images").mkdir()
    (tmp_path / "labels").mkdir()
    assert folder_named(tmp_path, "images") == tmp_path / "Images"
    assert folder_named(tmp_path, "JPEGImages", "images") == tmp_path / "Images"
    assert folder_named(tmp_path, "annotations") is None
    (tmp_path / "images").mkdir()
    assert folder_named(tmp_path, "images") == tmp_path / "images"


def test_names_are_compared_in_composed_unicode():
    decomposed, composed = "u\u0308ber.jpg", "\u00fcber.jpg"
    assert by_normal_name([decomposed])[normal_name(composed)] == decomposed
