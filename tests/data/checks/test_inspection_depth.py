"""Images that use few of their bits, in `check-data`: one line for a split."""

import cv2
import numpy as np
import pytest

from convmesh.config import defaults
from convmesh.data.checks.inspection import inspect, warnings_at_start
from convmesh.data.formats.registry import open_dataset


def dark(path, seed, bits=12):
    """Write a grey image of 16 bits, of which only `bits` are used."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    cv2.imwrite(str(path), random.integers(0, 2**bits, (20, 30)).astype(np.uint16))


def yolo(root, bits):
    for i in range(3):
        dark(root / f"images/train/{i}.png", i, bits)
        label = root / f"labels/train/{i}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.5 0.5 0.5 0.5\n")
    (root / "classes.txt").write_text("cat\n")
    return defaults("detect")


def folder(root, bits):
    for i, name in enumerate(("cat", "dog", "dog")):
        dark(root / f"train/{name}/{i}.png", i, bits)
    return defaults("classify")


@pytest.mark.parametrize("make, first", [(yolo, "images/train/0.png"), (folder, "train/cat/0.png")])
def test_nearly_black_images_are_one_warning(tmp_path, make, first):
    config = make(tmp_path, 12)
    config.data.root, config.data.eval_split, config.data.cache = str(tmp_path), "train", "false"
    found = inspect(config)
    [finding] = [finding for finding in found.findings if finding.kind == "depth"]
    assert str(finding) == (
        f"split train: warning: 3 images, first {first}: nearly black: 16 bits a channel, of which"
        " 12 or fewer are used (values up to 4095 of 65535); scale them to all 16, or save 8 bits"
    )
    assert "1 nearly black images" in found.verdict()


def test_images_that_use_their_bits_are_not_warned_of(tmp_path):
    config = yolo(tmp_path, 16)
    config.data.root, config.data.eval_split = str(tmp_path), "train"
    assert not [finding for finding in inspect(config).findings if finding.kind == "depth"]


def test_a_run_says_it_at_its_start(tmp_path):
    config = yolo(tmp_path, 12)
    config.data.root, config.data.eval_split = str(tmp_path), "train"
    lines = warnings_at_start(open_dataset(config), config)
    assert "  nearly black images: 3 in a sample of 3 images" in lines
