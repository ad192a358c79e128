"""The names of layers in timm's and transformers' own state dicts.

What is compared is the SHA-256 of all names, sorted, which those libraries gave (timm 1.0.31,
transformers 5.24), and some of the names themselves.
"""

import hashlib

import jax
import jax.numpy as jnp
import pytest

from convmesh.models.registry import make_model
from convmesh.weights.other_names import SCHEMES, in_scheme
from convmesh.weights.torch_names import names_of_leaves

STATE_DICTS = {
    ("timm's RegNet", "regnet_y_400mf"): "a165e5788162173087c5ef03de9a8f8031fd903f1233b8851afcd84b17a763b4",  # noqa: E501
    ("timm's EfficientNet", "efficientnet_b0"): "ce87c1568d82402d18c9fd0508ae3db81bc23cf112845df4fb7cfbf72fe7fd54",  # noqa: E501
    ("timm's EfficientNet", "efficientnet_b3"): "4de74b7fec1040392b4d0cf745f4496c1851bc68111d913b493a8310be76a9bb",  # noqa: E501
    ("timm's MobileNetV2", "mobilenet_v2"): "6d15a2002986888a7c5162ce7a5442164c25d5326d95ede4a17d0b5d79e12e63",  # noqa: E501
    ("timm's ConvNeXt", "convnext_tiny"): "fb23627c679f1be1c05cc166f3a1c4d6463da0c0992d4ec04dd16abad17cd617",  # noqa: E501
    ("transformers' ResNet", "resnet18"): "f83b4445bb7ade4ce07551a8b418e4131abfcd6b1e5fa1bb53ab5c3f5322fbf2",  # noqa: E501
    ("transformers' ResNet", "resnet50"): "1f6c8ce10d496fa6f0cc5680026b7adfe636fe40273ed41673e692f6fc13e1c8",  # noqa: E501
    ("transformers' RegNet", "regnet_y_400mf"): "53cb8c4a31705a299c1a30a948731e9170f7927c861136fa09fb32de3d251cfc",  # noqa: E501
    ("transformers' ConvNeXt", "convnext_tiny"): "0e5a4f20a052c7a2b4f8b0f5576bf7a533ebab5e0e77d3b664f2829c685062bb",  # noqa: E501
}  # fmt: skip

# Torchvision's name of a layer, and the scheme's. Which of two norms of a block is which, say.
LAYERS = {
    ("timm's RegNet", "regnet_y_400mf"): {
        "trunk_output.block3.block3-5.f.b.1": "s3.b6.conv2.bn",
        "trunk_output.block2.block2-0.proj.0": "s2.b1.downsample.conv",
        "trunk_output.block2.block2-1.f.se.fc2": "s2.b2.se.fc2",
    },
    ("timm's EfficientNet", "efficientnet_b0"): {
        "features.1.0.block.0.1": "blocks.0.0.bn1",
        "features.1.0.block.2.0": "blocks.0.0.conv_pw",
        "features.2.1.block.0.1": "blocks.1.1.bn1",
        "features.2.1.block.1.0": "blocks.1.1.conv_dw",
        "features.2.1.block.2.fc1": "blocks.1.1.se.conv_reduce",
        "features.2.1.block.3.1": "blocks.1.1.bn3",
    },
    ("timm's MobileNetV2", "mobilenet_v2"): {
        "features.1.conv.2": "blocks.0.0.bn2",
        "features.6.conv.1.1": "blocks.2.2.bn2",
        "features.17.conv.2": "blocks.6.0.conv_pwl",
    },
    ("timm's ConvNeXt", "convnext_tiny"): {
        "features.5.8.layer_scale": "stages.2.blocks.8.gamma",
        "features.3.0.block.5": "stages.1.blocks.0.mlp.fc2",
        "features.4.1": "stages.2.downsample.1",
    },
    ("Facebook's ConvNeXt", "convnext_tiny"): {
        "features.0.1": "downsample_layers.0.1",
        "features.5.8.layer_scale": "stages.2.8.gamma",
        "features.3.0.block.3": "stages.1.0.pwconv1",
        "features.4.1": "downsample_layers.2.1",
        "classifier.2": "head",
    },
    ("transformers' ResNet", "resnet50"): {
        "layer2.0.downsample.1": "resnet.encoder.stages.1.layers.0.shortcut.normalization",
        "layer3.5.conv2": "resnet.encoder.stages.2.layers.5.layer.1.convolution",
    },
    ("transformers' RegNet", "regnet_y_400mf"): {
        "trunk_output.block4.block4-1.f.c.1": (
            "regnet.encoder.stages.3.layers.1.layer.3.normalization"
        ),
        "trunk_output.block1.block1-0.f.se.fc2": (
            "regnet.encoder.stages.0.layers.0.layer.2.attention.2"
        ),
    },
    ("transformers' ConvNeXt", "convnext_tiny"): {
        "features.1.2.layer_scale": "convnext.encoder.stages.0.layers.2.layer_scale_parameter",
        "features.6.0": "convnext.encoder.stages.3.downsampling_layer.0",
    },
}


