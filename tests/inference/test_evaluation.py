"""Evaluation: each image once, the same metrics on any mesh, results that pycocotools reads."""

import contextlib
import dataclasses
import io
import json
import shutil

import equality
import numpy as np
import pytest
import runs
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from convmesh.cli import command_line
from convmesh.data.splits import open_eval
from convmesh.errors import DataError
from convmesh.inference import evaluation, split_predictions
from convmesh.inference.evaluation import evaluate, evaluate_variables
from convmesh.inference.trained_model import load_variables
from convmesh.steps.setup import make_setup
from convmesh.tasks.average_precision import PRECISIONS, RECALLS
from convmesh.workdir.layout import EvaluationFiles, Workdir
from convmesh.workdir.metrics import json_numbers, read_metrics

pytestmark = pytest.mark.usefixtures("tiny_net")
DETECTION_FILES = {
    *("metrics.json", "predictions.json", "predictions.png", "curves.json", "curves.png"),
    *("confusion.json", "confusion.png", "images.json", "worst.png", "best.png"),
}
SPLIT = "validation"  # 16 scenes that `scene_run` was not trained on


def evaluate_on_mesh(workdir, shape, split, batch_size, directory):
    """(metrics, predictions.json) of a checkpoint on the first devices, in a mesh of `shape`."""
    config, classes = Workdir(workdir).read_run()
    config.eval.batch_size = batch_size
    setup = make_setup(config, classes, equality.make_mesh(shape))
    variables, _ = load_variables(setup, Workdir(workdir))
    source, files = open_eval(config, split), EvaluationFiles(directory)
    metrics = evaluate_variables(setup, variables, source, files, lambda text: None)
    return metrics, json.loads((directory / "predictions.json").read_text())


@pytest.fixture(scope="module")
def reference(scene_run, tmp_path_factory):
    """The detector on one device, all 16 scenes in one batch."""
    return evaluate_on_mesh(scene_run, (1, 1, 1), SPLIT, 16, tmp_path_factory.mktemp("reference"))


# --- overfitting ----------------------------------------------------------------------------------


def test_a_detector_overfits_eight_scenes(scene_run):
    """Assignment, losses, decoding and metrics agree with each other."""
    metrics = json.loads((scene_run / "eval" / runs.SCENES / "metrics.json").read_text())
    assert metrics["images"] == 8
    assert metrics["AP50"] >= 0.99 and metrics["AP75"] >= 0.95


def test_a_detectors_metrics_have_the_documented_names(scene_run):
    rows = read_metrics(scene_run / "metrics.jsonl")
    parts = {f"loss/{part}" for part in ("class", "confidence", "box", "distribution")}
    train = [row for row in rows if row["split"] == "train"]
    for row in train:
        assert parts <= set(row)
        assert row["loss"] == pytest.approx(sum(row[part] for part in parts), rel=1e-5)
    names = {"AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_100", "images"}
    names |= {"AR_1", "AR_10", "AR_small", "AR_medium", "AR_large", "F1", "best_threshold"}
    assert names | {f"AP/{digit}" for digit in range(10)} <= set(rows[-1])


