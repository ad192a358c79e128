"""Tiny nets of RetinaNet and FCOS, on meshes, train as on one device (see `equality`)."""

import equality
import pytest

pytestmark = pytest.mark.usefixtures("float64")

# The first version of RetinaNet, which `make proof` compares, is a part of the second one and, with
# frozen batch norms, of FCOS.
CASES = [
    *(("tiny retinanet v2", shape) for shape in [(2, 2, 2), (1, 2, 4)]),
    *(("tiny fcos", shape) for shape in [(2, 2, 2), (1, 8, 1), (2, 2, 2, True)]),
]


@pytest.mark.parametrize("name, shape", CASES, ids=str)
def test_the_tiny_detector(name, shape):
    result = equality.on_mesh(name, shape)
    equality.assert_equal(result, equality.one_device(name))
