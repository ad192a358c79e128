"""The output folder of `predict`: names, content, and what is never overwritten."""

import csv
import io
import json
import os

import cv2
import numpy as np
import pytest

from convmesh.errors import ConfigError, DataError
from convmesh.inference.options import PredictOptions
from convmesh.inference.prediction import _report_unreadable, predict_files
from convmesh.inference.prediction_output import (
    ImageOutput,
    PredictionFolder,
    classes_output,
    detections_output,
    predictions_table,
)

FOUND = {
    "boxes": np.array([[20, 10, 70, 50], [0, 0, 100, 100.0]]),
    "labels": np.array([1, 0]),
    "classes": ["bee", "ant"],
    "scores": np.array([0.5, 0.25]),
    "box_confidence": np.array([0.25, 0.0625]),
    "class_confidence": np.array([1.0, 1.0]),
}


def image(height=100, width=200):
    return np.full((height, width, 3), 128, np.uint8)


def test_detections_as_json_and_as_lines_of_text():
    output = detections_output(image(), FOUND)
    assert output.entry["detections"][0] == {
        "box": [20, 10, 70, 50],
        "class": "bee",
        "score": 0.5,
        "box_confidence": 0.25,
        "class_confidence": 1.0,
    }
    # Centre and size: from 20 to 70 of 200 columns and from 10 to 50 of 100 rows.
    assert output.text.splitlines() == [
        "1 0.225000 0.300000 0.250000 0.400000 0.500000",
        "0 0.250000 0.500000 0.500000 1.000000 0.250000",
    ]
    assert output.picture.shape == (480, 960, 3)
    numbered = detections_output(image(), FOUND, category_ids=(7, 3)).entry["detections"]
    assert [one["category_id"] for one in numbered] == [3, 7]


def test_the_best_classes_as_json_and_as_lines_of_text():
    found = {"labels": np.array([1, 0, 2]), "probabilities": np.array([0.5, 0.375, 0.125])}
    output = classes_output(image(), found, ("ant", "bee", "cow"), top_k=2)
    best = [{"class": "bee", "probability": 0.5}, {"class": "ant", "probability": 0.375}]
    assert output.entry == {"classes": best}
    assert output.text == "bee 0.500000\nant 0.375000\n"
    assert output.picture.dtype == np.uint8


def test_pictures_of_the_same_name_are_numbered(tmp_path):
    files = [tmp_path / name for name in ("one/a.png", "two/A.jpg", "three/a.bmp", "three/b.png")]
    folder = PredictionFolder.for_files(tmp_path / "out", files)
    assert list(folder.pictures.values()) == ["a.png", "A_2.png", "a_3.png", "b.png"]
    assert not folder.root.exists()


@pytest.mark.parametrize("save_txt", [False, True])
def test_files_of_the_folder(tmp_path, save_txt):
    file = tmp_path / "a.jpg"
    folder = PredictionFolder.for_files(tmp_path / "new" / "out", [file], save_txt)
    folder.write_image(file, ImageOutput({"classes": []}, image(), "ant 1.0\n"))
    folder.write_predictions([{"file": str(file)}])
    names = {path.name for path in folder.root.iterdir()}
    tables = {"predictions.json", "predictions.csv"}
    assert names == {"a.png"} | tables | ({"a.txt"} if save_txt else set())
    assert json.loads(folder.predictions_file.read_text()) == [{"file": str(file)}]
    if save_txt:
        assert (folder.root / "a.txt").read_text() == "ant 1.0\n"


@pytest.mark.parametrize("output", ["images", "labels"])
def test_labels_are_not_overwritten(tmp_path, output):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    cv2.imwrite(str(tmp_path / "images/a.jpg"), image())
    before = sorted(tmp_path.rglob("*"))
    given, output = [str(tmp_path / "images")], tmp_path / output
    # Refused before the model is loaded: there is no workdir.
    with pytest.raises(ConfigError, match="--save-txt would overwrite a.txt, .* another folder"):
        predict_files(tmp_path / "none", given, output, PredictOptions(save_txt=True))
    assert sorted(tmp_path.rglob("*")) == before
    assert (output / "a.txt").read_text() == "0 0.5 0.5 0.1 0.1\n"