# --- each image once, on any mesh -----------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, batch_size",
    [((8, 1, 1), 5), ((2, 2, 2), 5), ((1, 1, 8), 7), ((1, 1, 1), 5), ((8, 1, 1), 64)],
    ids=str,
)
def test_each_image_is_counted_once(photo_run, tmp_path, shape, batch_size):
    metrics, rows = evaluate_on_mesh(photo_run, shape, "val", batch_size, tmp_path)
    wanted = json.loads((photo_run / "eval/val/metrics.json").read_text())
    assert metrics.pop("ECE") == pytest.approx(wanted.pop("ECE"), abs=1e-6)
    assert metrics == wanted
    assert [row["image_id"] for row in rows] == list(range(1, runs.VAL_PHOTOS + 1))
    files = [f"val/{name}/{i}.png" for name in runs.CLASSES for i in range(3)]
    assert [row["file_name"] for row in rows] == files
    for row, same in zip(
        rows, json.loads((photo_run / "eval/val/predictions.json").read_text()), strict=True
    ):
        ours, theirs = ({c["class"]: c["probability"] for c in r["classes"]} for r in (row, same))
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_another_size_in_evaluation_is_what_the_net_gets(photo_run, tmp_path, monkeypatch):
    sizes = []
    step = split_predictions.jit_predict_step

    def noting(*args, **kwargs):
        predict = step(*args, **kwargs)
        return lambda variables, image: sizes.append(image.shape) or predict(variables, image)

    monkeypatch.setattr(split_predictions, "jit_predict_step", noting)
    workdir = tmp_path / "run"
    shutil.copytree(photo_run, workdir)
    evaluate(workdir, overrides={"data.eval_size": (48, 40), "eval.batch_size": 8})
    assert set(sizes) == {(8, 48, 40, 3)}


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)], ids=str)
def test_detections_are_the_same_on_every_mesh(scene_run, reference, tmp_path, shape):
    metrics, rows = evaluate_on_mesh(scene_run, shape, SPLIT, 5, tmp_path)
    assert metrics["images"] == 16
    assert metrics == pytest.approx(reference[0], abs=1e-6, nan_ok=True)
    assert 0 < metrics["AP"] < 1
    sure = lambda rows: [row for row in rows if row["score"] > 0.05]  # noqa: E731
    assert len(sure(rows)) == len(sure(reference[1])) > 16
    for ours, theirs in zip(sure(rows), sure(reference[1]), strict=True):
        assert (ours["image_id"], ours["category_id"]) == (
            theirs["image_id"],
            theirs["category_id"],
        )
        assert ours["bbox"] == pytest.approx(theirs["bbox"], abs=0.01)
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)


# --- files in the COCO format ---------------------------------------------------------------------


