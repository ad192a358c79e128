"""The detector, on every mesh, trains as on one device (see `equality`)."""

import equality
import pytest

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("shape", equality.SOME_LAYOUTS, ids=str)
def test_the_tiny_detector_on_every_mesh(shape):
    result = equality.on_mesh("tiny detector", shape)
    equality.assert_equal(result, equality.one_device("tiny detector"))


@pytest.mark.parametrize("shape", equality.SOME_WHOLE_LAYOUTS, ids=str)
def test_the_demos_detector(shape):
    result = equality.on_mesh("detector_nano", shape)
    equality.assert_equal(result, equality.one_device("detector_nano"))
