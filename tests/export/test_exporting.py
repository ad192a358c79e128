"""`convmesh export`: a file that predicts as the run does, or no file."""

import contextlib
import errno
import json
import os
import shutil
import signal
import sys

import numpy as np
import onnx
import pytest
import runs

from convmesh import Classifier, Detector
from convmesh.cli import command_line
from convmesh.data.digit_scenes import scenes
from convmesh.errors import ConfigError, RunError
from convmesh.export import exporting, self_check
from convmesh.export.exporting import export
from convmesh.export.options import ExportOptions
from convmesh.inference.onnx_digest import is_intact
from convmesh.inference.onnx_model import OnnxModel

pytestmark = pytest.mark.usefixtures("tiny_net")
NUMBERS = ("scores", "box_confidence", "class_confidence")


@pytest.fixture(scope="module")
def detector_file(scene_run, tmp_path_factory):
    file = tmp_path_factory.mktemp("exported") / "scenes.onnx"
    export(scene_run, file, ExportOptions())
    return file


def scene(index):
    return scenes.compose(0, "train", index)[0]


def test_a_detector_finds_the_same(detector_file, scene_run):
    images = [scene(0), scene(3)[:150, :70], np.full((9, 300, 3), 90, np.uint8)]
    ours, theirs = Detector.load(scene_run)(images), OnnxModel(detector_file)(images)
    assert [len(found["scores"]) for found in ours] != [0, 0, 0]
    for a, b in zip(ours, theirs, strict=True):
        assert a["classes"] == b["classes"]
        np.testing.assert_allclose(a["boxes"], b["boxes"], atol=0.05)
        for name in NUMBERS:
            np.testing.assert_allclose(a[name], b[name], atol=1e-4)


def test_what_a_detectors_file_says(detector_file):
    model = onnx.load(detector_file)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(about["classes"]) == list("0123456789")
    assert about["task"] == "detect" and "Apache-2.0" in about["license"]
    preprocessing = json.loads(about["preprocessing"])
    assert preprocessing["image_size"] == [160, 160] and preprocessing["resize"] == "letterbox"
    [image] = model.graph.input
    assert image.name == "image"
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == [
        *("batch", "height", "width"),
        3,
    ]
    names = {output.name for output in model.graph.output}
    assert names == {"boxes", "labels", "valid", *NUMBERS}
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("NonMaxSuppression") == 1
    assert "BatchNormalization" not in operators and "Sqrt" in operators
    assert list(about)[-1] == "sha256" and is_intact(detector_file.read_bytes())
    opset = model.opset_import[0].version
    assert opset >= 17


def test_a_batch_of_any_size_is_predicted_at_once(detector_file):
    images = np.stack([scene(i) for i in range(3)])
    session = OnnxModel(detector_file)._session
    names = [output.name for output in session.get_outputs()]
    together = dict(zip(names, session.run(None, {"image": images}), strict=True))
    for i in range(3):
        alone = dict(zip(names, session.run(None, {"image": images[i : i + 1]}), strict=True))
        np.testing.assert_allclose(together["boxes"][i], alone["boxes"][0], atol=1e-2)
        assert (together["valid"][i] == alone["valid"][0]).all()


def test_a_classifier_by_the_command_line(photo_run, photos, tmp_path, capfd):
    file = tmp_path / "photos.onnx"
    command = ["export", "--workdir", str(photo_run), "--format", "onnx", "--output", str(file)]
    assert command_line.main([*command, "--batch", "2"]) == 0
    said = capfd.readouterr().out
    assert "top1 of split val: " in said and "hard images: 6 images" in said
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    [ours], [theirs] = Classifier.load(photo_run)([image]), OnnxModel(file)([image])
    assert ours["classes"] == theirs["classes"]
    np.testing.assert_allclose(ours["probabilities"], theirs["probabilities"], atol=1e-5)
    assert command_line.main(command) == 2
    assert "exists; name a new file" in capfd.readouterr().err


