"""Detectors of the other backbones, on meshes, train as on one device (see `equality`)."""

import equality
import pytest

pytestmark = pytest.mark.usefixtures("float64")

# They take long to compile; ResNets with fsdp are in `test_equality`.
CASES = [
    *(("tiny csp detector", shape) for shape in [(2, 2, 2), (1, 8, 1), (2, 2, 2, True)]),
    *(("tiny resnet detector", shape) for shape in [(2, 2, 2), (1, 2, 4)]),
]


@pytest.mark.parametrize("name, shape", CASES, ids=str)
def test_the_tiny_detectors_of_other_backbones(name, shape):
    result = equality.on_mesh(name, shape)
    equality.assert_equal(result, equality.one_device(name))
