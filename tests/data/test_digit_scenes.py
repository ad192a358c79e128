"""DigitScenes: the promises of its docstring, recomputed, and the way to the disk and back."""

import hashlib
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from convmesh.data import digit_scenes as scenes
from convmesh.errors import ConfigError

# Fails if a network is asked for or TensorFlow is imported.
PREPARE_ALONE = """
import socket, sys
def refuse(*a, **k):
    raise AssertionError("the network was asked for")
socket.socket.connect = socket.getaddrinfo = refuse
from convmesh.data import digit_scenes
digit_scenes.prepare("tiny", sys.argv[1]).as_data_source("test")[0]
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


@pytest.fixture(scope="module")
def sample():
    return [scenes.scene_parts(0, split, i) for split in ("train", "test") for i in range(20)]


def digest(*arrays):
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()[:16]


@pytest.mark.parametrize(
    "key, expected",
    [
        ((0, "train", 0), "034d854c0a783fe5"),
        ((0, "validation", 7), "ae27b7ec39ebaaf1"),
        ((0, "test", 499), "d38e9e23be802d35"),
        ((1, "test", 3), "10b9932988af792d"),
    ],
)
def test_scene_is_the_same_everywhere(key, expected):
    image, boxes, labels, visible = scenes.compose(*key)
    assert (image.shape, image.dtype) == ((224, 224, 3), np.uint8)
    assert (boxes.dtype, labels.dtype, visible.dtype) == (np.int32, np.int32, np.float32)
    assert boxes.shape == (len(labels), 4) and visible.shape == labels.shape
    assert digest(image, boxes, labels) == expected


@pytest.mark.parametrize(
    "key, expected", [((0, "train", 5), "8398be37026d05ea"), ((0, "test", 299), "6b0f2aeb88cb425c")]
)
def test_single_digit_is_the_same_everywhere(key, expected):
    image, label = scenes.compose_digit(*key)
    assert image.shape == (32, 32, 3)
    assert label == scenes.source_digits()[1][scenes.DIGIT_RANGES[key[1]][key[2]]]
    assert digest(image) == expected


def test_draws_cover_their_range_and_no_more():
    values = scenes.Draws(0, 0, 0).many(-3, 4, (1000,))
    assert set(values) == set(range(-3, 4))
    draws = scenes.Draws(0, 0, 0)
    assert [draws.one(-3, 4) for _ in range(1000)] == values.tolist()


def test_splits_share_no_digit():
    used = [i for found in scenes.DIGIT_RANGES.values() for i in found]
    assert sorted(used) == list(range(1797))


def test_scene_draws_from_its_own_split_alone(monkeypatch):
    images, labels = scenes.source_digits()
    only = np.array([i in scenes.DIGIT_RANGES["test"] for i in range(1797)])
    before = scenes.compose(0, "test", 0)
    # With every other split's digits blank, a test scene stays as it is.
    monkeypatch.setattr(
        scenes, "source_digits", lambda: (images * only[:, None, None], labels * only)
    )
    for a, b in zip(before, scenes.compose(0, "test", 0), strict=True):
        np.testing.assert_array_equal(a, b)


def test_boxes_are_tight_sized_and_inside(sample):
    longest = []
    for _, placed in sample:
        assert 1 <= len(placed) <= 8
        for digit in placed:
            rows, columns = np.nonzero(digit.opacity >= scenes.INK)
            x, y = digit.corner
            x0, y0, x1, y1 = digit.box
            assert (x0, x1) == (x + columns.min(), x + columns.max() + 1)
            assert (y0, y1) == (y + rows.min(), y + rows.max() + 1)
            assert 0 <= x0 < x1 <= 224 and 0 <= y0 < y1 <= 224
            longest.append(max(x1 - x0, y1 - y0))
    assert min(longest) >= 16 and max(longest) <= 110
    # Small and large digits are both there, not just allowed.
    assert min(longest) < 22 and max(longest) > 95


def test_visible_ink_is_what_no_later_digit_hides(sample):
    fractions = []
    for _, placed in sample:
        top = np.full((224, 224), -1)
        for i, digit in enumerate(placed):
            rows, columns = np.nonzero(digit.opacity >= scenes.INK)
            top[rows + digit.corner[1], columns + digit.corner[0]] = i
        for i, digit in enumerate(placed):
            assert digit.ink == np.count_nonzero(digit.opacity >= scenes.INK)
            assert digit.visible == np.count_nonzero(top == i)
            fractions.append(digit.visible / digit.ink)
    assert 0.6 <= min(fractions) < 0.8 and max(fractions) == 1


def test_digits_stand_out_from_their_ground(sample):
    weights = np.array([3, 6, 1])[:, None, None]
    for image, placed in sample:
        for digit in placed:
            apart = (np.abs(digit.fill.astype(int) - digit.ground) * weights).sum(0) / 10
            assert np.mean(apart >= 64) >= 0.9
        # The last digit lies uncovered: its opaque pixels have its colour.
        last, (x, y) = placed[-1], placed[-1].corner
        opaque = last.opacity == 255
        region = image[y : y + opaque.shape[0], x : x + opaque.shape[1]]
        np.testing.assert_array_equal(region[opaque], last.fill.transpose(1, 2, 0)[opaque])


def test_no_two_boxes_coincide(sample):
    for _, placed in sample:
        for i, one in enumerate(placed):
            for other in placed[:i]:
                a, b = np.array(one.box), np.array(other.box)
                sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
                both = np.prod(sides)
                union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both
                assert both / union <= 0.35


def test_seed_split_and_index_all_count():
    keys = [(0, "train", 0), (1, "train", 0), (0, "test", 0), (0, "train", 1)]
    assert len({digest(scenes.compose(*key)[0]) for key in keys}) == 4


@pytest.mark.parametrize("key", [(0, "dev", 0), (-1, "test", 0), (0, "test", -1)])
def test_unknown_scene_is_refused(key):
    with pytest.raises(ConfigError, match="digit_scenes"):
        scenes.compose(*key)


def test_digit_past_its_range_is_refused():
    with pytest.raises(ConfigError, match="index 300"):
        scenes.compose_digit(0, "test", 300)


def test_unknown_config_is_refused():
    with pytest.raises(ConfigError, match="choose from full, other_seed, tiny, digits"):
        scenes.prepare("small")


def test_preparing_says_one_line(prepared):
    folder, done = prepared
    assert len(done.stdout.splitlines()) == 1 and str(folder) in done.stdout
    assert "96 examples" in done.stdout
    assert "Variant folder" not in done.stderr


def test_disk_gives_the_same_pixels_and_boxes_in_order(prepared, capsys):
    builder = scenes.prepare("tiny", prepared[0])
    assert capsys.readouterr().out == ""
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    assert counts == {"train": 64, "validation": 16, "test": 16}
    for split in counts:
        source = builder.as_data_source(split)
        for index in (0, 9, 15):
            found = source[index]
            image, boxes, labels, visible = scenes.compose(0, split, index)
            assert found["image/id"] == index
            np.testing.assert_array_equal(found["image"], image)
            objects = found["objects"]
            scaled = np.rint(np.array(objects["bbox"]) * 224).astype(int)
            np.testing.assert_array_equal(scaled[:, [1, 0, 3, 2]], boxes)
            assert np.abs(np.array(objects["bbox"]) * 224 - scaled).max() < 1e-4
            np.testing.assert_array_equal(objects["label"], labels)
            np.testing.assert_array_equal(objects["visible"], visible)
    names = builder.info.features["objects"]["label"].names
    assert tuple(names) == scenes.CLASSES


def test_second_process_takes_what_the_first_wrote(prepared, tmp_path, monkeypatch):
    def overtaken(self, split, index):
        if (split, index) == ("test", 15):  # meanwhile the other process has finished
            shutil.copytree(prepared[0], tmp_path, dirs_exist_ok=True)
        return scene(self, split, index)

    scene = scenes.DigitScenes._scene
    monkeypatch.setattr(scenes.DigitScenes, "_scene", overtaken)
    builder = scenes.prepare("tiny", tmp_path)
    assert len(builder.as_data_source("test")) == 16
    left = [p.name for p in (tmp_path / "digit_scenes" / "tiny").iterdir()]
    assert left == ["2.0.0"]


def test_failed_preparing_leaves_nothing_behind(tmp_path, monkeypatch):
    def full_disk(self, split, index):
        raise OSError("no space left on device")

    monkeypatch.setattr(scenes.DigitScenes, "_scene", full_disk)
    with pytest.raises(OSError, match="no space left"):
        scenes.prepare("tiny", tmp_path)
    assert not list(tmp_path.glob("digit_scenes/tiny/2.0.0*"))
