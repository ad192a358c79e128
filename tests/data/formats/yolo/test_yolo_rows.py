"""What all rows together look like: src/convmesh/data/formats/yolo/rows.py."""

import math

import numpy as np
import pytest
from yolo_sets import annotated, config, problems, text, warnings

from convmesh.data.formats.registry import open_dataset
from convmesh.data.splits import open_train
from convmesh.errors import DataError

BOXES = [
    (x, y, w, h)
    for x in (0.2, 0.5, 0.8)
    for y in (0.25, 0.5, 0.75)
    for w, h in ((0.1, 0.2), (0.2, 0.1))
]


def made_of(root, rows, per_file=2, names=("cat", "dog"), **data):
    """A data set of these rows, some in each file."""
    for i in range(0, len(rows), per_file):
        part = [" ".join(f"{value:g}" for value in row) for row in rows[i : i + per_file]]
        annotated(root, f"images/{i:02}.jpg", f"labels/{i:02}.txt", part)
    if names:
        text(root / "classes.txt", *names)
    return config(root, **data)


@pytest.mark.parametrize("policy", ["fail", "drop", "clip"])
@pytest.mark.parametrize("names, given", [(("cat", "dog"), ()), ((), ("cat", "dog"))])
def test_ids_that_start_at_1_are_refused_whatever_the_policy(tmp_path, policy, names, given):
    rows = [(1 + i % 2, *box) for i, box in enumerate(BOXES)]
    made = made_of(tmp_path, rows, names=names, on_bad_box=policy, classes=given)
    where = "classes.txt" if names else "data.classes"
    said = "labels: the class ids start at 1: no row has id 0, and 9 have 2, but the 2 names in "
    said += where
    with pytest.raises(DataError, match=said):
        open_train(made)


@pytest.mark.parametrize("ids", [(0, 1), (1, 1), (1, 2)])
def test_other_ids_do_not_start_at_1(tmp_path, ids):
    rows = [(ids[i % 2], *box) for i, box in enumerate(BOXES)]
    made = made_of(tmp_path, rows, names=("cat", "dog", "fox"))
    assert len(open_train(made)) == 9 and open_dataset(made).problems == []


def test_ids_beyond_the_number_of_names_do_not_start_at_1(tmp_path):
    rows = [((1, 2, 90)[i % 3], *box) for i, box in enumerate(BOXES)]
    assert open_dataset(made_of(tmp_path, rows)).problems == []
    with pytest.raises(DataError, match="class id 90 is not one of 0..1"):
        open_train(config(tmp_path))


def corners(x, y, w, h):
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


@pytest.mark.parametrize("policy", ["fail", "drop", "clip"])
@pytest.mark.parametrize(
    "box, said",
    [
        (
            corners,
            "the rows look like corners, class x0 y0 x1 y1: [0-9]+% of the boxes would leave",
        ),
        (
            lambda x, y, w, h: (x - w / 2 - 0.14, y - h / 2, w, h),
            "the rows look like class, upper left corner, size",
        ),
        (lambda *box: [96 * v for v in box], "18 of 18 boxes have coordinates above 1: in pixels"),
    ],
)
def test_boxes_in_another_form_are_refused_whatever_the_policy(tmp_path, policy, box, said):
    rows = [(0, *box(*stated)) for stated in BOXES]
    with pytest.raises(DataError, match=f"^labels: {said}"):
        open_train(made_of(tmp_path, rows, on_bad_box=policy))


def test_boxes_that_leave_the_image_on_all_sides_are_only_bad_boxes(tmp_path):
    boxes = [*BOXES, (0.05, 0.5, 0.2, 0.1), (0.95, 0.5, 0.2, 0.1), (0.05, 0.5, 0.2, 0.1)]
    made = made_of(tmp_path, [(0, *box) for box in boxes], on_bad_box="clip")
    assert open_dataset(made).problems == []


def pose(box, visibility):
    x, y, w, h = box
    points = [
        (x + dx * w, y + dy * h) for dx, dy in ((-0.4, -0.4), (0.4, -0.3), (0, 0), (0.3, 0.4))
    ]
    return [v for p in points for v in (*p, *((2,) if visibility else ()))]


@pytest.mark.parametrize("visibility, count", [(True, 17), (False, 13)])
def test_keypoints_are_refused_as_such(tmp_path, visibility, count):
    rows = [(0, *box, *pose(box, visibility)) for box in BOXES]
    with pytest.raises(
        DataError, match=f"every row has {count} numbers, which look like a box and"
    ):
        open_train(made_of(tmp_path, rows))


