"""The examples that use an exported ONNX file: nothing but onnxruntime, numpy and Pillow."""

import ast
import json
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from convmesh.cli import command_line
from convmesh.data.images import read_image

FOLDER = Path(__file__).parent.parent.parent / "examples"
CLASSES = ["red", "green", "blue"]


def write_model(path, nodes, outputs, constants, batch="batch", **about):
    """An ONNX file with the input of the exported ones, uint8 [batch, height, width, 3]."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, "height", "width", 3])
    graph = helper.make_graph(
        [helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT), *nodes],
        "model",
        [image],
        [helper.make_tensor_value_info(name, kind, sides) for name, kind, *sides in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"classes": json.dumps(CLASSES), **about})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.fixture
def classifier(tmp_path):
    """The shares of red, green and blue in each image of a batch of three."""
    batch = 3
    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("ReduceSum", ["means", "last"], ["sums"]),
        helper.make_node("Div", ["means", "sums"], ["probabilities"]),
    ]
    outputs = [("probabilities", TensorProto.FLOAT, batch, 3)]
    file, constants = tmp_path / "c.onnx", {"last": np.array([1])}
    return write_model(file, nodes, outputs, constants, batch, task="classify")


def write_detector(path, found):
    """A detector that finds the same in each image: tuples of box (fractions), label, score, valid.

    Best first.
    """
    boxes, labels, scores, valid = zip(*found, strict=True)
    numbers = ("scores", "class_confidence", "box_confidence")
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Gather", ["shape", "sides"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["whole_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["fractions", "whole_float"], ["boxes"]),
        *(
            helper.make_node("Identity", [f"{name}_"], [name])
            for name in ("labels", "valid", *numbers)
        ),
    ]
    constants = {
        "fractions": np.array([boxes], np.float32),
        "sides": np.array([2, 1, 2, 1]),
        "labels_": np.array([labels]),
        "valid_": np.array([valid]),
        **{f"{name}_": np.array([scores], np.float32) for name in numbers},
    }
    outputs = [
        ("boxes", TensorProto.FLOAT, 1, len(found), 4),
        ("labels", TensorProto.INT64, 1, len(found)),
        *((name, TensorProto.FLOAT, 1, len(found)) for name in numbers),
        ("valid", TensorProto.BOOL, 1, len(found)),
    ]
    return write_model(path, nodes, outputs, constants, task="detect", iou_threshold="0.5")


@pytest.fixture
def detector(tmp_path):
    """A box from a quarter to a half of the image, of the class green; three that do not count."""
    whole = [0, 0, 1, 1]
    found = [([0.25, 0.25, 0.5, 0.5], 1, 0.875, True), (whole, 0, 0.25, True)]
    return write_detector(tmp_path / "d.onnx", [*found, *[(whole, 0, 0.9, False)] * 2])


@pytest.fixture
def photos(tmp_path):
    """A red image, a blue one that EXIF turns upright, and a file that is no image."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (200, 100), "red").save(folder / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (200, 100), "blue").save(folder / "b.jpg", exif=exif)
    (folder / "c.txt").write_text("no image")
    return folder


def call(example, *arguments):
    """The ended process."""
    command = [sys.executable, str(FOLDER / example), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)


