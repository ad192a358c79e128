"""The traced forward pass, and what it tells of a step's memory."""

import jax.numpy as jnp
import pytest

from convmesh.config import apply_overrides, defaults
from convmesh.errors import ConfigError
from convmesh.models.registry import make_model
from convmesh.programs.flops import flops, result_bytes
from convmesh.steps.forward import (
    check_norm_values,
    expected_temporaries,
    forward_jaxpr,
    training_forward,
)


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


@pytest.mark.parametrize(
    "changes",
    [
        {"train__batch_size": 1},
        {"train__accumulate": 8},
        {"model__norm_group": 1},
        {"train__batch_size": 1, "data__image_size": (64, 64), "data__sizes": (0.5, 1)},
    ],
    ids=str,
)
def test_norms_of_one_value_are_refused(changes):
    given = {"data__image_size": (32, 32)} | changes  # the last stage has one row and column
    with pytest.raises(ConfigError, match="batch norm stage4_block1/.* one value of each channel"):
        check_norm_values(config(**given))


@pytest.mark.parametrize(
    "changes",
    [
        {"train__batch_size": 2},
        {"train__batch_size": 1, "data__image_size": (64, 64)},
        {"model__norm_group": 2},
        {"train__batch_size": 1, "train__frozen_stages": 4},  # uses the running statistics
    ],
    ids=str,
)
def test_norms_of_two_values_are_not(changes):
    check_norm_values(config(**({"data__image_size": (32, 32)} | changes)))