def polygon(box, count, turn=0.0):
    x, y, w, h = box
    angles = [turn + 2 * math.pi * i / count for i in range(count)]
    return [v for a in angles for v in (x + w / 2 * math.cos(a), y + h / 2 * math.sin(a))]


@pytest.mark.parametrize("count", [3, 5, 6, 8])
def test_polygons_of_one_length_are_still_polygons(tmp_path, count):
    made = made_of(tmp_path, [(0, *polygon(box, count)) for box in BOXES])
    assert len(open_train(made)) == 9
    said = f"every row has {2 * count + 1} numbers: taken for polygons of {count} points"
    found = warnings(open_dataset(made))
    assert len(found) == (count > 4) and all(said in line for line in found)


def test_polygons_of_several_lengths_are_as_usual(tmp_path):
    rows = [(0, *polygon(box, 5 + i % 3)) for i, box in enumerate(BOXES)]
    assert open_dataset(made_of(tmp_path, rows)).problems == []


def test_keypoints_beside_a_plain_box_and_with_confidences_are_refused(tmp_path):
    def with_confidence(box):
        points = pose(box, visibility=True)
        return [0.7 if i % 3 == 2 else v for i, v in enumerate(points)]

    rows = [(0, *box, *with_confidence(box)) for box in BOXES[1:]]
    with pytest.raises(DataError, match="every row that is no box has 17 numbers, which look like"):
        open_train(made_of(tmp_path, [(0, *BOXES[0]), *rows]))


def test_oriented_boxes_are_taken_as_upright_ones_and_counted(tmp_path):
    rows = [(0, *polygon(box, 4, turn=0.5)) for box in BOXES]
    made = made_of(tmp_path, rows)
    assert warnings(open_dataset(made)) == [
        "labels: all 18 rows look like oriented boxes (class and 4 corners); the upright boxes"
        " around them are used"
    ]
    x = np.array(rows[0][1::2])
    np.testing.assert_allclose(
        open_train(made)[0].boxes[0, [0, 2]], [30 * x.min(), 30 * x.max()], 1e-5
    )


def test_upright_boxes_as_four_corners_lose_nothing(tmp_path):
    rows = [(0, *(corners(*box)[i] for i in (0, 1, 2, 1, 2, 3, 0, 3))) for box in BOXES]
    assert open_dataset(made_of(tmp_path, rows)).problems == []


def test_a_box_with_confidence_and_track_id_is_no_triangle(tmp_path):
    rows = [(0, *box, 0.9, 1) for box in BOXES]
    with pytest.raises(DataError, match="every row has 7 numbers, which look like a box, a conf"):
        open_train(made_of(tmp_path, rows))


def tracks(ids):
    return [(0, *box, track) for box, track in zip(BOXES, ids, strict=False)]


def test_track_ids_are_not_used_and_it_is_said(tmp_path):
    made = made_of(tmp_path, [*tracks([1, 2, 1, 2, 1, 3]), (0, *BOXES[7])])
    assert warnings(open_dataset(made)) == [
        "labels: 6 rows have a sixth number, a track id; it is not used"
    ]
    assert [len(open_train(made)[i].boxes) for i in range(4)] == [2, 2, 2, 1]


def test_a_track_has_one_class(tmp_path):
    rows = [(i % 3 % 2, *row[1:]) for i, row in enumerate(tracks([1, 2, 1, 2, 1, 3]))]
    with pytest.raises(DataError, match="is the last one a track id or an angle"):
        open_train(made_of(tmp_path, rows))


@pytest.mark.parametrize(
    "ids",
    [
        (0.9, 0.8, 0.9, 0.7),  # confidences
        (0, 90, 45, 90),  # angles
        (2, 2, 2, 2),
        (1, 1, 1, 2),  # the same twice in an image
        (0, 1, 0, 1),  # flags
        (1, 2, 3, 4),  # no track is in two images
    ],
)
def test_other_sixth_numbers_are_refused_with_what_they_may_be(tmp_path, ids):
    made = made_of(tmp_path, tracks(ids), on_bad_example="skip")
    hint = "a confidence?" if ids[0] == 0.9 else "a track id or an angle? Remove it"
    said = (
        f"6 numbers, wanted class x y width height, or class and points x y; is the last one {hint}"
    )
    found = problems(open_dataset(made))
    assert len(found) == 2 and all(f"line 1: {said}" in problem for problem in found)


def test_an_image_in_two_splits_is_not_two_images_of_a_track(tmp_path):
    made = made_of(tmp_path, tracks([1, 2, 3, 4]))
    text(tmp_path / "data.yaml", "train: images", "val: images", "names: [cat, dog]")
    with pytest.raises(DataError, match="is the last one a track id or an angle"):
        open_train(made)
