"""Predictions of a split: truth and prediction of each image, in order."""

from dataclasses import replace

import equality
import numpy as np
import pytest
import runs

from convmesh.data.record import Record, Subset
from convmesh.data.splits import open_eval
from convmesh.inference import split_predictions
from convmesh.inference.split_predictions import eval_batch_size, image_truth, predict_all
from convmesh.inference.trained_model import load_variables
from convmesh.steps.setup import make_setup
from convmesh.workdir.layout import Workdir

pytestmark = pytest.mark.usefixtures("tiny_net")


@pytest.fixture(scope="module")
def evaluation(photo_run):
    """Setup on 4 devices, variables and split of the photos, 5 images in a batch."""
    config, classes = Workdir(photo_run).read_run()
    config.eval.batch_size = 5
    setup = make_setup(config, classes, equality.make_mesh((4, 1, 1)))
    return setup, load_variables(setup, Workdir(photo_run))[0], open_eval(config)


def test_truth_and_prediction_of_each_image_in_the_order_of_the_split(evaluation):
    setup, variables, source = evaluation
    calls = []
    results = predict_all(setup, variables, source, lambda: calls.append(len(calls)))
    assert len(calls) == 2  # batches of 8: 5 rounded up to a multiple of 4 devices
    assert results.unreadable == 0
    assert [one["index"] for one in results.truth] == list(range(runs.VAL_PHOTOS))
    for truth, predicted in zip(results.truth, results.predictions, strict=True):
        record = source[truth["index"]]
        assert truth["label"] == record.label
        assert (truth["height"], truth["width"]) == record.image.shape[:2]
        for one in (truth, predicted):
            assert (one["image_id"], one["file_name"]) == (record.image_id, record.file_name)
        assert sorted(predicted["labels"]) == list(range(len(runs.CLASSES)))
        assert (np.diff(predicted["scores"]) <= 0).all()


class Counts(Subset):
    """A split with bad boxes, and boxes that `data.classes` leaves out, in each image."""

    def __getitem__(self, index):
        return replace(super().__getitem__(index), bad_boxes=3 + index, left_out_boxes=2)


def test_boxes_that_are_no_truth_are_counted_over_all_processes(evaluation, monkeypatch):
    setup, variables, source = evaluation
    counts = Counts(source, range(3), "val")
    results = predict_all(setup, variables, counts)
    assert (results.bad_boxes, results.left_out_boxes) == (1 + 2 + 3, 6)
    monkeypatch.setattr(split_predictions.processes, "gather", lambda value: [value, value])
    results = predict_all(setup, variables, counts)
    assert (results.bad_boxes, results.left_out_boxes, len(results.truth)) == (12, 12, 6)


def test_an_exception_between_batches_ends_the_evaluation(evaluation):
    def fail():
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        predict_all(*evaluation, fail)


@pytest.mark.parametrize("given, size", [(5, 8), (8, 8), (1, 4), (0, 8)])
def test_a_batch_divides_over_the_devices(evaluation, given, size):
    setup, _, _ = evaluation
    before = setup.config.eval.batch_size
    try:
        setup.config.eval.batch_size = given  # 0: the training batch of 8
        assert eval_batch_size(setup) == size
    finally:
        setup.config.eval.batch_size = before


def test_areas_of_outlines_are_part_of_the_truth():
    record = Record(np.zeros((0, 0, 3), np.uint8), 1, "a.png", area=np.float32([7]))
    truth = image_truth(record, (9, 8), 3)
    assert truth["area"].tolist() == [7]
    assert (truth["index"], truth["height"], truth["width"]) == (3, 9, 8)
    assert image_truth(Record(record.image, 1, "a.png"), (9, 8), 0)["area"] is None