def test_the_same_files_are_written_by_predict(photo_run, photos, tmp_path):
    file = tmp_path / "photos.onnx"
    export(photo_run, file, ExportOptions())
    written = []
    for flag, trained in (("--workdir", photo_run), ("--model", file)):
        out = tmp_path / flag.strip("-")
        pictures = str(photos / "val" / "red")
        assert (
            command_line.main(["predict", flag, str(trained), pictures, "--output", str(out)]) == 0
        )
        written.append(
            (sorted(os.listdir(out)), json.loads((out / "predictions.json").read_text()))
        )
    (names, ours), (their_names, theirs) = written
    assert names == their_names
    for a, b in zip(ours, theirs, strict=True):
        assert (a["file"], a["width"], a["height"]) == (b["file"], b["width"], b["height"])
        for one, other in zip(a["classes"], b["classes"], strict=True):
            assert one["class"] == other["class"]
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)


def test_another_size_and_no_suppression(scene_run, tmp_path):
    file = tmp_path / "wide.onnx"
    command = ["export", "--workdir", str(scene_run), "--format", "onnx", "--output", str(file)]
    command += ["--image-size", "128,192", "--nms", "none", "--batch", "1"]
    assert command_line.main(command) == 0
    model = onnx.load(file)
    assert "NonMaxSuppression" not in [node.op_type for node in model.graph.node]
    [boxes] = [o for o in model.graph.output if o.name == "boxes"]
    assert [d.dim_value for d in boxes.type.tensor_type.shape.dim] == [1, 300, 4]
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(about["preprocessing"])["image_size"] == [128, 192]


@pytest.mark.parametrize(
    "options", [ExportOptions("stablehlo"), ExportOptions(precision="float16")]
)
def test_other_forms(photo_run, tmp_path, options, capfd):
    file = tmp_path / f"photos.{options.format}"
    export(photo_run, file, options)
    assert file.stat().st_size > 1000
    assert "top1 of split val" in capfd.readouterr().out


def test_data_that_is_elsewhere_is_said(photo_run, tmp_path, capfd):
    gone = [f"data.root={tmp_path / 'gone'}"]
    export(photo_run, tmp_path / "photos.onnx", ExportOptions(), gone)
    said = capfd.readouterr().out
    assert "top1 of the evaluation split is not compared" in said and "top1 of split" not in said


def test_data_of_other_classes_is_said(photo_run, photos, tmp_path, capfd):
    for split in ("train", "val"):
        shutil.copytree(photos / split / "red", tmp_path / "other" / split / "pink")
        shutil.copytree(photos / split / "grey", tmp_path / "other" / split / "black")
    other = [f"data.root={tmp_path / 'other'}"]
    export(photo_run, tmp_path / "photos.onnx", ExportOptions(), other)
    assert "top1 of the evaluation split is not compared" in capfd.readouterr().out


