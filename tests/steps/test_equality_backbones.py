"""Detectors of the other backbones, on every mesh, train as on one device (see `equality`)."""

import equality
import pytest

pytestmark = pytest.mark.usefixtures("float64")

# Each mesh has one of them here, and both in `make proof`: they take long to compile.
NAMES = ("tiny csp detector", "tiny resnet detector")
CASES = [(NAMES[i % 2], shape) for i, shape in enumerate(equality.SOME_LAYOUTS)]


@pytest.mark.parametrize("name, shape", CASES, ids=str)
def test_the_tiny_detectors_of_other_backbones(name, shape):
    result = equality.on_mesh(name, shape)
    equality.assert_equal(result, equality.one_device(name))
