"""SSDLite and Faster R-CNN find what torchvision's own find, and learn by its losses.

The arrays in data/ are written by torch: `tools/ssd_parity.py --write-tiny`, which also
compares the models of the registry. The parameter counts are those that torchvision publishes.
"""

from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convmesh.distributed.batch import Batch
from convmesh.errors import ConfigError
from convmesh.models import mobilenet_v3
from convmesh.models.depth import Frozen
from convmesh.models.faster_rcnn import FasterRCNN
from convmesh.models.registry import make_model
from convmesh.models.resnet import Bottleneck, ResNetBackbone
from convmesh.models.ssdlite import SSDLite
from convmesh.tasks.base import PixelScale
from convmesh.tasks.faster_rcnn import FasterRCNNDetection
from convmesh.tasks.ssd import SSD
from convmesh.weights.torch_names import from_torch, to_torch

DATA = Path(__file__).parent / "data"
RAW = {"float32": 1e-4, "float64": 1e-9}  # relative to the largest
LOSS = {"float32": 1e-5, "float64": 1e-9}  # relative
ALL = 10**7  # drawn for a loss: everything, so that nothing is random
HALVES = PixelScale((0.5,) * 3, (0.5,) * 3)
tiny_ssdlite = partial(
    SSDLite,
    stages=mobilenet_v3.make_stages(
        (
            (3, 8, 8, False, nn.relu, 1),
            (3, 16, 8, False, nn.relu, 2),
            (5, 32, 8, True, nn.hard_swish, 2),
            (3, 16, 8, True, nn.hard_swish, 1),
        ),
        8,
    ),
    last=48,
    extra=(8, 8, 8, 8),
)
tiny_faster_rcnn = partial(
    FasterRCNN,
    backbone=partial(ResNetBackbone, blocks=(1, 2, 1, 1), width=4, block=Bottleneck),
    features=4,
    hidden=8,
    proposals=(60, 100),
)
# name: (model, task, its pixels, torch's names of the outputs, and of the losses)
TINY = {
    "tiny_ssdlite": (
        tiny_ssdlite,
        SSD,
        HALVES,
        {"class_logits": "cls_logits", "offsets": "bbox_regression"},
        {"class": "classification", "box": "bbox_regression"},
    ),
    "tiny_faster_rcnn": (
        tiny_faster_rcnn,
        partial(FasterRCNNDetection, anchors_drawn=ALL, boxes_drawn=ALL),
        PixelScale(),
        {"object_logits": "object", "anchor_offsets": "anchor"},
        {
            "object": "loss_objectness",
            "proposal": "loss_rpn_box_reg",
            "class": "loss_classifier",
            "box": "loss_box_reg",
        },
    ),
}
PARAMETERS = {
    "ssdlite320_mobilenet_v3_large": 3_440_060,
    # Torchvision counts none of its frozen batch norms.
    "fasterrcnn_resnet50_fpn": 41_755_286 + 53_120,
}


@pytest.fixture(params=RAW)
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def loaded(name, dtype):
    """(model, task, variables, all arrays) of a tiny net with torch's weights."""
    arrays = np.load(DATA / f"{name}.npz")
    family, task, pixels, *_ = TINY[name]
    images = arrays["images"]
    model = family(classes=3, dtype=dtype)
    task = task(3, images.shape[1:3], pixels=pixels, **model.detection_options)
    state = {k.removeprefix("weight/"): arrays[k] for k in arrays.files if "weight/" in k}
    abstract = jax.eval_shape(model.init, jax.random.key(0), images.astype(dtype))
    variables, fit = from_torch(model.torch_names(), abstract, state)
    assert fit.complete and len(fit.taken) == len(state)
    for key, array in to_torch(model.torch_names(), variables).items():
        np.testing.assert_array_equal(array, state[key])
    return model, task, variables, arrays


def error(got, wanted):
    return abs(np.asarray(got) - wanted).max() / abs(wanted).max()


