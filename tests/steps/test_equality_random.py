"""What a step draws at random is the same on every mesh (see `equality`)."""

import dataclasses
import functools

import equality
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convmesh.models.convnext import ConvNeXt
from convmesh.models.efficientnet import EfficientNet, Stage, make_stages
from convmesh.models.resnet import ResNet
from convmesh.tasks.classify import Classify
from convmesh.tasks.image_mixing import ImageMixing

pytestmark = pytest.mark.usefixtures("float64")

RATES = {"stochastic_depth": 0.5, "dropout": 0.3}
MODELS = {
    # Groups of 2: where only examples are sharded, each device computes by itself.
    "resnet": lambda: ResNet(8, (1, 2), jnp.float64, width=8, norm_group=2, **RATES),
    "convnext": lambda: ConvNeXt(8, (8, 16), (1, 1), jnp.float64, stochastic_depth=0.5),
    "efficientnet": lambda: EfficientNet(
        8,
        make_stages((Stage(1, 3, 1, 8, 2), Stage(2, 3, 2, 8, 2)), 8),
        last=16,
        dtype=jnp.float64,
        **RATES,
    ),
}
TASK = Classify(8, (0, 0), smoothing=0.1, class_weights=(0.5, 2.0, 1.0, 1.5, 0.7, 1.0, 1.0, 0.3))
MIXING = ImageMixing(mixup=0.4, cutmix=0.6, mixup_alpha=0.8, cutmix_alpha=1.0, ends=2)


def steps(name, shape, **options):
    return equality.three_steps(MODELS[name](), TASK, 32, shape, mixing=MIXING, **options)


@functools.cache
def one_device(name):
    with jax.enable_x64(True):
        return steps(name, (1, 1, 1))


LAYOUTS = [(2, 2, 2), (4, 1, 1), (8, 1, 1)]  # (4, 1, 1): devices by themselves


@pytest.mark.parametrize("shape", LAYOUTS, ids=str)
def test_all_at_once(shape):
    equality.assert_equal(steps("resnet", shape), one_device("resnet"))


@pytest.mark.parametrize("name", ["convnext", "efficientnet"])
def test_other_families(name):
    equality.assert_equal(steps(name, (4, 1, 1)), one_device(name))


def test_micro_batches_draw_apart_and_alike_on_a_mesh():
    reference = steps("resnet", (1, 1, 1), accumulate=2)
    equality.assert_equal(steps("resnet", (4, 1, 1), accumulate=2), reference)
    with pytest.raises(AssertionError):
        equality.assert_equal(reference.gradients, one_device("resnet").gradients)


def test_a_device_that_draws_by_its_own_places_is_found(monkeypatch):
    monkeypatch.setattr("convmesh.mesh.places_in_batch", jnp.arange)
    with pytest.raises(AssertionError, match="differs by"):
        equality.assert_equal(steps("resnet", (4, 1, 1)), one_device("resnet"))


def test_seed_and_step_decide():
    model, batch = MODELS["resnet"](), equality.random_batch(TASK, 32)
    run = functools.partial(equality.sgd_steps, mesh=equality.make_mesh((1, 1, 1)))
    spec = equality.SGDSpec(model, TASK, mixing=dataclasses.replace(MIXING, ends=9))
    first = run(spec, batches=[batch])
    again = run(dataclasses.replace(spec, start=first.start), batches=[batch])
    other = run(dataclasses.replace(spec, start=first.start, seed=1), batches=[batch])
    losses = [result.metrics[0]["loss"] for result in (first, again, other)]
    assert losses[0] == losses[1] != losses[2]
    later = dataclasses.replace(first.start, step=np.int32(5))
    metrics = run(dataclasses.replace(spec, start=later), batches=[batch]).metrics
    assert metrics[0]["loss"] != losses[0]
