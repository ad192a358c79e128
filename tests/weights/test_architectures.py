"""Which nets of timm and transformers compute the same as ours, by what is stated."""

import pytest

from convmesh.models.registry import MODELS
from convmesh.weights.architectures import OF_TIMM, assumed_net, other_net
from convmesh.weights.preprocessing import OF_MODEL

BASIC = {"model_type": "resnet", "hidden_act": "relu", "downsample_in_first_stage": False}


def test_every_classifier_that_has_published_weights_is_in_the_table():
    assert set(OF_TIMM) == set(OF_MODEL) <= set(MODELS)


@pytest.mark.parametrize(
    "config, model",
    [
        *(({"architecture": theirs}, ours) for ours, theirs in OF_TIMM.items() if theirs),
        ({"architecture": "mobilenet_v3_small"}, "mobilenet_v3_small"),  # torchvision's
        ({"architecture": "resnetaa50"}, "detector_tiny"),  # of which timm has none
        ({"architecture": "resnet50", "model_args": {"num_classes": 3}}, "resnet50"),
        ({"architecture": 3}, "resnet50"),
        ({}, "resnet50"),
        (BASIC | {"downsample_in_bottleneck": False}, "resnet50"),
        ({"model_type": "regnet", "layer_type": "y"}, "regnet_y_400mf"),
        ({"model_type": "mine", "hidden_act": "gelu"}, "resnet50"),
    ],
)
def test_the_same(config, model):
    assert other_net(config, [model]) == ""


@pytest.mark.parametrize(
    "config, model, said",
    [
        ({"architecture": "efficientnet_lite0"}, "efficientnet_lite0", "tf_efficientnet_lite0"),
        ({"architecture": "resnetaa50"}, "resnet50", "take weights of timm's resnet50"),
        (
            {"architecture": "regnety_008"},
            "regnet_y_800mf",
            "take weights of timm's regnety_008_tv",
        ),
        ({"architecture": "tf_efficientnetv2_s"}, "efficientnet_v2_s", "timm has none that is"),
        ({"architecture": "mobilenetv3_small_100"}, "mobilenet_v3_small", "timm has none that is"),
        (
            {"architecture": "resnet50", "model_args": {"act_layer": "gelu"}},
            "resnet50",
            'act_layer="gelu" of resnet50, with which it is not resnet50',
        ),
        (BASIC | {"downsample_in_bottleneck": True}, "resnet50", "downsample_in_bottleneck=true"),
        (BASIC | {"hidden_act": "gelu"}, "resnet18", 'hidden_act="gelu"'),
        ({"model_type": "regnet", "layer_type": "x"}, "regnet_y_400mf", 'layer_type="x"'),
        ({"model_type": "convnext", "hidden_act": "relu"}, "convnext_tiny", 'has "gelu"'),
    ],
)
def test_another(config, model, said):
    assert said in other_net(config, [model])
    assert model in other_net(config, [model])


def test_what_a_file_does_not_tell_is_said():
    said = assumed_net("efficientnet_lite0", "timm")
    assert "timm's tf_efficientnet_lite0 (TensorFlow's padding)" in said
    assert "does not tell it from efficientnet_lite0 (torch's padding)" in said
    said = assumed_net("efficientnet_b3", "timm")
    assert "timm's efficientnet_b3 (torch's padding)" in said
    assert "from tf_efficientnet_b3 (TensorFlow's padding)" in said
    assert assumed_net("efficientnet_b3", "torchvision") == ""
    assert assumed_net("resnet50", "timm") == ""
