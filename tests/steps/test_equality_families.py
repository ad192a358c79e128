"""A tiny net of each family of classifiers, on meshes, trains as on one device (see `equality`)."""

import equality
import pytest

pytestmark = pytest.mark.usefixtures("float64")

# What a family has that no other net of the equality tests has: groups, squeeze-and-excitation.
NAMES = ("tiny resnext", "tiny regnet")


@pytest.mark.parametrize("shape", equality.WHOLE_LAYOUTS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_the_tiny_net_of_a_family(name, shape):
    result = equality.three_steps(*equality.case(name), shape)
    equality.assert_equal(result, equality.one_device(name))
