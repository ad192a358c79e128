"""ResNet-9: its layers, and the same result on a mesh."""

import equality
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convmesh.errors import ConfigError
from convmesh.models.registry import make_model
from convmesh.models.resnet9 import ResNet9
from convmesh.tasks.classify import Classify


@pytest.mark.parametrize(("name", "width"), [("resnet9", 64), ("resnet9_quarter", 16)])
def test_its_parameters(name, width):
    model = make_model(name, "classify", 10, jnp.float32)
    found = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    # Stem, three convolutions that double the channels, two blocks of two; then norms and head.
    pairs = [(3, 1), (1, 2), (2, 2), (2, 2), (2, 4), (4, 8), (8, 8), (8, 8)]
    kernels = sum(9 * (a if a == 3 else a * width) * b * width for a, b in pairs)
    norms = sum(2 * b * width for _, b in pairs)
    assert sum(leaf.size for leaf in jax.tree.leaves(found)) == kernels + norms + 80 * width + 10


def test_each_stage_halves_the_image():
    model = ResNet9(5, width=4)
    x = np.zeros((2, 28, 20, 3), np.float32)
    variables = model.init(jax.random.key(0), x)
    outputs, state = model.apply(variables, x, capture_intermediates=True)
    names = ("stem", "stage1_block1", "stage2_conv", "stage3_block1")
    shapes = [state["intermediates"][name]["__call__"][0].shape for name in names]
    assert shapes == [(2, 28, 20, 4), (2, 14, 10, 8), (2, 14, 10, 16), (2, 3, 2, 32)]
    assert outputs.shape == (2, 5)


def test_it_is_the_same_on_a_mesh(float64):
    model, task = ResNet9(8, jnp.float64, width=4), Classify(8, (0, 0))
    reference = equality.three_steps(model, task, 16, (1, 1, 1))
    found = equality.three_steps(model, task, 16, (2, 2, 2), start=reference.start)
    equality.assert_equal(found, reference)


def test_no_detector_takes_it_as_a_backbone():
    with pytest.raises(ConfigError, match="model.backbone='resnet9': no such backbone"):
        make_model("detector_nano", "detect", 3, jnp.float32, backbone="resnet9")
