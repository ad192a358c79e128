import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from convmesh.errors import ConfigError
from convmesh.geometry import grid_points
from convmesh.models import registry
from convmesh.models.detector import Detector
from convmesh.models.layers import Conv, crop_to_cells
from convmesh.models.registry import MODELS, check_model, make_backbone, make_model

# The first classifier of each file that has a backbone.
_first = {module: n for n, (task, module, _) in reversed(MODELS.items()) if task == "classify"}
FAMILIES = [name for name in _first.values() if make_backbone(name) is not None]


def shapes(model, size):
    """The result's and the variables' shapes for an image of that size."""
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    return jax.eval_shape(model.init_with_output, jax.random.key(0), image)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_detector_takes_the_backbone_of_each_family(name):
    model = make_model("detector_tiny", "detect", 5, jnp.float32, backbone=name)
    for size in [(64, 96), (67, 101)]:
        output, variables = shapes(model, size)
        points = len(grid_points(size, model.strides)[0])
        assert output.class_logits.shape == (2, points, 5)
    classifier = shapes(make_model(name, "classify", 9, jnp.float32), (64, 64))[1]
    backbone = variables["params"]["backbone"]
    assert backbone == {n: classifier["params"][n] for n in backbone}  # its weights fit


def test_the_options_of_a_run_reach_the_backbone():
    plain = make_model("detector_tiny", "detect", 5, jnp.float32, backbone="resnet18")
    assert shapes(plain, (64, 64))[1]["params"]["backbone"]["stem"]["conv"]["kernel"].shape == (
        *(7, 7, 3),
        64,
    )
    model = plain.clone(norm_group=2, remat=True)
    seen = []

    def call(next_function, args, kwargs, context):
        seen.append((type(context.module).__name__, context.module))
        return next_function(*args, **kwargs)

    with nn.intercept_methods(call):
        shapes(model, (64, 64))
    (backbone,) = [module for name, module in seen if name == "ResNetBackbone"]
    assert (backbone.norm_group, backbone.remat, backbone.blocks) == (2, True, (2, 2, 2, 2))


class NormFree(nn.Module):
    """A backbone without batch norm and blocks."""

    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, x, train):
        x = crop_to_cells(x)
        levels = [Conv(4, 3, 8)(x), Conv(4, 3, 16)(x), Conv(4, 3, 32)(x)]
        return levels


def test_a_backbone_without_batch_norm_is_not_asked_for_groups():
    model = Detector(5, NormFree, 16, norm_group=2, remat=True)
    assert shapes(model, (64, 64))[0].class_logits.shape[1] == 64 + 16 + 4


@pytest.mark.parametrize(
    "model, backbone, message",
    [
        ("detector_tiny", "regnet_y_400m", "no such backbone; did you mean regnet_y_400mf?"),
        ("detector_tiny", "small_cnn", "no such backbone; the backbones are resnet18, "),
        ("detector_tiny", "detector_nano", "no such backbone; the backbones are resnet18, "),
        ("resnet18", "resnet50", "resnet18 has no other; leave it empty"),
    ],
)
def test_what_is_no_backbone_is_refused_in_one_line(model, backbone, message):
    task = MODELS[model][0]
    for refuse in (
        functools.partial(check_model, model, task),
        functools.partial(make_model, model, task, 5, jnp.float32),
    ):
        with pytest.raises(ConfigError) as error:
            refuse(backbone=backbone)
        assert str(error.value).startswith(f"model.backbone={backbone!r}: {message}")
        assert "\n" not in str(error.value)


def test_a_backbone_is_made_with_the_options_of_its_classifier():
    backbone = make_backbone("resnext50_32x4d")()
    assert backbone.blocks == (3, 4, 6, 3)
    assert backbone.block.keywords == {"groups": 32, "base_width": 4}
    assert registry.make_backbone("no_such") is None


def test_the_classifier_whose_weights_fit_a_detectors_own_backbone():
    inside = registry.classifier_inside
    for name in ("detector_resnet50", "retinanet_resnet50_fpn_v2", "fasterrcnn_resnet50_fpn"):
        assert inside(name) == "resnet50"
    assert inside("detector_tiny") == inside("ssdlite320_mobilenet_v3_large") == ""