def score_with_pycocotools(records, classes, results):
    """The twelve numbers of pycocotools, for records of the source and results as written."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth, annotations = COCO(), []
        for record in records:
            for (x0, y0, x1, y1), label in zip(record.boxes.tolist(), record.labels, strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": record.image_id,
                        "category_id": int(label) + 1,
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "area": (x1 - x0) * (y1 - y0),
                        "iscrowd": 0,
                    }
                )
        truth.dataset = {
            "images": [{"id": record.image_id} for record in records],
            "annotations": annotations,
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(classes)],
        }
        truth.createIndex()
        found = truth.loadRes([dict(row) for row in results])
        judge = COCOeval(truth, found, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats


def test_pycocotools_computes_the_same_metrics_from_the_files(scene_run, reference):
    metrics, results = reference
    config, classes = Workdir(scene_run).read_run()
    source = open_eval(config, SPLIT)
    stats = score_with_pycocotools([source[i] for i in range(len(source))], classes, results)
    for name, theirs in zip(PRECISIONS + RECALLS, stats, strict=True):
        if np.isnan(metrics[name]):
            assert theirs == -1
        else:
            assert metrics[name] == pytest.approx(theirs, abs=1e-9), name


def test_results_are_in_the_coco_format_with_our_fields(scene_run, reference):
    config, classes = Workdir(scene_run).read_run()
    by_id = {record.image_id: record for record in open_eval(config, SPLIT)}
    results = reference[1]
    assert {row["image_id"] for row in results} <= set(by_id) and results
    for row in results:
        assert set(row) == {
            *("image_id", "category_id", "bbox", "score"),
            *("file_name", "category_name", "box_confidence", "class_confidence"),
        }
        record = by_id[row["image_id"]]
        assert row["file_name"] == record.file_name
        assert row["category_name"] == classes[row["category_id"] - 1]
        x, y, width, height = row["bbox"]
        assert width >= 0 and height >= 0 and x >= 0 and y >= 0
        assert x + width <= 224 + 1e-3 and y + height <= 224 + 1e-3
        score = (row["box_confidence"] * row["class_confidence"]) ** 0.5
        assert row["score"] == pytest.approx(score, rel=1e-5)


# --- convmesh eval --------------------------------------------------------------------------------


def test_another_split_has_a_folder_of_its_own(scene_run, tmp_path, capsys):
    workdir = runs.copy(scene_run, tmp_path / "run")
    metrics = evaluate(workdir, split="test")
    assert metrics["images"] == 16
    written = json.loads((workdir / "eval/test/metrics.json").read_text())
    assert json_numbers(metrics) == written
    for name in DETECTION_FILES:
        assert (workdir / "eval/test" / name).stat().st_size > 0
    out = capsys.readouterr().out
    assert "split test" in out and "16 images" in out and "AP50" in out


def test_another_data_set_does_not_overwrite_the_runs_own(scene_run, tmp_path, monkeypatch):
    workdir = runs.copy(scene_run, tmp_path / "run")
    own = (workdir / "eval" / runs.SCENES / "metrics.json").read_bytes()

    def open_tiny(config, split):
        assert config.data.name == "some/scenes"
        config.data.name = "digit_scenes/tiny"
        return open_eval(config, split)

    monkeypatch.setattr(evaluation, "open_eval", open_tiny)
    evaluate(workdir, split="train[:4]", overrides={"data.name": "some/scenes"})
    assert (workdir / "eval/some-scenes:train[:4]/metrics.json").is_file()
    assert (workdir / "eval" / runs.SCENES / "metrics.json").read_bytes() == own


def test_the_newest_a_given_or_the_best_checkpoint(photo_run, tmp_path, capsys):
    workdir = runs.copy(photo_run, tmp_path / "run")
    rows = {row["step"]: row for row in read_metrics(workdir / "metrics.jsonl")}
    printed = lambda: capsys.readouterr().out  # noqa: E731
    assert evaluate(workdir).items() <= rows[8].items() and "step 8" in printed()
    assert evaluate(workdir, step=4)["images"] == 12 and "step 4" in printed()
    best = max((4, 8), key=lambda step: (rows[step].get("top1", 0), step))
    evaluate(workdir, best=True)
    assert f"step {best}" in printed()


def test_data_may_be_in_another_folder(tiny_net, tmp_path, capsys):
    root = runs.make_photos(tmp_path / "before")
    workdir = runs.train(runs.photo_config(root, {"train.steps": 1}), tmp_path / "run")
    metrics = json.loads((workdir / "eval/val/metrics.json").read_text())
    root.rename(tmp_path / "after")
    assert command_line.main(["eval", "--workdir", str(workdir)]) == 2
    assert f"data.root: {root} is not a folder" in capsys.readouterr().err
    moved = f"--config.data.root={tmp_path / 'after'}"
    assert command_line.main(["eval", "--workdir", str(workdir), moved]) == 0
    assert json.loads((workdir / "eval/val/metrics.json").read_text()) == metrics


def test_other_data_has_a_folder_of_its_own(tiny_net, photo_run, photos, tmp_path, capsys):
    workdir = runs.copy(photo_run, tmp_path / "run")
    own = (workdir / "eval/val/metrics.json").read_bytes()
    for name in ("a/other", "b/other"):
        shutil.copytree(photos, tmp_path / name)
        next((tmp_path / name / "val/red").glob("*.png")).unlink()
        evaluate(workdir, overrides={"data.root": str(tmp_path / name)})
    written = sorted(path.parent.name for path in workdir.glob("eval/other-*:val/metrics.json"))
    assert len(written) == 2 and (workdir / "eval/val/metrics.json").read_bytes() == own


def test_other_images_of_the_same_names_have_a_folder_of_their_own(photo_run, photos, tmp_path):
    workdir = runs.copy(photo_run, tmp_path / "run")
    other = shutil.copytree(photos, tmp_path / "other")
    for path in (other / "val").rglob("*.png"):
        Image.new("RGB", (50, 50), "grey").save(path)
    evaluate(workdir, overrides={"data.root": str(other)})
    assert len(list(workdir.glob("eval/other-*:val/metrics.json"))) == 1


def test_another_part_held_out_has_a_folder_of_its_own(tiny_net, tmp_path):
    root = runs.make_photos(tmp_path / "photos")
    shutil.rmtree(root / "val")
    workdir = runs.train(runs.photo_config(root, {"train.steps": 1}), tmp_path / "run")
    evaluate(workdir, overrides={"data.val_fraction": 0.5})
    assert len(list(workdir.glob("eval/photos-*:val/metrics.json"))) == 1


def test_bad_boxes_and_unreadable_images_are_counted(scene_run, tmp_path, capsys):
    metrics, _ = evaluate_on_mesh(scene_run, (1, 1, 1), SPLIT, 8, tmp_path)
    assert metrics["unreadable"] == 0 and metrics["bad_boxes"] == 0


@pytest.mark.parametrize("bad", [0, 3])
def test_truth_that_is_left_out_is_said(scene_run, tmp_path, monkeypatch, bad):
    predict_all = evaluation.predict_all
    counts = {"bad_boxes": bad, "left_out_boxes": 2 * bad}
    change = lambda *args: dataclasses.replace(predict_all(*args), **counts)  # noqa: E731
    monkeypatch.setattr(evaluation, "predict_all", change)
    config, classes = Workdir(scene_run).read_run()
    setup = make_setup(config, classes, equality.make_mesh((1, 1, 1)))
    variables, _ = load_variables(setup, Workdir(scene_run))
    logged = list[str]()
    source = open_eval(config, SPLIT)
    evaluate_variables(setup, variables, source, EvaluationFiles(tmp_path), logged.append)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["bad_boxes"], metrics["left_out_boxes"]) == (bad, 2 * bad)
    assert any(line.startswith("6 boxes were left out, since") for line in logged) == bool(bad)
    assert any(line.startswith("3 boxes were dropped or clipped") for line in logged) == bool(bad)


def test_the_best_says_where_the_score_is_undefined(photo_run, tmp_path, capsys):
    workdir = runs.copy(photo_run, tmp_path / "run")
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        if row["step"] == 8 and "top1" in row and "loss" not in row:
            row["top1"] = None
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluate(workdir, best=True)
    out = capsys.readouterr().out
    assert "top1 is undefined in 1 of 2 evaluations (step 8); they cannot be the best" in out
    assert "checkpoint of step 4" in out
    evaluate(workdir)
    assert "undefined" not in capsys.readouterr().out


def test_a_split_with_other_classes_is_refused(photo_run, tmp_path):
    workdir = runs.copy(photo_run, tmp_path / "run")
    (workdir / "classes.json").write_text(json.dumps(["blue", "green", "grey", "rose"]))
    with pytest.raises(DataError, match="red"):
        evaluate(workdir)


def test_an_unfinished_save_is_not_touched(photo_run, tmp_path):
    workdir = runs.copy(photo_run, tmp_path / "run")
    unfinished = workdir / "checkpoints" / "9.orbax-checkpoint-tmp"
    shutil.copytree(workdir / "checkpoints/8", unfinished)
    files = sorted(unfinished.rglob("*"))
    evaluate(workdir)
    assert sorted(unfinished.rglob("*")) == files


@pytest.mark.parametrize(
    "flags, status, printed",
    [
        (["--split", "tets"], 2, "no split 'tets'"),
        (["--step", "5"], 2, "--step 5: no such checkpoint; there are 4, 8"),
        (["--config.mesh.data=3"], 2, "mesh.data=3"),
        (["--config.eval.batch_sise=3"], 2, "did you mean eval.batch_size?"),
        (["--config.ema.decay=0"], 2, "ema.decay=0.0: "),
        (["--config.model.name=small_cnn"], 2, "was trained with tiny_net, and its checkpoints"),
    ],
)
def test_wrong_calls(photo_run, tmp_path, capsys, flags, status, printed):
    workdir = runs.copy(photo_run, tmp_path / "run")
    before = sorted(workdir.rglob("*"))
    assert command_line.main(["eval", "--workdir", str(workdir), *flags]) == status
    out, err = capsys.readouterr()
    assert printed in err and err.count("\n") == 1 and out == ""
    assert sorted(workdir.rglob("*")) == before


def test_before_any_training(photo_run, tmp_path, capsys):
    workdir = tmp_path / "run"
    assert command_line.main(["eval", "--workdir", str(workdir)]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert not workdir.exists()
    # A run that ended before its first checkpoint.
    workdir.mkdir()
    for name in ("config.json", "classes.json"):
        shutil.copy(photo_run / name, workdir)
    assert command_line.main(["eval", "--workdir", str(workdir)]) == 1
    assert "no checkpoint yet; train first" in capsys.readouterr().err
    assert {path.name for path in workdir.iterdir()} == {"config.json", "classes.json"}