def nearest(got, wanted):
    """Which of `got` is each of `wanted`: rounding may exchange those of the same score."""
    far = abs(got["boxes"][None] - wanted["boxes"][:, None]).max(-1)
    far = far + abs(got["scores"][None] - wanted["scores"][:, None])
    return np.where(got["labels"] + 1 == wanted["labels"][:, None], far, np.inf).argmin(1)


@pytest.mark.parametrize("name", TINY)
def test_outputs_and_detections_are_those_of_torch(name, dtype):
    model, task, variables, arrays = loaded(name, dtype)

    @jax.jit
    def forward(images):
        outputs = model.apply(variables, task.pixels.normalise(images, dtype))
        return outputs, task.predict(outputs)

    outputs, found = forward(arrays["images"])
    for ours, theirs in TINY[name][3].items():
        wanted = arrays[f"raw/float64/{theirs}"]
        assert error(getattr(outputs, ours)[: len(wanted)], wanted) < RAW[dtype]
    for i in range(len(arrays["images"])):
        wanted = {k: arrays[f"found/float64/{i}/{k}"] for k in ("boxes", "scores", "labels")}
        valid = np.asarray(found["valid"][i])
        assert valid.sum() == len(wanted["scores"]) > 30
        got = {key: np.asarray(array[i])[valid] for key, array in found.items()}
        same = nearest(got, wanted)
        assert sorted(same) == list(range(valid.sum()))
        np.testing.assert_array_equal(got["labels"][same] + 1, wanted["labels"])
        np.testing.assert_allclose(got["scores"][same], wanted["scores"], atol=1e-4)
        np.testing.assert_allclose(got["boxes"][same], wanted["boxes"], atol=1e-3)
        assert (np.diff(got["scores"]) <= 0).all()
        both = got["class_confidence"] * got["box_confidence"]
        np.testing.assert_allclose(both, got["scores"], rtol=1e-4)


@pytest.mark.parametrize("name", TINY)
def test_losses_are_those_of_torch(name, dtype):
    model, task, variables, arrays = loaded(name, dtype)
    boxes, labels = arrays["boxes"], arrays["labels"]
    valid = np.arange(boxes.shape[1]) < arrays["valid"][:, None]
    assert 0 in arrays["valid"]  # an image without boxes
    batch = Batch(
        image=None,
        index=np.arange(len(boxes)),
        present=np.ones(len(boxes), bool),
        boxes=boxes,
        labels=labels,
        valid=valid,
        crowd=np.zeros_like(valid),
        truncated=np.zeros(len(boxes), np.int32),
    )
    options = {}
    if getattr(model, "two_stage", False):
        options = {"choose": task.choose(batch, jax.random.key(0))}

    @jax.jit
    def losses(images):
        images = task.pixels.normalise(images, dtype)
        with Frozen(norms="all").norms_as_in_evaluation():  # the same outputs as in evaluation
            outputs, _ = model.apply(
                variables, images, train=True, mutable=["batch_stats"], **options
            )
        return task.loss(outputs, batch)[1]

    numbers = losses(arrays["images"])
    for ours, theirs in TINY[name][4].items():
        wanted = arrays[f"loss/float64/{theirs}"]
        assert error(numbers[f"loss/{ours}"], wanted) < LOSS[dtype], ours


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_of_detectors_are_those_of_torchvision(name):
    model = make_model(name, "detect", 90, jnp.float32)
    image = jax.ShapeDtypeStruct((1, 320, 320, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == PARAMETERS[name]
    assert from_torch(model.torch_names(), variables, {})[1].missing  # each layer has a name


def test_faster_rcnn_takes_the_backbones_that_have_a_stride_of_4():
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    options = {"task": "detect", "classes": 2, "dtype": jnp.float32}
    model = make_model("fasterrcnn_resnet50_fpn", backbone="resnet18", **options)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    assert from_torch(model.torch_names(), variables, {})[1].missing
    model = make_model("fasterrcnn_resnet50_fpn", backbone="mobilenet_v2", **options)
    with pytest.raises(ConfigError, match="needs features of stride 4"):
        jax.eval_shape(model.init, jax.random.key(0), image)
