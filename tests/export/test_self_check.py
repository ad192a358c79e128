"""What the check of an exported file calls the same, and what it refuses."""

import numpy as np
import pytest

from convmesh.export.self_check import TOLERANCES, Differences, ExportDiffers, hard_images

STRICT = TOLERANCES["float32"]


def detections(**changes):
    found = {
        "boxes": np.array([[10, 10, 50, 50], [60, 20, 90, 80], [0, 0, 9, 9]], np.float32),
        "labels": np.array([0, 1, 0], np.int32),
        "scores": np.array([0.9, 0.5, 0.01], np.float32),
    }
    found |= {name: found["scores"].copy() for name in ("box_confidence", "class_confidence")}
    for name, (index, value) in changes.items():
        found[name] = found[name].copy()
        found[name][index] = value
    return found


def differences(ours, theirs):
    found = Differences(STRICT)
    found.add("a.jpg", ours, theirs)
    return found


def test_equal_detections_pass_in_any_order():
    theirs = {name: value[[1, 0, 2]] for name, value in detections().items()}
    found = differences(detections(), theirs)
    found.check()
    assert (found.images, found.compared, found.alone) == (1, 2, 0)


def test_small_differences_are_measured():
    found = differences(detections(), detections(boxes=((0, 2), 50.25), scores=(1, 0.5004)))
    found.check()
    assert found.pixels == pytest.approx(0.25) and found.score == pytest.approx(4e-4, rel=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {"boxes": ((0, 2), 50.75)},
        {"scores": (1, 0.502)},
        {"box_confidence": (0, 0.95)},
        {"class_confidence": (1, 0.45)},
        {"labels": (0, 1)},
        {"scores": (2, 0.3)},
        {"boxes": ((0, 2), np.nan)},
        {"scores": (0, np.nan)},
    ],
)
def test_what_is_beyond_the_tolerance_is_refused(changes):
    with pytest.raises(ExportDiffers, match="where they differ: a.jpg.*nothing was written"):
        differences(detections(), detections(**changes)).check()


def test_probabilities_are_compared_by_class():
    ours = {"labels": np.array([2, 0, 1]), "scores": np.array([0.6, 0.3, 0.1])}
    theirs = {"labels": np.array([2, 1, 0]), "scores": np.array([0.6, 0.1, 0.3])}
    differences(ours, theirs).check()
    theirs["scores"] = np.array([0.598, 0.102, 0.3])
    with pytest.raises(ExportDiffers):
        differences(ours, theirs).check()


def test_a_detection_in_five_hundred_may_differ():
    found = Differences(STRICT)
    for _ in range(250):
        found.add("a.jpg", detections(), detections())
    found.add("b.jpg", detections(), detections(scores=(1, 0.6)))
    found.compared = 1000  # one is lost, one is new
    found.check()
    found.compared = 999
    with pytest.raises(ExportDiffers, match="b.jpg"):
        found.check()


def test_hard_images_are_of_unlike_sizes():
    sizes = {image.shape[:2] for _, image in hard_images()}
    assert {(1, 1), (120, 600), (600, 120), (1300, 1900)} <= sizes
    assert all(image.dtype == np.uint8 for _, image in hard_images())
