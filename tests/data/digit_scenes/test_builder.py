"""The DigitScenes builder: preparing it without network or TensorFlow, and reading it back."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from convmesh.data.digit_scenes import builder as digit_scenes
from convmesh.data.digit_scenes.scenes import compose
from convmesh.errors import ConfigError

# Fails if the network is used or TensorFlow is imported.
PREPARE_ALONE = """
import socket, sys
def refuse(*a, **k):
    raise AssertionError("the network was used")
socket.socket.connect = socket.getaddrinfo = refuse
from convmesh.data.digit_scenes.builder import prepare
prepare("tiny", sys.argv[1]).as_data_source("test")[0]
assert "tensorflow" not in sys.modules
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder of a prepared `tiny`, and what preparing it printed and logged."""
    folder = tmp_path_factory.mktemp("tfds")
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", PREPARE_ALONE, str(folder)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def test_unknown_config_is_refused():
    with pytest.raises(ConfigError, match="choose from full, other_seed, tiny, digits"):
        digit_scenes.prepare("small")


def test_preparing_prints_one_line(prepared):
    folder, done = prepared
    assert len(done.stdout.splitlines()) == 1 and str(folder) in done.stdout
    assert "96 examples" in done.stdout
    assert "Variant folder" not in done.stderr


def test_files_contain_the_same_pixels_and_boxes_in_order(prepared, capsys):
    builder = digit_scenes.prepare("tiny", prepared[0])
    assert capsys.readouterr().out == ""
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    assert counts == {"train": 64, "validation": 16, "test": 16}
    for split in counts:
        source = builder.as_data_source(split)
        for index in (0, 9, 15):
            found = source[index]
            image, boxes, labels, visible = compose(0, split, index)
            assert found["image/id"] == index
            np.testing.assert_array_equal(found["image"], image)
            objects = found["objects"]
            scaled = np.rint(np.array(objects["bbox"]) * 224).astype(int)
            np.testing.assert_array_equal(scaled[:, [1, 0, 3, 2]], boxes)
            assert np.abs(np.array(objects["bbox"]) * 224 - scaled).max() < 1e-4
            np.testing.assert_array_equal(objects["label"], labels)
            np.testing.assert_array_equal(objects["visible"], visible)
    names = builder.info.features["objects"]["label"].names
    assert tuple(names) == digit_scenes.CLASSES


def test_the_files_of_a_process_that_finished_first_are_used(prepared, tmp_path, monkeypatch):
    def overtaken(self, split, index):
        if (split, index) == ("test", 15):  # the other process finishes now
            shutil.copytree(prepared[0], tmp_path, dirs_exist_ok=True)
        return scene(self, split, index)

    scene = digit_scenes.DigitScenes._scene
    monkeypatch.setattr(digit_scenes.DigitScenes, "_scene", overtaken)
    builder = digit_scenes.prepare("tiny", tmp_path)
    assert len(builder.as_data_source("test")) == 16
    left = [p.name for p in (tmp_path / "digit_scenes" / "tiny").iterdir()]
    assert left == ["2.0.0"]


def test_a_failed_preparation_leaves_no_files(tmp_path, monkeypatch):
    def full_disk(self, split, index):
        raise OSError("no space left on device")

    monkeypatch.setattr(digit_scenes.DigitScenes, "_scene", full_disk)
    with pytest.raises(OSError, match="no space left"):
        digit_scenes.prepare("tiny", tmp_path)
    assert not list(tmp_path.glob("digit_scenes/tiny/2.0.0*"))
