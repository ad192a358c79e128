"""MobileNets, EfficientNets and ConvNeXt train on meshes as on one device (see `equality`)."""

import functools

import equality
import flax.linen as nn
import jax.numpy as jnp
import pytest

from convmesh.models import efficientnet, mobilenet_v2, mobilenet_v3
from convmesh.models.convnext import ConvNeXt
from convmesh.models.efficientnet import EfficientNet, EfficientNetLite, Stage
from convmesh.models.mobilenet_v2 import MobileNetV2
from convmesh.models.mobilenet_v3 import MobileNetV3
from convmesh.tasks.classify import Classify

pytestmark = pytest.mark.usefixtures("float64")

# Two blocks each: strides of 1 and 2, with and without an expansion.
TABLES = {
    "mobilenet_v2": (
        MobileNetV2,
        mobilenet_v2.make_stages(((1, 8, 1, 1), (2, 8, 1, 2)), 8),
    ),
    "mobilenet_v3": (
        MobileNetV3,
        mobilenet_v3.make_stages(
            ((3, 8, 8, True, nn.relu, 1), (5, 16, 8, True, nn.hard_swish, 2)), 8
        ),
    ),
    "efficientnet": (
        EfficientNet,
        efficientnet.make_stages(
            (Stage(2, 3, 2, 8, 1, fused=True), Stage(2, 5, 1, 8, 1)),
            8,
        ),
    ),
    # TensorFlow's padding: halos of unequal ends.
    "lite": (
        EfficientNetLite,
        efficientnet.make_stages(
            (Stage(1, 3, 1, 8, 1, squeezed=False), Stage(2, 5, 2, 8, 1, squeezed=False)), 8
        ),
    ),
}
LAYOUTS = [(2, 2, 2), (1, 4, 2), (2, 2, 2, True)]


def three_steps(name, shape, start=None):
    if name == "convnext":
        # A layer scale of 1e-6, where it starts, would hide the layers before it.
        model = ConvNeXt(8, (8, 16), (1, 1), jnp.float64, layer_scale=0.5)
    else:
        family, stages = TABLES[name]
        hidden = {"hidden": 8} if name == "mobilenet_v3" else {}
        model = family(8, stages, last=16, dtype=jnp.float64, **hidden)
    return equality.three_steps(model, Classify(8, (0, 0)), 32, shape, start=start)


@functools.cache
def one_device(name):
    return three_steps(name, (1, 1, 1))


@pytest.mark.parametrize("shape", LAYOUTS, ids=str)
@pytest.mark.parametrize("name", [*TABLES, "convnext"])
def test_tiny_nets_on_meshes(name, shape):
    reference = one_device(name)
    equality.assert_equal(three_steps(name, shape, reference.start), reference)
