"""Evaluation: each image once, the same numbers on any mesh, files that others can score."""

import contextlib
import io
import json
import shutil
from types import SimpleNamespace

import cv2
import equality
import numpy as np
import pytest
import runs
from coco_oracle import found_on, image, random_case
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from convmesh import cli, evaluation
from convmesh.data import BadExample, open_eval
from convmesh.data.record import Record
from convmesh.errors import ConfigError, DataError
from convmesh.evaluation import (
    evaluate,
    evaluate_variables,
    load_variables,
    read_category_ids,
    read_workdir,
)
from convmesh.report import json_numbers, read_metrics
from convmesh.setup import make_setup
from convmesh.tasks.average_precision import PRECISIONS, RECALLS
from convmesh.tasks.detect import Detect

pytestmark = pytest.mark.usefixtures("tiny_net")
DETECTION_FILES = {
    *("metrics.json", "predictions.json", "predictions.png", "curves.json", "curves.png"),
    *("confusion.json", "confusion.png", "images.json", "worst.png", "best.png"),
}
SPLIT = "validation"  # 16 scenes that `scene_run` has not seen


def on_mesh(workdir, shape, split, batch_size, directory):
    """(metrics, predictions.json) of a checkpoint on the first devices, in a mesh of `shape`."""
    config, classes = read_workdir(workdir)
    config.eval.batch_size = batch_size
    setup = make_setup(config, classes, equality.make_mesh(shape))
    variables, _ = load_variables(setup, workdir)
    metrics = evaluate_variables(
        setup, variables, open_eval(config, split), directory, lambda text: None
    )
    return metrics, json.loads((directory / "predictions.json").read_text())


@pytest.fixture(scope="module")
def reference(scene_run, tmp_path_factory):
    """The detector on one device, all 16 scenes in one batch."""
    return on_mesh(scene_run, (1, 1, 1), SPLIT, 16, tmp_path_factory.mktemp("reference"))


# --- the source's own numbers of the classes -----------------------------------------------------


def test_results_have_the_sources_own_numbers_of_the_classes(tmp_path, monkeypatch):
    for writes in ("_draw", "_explain"):
        monkeypatch.setattr(evaluation, writes, lambda *parts: None)
    task, config = Detect(2, (32, 32)), SimpleNamespace(task="detect")
    setup = SimpleNamespace(task=task, classes=("ant", "bee"), config=config)
    found = {"image_id": 5, "file_name": "5.png", "boxes": np.array([[0, 0, 4, 4.0]])}
    found |= {"labels": np.array([1])}
    found |= {k: np.array([0.5]) for k in ("scores", "box_confidence", "class_confidence")}
    for ids, number in (((7, 3), 3), (None, 2)):
        source = SimpleNamespace(category_ids=ids)
        evaluation._write(tmp_path, setup, source, [], [found], {}, [])
        (result,) = json.loads((tmp_path / "predictions.json").read_text())
        assert (result["category_id"], result["category_name"]) == (number, "bee")


def test_the_area_of_outlines_reaches_the_metrics():
    record = Record(np.zeros((9, 9, 3), np.uint8), 1, "a", area=np.float32([7]))
    assert evaluation._truth(record, (9, 9), 0)["area"].tolist() == [7]


def test_a_workdirs_numbers_are_read_or_refused(tmp_path):
    classes, path = ("ant", "bee"), tmp_path / "category_ids.json"
    assert read_category_ids(tmp_path, classes) is None
    path.write_text("[7, 3]")
    assert read_category_ids(tmp_path, classes) == (7, 3)
    for wrong in ("[7]", "[7, 3, 1]", '["7", "3"]', "[7.5, 3]", "[true, false]", '{"ant": 7}'):
        path.write_text(wrong)
        with pytest.raises(DataError, match="category_ids.json: wanted 2 integers"):
            read_category_ids(tmp_path, classes)


# --- by heart -------------------------------------------------------------------------------------


def test_the_detector_learns_eight_scenes_by_heart(scene_run):
    """The proof that assignment, losses, decoding and metrics fit together."""
    metrics = json.loads((scene_run / "eval" / runs.SCENES / "metrics.json").read_text())
    assert metrics["images"] == 8
    assert metrics["AP50"] >= 0.99 and metrics["AP75"] >= 0.95


