"""Torchvision's detectors: the same weights give its outputs, losses and detections.

The arrays in data/ are written by torch: `tools/detector_parity.py --write-tiny`, which also
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
from convmesh.models.fcos import FCOS
from convmesh.models.registry import make_model
from convmesh.models.resnet import Bottleneck, ResNetBackbone
from convmesh.models.retinanet import RetinaNet, RetinaNetResNet50V2
from convmesh.models.ssdlite import SSDLite
from convmesh.tasks.base import PixelScale
from convmesh.tasks.faster_rcnn import FasterRCNNDetection
from convmesh.tasks.fcos import FCOSDetection
from convmesh.tasks.retinanet import RetinaNetDetection
from convmesh.tasks.ssd import SSD
from convmesh.weights.torch_names import from_torch, to_torch, with_epsilon

DATA = Path(__file__).parent / "data"
EVERY = 5  # a file has the outputs of every fifth anchor of the first image
ALL = 10**7  # drawn for a loss: everything, so that nothing is random
# Of outputs, relative to the largest one; of losses, relative; of scores; of boxes, in pixels.
LARGEST = {"float32": (1e-4, 1e-5, 1e-4, 1e-3), "float64": (1e-9, 1e-9, 1e-9, 1e-6)}

body = partial(ResNetBackbone, block=Bottleneck)
dense = {"backbone": partial(body, blocks=(1, 1, 1, 1), width=2), "features": 8}
stages = mobilenet_v3.make_stages(
    (
        (3, 8, 8, False, nn.relu, 1),
        (3, 16, 8, False, nn.relu, 2),
        (5, 32, 8, True, nn.hard_swish, 2),
        (3, 16, 8, True, nn.hard_swish, 1),
    ),
    8,
)
# The nets of tools/torch_detectors.py, their tasks, and the epsilon of torch's batch norms.
TINY = {
    "tiny_retinanet": (partial(RetinaNet, **dense), RetinaNetDetection, 0.0),
    "tiny_retinanet_v2": (
        partial(RetinaNetResNet50V2, **dense, groups=4),
        partial(RetinaNetDetection, box_loss="giou"),
        1e-5,
    ),
    "tiny_fcos": (partial(FCOS, **dense, groups=4), FCOSDetection, 1e-5),
    "tiny_ssdlite": (
        partial(SSDLite, stages=stages, last=48, extra=(8, 8, 8, 8)),
        partial(SSD, pixels=PixelScale((0.5,) * 3, (0.5,) * 3)),
        None,
    ),
    "tiny_faster_rcnn": (
        partial(
            FasterRCNN,
            backbone=partial(body, blocks=(1, 2, 1, 1), width=4),
            features=4,
            hidden=8,
            proposals=(60, 100),
        ),
        partial(FasterRCNNDetection, anchors_drawn=ALL, boxes_drawn=ALL),
        None,
    ),
}
# In float64, where rounding changes no decision; and some in float32.
CASES = [(name, "float64") for name in TINY]
CASES += [("tiny_ssdlite", "float32"), ("tiny_faster_rcnn", "float32")]
PARAMETERS = {
    "retinanet_resnet50_fpn": 34_014_999,
    "retinanet_resnet50_fpn_v2": 38_198_935,
    "fcos_resnet50_fpn": 32_269_600,
    "ssdlite320_mobilenet_v3_large": 3_440_060,
    "fasterrcnn_resnet50_fpn": 41_755_286,
}
NORMS_OF_RESNET50 = 53_120  # scales and biases, which torchvision does not count if frozen


def loaded(name, dtype):
    """(model, task, variables, batch, all arrays) of a tiny net with torch's weights."""
    arrays = np.load(DATA / f"{name}.npz")
    family, task, epsilon = TINY[name]
    model = family(classes=3, dtype=jnp.dtype(dtype))
    images = arrays["images"]
    task = task(classes=3, image_size=images.shape[1:3], **model.detection_options)
    state = {k.removeprefix("weight/"): arrays[k] for k in arrays.files if "weight/" in k}
    ours = state if epsilon is None else with_epsilon(state, epsilon)
    abstract = jax.eval_shape(model.init, jax.random.key(0), images.astype(dtype))
    variables, fit = from_torch(model.torch_names(), abstract, ours)
    fit.require_complete(name, name)
    back = to_torch(model.torch_names(), variables)
    assert back.keys() == state.keys()
    assert all(epsilon == 0 or np.array_equal(back[key], state[key]) for key in state)
    count = len(images)
    batch = Batch(
        image=images,
        index=np.arange(count),
        present=np.ones(count, bool),
        boxes=arrays["boxes"],
        labels=arrays["labels"],
        valid=arrays["valid"],
        crowd=np.zeros_like(arrays["valid"]),
        truncated=np.zeros(count, np.int32),
    )
    return model, task, variables, batch, arrays


