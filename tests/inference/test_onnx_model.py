"""An ONNX file in the place of a run: what is no such file is refused in a line."""

import json
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from convmesh.cli import command_line
from convmesh.errors import ConfigError, DataError
from convmesh.inference.onnx_digest import with_digest
from convmesh.inference.onnx_model import OnnxModel
from convmesh.inference.prediction import predict_files


def detector(path, batch="batch", image=("image", "UINT8", ["h", "w", 3]), **metadata):
    """A file whose detections are the same for each image: three, of which one is not valid."""
    name, kind, shape = image
    boxes = np.array([[0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]], np.float32)[None]
    scores = np.array([[0.9, 0.8, 0.4]], np.float32)
    outputs = {
        "boxes": boxes,
        "labels": np.array([[0, 1, 1]], np.int32),
        "scores": scores,
        "box_confidence": scores,
        "class_confidence": scores,
        "valid": np.array([[True, True, True]]),
    }
    image = helper.make_tensor_value_info(name, getattr(TensorProto, kind), [batch, *shape])
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
            for name, value in outputs.items()
        ],
        "detector",
        [image],
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
            )
            for name, value in outputs.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    about = {"task": "detect", "classes": json.dumps(["cat", "dog"]), "iou_threshold": "0.5"}
    helper.set_model_props(model, {k: v for k, v in (about | metadata).items() if v is not None})
    onnx.save(model, path)
    return path


IMAGE = np.zeros((40, 50, 3), np.uint8)


def test_detections_above_the_threshold_without_those_that_overlap_better_ones(tmp_path):
    file = detector(tmp_path / "a.onnx")
    [found] = OnnxModel(file)([IMAGE])
    assert found["classes"] == ["cat", "dog"]
    np.testing.assert_allclose(found["scores"], [0.9, 0.4])
    [found] = OnnxModel(file, score_threshold=0.5)([IMAGE])
    assert found["classes"] == ["cat"]
    [found] = OnnxModel(detector(tmp_path / "b.onnx", iou_threshold="0.95"))([IMAGE])
    assert found["classes"] == ["cat", "dog", "dog"]
    [found] = OnnxModel(tmp_path / "b.onnx", max_detections=2)([IMAGE])
    assert found["classes"] == ["cat", "dog"]


def test_an_input_of_another_name(tmp_path):
    file = detector(tmp_path / "a.onnx", image=("pixels", "UINT8", ["h", "w", 3]))
    assert len(OnnxModel(file)([IMAGE])) == 1


def test_a_classifier_with_fewer_names_than_probabilities(tmp_path):
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "h", "w", 3])
    value = numpy_helper.from_array(np.full((1, 3), 0.3, np.float32))
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, 3])
    node = helper.make_node("Constant", [], ["probabilities"], value=value)
    graph = helper.make_graph([node], "classifier", [image], [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"task": "classify", "classes": '["cat", "dog"]'})
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(DataError, match="has 3 probabilities of each image, but 2 `classes`"):
        OnnxModel(tmp_path / "a.onnx")


def test_a_file_that_onnxruntime_cannot_run_on_an_image(tmp_path, monkeypatch):
    model = OnnxModel(detector(tmp_path / "a.onnx"))

    class Session:
        get_outputs = model._session.get_outputs

        def run(self, *_):
            raise RuntimeError("no memory\nat line 3")

    model._session = Session()
    with pytest.raises(DataError, match="cannot run it on an image of 40 x 50: no memory$"):
        model([IMAGE])


def predict(*arguments):
    return command_line.main(["predict", *map(str, arguments)])


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "b.png")
    return tmp_path / "b.png"


def test_category_ids_of_the_file(tmp_path, photo):
    file = detector(tmp_path / "a.onnx", category_ids="[7, 90]")
    assert predict("--model", file, photo, "--output", tmp_path / "out") == 0
    [entry] = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [found["category_id"] for found in entry["detections"]] == [7, 90]


def test_more_detections_than_the_file_finds(tmp_path, photo, capfd):
    flags = "--model", detector(tmp_path / "a.onnx"), photo, "--output", tmp_path / "out"
    assert predict(*flags, "--max-detections", 101) == 2
    said = capfd.readouterr().err
    assert "--max-detections 101: " in said and "a.onnx finds at most 3 in an image" in said
    assert not (tmp_path / "out").exists()
    assert predict(*flags) == 0
    assert "overlap" not in capfd.readouterr().out


def test_a_file_without_suppression_says_so(tmp_path, photo, capfd):
    file = detector(tmp_path / "a.onnx", nms="none")
    assert predict("--model", file, photo, "--output", tmp_path / "out") == 0
    assert "a.onnx: exported with --nms none: the detections of an object overlap" in (
        capfd.readouterr().out
    )


