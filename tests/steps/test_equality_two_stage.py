"""SSDLite and Faster R-CNN, on meshes of each kind, train as on one device (see `equality`)."""

import equality
import pytest

pytestmark = pytest.mark.usefixtures("float64")


CASES = [
    *(("tiny ssdlite", shape) for shape in [(2, 2, 2), (1, 8, 1), (2, 2, 2, True)]),
    *(("tiny faster rcnn", shape) for shape in [(2, 2, 2), (1, 2, 4), (2, 2, 2, True)]),
]


@pytest.mark.parametrize("name, shape", CASES, ids=str)
def test_detectors_of_torchvision(name, shape):
    equality.assert_equal(equality.on_mesh(name, shape), equality.one_device(name))


def test_the_references_learn_something():
    for name, parts in (
        ("tiny ssdlite", ("class", "box")),
        ("tiny faster rcnn", ("object", "proposal", "class", "box")),
    ):
        metrics = equality.one_device(name).metrics[0]
        assert all(metrics[f"loss/{part}"] > 0 for part in parts)
        assert metrics["positive_points"] > 0
