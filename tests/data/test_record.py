import numpy as np
import pytest

from convmesh.data.record import BadExample, Record, Subset, check_boxes, check_label
from convmesh.errors import DataError

GOOD = [2, 3, 10, 12]


def check(boxes, labels=None, crowd=None, policy="fail"):
    labels = [0] * len(boxes) if labels is None else labels
    crowd = [False] * len(boxes) if crowd is None else crowd
    return check_boxes(boxes, labels, crowd, (20, 30), 3, policy, "a.jpg")


def test_good_boxes_pass_and_count_nothing():
    boxes, labels, crowd, bad = check([GOOD, [0, 0, 30, 20]], [2, 1], [True, False])
    assert boxes.dtype == np.float32 and boxes.tolist() == [GOOD, [0, 0, 30, 20]]
    assert labels.dtype == np.int32 and labels.tolist() == [2, 1]
    assert crowd.tolist() == [True, False] and bad == 0


@pytest.mark.parametrize(
    "box, label, said",
    [
        ([2, 3, 2, 12], 0, r"\(2, 3, 2, 12\) has no area"),
        ([10, 3, 2, 12], 0, "has no area"),
        ([2, 3, 31, 12], 0, r"\(2, 3, 31, 12\) is outside of the image of 30 x 20"),
        ([-1, 3, 10, 12], 0, "outside"),
        ([2, 3, 10, float("nan")], 0, r"\(2, 3, 10, nan\) has no area"),
        (GOOD, 3, "class id 3 is not one of 0..2"),
        ([2, 3, 10, 3], 0, "has no area"),
        (GOOD, -1, "class id -1"),
        ([2, 3, 2 + 1e-8, 12], 0, "has no area"),  # float32 holds no such width
    ],
)
def test_a_bad_box_fails_naming_file_index_and_value(box, label, said):
    with pytest.raises(DataError, match=f"^a.jpg: box 1: .*{said}"):
        check([GOOD, box], [0, label])
    boxes, _, _, bad = check([GOOD, box], [0, label], policy="drop")
    assert boxes.tolist() == [GOOD] and bad == 1


def test_clip_cuts_to_the_image_and_drops_what_is_not_there():
    boxes, labels, crowd, bad = check(
        [[-5, 3, 10, 40], [40, 3, 50, 12], GOOD, [5, 5, 5, 9], GOOD],
        [1, 0, 2, 0, 7],
        [True, False, False, False, False],
        policy="clip",
    )
    assert boxes.tolist() == [[0, 3, 10, 20], GOOD]
    assert labels.tolist() == [1, 2] and crowd.tolist() == [True, False]
    assert bad == 4


def test_rounding_at_the_edge_is_no_fault():
    boxes, _, _, bad = check([[-0.01, 0, 30.01, 20.004]])
    assert boxes.tolist() == [[0, 0, 30, 20]] and bad == 0


def test_a_sliver_on_the_edge_that_rounding_leaves_empty_is_counted():
    boxes, _, _, bad = check([[30.001, 3, 30.01, 12], GOOD])
    assert boxes.tolist() == [GOOD] and bad == 1


def test_no_boxes_are_fine():
    boxes, labels, crowd, bad = check([])
    assert boxes.shape == (0, 4) and labels.shape == (0,) and crowd.shape == (0,) and bad == 0


def test_as_many_labels_as_boxes():
    with pytest.raises(DataError, match="a.jpg: 2 boxes, 1 labels"):
        check([GOOD, GOOD], [0])


def test_labels_of_images_are_class_ids():
    assert check_label(2, ("a", "b", "c"), "a.jpg") == 2
    for wrong in (-1, 3):
        with pytest.raises(BadExample, match=f"a.jpg: class id {wrong} is not one of 0..2"):
            check_label(wrong, ("a", "b", "c"), "a.jpg")


class Numbers:
    classes, split, task = ("a",), "train", "classify"

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return Record(np.zeros((2, 2, 3), np.uint8), index + 1, f"{index}.jpg", label=0)


def test_a_subset_shows_the_chosen_examples_with_their_own_ids():
    part = Subset(Numbers(), [7, 2], "val")
    assert len(part) == 2 and part.split == "val" and part.classes == ("a",)
    assert [part[i].image_id for i in range(2)] == [8, 3]
