import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.sharding import NamedSharding

from convmesh.errors import ConfigError
from convmesh.mesh import P, make_mesh
from convmesh.models import MODELS, make_model
from convmesh.models.layers import BatchNorm, Conv, ConvNorm, Dense, stored


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shapes(module, *inputs, **options):
    """The variables' shapes and the result's, nothing computed."""
    result, variables = jax.eval_shape(
        lambda key, *given: module.init_with_output(key, *given, **options),
        jax.random.key(0),
        *inputs,
    )
    return result, variables


def test_parameters_are_stored_in_at_least_float32():
    kinds = {jnp.bfloat16: jnp.float32, jnp.float32: jnp.float32}
    assert {kind: stored(kind) for kind in kinds} == kinds
    with jax.enable_x64(True):
        assert stored(jnp.float64) == jnp.float64


def test_conv_is_the_loops_and_a_bias():
    x = normal(2, 7, 6, 4)
    layer = Conv(6, kernel=3, stride=2, groups=2, dilation=2, padding=1, bias=True)
    params = layer.init(jax.random.key(0), x)["params"]
    assert {k: v.shape for k, v in params.items()} == {"kernel": (3, 3, 2, 6), "bias": (6,)}
    params["bias"] = jnp.arange(6.0)
    wanted = reference.conv2d(x, np.asarray(params["kernel"]), 2, (1, 1), 2, 2) + np.arange(6)
    np.testing.assert_allclose(layer.apply({"params": params}, x), wanted, atol=1e-5)


def test_conv_pads_as_torch():
    # 2-D shapes of torch's Conv2d(padding = dilation * (k - 1) // 2).
    x = jnp.zeros((1, 9, 12, 2))
    for options, wanted in [
        ({}, (9, 12)),
        (dict(stride=2), (5, 6)),
        (dict(kernel=7, stride=2), (5, 6)),
        (dict(kernel=5, dilation=2), (9, 12)),
        (dict(kernel=6, stride=4, padding=1), (2, 3)),
        (dict(kernel=1, stride=2), (5, 6)),
        (dict(padding=0), (7, 10)),
    ]:
        assert shapes(Conv(2, **options), x)[0].shape == (1, *wanted, 2)


def test_kernels_start_with_he_by_fan_out():
    params = Conv(64, kernel=3, stride=1).init(jax.random.key(1), jnp.zeros((1, 4, 4, 32)))[
        "params"
    ]
    # Deviation sqrt(2 / (9 x 64)), of 18,432 numbers.
    assert params["kernel"].std() == pytest.approx((2 / 576) ** 0.5, rel=0.03)


def test_batch_norm_by_hand():
    x = normal(4, 3, 2, 5) * 3 + 1
    layer = BatchNorm(momentum=0.8)
    variables = layer.init(jax.random.key(0), x, train=True)
    y, changed = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-5), atol=1e-4)
    # From means of 0 and variances of 1, a fifth of the way.
    running = changed["batch_stats"]
    np.testing.assert_allclose(running["mean"], 0.2 * mean, rtol=1e-5)
    np.testing.assert_allclose(running["var"], 0.8 + 0.2 * variance, rtol=1e-5)
    # In evaluation the running ones count, and nothing changes.
    variables = {**variables, **changed}
    y, unchanged = layer.apply(variables, x, train=False, mutable=["batch_stats"])
    wanted = (x - 0.2 * mean) / np.sqrt(0.8 + 0.2 * variance + 1e-5)
    np.testing.assert_allclose(y, wanted, atol=1e-4)
    np.testing.assert_array_equal(unchanged["batch_stats"]["mean"], running["mean"])


def test_ghost_groups_are_normalised_apart():
    x = normal(6, 3, 2, 5) * 3 + 1
    layer = BatchNorm(group=2, momentum=0.5)
    variables = layer.init(jax.random.key(0), x, train=True)
    y, changed = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    groups = [x[i : i + 2] for i in (0, 2, 4)]
    alone = [(g - g.mean((0, 1, 2))) / np.sqrt(g.var((0, 1, 2)) + 1e-5) for g in groups]
    np.testing.assert_allclose(y, np.concatenate(alone), atol=1e-4)
    running = changed["batch_stats"]
    np.testing.assert_allclose(running["mean"], x.mean((0, 1, 2)) / 2, atol=1e-5)
    within = np.mean([g.var((0, 1, 2)) for g in groups], 0)
    np.testing.assert_allclose(running["var"], 0.5 + within / 2, rtol=1e-5)


