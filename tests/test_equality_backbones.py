"""Detectors of the other backbones, on every mesh, train as on one device (see `equality`)."""

import equality
import pytest

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("shape", equality.SOME_LAYOUTS, ids=str)
@pytest.mark.parametrize("name", ["tiny csp detector", "tiny resnet detector"])
def test_the_tiny_detectors_of_other_backbones(name, shape):
    result = equality.three_steps(*equality.case(name), shape)
    equality.assert_equal(result, equality.one_device(name))
