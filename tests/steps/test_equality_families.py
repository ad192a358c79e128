"""A tiny net of each family of classifiers, on meshes, trains as on one device (see `equality`)."""

import equality
import pytest

pytestmark = pytest.mark.usefixtures("float64")

# What a family has that no other net of the equality tests has: groups, squeeze-and-excitation.
CASES = [
    *(("tiny regnet", shape) for shape in [(2, 2, 2), (1, 8, 1), (2, 2, 2, True)]),
    *(("tiny resnext", shape) for shape in [(2, 2, 2), (1, 2, 4)]),
]


@pytest.mark.parametrize("name, shape", CASES, ids=str)
def test_the_tiny_net_of_a_family(name, shape):
    result = equality.on_mesh(name, shape)
    equality.assert_equal(result, equality.one_device(name))