def test_an_input_is_not_overwritten(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), image())
    with pytest.raises(ConfigError, match="a.png would overwrite an input; name another folder"):
        predict_files(tmp_path / "none", [str(tmp_path / "a.png")], tmp_path)


def test_an_earlier_call_beside_the_inputs_does_not_make_their_labels_its_own(tmp_path):
    (tmp_path / "predictions.json").write_text("[]")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(ConfigError, match="--save-txt would overwrite a.txt"):
        PredictionFolder.for_files(tmp_path, [tmp_path / "a.jpg"], save_txt=True)
    elsewhere = [tmp_path / "images" / "a.jpg"]
    assert PredictionFolder.for_files(tmp_path, elsewhere, save_txt=True).save_txt


@pytest.mark.parametrize("count", [1, 4])
def test_files_that_are_passed_by_are_listed(capsys, count):
    reasons = [f"{i}: bad" for i in range(1, count + 1)]
    _report_unreadable(reasons, 9)
    header = f"{count} of 9 files could not be read and were passed by:"
    assert capsys.readouterr().out.splitlines() == [header, *reasons]


@pytest.mark.parametrize(
    ("count", "named"),
    [(1, "1: bad"), (3, "1: bad; 2: bad; 3: bad"), (4, "1: bad; 2: bad; 3: bad; ...")],
)
def test_more_than_three_unreadable_files_are_listed_before_the_error(capsys, count, named):
    reasons = [f"{i}: bad" for i in range(1, count + 1)]
    with pytest.raises(DataError) as caught:
        _report_unreadable(reasons, count)
    assert str(caught.value) == f"none of the {count} files could be read: {named}"
    header = f"{count} of {count} files could not be read and were passed by:"
    assert capsys.readouterr().out.splitlines() == ([header, *reasons] if count > 3 else [])


# --- predictions.csv ------------------------------------------------------------------------------


def rows(entries):
    return list(csv.reader(io.StringIO(predictions_table(entries))))


def test_a_table_of_classes():
    classes = [
        {"class": "bee", "probability": 0.75},
        {"class": 'an "ant", red', "probability": 0.2},
    ]
    found = rows(
        [{"file": "a,b.png", "classes": classes}, {"file": "c.png", "classes": classes[:1]}]
    )
    assert found == [
        ["file", "frame", "rank", "class", "probability"],
        ["a,b.png", "", "1", "bee", "0.75"],
        ["a,b.png", "", "2", 'an "ant", red', "0.2"],
        ["c.png", "", "1", "bee", "0.75"],
    ]


def test_a_table_of_detections_and_of_images_without_any():
    entry = {"file": "a.png"} | detections_output(image(), FOUND).entry
    found = rows([{"file": "none.png", "detections": []}, entry])
    numbers = ["score", "box_confidence", "class_confidence", "x0", "y0", "x1", "y1"]
    assert found[0] == ["file", "frame", "rank", "class", *numbers]
    assert found[1] == ["none.png", "", "0", *[""] * 8]
    assert found[2] == [
        "a.png",
        "",
        "1",
        "bee",
        "0.5",
        "0.25",
        "1.0",
        "20.0",
        "10.0",
        "70.0",
        "50.0",
    ]
    assert [row[:4] for row in found[3:]] == [["a.png", "", "2", "ant"]]


def test_a_table_of_frames():
    one = {"class": "bee", "probability": 0.5}
    frames = [{"index": i, "time": i / 25, "classes": [one]} for i in range(2)]
    found = rows([{"file": "a.mp4", "frames": frames}])
    assert found[1:] == [["a.mp4", str(i), "1", "bee", "0.5"] for i in range(2)]


def test_nothing_was_read():
    assert rows([]) == [["file", "frame", "rank", "class", "probability"]]


def test_a_file_name_that_is_no_text_is_written_as_it_is(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    PredictionFolder(tmp_path / "out", {}).write_predictions([{"file": name, "detections": []}])
    assert b"caf\xe9.png,,0" in (tmp_path / "out/predictions.csv").read_bytes()


def test_the_table_is_written_beside_the_json(tmp_path):
    PredictionFolder(tmp_path / "out", {}).write_predictions([{"file": "a.png", "detections": []}])
    assert (tmp_path / "out/predictions.csv").read_text().startswith("file,frame,rank,class,score")