def test_a_detectors_numbers_have_the_names_of_the_contract(scene_run):
    rows = read_metrics(scene_run / "metrics.jsonl")
    parts = {f"loss/{part}" for part in ("class", "confidence", "box", "distribution")}
    train = [row for row in rows if row["split"] == "train"]
    for row in train:
        assert parts <= set(row)
        assert row["loss"] == pytest.approx(sum(row[part] for part in parts), rel=1e-5)
    whole = {"AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_100", "images"}
    whole |= {"AR_1", "AR_10", "AR_small", "AR_medium", "AR_large", "F1", "best_threshold"}
    assert whole | {f"AP/{digit}" for digit in range(10)} <= set(rows[-1])


# --- each image once, on any mesh -----------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, batch_size",
    [((8, 1, 1), 5), ((2, 2, 2), 5), ((1, 1, 8), 7), ((1, 1, 1), 5), ((8, 1, 1), 64)],
    ids=str,
)
def test_each_image_is_counted_once(photo_run, tmp_path, shape, batch_size):
    metrics, rows = on_mesh(photo_run, shape, "val", batch_size, tmp_path)
    assert metrics == json.loads((photo_run / "eval/val/metrics.json").read_text())
    assert [row["image_id"] for row in rows] == list(range(1, runs.VAL_PHOTOS + 1))
    files = [f"val/{name}/{i}.png" for name in runs.CLASSES for i in range(3)]
    assert [row["file_name"] for row in rows] == files
    for row, same in zip(
        rows, json.loads((photo_run / "eval/val/predictions.json").read_text()), strict=True
    ):
        ours, theirs = ({c["class"]: c["probability"] for c in r["classes"]} for r in (row, same))
        assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)], ids=str)
def test_detections_are_the_same_on_every_mesh(scene_run, reference, tmp_path, shape):
    metrics, rows = on_mesh(scene_run, shape, SPLIT, 5, tmp_path)
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


def test_the_configs_mesh_where_it_fits_else_all_devices_over_the_examples(photos):
    config = runs.photo_config(photos, {"mesh.data": 2, "mesh.spatial": 2, "mesh.model": 2})
    assert dict(evaluation.mesh_here(config).shape) == {"data": 2, "spatial": 2, "model": 2}
    config.mesh.data = 16
    assert dict(evaluation.mesh_here(config).shape) == {"data": 8, "spatial": 1, "model": 1}
    with pytest.raises(ConfigError, match="mesh.data=16"):
        evaluation.mesh_here(config, asked=True)


# --- files that others can read -------------------------------------------------------------------


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


def test_pycocotools_finds_the_same_in_the_files(scene_run, reference):
    metrics, results = reference
    config, classes = read_workdir(scene_run)
    source = open_eval(config, SPLIT)
    stats = score_with_pycocotools([source[i] for i in range(len(source))], classes, results)
    for name, theirs in zip(PRECISIONS + RECALLS, stats, strict=True):
        if np.isnan(metrics[name]):
            assert theirs == -1
        else:
            assert metrics[name] == pytest.approx(theirs, abs=1e-9), name


def test_results_are_in_the_coco_format_with_our_fields(scene_run, reference):
    config, classes = read_workdir(scene_run)
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


# --- what stands behind a detector's AP -----------------------------------------------------------

CLASSES = ("cell", "cat", "dog", "never seen")


class Images:
    """A split in memory, whose every third image can no longer be read when it is drawn."""

    classes, split = CLASSES, "val"

    def __init__(self, truth):
        self.truth = truth

    def __len__(self):
        return len(self.truth)

    def __getitem__(self, index):
        if index % 3 == 1:
            raise BadExample("gone")
        picture = np.full((48, 64, 3), index, np.uint8)
        return Record(picture, self.truth[index]["image_id"], self.truth[index]["file_name"])


def judged(monkeypatch, directory, truth, detections, source=None):
    """The metrics and what was said of an evaluation that has found `detections`."""
    for index, (one, found) in enumerate(zip(truth, detections, strict=True)):
        assert one["image_id"] == found["image_id"]
        one |= {"index": index, "file_name": f"{one['image_id']}.png"}
        found |= {"file_name": one["file_name"]}
        found |= {name: found["scores"] for name in ("box_confidence", "class_confidence")}
    monkeypatch.setattr(evaluation, "predict_all", lambda *_: (truth, detections, 0))
    task = Detect(len(CLASSES), (64, 64))
    setup = SimpleNamespace(task=task, classes=CLASSES, config=SimpleNamespace(task="detect"))
    said = []
    source = source or Images(truth)
    return evaluate_variables(setup, {}, source, directory, said.append), "\n".join(said)


