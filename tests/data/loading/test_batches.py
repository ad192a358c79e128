"""Counts over examples, and the placement of evaluation images."""

import numpy as np

from convmesh.data.loading import batches
from convmesh.data.loading.batches import DataCounts, EvalBatch


def test_counts_leave_out_padding_and_regions_to_ignore():
    counts = DataCounts.of(
        {
            "present": np.array([True, False, False, True]),
            "index": np.array([3, 4, -1, 5]),
            "bad_boxes": np.array([2, 0, 0, 1]),
            "truncated": np.array([0, 0, 0, 7]),
            "bad_partners": np.array([1, 0, 0, 1]),
            "replaced": np.array([0, 0, 0, 1]),
            "source_boxes": np.array([4, 0, 0, 5]),
            "left_out_boxes": np.array([1, 0, 0, 0]),
            "valid": np.array([[True, True], [False, False], [False, False], [True, False]]),
            "crowd": np.array([[False, True], [False, False], [False, False], [False, False]]),
        }
    )
    counted = {"images": 1, "unreadable": 2, "bad_boxes": 3, "truncated": 7, "bad_partners": 2}
    assert counts == DataCounts(boxes=2, source_boxes=9, left_out_boxes=1, **counted)


def test_counts_of_classification_have_no_boxes():
    arrays = {"present": np.array([True]), "index": np.array([0]), "bad_boxes": np.array([0])}
    assert DataCounts.of(arrays) == DataCounts(images=1)


def test_counts_add_up_by_name():
    total = DataCounts(1, 2, 3, 4, 5, 6, 7, 8) + DataCounts(10, 20, 30, 40, 50, 60, 70, 80)
    assert total == DataCounts(11, 22, 33, 44, 55, 66, 77, 88)


def test_the_placement_is_that_of_one_image():
    batch = EvalBatch(
        image=None,
        scale=np.array([1.0, 0.5]),
        offset=np.array([[0, 0], [3, 4]]),
        original_size=np.array([[9, 9], [20, 30]]),
    )
    placement = batch.placement(1)
    assert placement.scale == 0.5 and placement.offset.tolist() == [3, 4]
    assert placement.original_size.tolist() == [20, 30]


def test_every_array_that_is_counted_is_kept_for_counting():
    seen = set()

    class Seen(dict):
        def __getitem__(self, key):
            seen.add(key)
            return super().__getitem__(key)

    names = ("bad_boxes", "truncated", "bad_partners", "replaced", "source_boxes", "left_out_boxes")
    arrays = {name: np.ones(2, int) for name in names} | {"index": np.arange(2)}
    DataCounts.of(Seen(arrays | {name: np.ones(2, bool) for name in ("present", "valid", "crowd")}))
    assert seen == batches._COUNTED
