"""Root folder, lists and names of files: src/convmesh/data/formats/files.py."""

from pathlib import Path

import pytest

from convmesh.config import defaults
from convmesh.data.formats.files import list_files, name_from, root_folder
from convmesh.errors import ConfigError, DataError


def test_list_files_follows_links_but_no_cycles(tmp_path):
    for name in ("there/b.jpg", "root/a/c.jpg", "root/.hidden/d.jpg", "root/.e.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "there")
    (tmp_path / "root" / "a" / "up").symlink_to(tmp_path / "root")
    assert list_files(tmp_path / "root") == ["a/c.jpg", "link/b.jpg"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path):
    with pytest.raises(DataError, match=f"^{tmp_path}/none: No such file"):
        list_files(tmp_path / "none")


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
