"""The learning rate by step, and the updates computed by hand."""

import equality
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from convmesh import mesh as meshes
from convmesh.config import apply_overrides, defaults
from convmesh.errors import ConfigError
from convmesh.models.depth import AFTER_STAGES
from convmesh.steps.optimizer import (
    check_stages,
    make_optimizer,
    make_schedule,
    rate_factor,
)


def config(**changes):
    """The defaults with changes; `train__steps=3` sets train.steps."""
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return apply_overrides(defaults("classify"), changes)


# --- the schedule ---------------------------------------------------------------------------------


def rates(steps, at, **changes):
    schedule = make_schedule(config(optimizer__learning_rate=2.0, **changes), steps)
    return [float(schedule(step)) for step in at]


def test_warm_up_then_cosine():
    # 5% of 100 steps rise to the peak in equal steps; the last one is already the peak.
    assert rates(100, range(5)) == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    cosine = [2.0 * (0.01 + 0.99 * (1 + np.cos(np.pi * t / 95)) / 2) for t in (0, 40, 94, 95)]
    assert rates(100, [5, 45, 99, 100]) == pytest.approx(cosine)
    assert rates(100, [100, 1000]) == pytest.approx([0.02, 0.02])


def test_constant_after_a_given_warm_up():
    given = dict(schedule__name="constant", schedule__warmup_steps=4)
    assert rates(100, [0, 1, 3, 4, 50, 100], **given) == pytest.approx([0.5, 1, 2, 2, 2, 2])


def test_the_floor_of_the_cosine():
    halfway = 2.0 * (0.1 + 0.9 / 2)
    found = rates(100, [0, 50, 100, 200], schedule__warmup_steps=0, schedule__floor=0.1)
    assert found == pytest.approx([2.0, halfway, 0.2, 0.2])
    assert rates(10, [10], schedule__floor=0.0) == [0.0]


def test_flat_cosine_keeps_the_peak_for_a_part_of_the_run():
    # 4 steps up, 60 at the peak, 36 down: half-way after 18 of them.
    given = dict(schedule__name="flat_cosine", schedule__warmup_steps=4, schedule__flat=0.6)
    found = rates(100, [1, 3, 4, 63, 64, 82, 100, 200], schedule__floor=0.2, **given)
    assert found == pytest.approx([1.0, 2.0, 2.0, 2.0, 2.0, 1.2, 0.4, 0.4])
    assert rates(100, [65], schedule__floor=0.2, **given)[0] < 2.0
    # Half of the run by default.
    assert rates(100, [55, 56], schedule__name="flat_cosine")[0] == 2.0
    assert rates(100, [55, 56], schedule__name="flat_cosine")[1] < 2.0


def test_flat_cosine_at_its_ends():
    given = dict(schedule__name="flat_cosine", schedule__warmup_steps=4)
    assert rates(10, range(4, 11), schedule__flat=1.0, **given)[:6] == [2.0] * 6
    plain = rates(10, range(12), schedule__warmup_steps=4)
    assert rates(10, range(12), schedule__flat=0.0, **given) == plain


@pytest.mark.parametrize("name", ["constant", "cosine", "flat_cosine"])
def test_no_warm_up_starts_at_the_peak(name):
    assert rates(100, [0], schedule__name=name, schedule__warmup_steps=0) == [2.0]
    assert rates(100, [0], schedule__name=name, schedule__warmup_steps=1) == [2.0]


def test_a_warm_up_longer_than_the_run_ends_with_it():
    assert rates(4, range(4), schedule__warmup_steps=100) == pytest.approx([0.5, 1, 1.5, 2])


def test_a_run_of_one_step_learns():
    assert rates(1, [0])[0] > 0


# --- the optimizer --------------------------------------------------------------------------------

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
        (3.0, 1.0, 1 / np.sqrt(8)),  # 8 numbers: the global norm is 3 sqrt(8)
        (3.0, 0.0, 3.0),  # off
        (0.1, 1.0, 0.1),  # short enough
    ],
)
def test_clipping_by_the_global_norm(gradient, limit, step):
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


def test_nesterov_momentum_by_hand():
    given = config(
        optimizer__name="sgd",
        optimizer__nesterov=True,
        optimizer__momentum=0.5,
        optimizer__weight_decay=0.0,
        optimizer__clip_norm=0.0,
    )
    optimizer = make_optimizer(given, lambda step: 1.0)
    state, gradients = optimizer.init(PARAMS), jax.tree.map(jnp.ones_like, PARAMS)
    first, state = optimizer.update(gradients, state, PARAMS)
    second, state = optimizer.update(gradients, state, PARAMS)
    # The trace is 1, then 1.5; the update is the gradient and half of the trace.
    np.testing.assert_allclose(first["bias"], -1.5, rtol=1e-6)
    np.testing.assert_allclose(second["bias"], -1.75, rtol=1e-6)


