"""Under which names a file has a model's weights, and for how many classes."""

import jax
import numpy as np
import pytest

from convmesh.models.registry import make_model
from convmesh.models.resnet import ResNet
from convmesh.weights.other_names import in_scheme
from convmesh.weights.schemes import (
    LITE_PACKAGE,
    OWN,
    choose_naming,
    names_for_export,
    outputs_of,
    own_names,
)
from convmesh.weights.torch_names import names_of_leaves


def abstract(net):
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    return jax.eval_shape(net.init, jax.random.key(0), images)


def arrays(names, variables):
    shapes = names_of_leaves(names, variables)
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def resnet(classes=5):
    return ResNet(blocks=(1, 1), width=8, classes=classes)


def test_the_names_of_which_most_are_there_are_taken():
    net = resnet()
    variables, torch = abstract(net), net.torch_names()
    other = in_scheme("transformers' ResNet", torch)
    for whose, names in (("torchvision", torch), ("transformers", other)):
        found = arrays(names, variables)
        found.popitem()
        assert choose_naming(net, variables, found) == (whose, names)
    own = own_names(variables)
    assert own["stage1_block1/conv1/conv"] == "stage1_block1.conv1.conv"
    assert choose_naming(net, variables, arrays(own, variables)) == (OWN, own)


def test_lite_has_two_ways_of_naming():
    net = make_model("efficientnet_lite0", "classify", 5, np.float32)
    variables = abstract(net)
    for whose, names in (("timm", net.torch_names()), (LITE_PACKAGE, net.lite_package_names())):
        assert choose_naming(net, variables, arrays(names, variables)) == (whose, names)


@pytest.mark.parametrize("name, task", [("small_cnn", "classify"), ("detector_tiny", "detect")])
def test_the_number_of_classes_is_that_of_the_arrays(name, task):
    two, three, seven = (abstract(make_model(name, task, n, np.float32)) for n in (2, 3, 7))
    names = own_names(seven)
    found = arrays(names, seven)
    assert outputs_of(names, (two, three), found) == 7
    heads = [n for n, shape in names_of_leaves(names, two).items() if found[n].shape != shape]
    assert len(heads) >= 2
    one_off = found | {heads[0]: arrays(names, three)[heads[0]]}
    assert outputs_of(names, (two, three), one_off) is None
    for head in heads:
        del found[head]
    assert outputs_of(names, (two, three), found) is None


@pytest.mark.parametrize("size, classes", [(10, 5), (9, None)])
def test_a_head_of_several_anchors_has_several_outputs_a_class(size, classes):
    two, three = ({"params": {"head": {"bias": np.zeros(n)}}} for n in (4, 6))
    assert outputs_of({"head": "head"}, (two, three), {"head.bias": np.zeros(size)}) == classes


def test_exports_have_torchvisions_names_where_there_are_some():
    net = resnet()
    assert names_for_export(net, abstract(net)) == net.torch_names()
    own = make_model("detector_tiny", "detect", 2, np.float32)
    assert names_for_export(own, abstract(own)) == own_names(abstract(own))
