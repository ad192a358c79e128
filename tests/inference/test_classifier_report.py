"""The files of a classifier's evaluation agree with each other and show the right images."""

import json

import numpy as np
import pictures
import pytest

from convmesh.data.record import BadExample, Record, Source
from convmesh.inference.classifier_report import write_classifier_report
from convmesh.inference.split_predictions import SplitPredictions
from convmesh.workdir.layout import EvaluationFiles

CLASSES = ("red", "green", "blue")
# True class, and the probabilities of the classes, of each image.
ROWS = [
    (0, (0.9, 0.05, 0.05)),
    (1, (0.1, 0.8, 0.1)),
    (2, (0.1, 0.1, 0.8)),
    (0, (0.01, 0.98, 0.01)),  # an obvious mistake, of the annotator
    (2, (0.45, 0.15, 0.4)),
    (1, (0.97, 0.02, 0.01)),  # cannot be read any more
]


class Split(Source):
    """Images of the colour of their true class, of which the last cannot be read."""

    classes, split = CLASSES, "val"

    def __len__(self):
        return len(ROWS)

    def __getitem__(self, index):
        if index == 5:
            raise BadExample("gone")
        picture = np.zeros((60, 60, 3), np.uint8)
        picture[..., ROWS[index][0]] = 255
        return Record(picture, index, self.name(index))

    def name(self, index):
        return f"{index}.png"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    truth, found = [], []
    for i, (label, p) in enumerate(ROWS):
        order = np.argsort(-np.array(p), kind="stable")
        about = {"image_id": i, "file_name": f"{i}.png"}
        truth.append(about | {"index": i, "label": label})
        found.append(about | {"labels": order, "scores": np.array(p)[order]})
    write_classifier_report(
        EvaluationFiles(folder), Split(), SplitPredictions(truth, found, unreadable=0), CLASSES
    )
    return folder


def content(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_all_files_are_there(written):
    both = ("confusion", "calibration", "mislabelled")
    wanted = {f"{name}.{kind}" for name in both for kind in ("json", "png")}
    assert {path.name for path in written.iterdir()} == wanted | {"classes.json", "worst.png"}


def test_counts_of_the_files_agree(written):
    table = np.array(content(written, "confusion")["rows_truth_columns_predicted"])
    assert table.tolist() == [[1, 1, 0], [1, 1, 0], [1, 0, 1]]
    assert [row["images"] for row in content(written, "classes")] == table.sum(1).tolist()
    assert sum(row["images"] for row in content(written, "calibration")["bins"]) == len(ROWS)
    confused = content(written, "confusion")["most_confused"]
    pairs = {(pair["truth"], pair["predicted"]) for pair in confused}
    assert pairs == {("red", "green"), ("green", "red"), ("blue", "red")}


def test_the_worst_and_the_doubtful_are_drawn_without_those_that_are_gone(written):
    def drawn(name):
        picture = pictures.read(written / f"{name}.png")
        return [pictures.count(picture, np.eye(3)[i] * 255) > 10_000 for i in range(3)]

    assert [row["index"] for row in content(written, "mislabelled")] == [3, 5]
    assert drawn("mislabelled") == [True, False, False]  # the red one that is called green
    assert drawn("worst") == [True, False, True]  # and the blue one