def test_norms_and_biases_are_not_decayed_with_nesterov_either():
    given = dict(optimizer__name="sgd", optimizer__nesterov=True, optimizer__weight_decay=0.1)
    found = updates(0.0, **given)
    np.testing.assert_allclose(found["kernel"], -0.5 * 1.9, rtol=1e-6)
    np.testing.assert_array_equal(found["bias"], 0.0)
    np.testing.assert_array_equal(found["scale"], 0.0)


# --- a backbone at other rates, and frozen --------------------------------------------------------

# A backbone of two stages, and what follows it.
LAYERS = (
    "backbone/stem",
    "backbone/stage1_block1",
    "backbone/down2",
    "backbone/stage2_block1",
    "pyramid/down2",
    "head",
)


def layered(value):
    """A kernel and a bias in each of the LAYERS, full of `value`."""
    tree: dict = {}
    for name in LAYERS:
        *above, last = name.split("/")
        branch = tree
        for part in above:
            branch = branch.setdefault(part, {})
        branch[last] = {"kernel": jnp.full((2, 2), value), "bias": jnp.full(2, value)}
    return tree


def by_layer(tree):
    """The value of each layer, which is the same in all its numbers."""
    found = {}
    for name in LAYERS:
        layer = tree
        for part in name.split("/"):
            layer = layer[part]
        leaves = np.concatenate([np.ravel(leaf) for leaf in layer.values()])
        assert (leaves == leaves[0]).all()
        found[name] = float(leaves[0])
    return found


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_each_earlier_stage_learns_at_a_lower_rate(name):
    changes = dict(optimizer__name=name, optimizer__weight_decay=0.0, optimizer__clip_norm=0.0)
    changes |= dict(optimizer__backbone_rate=0.5, optimizer__layer_decay=0.1)
    optimizer = make_optimizer(config(**changes), lambda step: 1.0)
    params, gradients = layered(5.0), layered(1.0)
    found, _ = optimizer.update(gradients, optimizer.init(params), params)
    assert by_layer(found) == pytest.approx(
        {
            "backbone/stem": -0.5e-3,
            "backbone/stage1_block1": -0.5e-2,
            "backbone/down2": -0.5e-1,
            "backbone/stage2_block1": -0.5e-1,
            "pyramid/down2": -1.0,
            "head": -1.0,
        },
        rel=1e-5,
    )


def test_decay_is_multiplied_by_the_rate():
    changes = dict(optimizer__weight_decay=0.1, optimizer__backbone_rate=0.5)
    optimizer = make_optimizer(config(**changes), lambda step: 1.0)
    params = layered(5.0)
    found, _ = optimizer.update(layered(0.0), optimizer.init(params), params)
    np.testing.assert_allclose(found["backbone"]["stem"]["kernel"], -0.25, rtol=1e-6)
    np.testing.assert_allclose(found["head"]["kernel"], -0.5, rtol=1e-6)
    np.testing.assert_array_equal(found["backbone"]["stem"]["bias"], 0.0)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_frozen_stages_have_no_update_and_no_state_and_do_not_count_in_the_norm(name):
    changes = dict(optimizer__name=name, optimizer__weight_decay=0.1, optimizer__clip_norm=1.0)
    changes |= dict(optimizer__momentum=0.0) if name == "sgd" else {}
    params, gradients = layered(5.0), layered(3.0)
    frozen = make_optimizer(config(train__frozen_stages=1, **changes), lambda step: 1.0)
    state = frozen.init(params)
    found, state = frozen.update(gradients, state, params)
    for layer in ("stem", "stage1_block1"):
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(found["backbone"][layer]))
    # The rest is updated as if the frozen layers did not exist.
    kept = {key: value for key, value in params["backbone"].items() if "2" in key}
    alone = {**params, "backbone": kept}
    rest = make_optimizer(config(**changes), lambda step: 1.0)
    cut = {**gradients, "backbone": {key: gradients["backbone"][key] for key in kept}}
    wanted, wanted_state = rest.update(cut, rest.init(alone), alone)
    jax.tree.map(
        np.testing.assert_array_equal,
        {**found, "backbone": {key: found["backbone"][key] for key in kept}},
        wanted,
    )
    assert len(jax.tree.leaves(state)) == len(jax.tree.leaves(wanted_state))


def test_stages_that_the_model_lacks_are_refused():
    given = config(model__name="resnet18", train__frozen_stages=2)
    check_stages(given, layered(0.0))
    with pytest.raises(ConfigError, match="train.frozen_stages=3: resnet18 has 2 stages"):
        check_stages(config(model__name="resnet18", train__frozen_stages=3), layered(0.0))
    for key, value, off in [
        ("train.frozen_stages", 1, "0"),
        ("optimizer.backbone_rate", 0.5, "1"),
        ("optimizer.layer_decay", 0.5, "1"),
    ]:
        with pytest.raises(
            ConfigError, match=f"{key}={value}: .* no backbone .* leave it at {off}"
        ):
            check_stages(config(**{key.replace(".", "__"): value}), {"head": jnp.zeros(2)})


