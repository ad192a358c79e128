from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convmesh.models.layers import ResidualBlock
from convmesh.models.registry import make_backbone, make_model
from convmesh.models.resnet import BasicBlock, Bottleneck, ResNet, ResNet50Backbone, ResNetBackbone


def shapes(model, size):
    """The result's and the variables' shapes for an image of that size."""
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    return jax.eval_shape(model.init_with_output, jax.random.key(0), image)


@pytest.mark.parametrize("size", [(224, 224), (33, 50), (32, 32)], ids=str)
def test_stages_halve_the_image(size):
    model = make_model("resnet18", "classify", 10, jnp.float32)
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    _, seen = jax.eval_shape(
        lambda image: model.init_with_output(
            jax.random.key(0),
            image,
            capture_intermediates=lambda m, _: isinstance(m, ResidualBlock),
        ),
        image,
    )
    for stage in range(4):
        (output,) = seen["intermediates"][f"stage{stage + 1}_block2"]["__call__"]
        rows, columns = (-(-side // 2 ** (stage + 2)) for side in size)
        assert output.shape == (2, rows, columns, 64 * 2**stage)


def test_half_the_channels_are_a_quarter_of_the_parameters_and_a_backbone():
    whole, half = (
        shapes(make_model(name, "classify", 10, jnp.float32), (64, 64))[1]["params"]
        for name in ("resnet18", "resnet18_half")
    )
    assert jax.tree.structure(whole) == jax.tree.structure(half)
    totals = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (whole, half)]
    assert totals[1] / totals[0] == pytest.approx(0.25, abs=0.003)
    backbone = partial(make_backbone("resnet18_half")().init_with_output, train=False)
    features, _ = jax.eval_shape(backbone, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert [c.shape[-1] for c in features] == [64, 128, 256]


@pytest.mark.parametrize("block, features", [(BasicBlock, 4), (Bottleneck, 1)])
def test_a_block_starts_as_the_identity(block, features):
    # The last norm's scale is zero: gradients first flow through the shortcuts.
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 4)).astype(np.float32)
    y, _ = block(features).init_with_output(jax.random.key(0), x, train=False)
    np.testing.assert_array_equal(y, np.maximum(x, 0))


def test_only_blocks_that_change_the_shape_have_a_shortcut():
    _, variables = shapes(ResNet(5, (2, 2)), (32, 32))
    having = [name for name, block in variables["params"].items() if "shortcut" in block]
    assert having == ["stage2_block1"]


@pytest.mark.parametrize("block, last", [(BasicBlock, "conv2"), (Bottleneck, "conv3")])
def test_the_stride_is_in_the_3x3_convolution(block, last):
    # v1.5: of all pixels, none is unseen by a block of stride 2.
    block, x = block(4, stride=2), np.random.default_rng(0).normal(size=(8, 6, 6, 4))
    x = x.astype(np.float32)
    variables = block.init(jax.random.key(0), x, train=False)
    scale = variables["params"][last]["norm"]["scale"]
    variables["params"][last]["norm"]["scale"] = jnp.ones_like(scale)
    seen = jax.grad(lambda x: block.apply(variables, x, train=False).sum())(x)
    assert (abs(seen).sum((0, 3)) > 0).all()


def test_a_classifiers_variables_fit_the_backbone():
    _, classifier = shapes(make_model("resnet50", "classify", 1000, jnp.float32), (64, 64))
    image = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    init = lambda image: ResNet50Backbone().init(jax.random.key(0), image, train=False)  # noqa: E731
    backbone = jax.eval_shape(init, image)
    del classifier["params"]["head"]
    assert backbone == classifier


def test_the_backbone_computes_the_features_of_the_classifier():
    x = np.random.default_rng(0).normal(size=(2, 67, 98, 3)).astype(np.float32)
    options = dict(blocks=(1, 1, 1, 1), width=4, block=Bottleneck)
    classifier = ResNet(5, **options)
    variables = jax.jit(lambda x: classifier.init(jax.random.key(0), x))(x)
    head = variables["params"]["head"]
    # What fills no cell of 4 x 4 pixels is left out, as by the detector's other backbones.
    run = jax.jit(lambda x: ResNetBackbone(**options).apply(variables, x, train=False))
    levels = run(x)
    assert [level.shape for level in levels] == [(2, 8, 12, 32), (2, 4, 6, 64), (2, 2, 3, 128)]
    logits = levels[-1].mean((1, 2)) @ head["kernel"] + head["bias"]
    wanted = jax.jit(lambda x: classifier.apply(variables, x))(x[:, :64, :96])
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-5)