def test_a_detectors_files_agree_with_each_other(monkeypatch, tmp_path):
    truth, detections = random_case(0, images=12, crowds=0.1)
    metrics, said = judged(monkeypatch, tmp_path, truth, detections)
    assert {path.name for path in tmp_path.iterdir()} == DETECTION_FILES
    read = lambda name: json.loads((tmp_path / name).read_text())  # noqa: E731
    assert read("metrics.json") == json_numbers(metrics)
    assert f"F1 {metrics['F1']:.3f}" in said and "AP is" not in said

    curves, confusion, images = (read(f"{n}.json") for n in ("curves", "confusion", "images"))
    assert curves["best_threshold"] == metrics["best_threshold"]
    assert curves["best_F1"] == metrics["F1"]
    assert np.mean(curves["precision"]["mean"]) == pytest.approx(metrics["AP50"], abs=1e-5)
    assert (images["iou"], images["score"]) == (confusion["iou"], confusion["score"]) == (0.5, 0.25)
    assert [one["image_id"] for one in images["images"]] == [one["image_id"] for one in truth]
    table = np.array(confusion["rows_truth_columns_predicted"])
    assert confusion["names"] == [*CLASSES, "background"] and table.shape == (5, 5)
    total = lambda name: sum(one[name] for one in images["images"])  # noqa: E731
    objects = sum(int((~one["crowd"]).sum()) for one in truth)
    assert total("true_positives") + total("misses") == table[:-1].sum() == objects


def test_the_worst_and_the_best_images_are_drawn(monkeypatch, tmp_path):
    boxes = [[10, 10, 30, 30]]
    truth = [image(i, boxes, [0]) for i in range(8)]
    detections = [
        found_on(i, boxes if i < 4 else [], [0] * (i < 4), [0.9] * (i < 4)) for i in range(8)
    ]
    drawn = {}

    def remember(images, predictions, truth, classes, captions, title):
        drawn[title.split()[1]] = [
            (int(one[0, 0, 0]), c) for one, c in zip(images, captions, strict=True)
        ]
        assert title.endswith("of 8 images by F1: IoU >= 0.5, score >= 0.25")
        return np.zeros((9, 9, 3), np.uint8)

    monkeypatch.setattr(evaluation.draw, "draw_judged_grid", remember)
    judged(monkeypatch, tmp_path, truth, detections)
    # 1, 4 and 7 cannot be read again.
    missed, right = "F1 0.00: 0 right, 0 wrong, 1 missed", "F1 1.00: 1 right, 0 wrong, 0 missed"
    assert drawn["worst"] == [(5, f"{missed}   5.png"), (6, f"{missed}   6.png")]
    assert drawn["best"] == [(i, f"{right}   {i}.png") for i in (0, 2, 3)]
    assert cv2.imread(str(tmp_path / "worst.png")).shape == (9, 9, 3)


def test_an_ap_of_zero_says_why(monkeypatch, tmp_path):
    directory = tmp_path / "eval" / "val"
    truth = [image(1, [[0, 0, 10, 10]], [0]), image(2)]
    metrics, said = judged(monkeypatch, directory, truth, [found_on(1), found_on(2)])
    assert metrics["AP"] == 0 and "why_zero" not in metrics
    written = json.loads((directory / "metrics.json").read_text())
    assert "nothing was detected on 2 images" in written.pop("why_zero")[0]
    assert written == json_numbers(metrics)
    assert "nothing was detected on 2 images" in said
    # An evaluation that goes well forgets it.
    found = [found_on(1, [[0, 0, 10, 10]], [0], [0.5]), found_on(2)]
    judged(monkeypatch, directory, truth, found)
    assert "why_zero" not in json.loads((directory / "metrics.json").read_text())


def test_nothing_to_find_is_evaluated_too(monkeypatch, tmp_path):
    metrics, said = judged(
        monkeypatch, tmp_path, [image(1)], [found_on(1, [[0, 0, 9, 9]], [0], [0.5])]
    )
    assert np.isnan(metrics["AP"]) and "none of the 1 images has a box to find" in said
    assert {path.name for path in tmp_path.iterdir()} == DETECTION_FILES


