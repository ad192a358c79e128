"""The traced forward pass, and what it tells of a step's memory."""

import jax.numpy as jnp

from convmesh.config import apply_overrides, defaults
from convmesh.models.registry import make_model
from convmesh.programs.flops import flops, result_bytes
from convmesh.steps.forward import expected_temporaries, forward_jaxpr, training_forward


def config(**changes):
    given = {"model.name": "resnet18", "train.batch_size": 8, "data.image_size": (64, 64)}
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return apply_overrides(defaults("classify"), given | changes)


def test_the_arithmetic_grows_with_the_batch():
    model = make_model("small_cnn", "classify", 4, jnp.float32)
    one, eight = (flops(forward_jaxpr(training_forward(model, n, (16, 16)))) for n in (1, 8))
    assert eight == 8 * one > 0


def test_temporaries_are_five_times_the_results_of_convolutions():
    model = make_model("resnet18", "classify", 1, jnp.float32)
    forward = result_bytes(forward_jaxpr(training_forward(model, 8, (64, 64))))
    assert expected_temporaries(config()) == 5 * forward
    assert expected_temporaries(config(train__accumulate=2)) == 5 * forward / 2
    assert expected_temporaries(config(precision="bfloat16")) == 5 * forward


def test_temporaries_are_those_of_the_largest_size():
    large = expected_temporaries(config(data__image_size=(128, 128)))
    assert expected_temporaries(config(data__sizes=(0.5, 1, 2))) == large


def test_batches_that_do_not_divide_are_left_to_later_checks():
    assert expected_temporaries(config(train__accumulate=100)) > 0
    assert expected_temporaries(config(train__accumulate=100, model__norm_group=4)) > 0
