"""Padding to fixed shapes, and records that must not reach a loss."""

import numpy as np
import pytest
from sources import Scenes, config_for

from convmesh.data.augmentation.mixing import Instances
from convmesh.data.loading.example_format import ExampleFormat, stack_examples
from convmesh.data.record import BadExample, Record
from convmesh.errors import DataError

FORMAT = ExampleFormat("detect", (4, 6), 3, skip_bad=False)


def instances(*boxes):
    n = len(boxes)
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Instances(boxes, np.arange(n, dtype=np.int32), np.arange(n) == 1)


def test_the_largest_boxes_are_kept_in_order_and_padded():
    image = np.zeros((4, 6, 3), np.uint8)
    four = instances([0, 0, 1, 1], [0, 0, 3, 3], [0, 0, 2, 1], [0, 0, 2, 2])
    example = FORMAT.detection(image, 5, four, 2)
    assert example["labels"].tolist() == [1, 3, 2] and example["truncated"] == 1
    assert example["crowd"].tolist() == [True, False, False] and example["valid"].all()
    assert example["bad_boxes"] == 2 and example["index"] == 5
    example = FORMAT.detection(image, 5, instances([0, 0, 1, 2]), 0)
    assert example["valid"].tolist() == [True, False, False] and example["truncated"] == 0
    assert example["boxes"].tolist() == [[0, 0, 1, 2], [0] * 4, [0] * 4]


@pytest.mark.parametrize("task", ["detect", "classify"])
def test_an_absent_example_has_the_shapes_of_a_present_one(task):
    source = Scenes(4, task)
    fmt = ExampleFormat.of(source, config_for(task))
    record, image = source[3], np.zeros((*fmt.size, 3), np.uint8)
    if task == "detect":
        found = Instances(record.boxes, record.labels, record.crowd)
        present = fmt.detection(image, 3, found, 0)
    else:
        present = fmt.classification(image, 3, 1)
    absent = fmt.absent(-1)
    assert present["present"] and not absent["present"]
    stacked = stack_examples([present, absent])
    assert {len(array) for array in stacked.values()} == {2}
    assert absent.keys() == present.keys() and not absent["image"].any()


def test_only_the_rows_of_the_process_are_kept():
    image = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((1, 6, 3), np.uint8)
    fmt = ExampleFormat("classify", (4, 6), 3, skip_bad=False, rows=slice(1, 3))
    assert fmt.classification(image, 0, 0)["image"][:, 0, 0].tolist() == [1, 2]
    resized = fmt.resized((4, 8))
    assert resized.size == (4, 8) and len(resized.classification(image, 0, 0)["image"]) == 4


class OneRecord(Scenes):
    """A source that does not check its record."""

    def __init__(self, record, task):
        super().__init__(1, task)
        self.record = record

    def __getitem__(self, index):
        return self.record


@pytest.mark.parametrize(
    "boxes, label",
    [([0, 0, 0, 5], 0), ([0, 0, np.nan, 5], 0), ([0, 0, 5, 5], -1), ([0, 0, 5, 5], 3)],
)
def test_a_box_without_area_or_class_is_an_error_whatever_the_policy(boxes, label):
    record = Record(
        np.zeros((9, 9, 3), np.uint8),
        1,
        "a.png",
        boxes=np.array([boxes], np.float32),
        labels=np.array([label], np.int32),
        crowd=np.zeros(1, bool),
    )
    source = OneRecord(record, "detect")
    fmt = ExampleFormat.of(source, config_for(on_bad_example="skip"))
    with pytest.raises(DataError, match="a.png: a box without area or class"):
        fmt.read(source, 0)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_class_id_out_of_range_makes_an_example_unreadable(label):
    source = OneRecord(Record(np.zeros((9, 9, 3), np.uint8), 1, "a.png", label=label), "classify")
    with pytest.raises(BadExample, match=f"a.png: class id {label}"):
        ExampleFormat.of(source, config_for("classify")).read(source, 0)
    skipping = ExampleFormat.of(source, config_for("classify", on_bad_example="skip"))
    assert skipping.read(source, 0) is None


def test_boxes_of_equal_area_keep_their_order():
    image = np.zeros((4, 6, 3), np.uint8)
    example = FORMAT.detection(image, 0, instances(*[[0, 0, 2, 1]] * 4), 0)
    assert example["labels"].tolist() == [0, 1, 2]