@pytest.mark.parametrize("name, dtype", CASES)
def test_outputs_losses_and_detections_are_those_of_torchvision(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        model, task, variables, batch, arrays = loaded(name, dtype)
        assert not batch.valid[-1].any()  # an image without boxes

        @jax.jit
        def results(variables, images):
            images = task.pixels.normalise(images, dtype)
            outputs = model.apply(variables, images)
            numbers = task.loss(learned(model, task, variables, images, batch) or outputs, batch)[1]
            return outputs, numbers, task.predict(outputs)

        outputs, numbers, found = results(variables, batch.image)
        largest_output, largest_loss, *_ = LARGEST[dtype]
        keys = [key for key in arrays.files if key.startswith("output/float64/")]
        for key, output in zip(keys, outputs, strict=not hasattr(model, "two_stage")):
            ours = np.asarray(output[:1, ::EVERY]).reshape(arrays[key].shape)
            assert abs(ours - arrays[key]).max() < largest_output * abs(arrays[key]).max()
        parts = [key for key in arrays.files if key.startswith("loss/float64/")]
        assert len(parts) == sum(key.startswith("loss/") for key in numbers) >= len(keys)
        for key in parts:
            ours = numbers[f"loss/{key.rpartition('/')[2]}"]
            np.testing.assert_allclose(ours, arrays[key], rtol=largest_loss)
        for i in range(len(batch.image)):
            one = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), found)
            check_detections(one, arrays, i, dtype)
            if name in ("tiny_ssdlite", "tiny_faster_rcnn"):
                both = (one["class_confidence"] * one["box_confidence"])[one["valid"]]
                np.testing.assert_allclose(both, one["scores"][one["valid"]], rtol=1e-4)


def learned(model, task, variables, images, batch):
    """The outputs in a train step, with norms as in evaluation, if they are others."""
    if not hasattr(model, "two_stage"):
        return None
    options = {"choose": task.choose(batch, jax.random.key(0)), "mutable": ["batch_stats"]}
    with Frozen(norms="all").norms_as_in_evaluation():
        return model.apply(variables, images, train=True, **options)[0]


def check_detections(found, arrays, i, dtype):
    """Those of image i are torch's; rounding may exchange those of the same score."""
    *_, largest_score, largest_box = LARGEST[dtype]
    found = {key: value[found["valid"]] for key, value in found.items()}
    wanted = {k: arrays[f"found/float64/{i}/{k}"] for k in ("boxes", "scores", "labels")}
    assert 20 < len(found["scores"]) == len(wanted["scores"])
    far = abs(found["boxes"][None] - wanted["boxes"][:, None]).max(-1)
    far = far + abs(found["scores"][None] - wanted["scores"][:, None])
    same = np.where(found["labels"] + 1 == wanted["labels"][:, None], far, np.inf).argmin(1)
    assert sorted(same) == list(range(len(same)))
    np.testing.assert_array_equal(found["labels"][same], wanted["labels"] - 1)
    np.testing.assert_allclose(found["scores"][same], wanted["scores"], atol=largest_score)
    np.testing.assert_allclose(found["boxes"][same], wanted["boxes"], atol=largest_box)
    assert (np.diff(found["scores"]) <= 0).all()


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_of_torchvision(name):
    model = make_model(name, "detect", 90, jnp.float32)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    frozen = getattr(model, "frozen_norm", False)
    assert count == PARAMETERS[name] + frozen * NORMS_OF_RESNET50
    # The names of torch, for each layer.
    assert from_torch(model.torch_names(), variables, {})[1].missing


def test_faster_rcnn_takes_the_backbones_that_have_a_stride_of_4():
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    options = {"task": "detect", "classes": 2, "dtype": jnp.float32}
    model = make_model("fasterrcnn_resnet50_fpn", backbone="resnet18", **options)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    assert from_torch(model.torch_names(), variables, {})[1].missing
    model = make_model("fasterrcnn_resnet50_fpn", backbone="mobilenet_v2", **options)
    with pytest.raises(ConfigError, match="needs features of stride 4"):
        jax.eval_shape(model.init, jax.random.key(0), image)
