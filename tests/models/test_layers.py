import collections
import functools

import equality
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.sharding import NamedSharding

from convmesh import mesh as meshes
from convmesh.distributed.batch import Batch
from convmesh.errors import ConfigError
from convmesh.mesh import P, make_mesh
from convmesh.models.layers import (
    BatchNorm,
    Conv,
    ConvNorm,
    Dense,
    GroupNorm,
    LayerNorm,
    LayerScale,
    ResidualBlock,
    SqueezeExcitation,
    at_least_float32,
    crop_to_cells,
    rematerialised,
    residual_stage,
)
from convmesh.models.registry import MODELS, make_model
from convmesh.models.resnet import BasicBlock
from convmesh.ops import local
from convmesh.ops.pool import avg_pool, upsample_bilinear
from convmesh.programs.jaxpr import equations

# Each detector, and the first classifier of each file.
_files = {module: name for name, (_, module, _) in reversed(MODELS.items())}
ONE_OF_EACH = [n for n, (task, *_) in MODELS.items() if task == "detect" or n in _files.values()]


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
    wanted = {jnp.bfloat16: jnp.float32, jnp.float32: jnp.float32}
    assert {dtype: at_least_float32(dtype) for dtype in wanted} == wanted
    with jax.enable_x64(True):
        assert at_least_float32(jnp.float64) == jnp.float64


def test_conv_equals_loops_and_adds_a_bias():
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


def test_ghost_groups_are_normalised_separately():
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
    with pytest.raises(ValueError, match="6 is not a multiple of group=4"):
        BatchNorm(group=4).init(jax.random.key(0), normal(6, 2, 2, 1), train=True)


@pytest.mark.parametrize("group, shape", [(0, (1, 1, 1, 3)), (1, (8, 1, 1, 3))])
def test_batch_norm_refuses_groups_of_one_value(group, shape):
    layer = BatchNorm(group=group)
    variables = layer.init(jax.random.key(0), normal(*shape), train=False)
    with pytest.raises(
        ConfigError, match="one value of each channel.*train.batch_size.*norm_group"
    ):
        layer.apply(variables, normal(*shape), train=True, mutable=["batch_stats"])
    layer.apply(variables, normal(*shape), train=False)  # by the running statistics
    layer.apply(variables, normal(2 * shape[0], 2, 1, 3), train=True, mutable=["batch_stats"])


@pytest.mark.parametrize("group, talks", [(2, False), (0, True)])
def test_complete_groups_on_a_device_need_no_communication(group, talks):
    mesh = make_mesh(8)
    layer, x = BatchNorm(group=group), normal(16, 4, 4, 3)
    variables = layer.init(jax.random.key(0), x, train=False)

    def normalised(x):
        return layer.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    at = NamedSharding(mesh, P("data"))
    program = jax.jit(normalised, in_shardings=at, out_shardings=at).lower(x).compile().as_text()
    assert ("all-reduce" in program) is talks
    assert "all-gather" not in program


def test_statistics_of_bfloat16_activations_are_float32():
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


