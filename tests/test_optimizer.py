"""The learning rate step by step, and the update rules by hand on a few numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convmesh.config import apply_overrides, defaults
from convmesh.optimizer import make_optimizer, make_schedule


def config(**changes):
    """The defaults with changes; `train__steps=3` sets train.steps."""
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return apply_overrides(defaults("classify"), changes)


# --- the schedule ---------------------------------------------------------------------------------


def rates(steps, at, **changes):
    schedule = make_schedule(config(optimizer__learning_rate=2.0, **changes), steps)
    return [float(schedule(step)) for step in at]


def test_warm_up_then_cosine():
    # 5% of 100 steps rise to the peak in equal stairs; the last one is already the peak.
    assert rates(100, range(5)) == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    cosine = [2.0 * (0.01 + 0.99 * (1 + np.cos(np.pi * t / 95)) / 2) for t in (0, 40, 94, 95)]
    assert rates(100, [5, 45, 99, 100]) == pytest.approx(cosine)
    assert rates(100, [100, 1000]) == pytest.approx([0.02, 0.02])


def test_constant_after_a_given_warm_up():
    given = dict(schedule__name="constant", schedule__warmup_steps=4)
    assert rates(100, [0, 1, 3, 4, 50, 100], **given) == pytest.approx([0.5, 1, 2, 2, 2, 2])


@pytest.mark.parametrize("name", ["constant", "cosine"])
def test_no_warm_up_starts_at_the_peak(name):
    assert rates(100, [0], schedule__name=name, schedule__warmup_steps=0) == [2.0]
    assert rates(100, [0], schedule__name=name, schedule__warmup_steps=1) == [2.0]


def test_a_warm_up_longer_than_the_run_ends_with_it():
    assert rates(4, range(4), schedule__warmup_steps=100) == pytest.approx([0.5, 1, 1.5, 2])


def test_a_run_of_one_step_learns():
    assert rates(1, [0])[0] > 0


# --- the optimiser --------------------------------------------------------------------------------

PARAMS = {"kernel": jnp.full((2, 2), 5.0), "bias": jnp.full(2, 5.0), "scale": jnp.full(2, 5.0)}


def updates(gradient, **changes):
    """What one step at a rate of 1 adds to PARAMS."""
    optimizer = make_optimizer(config(**changes), lambda step: 1.0)
    gradients = jax.tree.map(lambda p: jnp.full_like(p, gradient), PARAMS)
    return optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)[0]


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_norms_and_biases_are_not_decayed(name):
    given = dict(optimizer__name=name, optimizer__weight_decay=0.1, optimizer__momentum=0.0)
    found = updates(0.0, **given)
    np.testing.assert_allclose(found["kernel"], -0.5, rtol=1e-6)
    np.testing.assert_array_equal(found["bias"], 0.0)
    np.testing.assert_array_equal(found["scale"], 0.0)


@pytest.mark.parametrize(
    "gradient, limit, step",
    [
        (3.0, 1.0, 1 / np.sqrt(8)),  # 8 numbers: the whole gradient has norm 3 sqrt(8)
        (3.0, 0.0, 3.0),  # off
        (0.1, 1.0, 0.1),  # short enough
    ],
)
def test_clipping_by_the_norm_of_the_whole_gradient(gradient, limit, step):
    given = dict(optimizer__name="sgd", optimizer__momentum=0.0, optimizer__weight_decay=0.0)
    found = updates(gradient, optimizer__clip_norm=limit, **given)
    for leaf in jax.tree.leaves(found):
        np.testing.assert_allclose(leaf, -step, rtol=1e-6)


def test_decay_comes_after_clipping():
    given = dict(optimizer__name="sgd", optimizer__momentum=0.0, optimizer__weight_decay=0.1)
    found = updates(3.0, optimizer__clip_norm=1.0, **given)
    np.testing.assert_allclose(found["kernel"], -1 / np.sqrt(8) - 0.5, rtol=1e-6)


def test_momentum_and_rate_are_those_of_the_config():
    given = config(
        optimizer__name="sgd",
        optimizer__momentum=0.5,
        optimizer__weight_decay=0.0,
        optimizer__clip_norm=0.0,
    )
    optimizer = make_optimizer(given, lambda step: 0.1 * (step + 1))
    state, gradients = optimizer.init(PARAMS), jax.tree.map(jnp.ones_like, PARAMS)
    first, state = optimizer.update(gradients, state, PARAMS)
    second, state = optimizer.update(gradients, state, PARAMS)
    np.testing.assert_allclose(first["bias"], -0.1, rtol=1e-6)
    np.testing.assert_allclose(second["bias"], -0.2 * 1.5, rtol=1e-6)