def test_category_ids_are_those_of_the_source(monkeypatch, tmp_path):
    truth, detections = random_case(0, images=4)
    source = Images(truth)
    numbers = lambda: {  # noqa: E731
        (row["category_name"], row["category_id"])
        for row in json.loads((tmp_path / "predictions.json").read_text())
    }
    judged(monkeypatch, tmp_path, truth, detections, source)
    assert numbers() == {("cell", 1), ("cat", 2), ("dog", 3)}
    source.category_ids = (18, 3, 90, 1)
    judged(monkeypatch, tmp_path, truth, detections, source)
    assert numbers() == {("cell", 18), ("cat", 3), ("dog", 90)}


def test_the_area_of_an_outline_is_passed_on():
    record = Record(np.zeros((4, 4, 3), np.uint8), 1, "a.png")
    assert evaluation._truth(record, (4, 4), 0)["area"] is None
    known = SimpleNamespace(**vars(record) | {"area": np.float32([5])})
    assert evaluation._truth(known, (4, 4), 3)["area"] == [5]
    assert evaluation._truth(known, (4, 4), 3)["index"] == 3


# --- convmesh eval --------------------------------------------------------------------------------


def test_another_split_beside_the_runs_own(scene_run, tmp_path, capsys):
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
    said = lambda: capsys.readouterr().out  # noqa: E731
    assert evaluate(workdir).items() <= rows[8].items() and "step 8" in said()
    assert evaluate(workdir, step=4)["images"] == 12 and "step 4" in said()
    best = max((4, 8), key=lambda step: (rows[step].get("top1", 0), step))
    evaluate(workdir, best=True)
    assert f"step {best}" in said()


def test_data_that_has_moved(tiny_net, tmp_path, capsys):
    root = runs.make_photos(tmp_path / "before")
    workdir = runs.train(runs.photo_config(root, {"train.steps": 1}), tmp_path / "run")
    metrics = json.loads((workdir / "eval/val/metrics.json").read_text())
    root.rename(tmp_path / "after")
    assert cli.main(["eval", "--workdir", str(workdir)]) == 2
    assert f"data.root: {root} is not a folder" in capsys.readouterr().err
    moved = f"--config.data.root={tmp_path / 'after'}"
    assert cli.main(["eval", "--workdir", str(workdir), moved]) == 0
    assert json.loads((workdir / "eval/val/metrics.json").read_text()) == metrics


def test_other_classes_are_refused(photo_run, tmp_path):
    workdir = runs.copy(photo_run, tmp_path / "run")
    (workdir / "classes.json").write_text(json.dumps(["blue", "green", "grey", "rose"]))
    with pytest.raises(DataError, match="red"):
        evaluate(workdir)


def test_a_save_that_is_under_way_is_left_alone(photo_run, tmp_path):
    workdir = runs.copy(photo_run, tmp_path / "run")
    unfinished = workdir / "checkpoints" / "9.orbax-checkpoint-tmp"
    shutil.copytree(workdir / "checkpoints/8", unfinished)
    files = sorted(unfinished.rglob("*"))
    evaluate(workdir)
    assert sorted(unfinished.rglob("*")) == files


@pytest.mark.parametrize(
    "flags, status, said",
    [
        (["--split", "tets"], 2, "no split 'tets'"),
        (["--step", "5"], 2, "--step 5: no such checkpoint; there are 4, 8"),
        (["--config.mesh.data=3"], 2, "mesh.data=3"),
        (["--config.eval.batch_sise=3"], 2, "did you mean eval.batch_size?"),
        (["--config.ema.decay=0"], 2, "ema.decay=0.0: "),
        (["--config.model.name=small_cnn"], 2, "was trained with tiny_net, and its checkpoints"),
    ],
)
def test_wrong_calls(photo_run, tmp_path, capsys, flags, status, said):
    workdir = runs.copy(photo_run, tmp_path / "run")
    before = sorted(workdir.rglob("*"))
    assert cli.main(["eval", "--workdir", str(workdir), *flags]) == status
    out, err = capsys.readouterr()
    assert said in err and err.count("\n") == 1 and out == ""
    assert sorted(workdir.rglob("*")) == before


def test_before_any_training(photo_run, tmp_path, capsys):
    workdir = tmp_path / "run"
    assert cli.main(["eval", "--workdir", str(workdir)]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert not workdir.exists()
    # A run that was ended before its first checkpoint.
    workdir.mkdir()
    for name in ("config.json", "classes.json"):
        shutil.copy(photo_run / name, workdir)
    assert cli.main(["eval", "--workdir", str(workdir)]) == 1
    assert "no checkpoint yet; train first" in capsys.readouterr().err
    assert {path.name for path in workdir.iterdir()} == {"config.json", "classes.json"}