def test_bfloat16_activations_are_normalised_as_in_float64():
    # Values that bfloat16 holds; their mean and variance it does not.
    x = jnp.asarray(normal(16, 5, 4, 3) * 3 + [1, -5, 10], jnp.bfloat16)
    layer = BatchNorm(jnp.bfloat16, momentum=0.0)
    variables = layer.init(jax.random.key(0), x, train=False)
    y, changed = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    exact = np.asarray(x, np.float64)
    mean, variance = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    running = changed["batch_stats"]
    np.testing.assert_allclose(running["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(running["var"], variance, rtol=1e-4)
    # Only the result is rounded, to 8 bits.
    wanted = (exact - mean) / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(np.asarray(y, np.float64), wanted, rtol=2**-8, atol=1e-3)
    again = layer.apply({**variables, **changed}, x, train=False)
    np.testing.assert_allclose(np.asarray(again, np.float64), wanted, rtol=2**-8, atol=1e-3)


def test_conv_norm_is_convolution_norm_and_activation():
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
    params = variables["params"]
    wanted = x @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    np.testing.assert_allclose(layer.apply(variables, x), wanted, atol=1e-5)


# --- group norm -----------------------------------------------------------------------------------


def test_group_norm_by_hand():
    x = normal(2, 3, 4, 6) * 3 + 1
    layer = GroupNorm(groups=2, epsilon=1e-3)
    variables = layer.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == {"params": {"scale": (6,), "bias": (6,)}}
    scale, bias = np.arange(1.0, 7.0), np.arange(6.0)
    found = layer.apply({"params": {"scale": scale, "bias": bias}}, x)
    for example in range(2):
        for channels in (slice(0, 3), slice(3, 6)):  # channels that follow one another
            own = x[example, ..., channels]
            wanted = (own - own.mean()) / np.sqrt(own.var() + 1e-3)
            wanted = wanted * scale[channels] + bias[channels]
            np.testing.assert_allclose(found[example, ..., channels], wanted, atol=1e-4)


def test_group_norm_of_bfloat16_activations_is_computed_in_float32():
    # A mean far from zero: in bfloat16 nothing would be left of the differences.
    x = jnp.asarray(np.tile([64.0, 64.5], 128).reshape(1, 16, 16, 1), jnp.bfloat16)
    layer = GroupNorm(groups=1, dtype=jnp.bfloat16)
    y, variables = layer.init_with_output(jax.random.key(0), x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(np.asarray(y, np.float32)[0, 0, :2, 0], [-1, 1], atol=0.01)


def test_channels_that_do_not_divide_into_groups_are_refused():
    with pytest.raises(ValueError, match="12 channels are not a multiple of 32"):
        GroupNorm().init(jax.random.key(0), normal(1, 2, 2, 12))


# --- layer norm and layer scale -------------------------------------------------------------------


def test_layer_norm_by_hand():
    x = normal(2, 3, 4, 6) * 3 + 1
    layer = LayerNorm(epsilon=1e-3)
    variables = layer.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == {"params": {"scale": (6,), "bias": (6,)}}
    scale, bias = np.arange(1.0, 7.0), np.arange(6.0)
    found = layer.apply({"params": {"scale": scale, "bias": bias}}, x)
    wanted = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(found, wanted * scale + bias, atol=1e-4)
    vector = layer.apply({"params": {"scale": scale, "bias": bias}}, x[:, 0, 0])
    np.testing.assert_allclose(vector, found[:, 0, 0], atol=1e-6)


def test_layer_norm_of_bfloat16_activations_is_computed_in_float32():
    # A mean far from zero: in bfloat16 nothing would be left of the differences.
    x = jnp.asarray(np.tile([64.0, 64.5], 8).reshape(1, 1, 1, 16), jnp.bfloat16)
    y, variables = LayerNorm(jnp.bfloat16).init_with_output(jax.random.key(0), x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(np.asarray(y, np.float32)[0, 0, 0, :2], [-1, 1], atol=0.01)


def test_layer_scale_multiplies_each_channel():
    x = normal(2, 3, 4, 5)
    layer = LayerScale(0.25)
    y, variables = layer.init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(y, x / 4)
    scale = np.arange(5.0)
    found = layer.apply({"params": {"scale": scale}}, x)
    np.testing.assert_allclose(found, x * scale, rtol=1e-6)
    assert variables["params"]["scale"].shape == (5,)


def test_dense_on_an_image_is_dense_on_each_pixel():
    x, layer = normal(2, 3, 4, 5), Dense(6)
    variables = layer.init(jax.random.key(0), x)
    pixels = layer.apply(variables, x.reshape(-1, 5)).reshape(2, 3, 4, 6)
    np.testing.assert_allclose(layer.apply(variables, x), pixels, atol=1e-6)


def test_conv_norm_has_its_norms_momentum_and_epsilon():
    x, layer = normal(2, 4, 4, 3), ConvNorm(2, momentum=0.75, epsilon=0.5, padding="SAME")
    variables = layer.init(jax.random.key(0), x, train=False)
    given = variables["params"]
    conv = Conv(2, padding="SAME").apply({"params": given["conv"]}, x)
    norm = BatchNorm(momentum=0.75, epsilon=0.5)
    inner = {"params": given["norm"], "batch_stats": variables["batch_stats"]["norm"]}
    wanted, stats = norm.apply(inner, conv, train=True, mutable=["batch_stats"])
    found, changed = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(found, nn.silu(wanted), atol=1e-6)
    jax.tree.map(
        np.testing.assert_array_equal, changed["batch_stats"]["norm"], stats["batch_stats"]
    )


class OneStage(nn.Module):
    """A residual stage, and nothing else."""

    @nn.compact
    def __call__(self, x, train: bool):
        return residual_stage(ResidualBlock, x, train, stage=3, width=6, depth=3, stride=2)


def test_the_first_block_of_a_residual_stage_has_the_stride():
    y, variables = shapes(OneStage(), jnp.zeros((2, 8, 8, 6)), train=False)
    assert y.shape == (2, 4, 4, 6)
    blocks = variables["params"]
    assert set(blocks) == {"stage3_block1", "stage3_block2", "stage3_block3"}
    assert ["shortcut" in blocks[name] for name in sorted(blocks)] == [True, False, False]


# --- every layer on a mesh ------------------------------------------------------------------------


class Every(nn.Module):
    """A net of the layers and options that no model of the library has."""

    @nn.compact
    def __call__(self, x):
        conv = functools.partial(Conv, dtype=jnp.float64)
        x = conv(8, kernel=(3, 1), dilation=(2, 1), bias=True)(x)
        x = GroupNorm(groups=4, dtype=jnp.float64)(x)
        y = nn.silu(conv(8, groups=8)(x))  # depthwise
        y = conv(8, stride=(2, 1), dilation=2)(y)
        y = avg_pool(y, (1, 2))
        y = GroupNorm(groups=1, dtype=jnp.float64)(y)
        y = LayerScale(0.5, jnp.float64)(LayerNorm(jnp.float64)(y))
        y = Dense(8, dtype=jnp.float64)(y)
        y = SqueezeExcitation(4, dtype=jnp.float64)(y)
        x = x + upsample_bilinear(y)
        return Dense(5, dtype=jnp.float64)(x.mean((1, 2)))


@functools.cache
def outputs_and_gradients(shape):
    """Of the sum of squares, by parameters and by images; on a mesh of `shape`."""
    net, x = Every(), equality.noise_images(16)
    params = net.init(jax.random.key(0), x)

    def loss(params, x):
        y = net.apply(params, x)
        return (y**2).sum(), y

    mesh = equality.make_mesh(shape)
    at = (
        meshes.state_shardings(mesh, params),
        meshes.batch_shardings(mesh, Batch(image=x)).image,
    )
    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), in_shardings=at)
    return jax.device_get(meshes.on_mesh(mesh, run)(params, x))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 4, 2), (4, 2, 1, True)], ids=str)
