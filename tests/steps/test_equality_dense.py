"""Tiny nets of RetinaNet and FCOS, on meshes, train as on one device (see `equality`)."""

import equality
import pytest

pytestmark = pytest.mark.usefixtures("float64")

LAYOUTS = [(2, 2, 2), (1, 8, 1), (1, 2, 4), (2, 2, 2, True)]
# The first version has a part of the second, and frozen batch norms, as FCOS has.
CASES = [
    *(("tiny retinanet v2", shape) for shape in LAYOUTS),
    *(("tiny fcos", shape) for shape in LAYOUTS),
    ("tiny retinanet", (2, 2, 2)),
]


@pytest.mark.parametrize("name, shape", CASES, ids=str)
def test_the_tiny_detector(name, shape):
    result = equality.on_mesh(name, shape)
    equality.assert_equal(result, equality.one_device(name))
