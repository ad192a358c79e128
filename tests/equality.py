"""Parallelism is tested by equality: a sharded result is the one-device result, in float64.

In float32 correct programs differ by up to 1e-2 in a gradient leaf, and wrong ones by no more.
"""

import functools
import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from convmesh import mesh as meshes
from convmesh.geometry import grid_points
from convmesh.models.csp import CSPBackbone, CSPBlock
from convmesh.models.depth import BACKBONE, Frozen
from convmesh.models.detector import Detector
from convmesh.models.faster_rcnn import FasterRCNN
from convmesh.models.fcos import FCOS
from convmesh.models.mobilenet_v3 import make_stages
from convmesh.models.registry import MODELS, make_model
from convmesh.models.regnet import RegNet
from convmesh.models.resnet import Bottleneck, ResNet, ResNetBackbone
from convmesh.models.retinanet import RetinaNet, RetinaNetResNet50V2
from convmesh.models.small_cnn import SmallCNN
from convmesh.models.ssdlite import SSDLite
from convmesh.steps.mesh_check import SGDResult, SGDSpec, differences, sgd_steps
from convmesh.steps.noise import noise_batch
from convmesh.tasks.classify import Classify
from convmesh.tasks.detect import Detect
from convmesh.tasks.registry import DETECTIONS

