"""The ResNets for small images: the paper's layers and number of parameters."""

import equality
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convmesh.errors import ConfigError
from convmesh.models.cifar_resnet import CifarResNet
from convmesh.models.registry import make_model
from convmesh.tasks.classify import Classify


def parameters(name, classes=10):
    model = make_model(name, "classify", classes, jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]


@pytest.mark.parametrize(
    ("name", "layers", "millions"),
    # Table 6 of the paper: 0.27 and 0.85 M; the shortcuts' 1x1 convolutions add 0.003.
    [("resnet20", 20, 0.27), ("resnet56", 56, 0.85)],
)
def test_layers_and_parameters_of_the_paper(name, layers, millions):
    found = parameters(name)
    sizes = [leaf.size for leaf in jax.tree.leaves(found)]
    assert sum(sizes) / 1e6 == pytest.approx(millions, abs=0.012)
    kernels = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(found)
        if leaf.ndim > 1 and "shortcut" not in jax.tree_util.keystr(path)
    ]
    assert len(kernels) == layers


def test_the_stem_keeps_the_size_and_two_stages_halve_it():
    model = CifarResNet(5, 1, width=8)
    x = np.zeros((2, 28, 20, 3), np.float32)
    variables = model.init(jax.random.key(0), x)
    outputs, state = model.apply(variables, x, capture_intermediates=True)
    inside = state["intermediates"]
    names = ("stem", *(f"stage{i}_block1" for i in (1, 2, 3)))
    shapes = [inside[name]["__call__"][0].shape for name in names]
    assert shapes == [(2, 28, 20, 8), (2, 28, 20, 8), (2, 14, 10, 16), (2, 7, 5, 32)]
    assert outputs.shape == (2, 5)


def test_it_is_the_same_on_a_mesh(float64):
    model, task = CifarResNet(8, 1, jnp.float64, width=8, stochastic_depth=0.3), Classify(8, (0, 0))
    reference = equality.three_steps(model, task, 16, (1, 1, 1))
    found = equality.three_steps(model, task, 16, (2, 2, 2), start=reference.start)
    equality.assert_equal(found, reference)


def test_no_detector_takes_it_as_a_backbone():
    with pytest.raises(ConfigError, match="model.backbone='resnet20': no such backbone"):
        make_model("detector_nano", "detect", 3, jnp.float32, backbone="resnet20")
