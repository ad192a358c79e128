"""The image files of `predict`: which paths name which files, and reading them in batches."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from convmesh.data import images
from convmesh.errors import ConfigError
from convmesh.inference.image_files import find_images, read_batches


def test_a_folder_is_searched_for_every_image_type(tmp_path):
    for suffix in images.SUFFIXES:
        (tmp_path / f"a{suffix.upper()}").touch()
    assert len(find_images([str(tmp_path)]).files) == len(images.SUFFIXES)


def test_files_folders_and_globs_name_each_image_once(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("b.png", "a.png", "deep/er/c.jpg", "notes.txt"):
        (tmp_path / name).touch()
    given = [str(tmp_path / "b.png"), str(tmp_path), str(tmp_path / "*.png")]
    found = [str(path.relative_to(tmp_path)) for path in find_images(given).files]
    assert found == ["b.png", "a.png", "deep/er/c.jpg"]
    # A file given by name is accepted with any suffix; reading it fails later.
    assert find_images([str(tmp_path / "notes.txt")]).files == [tmp_path / "notes.txt"]
    for missing in ("none.png", "*.gif"):
        with pytest.raises(ConfigError, match="no image found"):
            find_images([str(tmp_path / missing)])


def test_videos_are_listed_apart(tmp_path):
    for name in ("a.png", "b.MP4", "in/c.webm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_images([str(tmp_path / "b.MP4"), str(tmp_path)])
    assert found.files == [tmp_path / "a.png"] and not found.passed_by
    assert found.videos == [tmp_path / "b.MP4", tmp_path / "in/c.webm"]
    assert find_images([str(tmp_path / "in")]).empty == []


def test_files_that_are_no_images_by_suffix_are_counted(tmp_path, monkeypatch):
    for name in ("a.png", "b.HEIC", "c.heic", "labels", "._a.png"):
        (tmp_path / name).touch()
    found = find_images([str(tmp_path), str(tmp_path / "labels")])
    assert found.files == [tmp_path / "a.png", tmp_path / "labels"]
    assert found.passed_by == [tmp_path / "b.HEIC", tmp_path / "c.heic"]
    text = found.describe_passed_by()
    assert text.startswith("2 files passed by") and f".heic (2), such as {tmp_path}/b.HEIC" in text
    (tmp_path / "a.png").unlink()
    with pytest.raises(ConfigError, match=r"no image found; 3 files passed by.*\.heic \(2\)"):
        find_images([str(tmp_path)])
    (tmp_path / "d.png").touch()
    (tmp_path / "empty").mkdir()
    found = find_images([str(tmp_path / "d.png"), str(tmp_path / "empty")])
    assert found.files == [tmp_path / "d.png"] and found.empty == [str(tmp_path / "empty")]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_images(["~/labels"]).files == [tmp_path / "labels"]


def test_batches_keep_the_order_and_hold_the_reason_of_a_failure(tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(5)]
    for i, file in enumerate(files):
        cv2.imwrite(str(file), np.full((2, 2 + i, 3), i, np.uint8))
    files[3].write_bytes(b"no picture")
    with ThreadPoolExecutor(2) as pool:
        batches = list(read_batches(pool, files, 2))
        assert list(read_batches(pool, [], 2)) == []
    assert [[file for file, _ in batch] for batch in batches] == [files[:2], files[2:4], files[4:]]
    for i, (file, image) in enumerate(one for batch in batches for one in batch):
        if i == 3:
            assert image.startswith(f"{file}: not an image")
        else:
            assert image.shape == (2, 2 + i, 3) and (image == i).all()


def test_a_glob_names_files_in_folders_of_any_depth_and_no_folders(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "folder.png").mkdir()
    for name in ("a.png", "deep/er/b.png"):
        (tmp_path / name).touch()
    assert find_images([str(tmp_path / "**" / "*.png")]).files == [
        *(tmp_path / "a.png", tmp_path / "deep/er/b.png"),
    ]


def test_the_next_batch_is_read_while_the_caller_works_on_one(tmp_path):
    started = []

    class Pool:
        def submit(self, function, file):
            started.append(file.name)
            return SimpleNamespace(result=lambda: function(file))

    files = [tmp_path / f"{i}.png" for i in range(5)]
    seen = [len(started) for _ in read_batches(Pool(), files, 2)]
    assert seen == [4, 5, 5]
    assert started == [file.name for file in files]
