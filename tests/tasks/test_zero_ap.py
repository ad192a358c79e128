"""The explanation of an average precision of 0."""

import numpy as np
from coco_oracle import BOX, FAR, found_on, image, small_case

from convmesh.tasks.average_precision import coco_metrics
from convmesh.tasks.zero_ap import explain_zero_ap


def explained(truth, detections, classes=("cat", "dog")):
    metrics = coco_metrics(truth, detections, classes)
    return " ".join(explain_zero_ap(truth, detections, metrics))


def test_an_ap_that_is_not_zero_needs_no_explanation():
    assert explained(*small_case()[:2]) == ""


def test_zero_ap_without_objects():
    assert "none of the 2 images has a box to find. Evaluate" in explained([image(1), image(2)], [])
    crowd = [image(1, [BOX, FAR], [0, 0], crowd=[True, True])]
    assert "(2 crowd regions are ignored)" in explained(crowd, [])
    assert "none of the 0 images" in explained([], [])


def test_zero_ap_without_detections():
    truth = [image(1, [BOX], [0]), image(2)]
    for detections in ([], [found_on(1), found_on(2)]):
        assert explained(truth, detections).startswith(
            "AP is 0: nothing was detected on 2 images, no score reached the threshold."
        )


def test_zero_ap_when_nothing_overlaps():
    truth = [image(1, [[0, 0, 100, 50]], [0])]
    text = explained(truth, [found_on(1, [[0, 0, 1, 0.5], FAR], [0, 0], [0.25, 0.75])])
    assert "the best of 2 detections (highest score 0.75) reaches 0.00." in text
    assert "The median detection has 10.5 x 10.2 pixels, the median object 100 x 50" in text
    text = explained(truth, [found_on(1, [[0, 0, 40, 50]], [0], [0.5])])
    assert "reaches 0.40." in text and "check the units" in text
    # Overlap with a crowd does not count.
    truth = [image(1, [FAR, BOX], [0, 0], crowd=[True, False])]
    assert "reaches 0.00." in explained(truth, [found_on(1, [FAR], [0], [0.5])])


def test_zero_ap_when_the_classes_are_wrong():
    truth = [image(1, [[0, 0, 10, 10], FAR], [0, 1])]
    text = explained(truth, [found_on(1, [[0, 0, 10, 9], [0, 0, 4, 10]], [1, 0], [0.5, 0.25])])
    assert "the best overlaps an object by IoU 0.90, but none" in text
    assert "of its own class by more than 0.40." in text and "data.classes" in text


def test_zero_ap_when_correct_detections_rank_last():
    truth = [image(1, [BOX] + [[i, 200, i + 5, 205] for i in range(0, 600, 6)], [0] * 101)]
    wrong = [found_on(1, [FAR] * 99 + [BOX], [0] * 100, np.linspace(1, 0.1, 100))]
    text = explained(truth, wrong)
    assert text.startswith("AP is ") and "IoU 1.00, but of 100 detections" in text


def test_an_ap_that_is_printed_as_zero_is_explained():
    truth, detections, _ = small_case()
    assert explain_zero_ap(truth, detections, {"AP": 0.0005}) == []
    (text,) = explain_zero_ap(truth, detections, {"AP": 0.00049})
    assert text.startswith("AP is 0.00049: the best detection")
    assert "of 7 detections (highest score 0.875) for 4 objects" in text
