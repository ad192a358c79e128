"""Box validation: src/convmesh/data/box_checks.py."""

import numpy as np
import pytest

from convmesh.data.box_checks import BoxPolicy, StatedBoxes, check_boxes, kept_in_training
from convmesh.errors import DataError

GOOD = [2, 3, 10, 12]


def check(boxes, labels=None, crowd=None, policy="fail"):
    labels = [0] * len(boxes) if labels is None else labels
    crowd = [False] * len(boxes) if crowd is None else crowd
    stated, size = StatedBoxes(np.array(boxes), np.array(labels), np.array(crowd)), (20, 30)
    checked = check_boxes(stated, size, BoxPolicy(3, policy), "a.jpg")
    return checked.boxes, checked.labels, checked.crowd, checked.bad


def test_good_boxes_are_kept_and_none_is_counted():
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
def test_a_bad_box_is_refused_with_file_index_and_value(box, label, said):
    with pytest.raises(DataError, match=f"^a.jpg: box 1: .*{said}"):
        check([GOOD, box], [0, label])
    boxes, _, _, bad = check([GOOD, box], [0, label], policy="drop")
    assert boxes.tolist() == [GOOD] and bad == 1


def test_clip_cuts_boxes_to_the_image_and_drops_those_outside():
    boxes, labels, crowd, bad = check(
        [[-5, 3, 10, 40], [40, 3, 50, 12], GOOD, [5, 5, 5, 9]],
        [1, 0, 2, 0],
        [True, False, False, False],
        policy="clip",
    )
    assert boxes.tolist() == [[0, 3, 10, 20], GOOD]
    assert labels.tolist() == [1, 2] and crowd.tolist() == [True, False]
    assert bad == 3


def test_clip_refuses_a_class_id_that_does_not_exist_and_drops_a_class_left_out():
    boxes = np.array([GOOD, GOOD, GOOD, [-5, 3, 10, 40]], float)
    left_out = np.array([False, True, False, False])

    def checked(labels, policy):
        stated = StatedBoxes(boxes, np.array(labels), np.zeros(4, bool), left_out=left_out)
        return check_boxes(stated, (20, 30), BoxPolicy(3, policy), "a.jpg")

    with pytest.raises(DataError, match="a.jpg: box 2: class id 3 .*; fix it, or set .* to drop$"):
        checked([0, -1, 3, 0], "clip")
    found = checked([0, -1, 2, 0], "clip")
    assert found.labels.tolist() == [0, 2, 0]
    assert (found.bad, found.dropped, found.left_out) == (2, 1, 1)
    found = checked([0, -1, 3, 0], "drop")
    assert (found.bad, found.dropped, found.left_out) == (3, 3, 1)


def test_rounding_at_the_edge_is_allowed():
    boxes, _, _, bad = check([[-0.01, 0, 30.01, 20.004]])
    assert boxes.tolist() == [[0, 0, 30, 20]] and bad == 0


def test_a_thin_box_at_the_edge_without_area_is_counted():
    boxes, _, _, bad = check([[30.001, 3, 30.01, 12], GOOD])
    assert boxes.tolist() == [GOOD] and bad == 1


def test_an_image_may_have_no_boxes():
    boxes, labels, crowd, bad = check([])
    assert boxes.shape == (0, 4) and labels.shape == (0,) and crowd.shape == (0,) and bad == 0


def test_boxes_labels_and_crowd_flags_must_have_equal_numbers():
    with pytest.raises(DataError, match="a.jpg: 2 boxes, 1 labels"):
        check([GOOD, GOOD], [0])
    with pytest.raises(DataError, match="a.jpg: 1 boxes, 1 labels and 2 crowd flags"):
        check([GOOD], [0], [False, True])


def test_the_stated_area_of_a_clipped_box_is_scaled_to_its_visible_part():
    boxes = np.array([[20, 10, 40, 30], GOOD, [5, 5, 5, 9]])
    stated = StatedBoxes(boxes, np.zeros(3, int), np.zeros(3, bool), np.array([100, 7, 3]))
    checked = check_boxes(stated, (20, 30), BoxPolicy(1, "clip"), "a.jpg")
    assert checked.area.tolist() == [25, 7] and checked.area.dtype == np.float32


@pytest.mark.parametrize("policy, kept", [("fail", [0]), ("drop", [0]), ("clip", [0, 2])])
def test_boxes_kept_in_training_are_known_without_an_image(policy, kept):
    boxes = np.array([GOOD, [5, 5, 5, 9], [20, 10, 40, 30], GOOD], float)
    labels = np.array([0, 0, 0, 9])
    found = kept_in_training(boxes, labels, (20, 30), BoxPolicy(3, policy))
    assert np.flatnonzero(found).tolist() == kept


def test_fractions_may_leave_the_image_by_their_own_tolerance():
    boxes, labels = np.array([[-0.01, 0, 0.5, 0.5]]), np.zeros(1, int)
    policy = BoxPolicy(1, "drop")
    assert kept_in_training(boxes, labels, (1, 1), policy).tolist() == [True]  # 0.02 pixels
    assert kept_in_training(boxes, labels, (1, 1), policy, rounding=0.0).tolist() == [False]
    assert kept_in_training(boxes, labels, (1, 1), policy, rounding=0.01).tolist() == [True]


def test_the_error_for_a_bad_box_names_both_other_policies():
    with pytest.raises(DataError, match="; fix it, or set data.on_bad_box to drop or clip$"):
        check([[5, 5, 5, 9]])