def test_layers_on_a_mesh_are_those_on_one_device(shape):
    reference = outputs_and_gradients((1, 1, 1))
    assert all(abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(reference))  # not trivial
    equality.assert_equal(outputs_and_gradients(shape), reference)


def test_squeeze_and_excitation_by_hand():
    x = normal(2, 3, 5, 8)
    layer = SqueezeExcitation(2, activation=nn.silu, gate=nn.hard_sigmoid)
    params = layer.init(jax.random.key(0), x)["params"]
    assert jax.tree.map(jnp.shape, params) == {
        "fc1": {"kernel": (1, 1, 8, 2), "bias": (2,)},
        "fc2": {"kernel": (1, 1, 2, 8), "bias": (8,)},
    }
    params["fc1"]["bias"], params["fc2"]["bias"] = normal(2, seed=1), normal(8, seed=2)
    fc1, fc2 = (
        lambda y, p=params[name]: y @ p["kernel"][0, 0] + p["bias"] for name in ("fc1", "fc2")
    )
    gates = nn.hard_sigmoid(fc2(nn.silu(fc1(x.mean((1, 2))))))
    got = layer.apply({"params": params}, x)
    np.testing.assert_allclose(got, x * gates[:, None, None], atol=1e-5)


def test_cropping_to_cells_leaves_out_the_end():
    x = normal(1, 7, 9, 2)
    np.testing.assert_array_equal(crop_to_cells(x), x[:, :4, :8])
    assert crop_to_cells(x[:, :4, :8]).shape == (1, 4, 8, 2)


# --- computed again in the backward pass ----------------------------------------------------------


def primitives(jaxpr) -> collections.Counter:
    """How often each primitive is in a jaxpr and the jaxprs inside."""
    return collections.Counter(each.primitive.name for each in equations(jaxpr))


def trained(model, variables, x):
    """Gradients of a sum of squares by parameters and input; outputs; new statistics."""

    def loss(params, x):
        given = {**variables, "params": params}
        outputs, changed = model.apply(given, x, True, mutable=["batch_stats"])
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(outputs)), (outputs, changed)

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], x)