def test_a_run_in_bfloat16_is_compared_in_float32(photo_run, tmp_path, capfd):
    run = runs.copy(photo_run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["precision"] = "bfloat16"
    (run / "config.json").write_text(json.dumps(config))
    export(run, tmp_path / "photos.onnx", ExportOptions())
    said = capfd.readouterr().out
    assert "the run computed in bfloat16: compared in float32; predict and eval of the run" in said
    assert "itself round to bfloat16" in said and "top1 of split" in said


def test_the_licence_of_imported_weights(photo_run, tmp_path):
    run = runs.copy(photo_run, tmp_path / "run")
    licence = exporting.prepare(run, ExportOptions()).about["license"]
    assert "trained with convmesh (Apache-2.0) from random weights" in licence
    (run / "weights.txt").write_text("conv.kernel: taken\n")  # as `import-weights` writes it
    licence = exporting.prepare(run, ExportOptions()).about["license"]
    assert "were imported into convmesh" in licence and "random" not in licence


def test_the_data_sets_own_ids_of_classes(scene_run, tmp_path):
    run = runs.copy(scene_run, tmp_path / "run")
    assert "category_ids" not in exporting.prepare(run, ExportOptions()).about
    (run / "category_ids.json").write_text("[1, 2, 3, 5, 8, 13, 21, 34, 55, 89]")
    assert exporting.prepare(run, ExportOptions()).about["category_ids"][-1] == 89


def test_a_file_that_differs_is_not_left_behind(photo_run, tmp_path, monkeypatch):
    def with_a_fault(program, about):
        import jax

        wrong = jax.tree.map(lambda leaf: leaf * 1.1, program.variables)
        return to_onnx(type(program)(program.setup, wrong, program.batch), about)

    from convmesh.export import onnx_form

    to_onnx = onnx_form.to_onnx
    monkeypatch.setattr(onnx_form, "to_onnx", with_a_fault)
    with pytest.raises(self_check.ExportDiffers, match="nothing was written"):
        export(photo_run, tmp_path / "photos.onnx", ExportOptions())
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_nothing(photo_run, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exporting.os, "fsync", full)
    with pytest.raises(RunError, match="photos.onnx: cannot be written: No space left"):
        export(photo_run, tmp_path / "photos.onnx", ExportOptions())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(photo_run, tmp_path, monkeypatch, number):
    def interrupted(*_):
        assert len(os.listdir(tmp_path)) == 1
        os.kill(os.getpid(), number)

    monkeypatch.setattr(exporting, "compare", interrupted)
    with pytest.raises(SystemExit) as ended:
        export(photo_run, tmp_path / "photos.onnx", ExportOptions())
    assert ended.value.code == 128 + number
    assert os.listdir(tmp_path) == [] and signal.getsignal(number) == signal.SIG_DFL


@pytest.mark.parametrize("linked", [True, False])
def test_a_file_that_appears_meanwhile_stays(tmp_path, monkeypatch, linked):
    def no_links(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not linked:
        monkeypatch.setattr(exporting.os, "link", no_links)
    path = tmp_path / "a.onnx"
    for mine in (b"first", b"second"):
        with contextlib.ExitStack() as stack:
            if mine == b"second":
                stack.enter_context(pytest.raises(RunError, match="a.onnx: another program has"))
            stack.enter_context(exporting._new_file(path)).write_bytes(mine)
    assert os.listdir(tmp_path) == ["a.onnx"] and path.read_bytes() == b"first"


def test_what_is_wrong_is_said_before_anything_is_loaded(photo_run, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="there is no folder"):
        export(photo_run, tmp_path / "none" / "a.onnx", ExportOptions())
    with pytest.raises(ConfigError, match="a.bin: end its name with .onnx"):
        export(photo_run, tmp_path / "a.bin", ExportOptions())
    with pytest.raises(ConfigError, match="a.onnx: .onnx is the name of ONNX files; end it with"):
        export(photo_run, tmp_path / "a.onnx", ExportOptions("stablehlo"))
    with pytest.raises(ConfigError, match="no such folder|config.json"):
        export(tmp_path / "no-run", tmp_path / "a.onnx", ExportOptions())
    with pytest.raises(ConfigError, match="--nms none: tiny_net is a classifier.* leave it out"):
        export(photo_run, tmp_path / "a.onnx", ExportOptions(nms="none"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match="package onnxruntime is not installed; pip install"):
        export(photo_run, tmp_path / "a.onnx", ExportOptions())


def test_a_run_without_an_exported_file_is_unchanged(photo_run, tmp_path):
    before = sorted(os.listdir(photo_run))
    export(photo_run, tmp_path / "photos.onnx", ExportOptions())
    assert sorted(os.listdir(photo_run)) == before
    assert runs.CLASSES == OnnxModel(tmp_path / "photos.onnx").classes