# Every way to lay 8 devices over (data, spatial, model).
ALL_MESHES = [(d, s, 8 // d // s) for d in (1, 2, 4, 8) for s in (1, 2, 4, 8) if 8 % (d * s) == 0]


# The same, and each that shares examples with fsdp too: (data, spatial, model, True).
ALL_LAYOUTS = [*ALL_MESHES, *((*shape, True) for shape in ALL_MESHES if shape[0] > 1)]
# What fits the time of `make test` where a program takes long to compile: all axes, rows alone,
# rows and channels, and all with fsdp. `make proof` does all layouts.
KINDS = [(2, 2, 2), (1, 8, 1), (1, 2, 4), (2, 2, 2, True)]
WHOLE_LAYOUTS = [(4, 1, 2), (2, 2, 2), (8, 1, 1, True), (2, 2, 2, True)]


def make_mesh(shape):
    """A mesh of the first devices of that shape: (1, 1, 1) is the one device. A fourth item True
    is fsdp."""
    *sizes, fsdp = shape if len(shape) == 4 else (*shape, False)
    devices = jax.devices()[: int(np.prod(sizes))]
    return meshes.make_mesh(*sizes, devices=devices, fsdp=fsdp)


def assert_equal(result, reference):
    """Every leaf equal to 1e-9 of its scale. Raises AssertionError that names the worst leaf."""
    worst = differences(result, reference)[0]
    assert not worst.fails, f"{worst.leaf} differs by {worst.error:.1e} of its scale"


def random_batch(task, size: int, batch: int = 8, seed: int = 0):
    """A batch as the loader makes it, of noise, with boxes of all sizes."""
    return noise_batch(task, (size, size), batch, seed=seed)


def three_steps(model, task, size: int, shape, batch: int = 8, **options) -> SGDResult:
    """The result of three SGD steps on a mesh of `shape`; `options` are fields of SGDSpec."""
    batches = [random_batch(task, size, batch, seed=i) for i in range(3)]
    if getattr(model, "frozen_norm", False):
        options = {"frozen": Frozen(norms=BACKBONE), **options}
    return sgd_steps(SGDSpec(model, task, **options), make_mesh(shape), batches)


def tiny_csp_detector(dtype, classes: int = 8, **options):
    """detector_medium in little: CSP stages, and a pyramid of them."""
    backbone = functools.partial(CSPBackbone, widths=(8, 8, 16, 16), depths=(1, 1, 1, 1))
    return Detector(classes, backbone, features=16, block=CSPBlock, dtype=dtype, **options)


def tiny_resnet_detector(dtype, classes: int = 8, levels: int = 5, **options):
    """detector_resnet50_p7 in little: bottlenecks, and five levels."""
    backbone = functools.partial(ResNetBackbone, blocks=(1, 1, 1, 1), width=8, block=Bottleneck)
    return Detector(classes, backbone, features=16, levels=levels, dtype=dtype, **options)


def tiny_dense(family, dtype, **options):
    """A detector of torchvision's in little: bottlenecks, five levels, a short head."""
    backbone = functools.partial(ResNetBackbone, blocks=(1, 1, 1, 1), width=8, block=Bottleneck)
    return family(7, backbone, dtype, features=16, depth=1, **options)


def tiny_ssdlite(dtype, classes: int = 8, **options):
    """ssdlite320_mobilenet_v3_large in little: three levels, of strides 4 to 16."""
    rows = (
        (3, 8, 8, False, nn.relu, 1),
        (3, 16, 8, False, nn.relu, 2),
        (5, 32, 8, True, nn.hard_swish, 2),
    )
    stages = make_stages(rows, 8)
    return SSDLite(classes, stages, last=16, extra=(8,), dtype=dtype, **options)


def tiny_faster_rcnn(dtype, classes: int = 8, **options):
    """fasterrcnn_resnet50_fpn in little."""
    backbone = functools.partial(ResNetBackbone, blocks=(1, 1, 1, 1), width=8)
    return FasterRCNN(
        classes, backbone, features=8, hidden=16, proposals=(20, 30), dtype=dtype, **options
    )


def torchvision_case(model, size: int, **options):
    """A model of torchvision's design, and its task, of which `options` are fields."""
    module, task = DETECTIONS[model.detection]
    task = getattr(importlib.import_module(module), task)
    options |= model.detection_options
    return model, task(model.classes, (size, size), **options), size


def case(name):
    """(model, task, image side) of a tiny net of each family, and of the real classifiers."""
    dtype = jnp.float64
    classify = lambda classes: Classify(classes, (0, 0))  # noqa: E731
    if MODELS.get(name, "")[:1] == ("classify",) and name != "small_cnn":
        return make_model(name, "classify", 10, dtype), Classify(10, (0, 0)), 64
    if MODELS.get(name, "")[:1] == ("detect",) and not name.startswith("detector_"):
        return torchvision_case(make_model(name, "detect", 7, dtype), 64)
    return {
        "tiny small_cnn": lambda: (SmallCNN(8, dtype, (8, 16), hidden=16), classify(8), 16),
        "tiny resnet": lambda: (ResNet(8, (1, 1), dtype, width=8), classify(8), 32),
        "ghost resnet": lambda: (
            ResNet(8, (1, 1), dtype, width=8, norm_group=2),
            classify(8),
            32,
        ),
        "tiny resnext": lambda: (
            ResNet(8, (1, 1), dtype, 8, block=functools.partial(Bottleneck, groups=4)),
            classify(8),
            32,
        ),
        "tiny regnet": lambda: (RegNet(8, (8, 16), (1, 1), 4, dtype, stem=8), classify(8), 32),
        "tiny detector": lambda: (
            make_model("detector_tiny", "detect", 8, dtype),
            Detect(8, (64, 64)),
            64,
        ),
        "tiny csp detector": lambda: (tiny_csp_detector(dtype), Detect(8, (64, 64)), 64),
        "tiny resnet detector": lambda: (
            tiny_resnet_detector(dtype),
            Detect(8, (64, 64), strides=(8, 16, 32, 64, 128)),
            64,
        ),
        "tiny retinanet": lambda: torchvision_case(tiny_dense(RetinaNet, dtype), 64),
        "tiny retinanet v2": lambda: torchvision_case(
            tiny_dense(RetinaNetResNet50V2, dtype, groups=4), 64
        ),
        "tiny fcos": lambda: torchvision_case(tiny_dense(FCOS, dtype, groups=4), 64),
        "tiny faster rcnn": lambda: torchvision_case(
            tiny_faster_rcnn(dtype), 64, anchors_drawn=24, boxes_drawn=16
        ),
        "tiny ssdlite": lambda: torchvision_case(tiny_ssdlite(dtype), 32),
        "small_cnn": lambda: (make_model("small_cnn", "classify", 10, dtype), classify(10), 32),
        "detector_nano": lambda: (
            make_model("detector_nano", "detect", 10, dtype),
            Detect(10, (96, 96)),
            96,
        ),
    }[name]()


@functools.cache
def one_device(name):
    """The reference, computed once."""
    with jax.enable_x64(True):
        return three_steps(*case(name), (1, 1, 1))


def on_mesh(name, shape, **options) -> SGDResult:
    """The same on a mesh of `shape`, from the same state, which is not computed again."""
    return three_steps(*case(name), shape, start=one_device(name).start, **options)


def noise_images(size: int, batch: int = 8, seed: int = 0):
    """Float images [batch, size, size, 3]."""
    return np.random.default_rng(seed).normal(size=(batch, size, size, 3))


def number_of_points(size: int) -> int:
    """Points of a square image."""
    return len(grid_points((size, size))[0])
