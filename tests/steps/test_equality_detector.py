"""The detector, on meshes of each kind, trains as on one device (see `equality`)."""

import equality
import pytest

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("shape", equality.KINDS, ids=str)
def test_the_tiny_detector(shape):
    result = equality.on_mesh("tiny detector", shape)
    equality.assert_equal(result, equality.one_device("tiny detector"))


def test_the_demos_detector():
    result = equality.on_mesh("detector_nano", (2, 2, 2, True))
    equality.assert_equal(result, equality.one_device("detector_nano"))