def test_what_follows_the_stages_in_a_backbone_learns_as_the_last_stage():
    assert rate_factor(AFTER_STAGES, 4, 0.5, 0.1) == rate_factor(4, 4, 0.5, 0.1) == 0.05
    assert rate_factor(3, 4, 0.5, 0.1) == pytest.approx(0.005)


# --- lars, lamb and steps -------------------------------------------------------------------------

DIAGONAL = {
    "kernel": jnp.array([[3.0, 0.0], [0.0, 4.0]]),
    "bias": jnp.array([1.0, -1.0]),
}
STEEPEST = {"kernel": jnp.array([[0.6, 0.0], [0.0, 0.8]]), "bias": jnp.array([0.5, 0.5])}


def two_updates(**changes):
    changes = {"optimizer.clip_norm": 0.0, "optimizer.learning_rate": 0.1} | changes
    made = apply_overrides(defaults("classify"), changes)
    optimizer = make_optimizer(made, optax.constant_schedule(0.1))
    return apply_twice(optimizer)


def apply_twice(optimizer):
    state, params, found = optimizer.init(DIAGONAL), DIAGONAL, []
    for _ in range(2):
        updates, state = optimizer.update(STEEPEST, state, params)
        params = optax.apply_updates(params, updates)
        found.append(updates)
    return found


def test_lars_by_hand():
    found, _ = two_updates(
        **{"optimizer.name": "lars", "optimizer.weight_decay": 0.1, "optimizer.momentum": 0.9}
    )
    # |w| = 5; g + 0.1 w = 1.5 g of norm 1.5; trust 0.001 * 5 / 1.5; learning rate 0.1.
    wanted = -0.1 * 0.001 * 5 / 1.5 * 1.5 * STEEPEST["kernel"]
    np.testing.assert_allclose(found["kernel"], wanted, rtol=1e-5)
    # Biases are neither decayed nor scaled.
    np.testing.assert_allclose(found["bias"], -0.1 * STEEPEST["bias"], rtol=1e-6)


def test_lamb_by_hand():
    found, _ = two_updates(**{"optimizer.name": "lamb", "optimizer.weight_decay": 0.0})
    # Adam's first update is the sign of the gradient: of norm sqrt(2); trust |w| / sqrt(2).
    wanted = -0.1 * 5 / np.sqrt(2) * np.sign(STEEPEST["kernel"])
    np.testing.assert_allclose(found["kernel"], wanted, rtol=1e-4)


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_they_are_those_of_optax(name):
    given = {"optimizer.name": name, "optimizer.weight_decay": 0.01, "optimizer.trust": 0.02}
    mask = {"kernel": True, "bias": False}
    if name == "lars":
        theirs = optax.lars(0.1, 0.01, mask, 0.02, trust_ratio_mask=mask, momentum=0.9)
    else:
        theirs = optax.lamb(0.1, weight_decay=0.01, mask=mask)
    for ours, wanted in zip(two_updates(**given), apply_twice(theirs), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, wanted)


@pytest.mark.parametrize("name", ["lars", "lamb"])
@pytest.mark.parametrize("shape", [(4, 1, 2), (2, 2, 2, True)], ids=str)
def test_trust_ratios_on_a_mesh_are_those_of_one_device(name, shape, float64):
    mesh, rng = equality.make_mesh(shape), np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(3, 3, 16, 32)), "bias": rng.normal(size=32)}
    gradients = {"kernel": rng.normal(size=(3, 3, 16, 32)), "bias": rng.normal(size=32)}
    optimizer = make_optimizer(config(optimizer__name=name), optax.constant_schedule(0.1))

    def update(params, gradients):
        return optimizer.update(gradients, optimizer.init(params), params)[0]

    layout = meshes.state_shardings(mesh, params)
    sharded = jax.jit(update, in_shardings=(layout, layout), out_shardings=layout)
    assert any(not each.is_fully_replicated for each in jax.tree.leaves(layout))
    found = meshes.on_mesh(mesh, sharded)(params, gradients)
    wanted = update(params, gradients)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, wanted)


def test_steps_by_default_at_a_third_two_thirds_and_eight_ninths():
    found = rates(90, [4, 29, 30, 59, 60, 79, 80, 89], schedule__name="steps")
    assert found == pytest.approx([2, 2, 0.2, 0.2, 0.02, 0.02, 0.002, 0.002])


def test_steps_at_given_milestones():
    given = dict(schedule__milestones=(0.5, 0.25), schedule__factor=0.5, schedule__warmup_steps=4)
    found = rates(40, [0, 3, 9, 10, 19, 20, 39], schedule__name="steps", **given)
    assert found == pytest.approx([0.5, 2, 2, 1, 1, 0.5, 0.5])
    # Of a short run several may fall on one step.
    given = dict(schedule__milestones=(0.5, 0.6), schedule__factor=0.5, schedule__warmup_steps=0)
    assert rates(2, [0, 1], schedule__name="steps", **given) == pytest.approx([2, 0.5])