def test_a_folder_that_is_called_like_a_file(tmp_path, photo, capfd):
    folder = tmp_path / "run.onnx"
    folder.mkdir()
    assert predict("--model", folder, photo, "--output", tmp_path / "out") == 2
    assert "run.onnx: is a folder; give a trained run as --workdir" in capfd.readouterr().err
    with pytest.raises(ConfigError, match=r"run.onnx/config.json: missing"):
        predict_files(folder, [str(photo)], tmp_path / "out")


def test_a_fixed_batch_is_filled(tmp_path):
    assert len(OnnxModel(detector(tmp_path / "a.onnx", batch=3))([IMAGE, IMAGE])) == 2


@pytest.mark.parametrize(
    "metadata, message",
    [
        ({"task": None}, "its metadata name no task"),
        ({"task": "segment"}, "its metadata name no task"),
        ({"task": "classify"}, "its metadata name no task"),
        ({"classes": None}, "its metadata `classes` are no list of names"),
        ({"classes": "cat"}, "its metadata `classes` are no list of names"),
        ({"classes": "7"}, "its metadata `classes` are no list of names"),
        ({"iou_threshold": "high"}, "its metadata `iou_threshold` is no number"),
        ({"classes": '["cat"]'}, "finds class 1 of 1"),
        ({"category_ids": "[1, 2, 3]"}, "has 3 category ids, but 2 `classes`"),
        ({"category_ids": '["a", 2]'}, "its metadata `category_ids` are no list of integers"),
        ({"image": ("image", "FLOAT", ["h", "w", 3])}, "its input is image tensor.float."),
        ({"image": ("image", "UINT8", ["h", "w"])}, "not a file of `convmesh export`: its input"),
        ({"image": ("image", "UINT8", [48, 64, 3])}, "takes images of 48 x 64 .* export it again"),
    ],
)
def test_a_file_of_something_else(tmp_path, metadata, message):
    with pytest.raises(DataError, match=message):
        OnnxModel(detector(tmp_path / "a.onnx", **metadata))([IMAGE])


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x08\x07" * 50])
def test_a_damaged_file_by_the_command_line(tmp_path, capfd, data):
    (tmp_path / "a.onnx").write_bytes(data)
    (tmp_path / "b.png").write_bytes(b"")
    status = command_line.main(
        ["predict", "--model", str(tmp_path / "a.onnx"), str(tmp_path / "b.png")]
        + ["--output", str(tmp_path / "out")]
    )
    said = capfd.readouterr().err
    assert status == 1 and said.count("\n") == 1 and "a.onnx: damaged, or no ONNX file" in said
    assert not (tmp_path / "out").exists()


def test_a_truncated_file(tmp_path):
    file = detector(tmp_path / "a.onnx")
    data = file.read_bytes()
    for part in (len(data) // 3, len(data) - 5):
        file.write_bytes(data[:part])
        with pytest.raises(DataError, match="a.onnx: "):
            OnnxModel(file)


def test_a_changed_byte_anywhere(tmp_path):
    whole = with_digest(detector(tmp_path / "a.onnx").read_bytes())
    file = tmp_path / "b.onnx"
    file.write_bytes(whole)
    assert len(OnnxModel(file)([IMAGE])) == 1
    model = onnx.load(file)
    assert len(model.metadata_props[-1].value) == 64
    onnx.save(model, tmp_path / "same.onnx")
    assert (tmp_path / "same.onnx").read_bytes() == whole
    boxes = whole.index(np.float32([10, 10, 1, 1]).tobytes())
    for at in (boxes, len(whole) - 100, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(DataError, match="b.onnx: is damaged, or another tool changed it; "):
            OnnxModel(file)
    file.write_bytes(whole[:boxes] + bytes(8) + whole[boxes + 8 :])
    with pytest.raises(DataError, match="remove its metadata entry sha256"):
        OnnxModel(file)


def test_a_file_that_another_tool_changed(tmp_path):
    file = tmp_path / "a.onnx"
    file.write_bytes(with_digest(detector(file).read_bytes()))
    model = onnx.load(file)
    model.metadata_props.add(key="author", value="me")
    onnx.save(model, file)
    with pytest.raises(DataError, match="a.onnx: is damaged, or another tool changed it; "):
        OnnxModel(file)
    del model.metadata_props[-2]
    onnx.save(model, file)
    assert len(OnnxModel(file)([IMAGE])) == 1


def test_no_file_and_no_onnxruntime(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="none.onnx: no such file"):
        OnnxModel(tmp_path / "none.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"onnxruntime is not installed; pip install"):
        OnnxModel(detector(tmp_path / "a.onnx"))


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "--workdir or --model"),
        (["--model", "a.onnx", "--workdir", "runs/a"], "--workdir"),
        (["--model", "a.onnx", "--iou", "0.5"], "--iou: suppression is inside the file"),
        (["--model", "a.safetensors"], "a.safetensors: .*convmesh export --format onnx"),
    ],
)
def test_flags_that_contradict(capfd, flags, message):
    assert command_line.main(["predict", *flags, "b.png", "--output", "out"]) == 2
    import re

    assert re.search(message, capfd.readouterr().err)