def test_a_batch_that_does_not_divide_into_groups_is_refused():
    with pytest.raises(ValueError, match="6 is no multiple of group=4"):
        BatchNorm(group=4).init(jax.random.key(0), normal(6, 2, 2, 1), train=True)


@pytest.mark.parametrize("group, talks", [(2, False), (0, True)])
def test_whole_groups_on_a_device_need_no_other(group, talks):
    mesh = make_mesh(8)
    layer, x = BatchNorm(group=group), normal(16, 4, 4, 3)
    variables = layer.init(jax.random.key(0), x, train=False)

    def normalised(x):
        return layer.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    at = NamedSharding(mesh, P("data"))
    program = jax.jit(normalised, in_shardings=at, out_shardings=at).lower(x).compile().as_text()
    assert ("all-reduce" in program) is talks
    assert "all-gather" not in program


def test_statistics_of_narrow_activations_are_float32():
    # 300 numbers of 1 +- 1/8: summed in bfloat16 they would stop at 256.
    x = jnp.asarray(1 + np.tile([0.125, -0.125], 150).reshape(300, 1, 1, 1), jnp.bfloat16)
    layer = BatchNorm(jnp.bfloat16, momentum=0.0)
    y, variables = layer.init_with_output(jax.random.key(0), x, train=False)
    assert y.dtype == jnp.bfloat16
    _, changed = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    running = changed["batch_stats"]
    assert running["mean"].dtype == running["var"].dtype == jnp.float32
    assert running["mean"].item() == pytest.approx(1, abs=1e-5)
    assert running["var"].item() == pytest.approx(1 / 64, abs=1e-5)


def test_conv_norm_is_its_parts():
    x = normal(2, 6, 6, 3)
    layer = ConvNorm(4, stride=2, activation=nn.relu)
    variables = layer.init(jax.random.key(0), x, train=False)
    conv = Conv(4, stride=2).apply({"params": variables["params"]["conv"]}, x)
    np.testing.assert_allclose(
        layer.apply(variables, x, train=False),
        np.maximum(conv / np.sqrt(1 + 1e-5), 0),  # running mean 0 and variance 1
        atol=1e-5,
    )
    plain = ConvNorm(4, stride=2, activation=None).apply(variables, x, train=False)
    assert plain.min() < 0


def test_dense_is_a_product_and_a_bias():
    x = normal(3, 5)
    layer = Dense(4)
    variables = layer.init(jax.random.key(0), x)
    params = variables["params"]["dense"]
    wanted = x @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    np.testing.assert_allclose(layer.apply(variables, x), wanted, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_narrow_model_keeps_float32_parameters_and_results(name):
    model = make_model(name, MODELS[name][0], 5, jnp.bfloat16)
    output, variables = shapes(model, jnp.zeros((2, 64, 64, 3), jnp.bfloat16), train=False)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(output)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_64_bits_is_all_of_64_bits(name):
    with jax.enable_x64(True):
        model = make_model(name, MODELS[name][0], 5, jnp.float64)
        found = shapes(model, jnp.zeros((2, 64, 64, 3), jnp.float64), train=False)
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.float64)}


def test_unknown_models_are_refused_by_name():
    with pytest.raises(ConfigError, match="model.name='resnet81'.*did you mean resnet18?") as error:
        make_model("resnet81", "classify", 10, jnp.float32)
    assert "there are: small_cnn, resnet18" in str(error.value)
    # A model of the other task is not on offer.
    with pytest.raises(ConfigError, match="no such model for task 'detect'") as error:
        make_model("resnet18", "detect", 10, jnp.float32)
    assert "detector_nano" in str(error.value) and "small_cnn" not in str(error.value)
