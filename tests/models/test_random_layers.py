"""Stochastic depth and dropout: what is dropped, how often, and that evaluation drops nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convmesh.errors import ConfigError
from convmesh.models.layers import Dropout, StochasticDepth, depth_rates
from convmesh.models.registry import make_model
from convmesh.models.resnet import Bottleneck, ResNet

KEY = {"dropout": jax.random.key(0)}


def test_stochastic_depth_drops_whole_examples_and_keeps_the_mean():
    x = np.random.default_rng(0).normal(size=(1000, 2, 3, 4)).astype(np.float32)
    y = StochasticDepth(0.2).apply({}, x, True, rngs=KEY)
    dropped = (y == 0).all((1, 2, 3))
    assert dropped.mean() == pytest.approx(0.2, abs=0.04)
    np.testing.assert_allclose(y[~dropped], x[~dropped] / 0.8, rtol=1e-6)


def test_dropout_drops_values_and_keeps_the_mean():
    x = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)
    y = Dropout(0.3).apply({}, x, True, rngs=KEY)
    assert (y == 0).mean() == pytest.approx(0.3, abs=0.04)
    np.testing.assert_allclose(y[y != 0], x[y != 0] / 0.7, rtol=1e-6)
    assert ((y == 0).mean(0) < 1).all() and ((y == 0).mean(1) < 1).all()


@pytest.mark.parametrize("layer", [StochasticDepth(0.9), Dropout(0.9), Dropout(0.0)])
def test_evaluation_and_a_rate_of_0_drop_nothing(layer):
    x = jnp.ones((4, 3))
    np.testing.assert_array_equal(layer.apply({}, x, layer.rate == 0), x)  # and draws nothing


def test_the_rate_rises_with_depth():
    assert depth_rates(0.3, 4) == pytest.approx((0.0, 0.1, 0.2, 0.3))
    assert depth_rates(0.3, 1) == (0.0,)


@pytest.mark.parametrize("remat", [False, True])
def test_a_dropped_bottleneck_is_its_shortcut(remat):
    """At a rate near 1 in the last block nothing of its branch is left, recomputed or not."""
    options = dict(width=8, block=Bottleneck, remat=remat)
    net = ResNet(3, (1, 2), **options)
    dropping = net.clone(stochastic_depth=1 - 1e-9)
    x = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    variables = net.init(jax.random.key(1), x)
    params = jax.tree.map(lambda p: p + 0.1, variables["params"])

    def outputs(model, params):
        variables_ = {**variables, "params": params}
        return model.apply(variables_, x, True, mutable=["batch_stats"], rngs=KEY)[0]

    last = params["stage2_block2"]
    nothing = jax.tree.map(jnp.zeros_like, last["conv3"]["norm"])
    without = {**last, "conv3": {**last["conv3"], "norm": nothing}}
    found = outputs(dropping, params)
    np.testing.assert_allclose(
        found, outputs(dropping, {**params, "stage2_block2": without}), rtol=1e-5
    )
    assert not np.allclose(outputs(net, params), found)
    gradient = jax.grad(lambda params: outputs(dropping, params).sum())(params)
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradient["stage2_block2"]))
    assert gradient["stage1_block1"]["conv3"]["conv"]["kernel"].any()


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("small_cnn", {"dropout": 0.1}, "model.dropout=0.1: small_cnn has no dropout"),
        ("regnet_y_400mf", {"stochastic_depth": 0.1}, "model.stochastic_depth=0.1: regnet_y_400mf"),
        ("convnext_tiny", {"dropout": 0.1}, "model.dropout=0.1: convnext_tiny has no dropout"),
    ],
)
def test_models_without_them_refuse(name, option, message):
    with pytest.raises(ConfigError, match=message):
        make_model(name, "classify", 3, jnp.float32, **option)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v3_small", "efficientnet_b0"])
def test_the_weights_stay_the_same(name):
    """Their names, shapes and initial values do not depend on what is dropped."""
    plain = make_model(name, "classify", 3, jnp.float32)
    dropping = make_model(name, "classify", 3, jnp.float32, stochastic_depth=0.2, dropout=0.1)
    assert (dropping.stochastic_depth, dropping.dropout) == (0.2, 0.1)
    shapes = [
        jax.eval_shape(lambda m=m: m.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
        for m in (plain, dropping)
    ]
    assert shapes[0] == shapes[1]