def run(example, *arguments):
    """The printed lines."""
    done = call(example, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_folder_is_detected_and_drawn(detector, photos, tmp_path):
    first, second, third = run("onnx_detect.py", detector, photos, "--output", tmp_path / "out")
    assert first == f"{photos}/a.png: green 0.88 at [50, 25, 100, 50]"
    assert second == f"{photos}/b.jpg: green 0.88 at [25, 50, 50, 100]"  # upright
    assert third.startswith(f"{photos}/c.txt: left out: ")
    drawn = np.asarray(Image.open(tmp_path / "out/a.png.png"))
    assert drawn.shape == (100, 200, 3)
    assert (drawn[40, 50] == (0, 0x70, 0xD0)).all() and (drawn[40, 75] == (255, 0, 0)).all()
    assert Image.open(tmp_path / "out/b.jpg.png").size == (100, 200)


def test_a_file_and_a_threshold(detector, photos, tmp_path):
    file = photos / "a.png"
    assert len(run("onnx_detect.py", detector, file, "--output", tmp_path / "a")) == 1
    low = run("onnx_detect.py", detector, file, "--output", tmp_path / "b", "--threshold", "0.2")
    assert len(low) == 2 and low[1].endswith("red 0.25 at [0, 0, 200, 100]")
    assert not run("onnx_detect.py", detector, file, "--output", tmp_path, "--threshold", "0.95")


def test_the_same_detections_as_predict(photos, tmp_path):
    """An object under two classes, one of one class beside it, and an overlap just below 0.5."""
    quarter = [0.25, 0.25, 0.5, 0.5]
    found = [
        (quarter, 1, 0.9, True),
        ([0.25, 0.25, 0.5, 0.48], 0, 0.8, True),
        ([0.6, 0.6, 0.9, 0.9], 2, 0.7, True),
        ([0.25, 0.25, 0.5, 0.37], 2, 0.6, True),
        (quarter, 2, 0.5, True),
        (quarter, 0, 0.2, True),
    ]
    file, photo = write_detector(tmp_path / "d.onnx", found), photos / "a.png"
    lines = run("onnx_detect.py", file, photo, "--output", tmp_path / "drawn")
    predict = ["predict", "--model", str(file), str(photo), "--output", str(tmp_path / "out")]
    assert command_line.main(predict) == 0
    [entry] = json.loads((tmp_path / "out/predictions.json").read_text())
    expected = [
        f"{photo}: {d['class']} {d['score']:.2f} at {[round(side) for side in d['box']]}"
        for d in entry["detections"]
    ]
    assert lines == expected and len(lines) == 3


def test_a_folder_is_classified_and_drawn(classifier, photos, tmp_path):
    first, second, third = run(
        "onnx_classify.py", classifier, photos, "--output", tmp_path / "out", "--top-k", 2
    )
    assert first.startswith(f"{photos}/a.png: red 1.000, ")
    assert second.startswith(f"{photos}/b.jpg: blue ") and second.count(",") == 1
    assert third.startswith(f"{photos}/c.txt: left out: ")
    drawn = np.asarray(Image.open(tmp_path / "out/b.jpg.png"))
    assert drawn.shape == (200, 100, 3) and (drawn[:40] > 200).all(-1).any()


@pytest.mark.parametrize("example", ["onnx_detect.py", "onnx_classify.py"])
def test_another_file_in_the_place_of_the_model(detector, classifier, photos, tmp_path, example):
    other = classifier if "detect" in example else detector
    foreign = write_model(tmp_path / "f.onnx", [], [("pixels", TensorProto.FLOAT, 1, 1, 1, 3)], {})
    for model in (other, foreign, photos / "c.txt", tmp_path / "none.onnx"):
        done = call(example, model, photos, "--output", tmp_path / "out")
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert f"{model}: no {'detect' if 'detect' in example else 'classifi'}" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("example", ["onnx_detect.py", "onnx_classify.py"])
def test_a_bad_image_does_not_end_a_folder(detector, classifier, photos, tmp_path, example):
    huge = bytearray((photos / "a.png").read_bytes())
    huge[16:24] = (60_000).to_bytes(4) * 2  # width and height in the header
    huge[29:33] = zlib.crc32(bytes(huge[12:29])).to_bytes(4)
    (photos / "a.png").write_bytes(huge)
    model = detector if "detect" in example else classifier
    first, second, _ = run(example, model, photos, "--output", tmp_path / "out")
    assert "a.png: left out: Image size (3600000000 pixels) exceeds" in first
    assert "b.jpg: " in second and "left out" not in second


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_grey_images_of_16_bits_are_read_as_predict_reads_them(
    detector, classifier, tmp_path, suffix
):
    values = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    file = tmp_path / f"grey{suffix}"
    cv2.imwrite(str(file), values)
    for example, model in (("onnx_detect.py", detector), ("onnx_classify.py", classifier)):
        out = tmp_path / example
        run(example, model, file, "--output", out)
        drawn = np.asarray(Image.open(out / f"{file.name}.png"))
        np.testing.assert_array_equal(drawn[60:], read_image(str(file))[60:])


@pytest.mark.parametrize("example", ["onnx_detect.py", "onnx_classify.py"])
def test_an_example_is_short_and_needs_three_packages(example):
    text = (FOLDER / example).read_text()
    assert len(text.splitlines()) < 60
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
    assert found - sys.stdlib_module_names == {"numpy", "onnxruntime", "PIL"}
