"""Torchvision's detectors: the same weights give its outputs, losses and detections.

The arrays in data/ are written by torch: `tools/detector_parity.py --write-tiny`, which also
compares the models of the registry. In float64, where rounding changes no decision.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convmesh.distributed.batch import Batch
from convmesh.models.fcos import FCOS
from convmesh.models.registry import make_model
from convmesh.models.resnet import Bottleneck, ResNetBackbone
from convmesh.models.retinanet import RetinaNet, RetinaNetResNet50V2
from convmesh.tasks.fcos import FCOSDetection
from convmesh.tasks.retinanet import RetinaNetDetection
from convmesh.weights.torch_names import from_torch, to_torch, with_epsilon

DATA = Path(__file__).parent / "data"
EVERY = 5  # a file has the outputs of every fifth anchor of the first image

backbone = partial(ResNetBackbone, blocks=(1, 1, 1, 1), width=2, block=Bottleneck)
SMALL = {"classes": 3, "backbone": backbone, "dtype": jnp.float64, "features": 8}
# The nets of tools/detector_parity.py, their tasks, and the epsilon of torch's batch norms.
TINY = {
    "tiny_retinanet": (RetinaNet(**SMALL), RetinaNetDetection, 0.0),
    "tiny_retinanet_v2": (
        RetinaNetResNet50V2(**SMALL, groups=4),
        partial(RetinaNetDetection, box_loss="giou"),
        1e-5,
    ),
    "tiny_fcos": (FCOS(**SMALL, groups=4), FCOSDetection, 1e-5),
}
PARAMETERS = {
    "retinanet_resnet50_fpn": 34_014_999,
    "retinanet_resnet50_fpn_v2": 38_198_935,
    "fcos_resnet50_fpn": 32_269_600,
}
NORMS_OF_RESNET50 = 53_120  # scales and biases, which torchvision does not count if frozen


def targets(arrays, count):
    """The images and boxes of the file, as a batch; torch counts labels from 1."""
    most = max(len(arrays[f"target/{i}/boxes"]) for i in range(count))
    boxes, labels = np.zeros((count, most, 4), np.float32), np.zeros((count, most), np.int32)
    valid = np.zeros((count, most), bool)
    for i in range(count):
        n = len(arrays[f"target/{i}/boxes"])
        boxes[i, :n], valid[i, :n] = arrays[f"target/{i}/boxes"], True
        labels[i, :n] = arrays[f"target/{i}/labels"] - 1
    return Batch(
        image=arrays["images"],
        present=np.ones(count, bool),
        boxes=boxes,
        labels=labels,
        valid=valid,
        crowd=np.zeros_like(valid),
        truncated=np.zeros(count, int),
    )


@pytest.mark.parametrize("name", TINY)
def test_outputs_losses_and_detections_are_those_of_torchvision(name):
    with jax.enable_x64(True):
        arrays = np.load(DATA / f"{name}.npz")
        model, make_task, epsilon = TINY[name]
        count, *size, _ = arrays["images"].shape
        task, batch = make_task(3, tuple(size)), targets(arrays, count)
        images = task.pixels.normalise(jnp.asarray(batch.image), model.dtype)
        state = {k.removeprefix("weight/"): arrays[k] for k in arrays.files if "weight/" in k}
        abstract = jax.eval_shape(model.init, jax.random.key(0), images)
        variables, fit = from_torch(model.torch_names(), abstract, with_epsilon(state, epsilon))
        fit.require_complete(name, name)

        def results(variables, images):
            outputs = model.apply(variables, images)
            return outputs, task.loss(outputs, batch)[1], task.predict(outputs)

        outputs, numbers, found = jax.jit(results)(variables, images)
        keys = [key for key in arrays.files if key.startswith("output/")]
        for key, output in zip(keys, outputs, strict=True):
            ours = np.asarray(output[:1, ::EVERY]).reshape(arrays[key].shape)
            assert abs(ours - arrays[key]).max() < 1e-9 * abs(arrays[key]).max()

        parts = [key for key in arrays.files if key.startswith("loss/float64/")]
        assert len(parts) == len(keys)
        for key in parts:
            ours = numbers[f"loss/{key.rpartition('/')[2]}"]
            np.testing.assert_allclose(ours, arrays[key], rtol=1e-9)

        for i in range(count):
            check_detections(jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), found), arrays, i)


def check_detections(found, arrays, i):
    """Those of image i are torch's, in its order."""
    found = {key: value[found["valid"]] for key, value in found.items()}
    wanted = {k: arrays[f"found/float64/{i}/{k}"] for k in ("boxes", "scores", "labels")}
    assert 20 < len(found["scores"]) == len(wanted["scores"])
    np.testing.assert_array_equal(found["labels"], wanted["labels"] - 1)
    np.testing.assert_allclose(found["scores"], wanted["scores"], rtol=1e-9)
    np.testing.assert_allclose(found["boxes"], wanted["boxes"], atol=1e-6)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_of_torchvision(name):
    model = make_model(name, "detect", 90, jnp.float32)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == PARAMETERS[name] + model.frozen_norm * NORMS_OF_RESNET50
    # The names of torch, for each layer.
    assert from_torch(model.torch_names(), variables, {})[1].missing


def test_weights_come_back_under_torchs_names():
    model = TINY["tiny_fcos"][0].clone(dtype=jnp.float32)
    arrays = np.load(DATA / "tiny_fcos.npz")
    state = {k.removeprefix("weight/"): arrays[k] for k in arrays.files if "weight/" in k}
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    abstract = jax.eval_shape(model.init, jax.random.key(0), image)
    back = to_torch(model.torch_names(), from_torch(model.torch_names(), abstract, state)[0])
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[key], state[key]) for key in state)