def counts(model, *given):
    """Convolutions in both passes, and blocks that are computed again; the shapes of `trained`."""
    trace = jax.make_jaxpr(functools.partial(trained, model), return_shape=True)
    jaxpr, result = trace(*given)
    found = primitives(jaxpr.jaxpr)
    again = sum(n for name, n in found.items() if "remat" in name or "checkpoint" in name)
    return (found["conv_general_dilated"] + found["dot_general"], again), result


def test_a_rematerialised_block_computes_the_same_twice(monkeypatch):
    monkeypatch.setattr(local, "cpu_flags", lambda: {"avx512f"})  # whatever this machine has
    x, features, convolutions = normal(2, 4, 4, 8), 4, 3
    variables = BasicBlock(features).init(jax.random.key(0), x, False)
    # The last norm starts with a scale of zero, which would hide the layers before it.
    variables = jax.tree.map(lambda leaf: leaf + 0.5, variables)
    plain, again = BasicBlock(features), rematerialised(BasicBlock)(features)
    wanted, found = (
        jax.jit(functools.partial(trained, model))(variables, x) for model in (plain, again)
    )
    assert (wanted[1][1]["batch_stats"]["conv1"]["norm"]["mean"] != 0.5).all()  # it is trained
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, wanted)
    # Each forward, and by its kernel and its input; then each forward once more.
    assert counts(plain, variables, x)[0] == (3 * convolutions, 0)
    assert counts(again, variables, x)[0] == (4 * convolutions, 1)


@pytest.mark.parametrize(
    "name, blocks",
    [
        ("resnet18", 8),
        ("regnet_y_800mf", 14),
        ("mobilenet_v3_small", 11),
        ("convnext_tiny", 18),
        ("detector_tiny", 4),
    ],
)
def test_models_recompute_their_blocks_with_remat(name, blocks):
    plain, again = (
        make_model(name, MODELS[name][0], 3, jnp.float32, remat=remat) for remat in (False, True)
    )
    x = jnp.zeros((2, 64, 64, 3))
    wanted, found = (shapes(model, x, train=False) for model in (plain, again))
    assert found == wanted  # a checkpoint of the one fits the other
    variables = found[1]
    (once, none), _ = counts(plain, variables, x)
    (twice, all_blocks), (_, (_, changed)) = counts(again, variables, x)
    assert (none, all_blocks) == (0, blocks)
    assert twice >= once + 2 * blocks
    kinds = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)  # noqa: E731
    assert kinds(changed.get("batch_stats")) == kinds(variables.get("batch_stats"))


def test_remat_and_norm_group_are_refused_for_a_model_without_blocks_or_norms():
    make = functools.partial(make_model, "small_cnn", "classify", 10, jnp.float32)
    with pytest.raises(ConfigError, match="model.remat=True: small_cnn has no blocks; leave it at"):
        make(remat=True)
    with pytest.raises(ConfigError, match="model.norm_group=4: small_cnn has no batch norm; leave"):
        make(norm_group=4)
    assert make(norm_group=0, remat=False).classes == 10


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_bfloat16_model_has_float32_parameters_and_outputs(name):
    model = make_model(name, MODELS[name][0], 5, jnp.bfloat16)
    output, variables = shapes(model, jnp.zeros((2, 64, 64, 3), jnp.bfloat16), train=False)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert float_types(output) == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_float64_model_is_float64_throughout(name):
    with jax.enable_x64(True):
        model = make_model(name, MODELS[name][0], 5, jnp.float64)
        found = shapes(model, jnp.zeros((2, 64, 64, 3), jnp.float64), train=False)
        assert float_types(found) == {jnp.dtype(jnp.float64)}


def float_types(tree):
    """The types of all leaves but masks and indices."""
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(tree)}
    return {dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)}


def test_unknown_models_are_refused_by_name():
    with pytest.raises(ConfigError, match="resnet188.*did you mean resnet18?") as error:
        make_model("resnet188", "classify", 10, jnp.float32)
    assert "the models are small_cnn, resnet9" in str(error.value)
    # A model of the other task is not on offer.
    with pytest.raises(ConfigError, match="no such model for task 'detect'") as error:
        make_model("resnet18", "detect", 10, jnp.float32)
    assert "detector_nano" in str(error.value) and "small_cnn" not in str(error.value)