def torch_names(model):
    return make_model(model, "classify", 1000, jnp.float32).torch_names()


@pytest.mark.parametrize("scheme, model", STATE_DICTS)
def test_all_names_are_those_of_the_librarys_state_dict(scheme, model):
    net = make_model(model, "classify", 1000, jnp.float32)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    abstract = jax.eval_shape(net.init, jax.random.key(0), images)
    names = names_of_leaves(in_scheme(scheme, net.torch_names()), abstract)
    digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
    assert digest == STATE_DICTS[scheme, model]


@pytest.mark.parametrize("scheme, model", LAYERS)
def test_each_name_is_of_its_layer(scheme, model):
    ours = torch_names(model)
    theirs = in_scheme(scheme, ours)
    by_torch = {ours[layer]: theirs[layer] for layer in ours}
    wanted = LAYERS[scheme, model]
    assert {name: by_torch[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    "model, schemes",
    [
        ("resnet18", ["transformers' ResNet"]),
        ("efficientnet_v2_s", []),  # timm's has TensorFlow's padding
        ("mobilenet_v3_large", []),  # timm's has another epsilon
        ("efficientnet_lite0", []),
    ],
)
def test_a_scheme_is_for_nets_that_compute_the_same(model, schemes):
    names = torch_names(model)
    assert [scheme for scheme in SCHEMES if in_scheme(scheme, names)] == schemes


@pytest.mark.parametrize(
    "model, scheme, layers",
    [
        (
            "retinanet_resnet50_fpn",
            "torchvision's RetinaNet before 0.13",
            {
                "backbone.fpn.inner_blocks.2.0": "backbone.fpn.inner_blocks.2",
                "backbone.fpn.extra_blocks.p6": "backbone.fpn.extra_blocks.p6",
                "head.regression_head.conv.3.0": "head.regression_head.conv.6",
                "backbone.body.layer1.0.downsample.0": "backbone.body.layer1.0.downsample.0",
            },
        ),
        (
            "fcos_resnet50_fpn",
            "torchvision's detectors before 0.13",
            {
                "backbone.fpn.layer_blocks.0.0": "backbone.fpn.layer_blocks.0",
                "head.classification_head.conv.3": "head.classification_head.conv.3",
            },
        ),
        (
            "fasterrcnn_resnet50_fpn",
            "torchvision's detectors before 0.13",
            {"rpn.head.conv.0.0": "rpn.head.conv", "rpn.head.bbox_pred": "rpn.head.bbox_pred"},
        ),
    ],
)
def test_detectors_of_an_older_torchvision(model, scheme, layers):
    ours = make_model(model, "detect", 90, jnp.float32).torch_names()
    theirs = in_scheme(scheme, ours)
    by_torch = {ours[layer]: theirs[layer] for layer in ours}
    assert {name: by_torch[name] for name in layers} == layers
    assert len(set(theirs.values())) == len(ours)
