import jax
import jax.numpy as jnp
import pytest

from convmesh.models.registry import make_model
from convmesh.models.small_cnn import SmallCNN


def shapes(model, size):
    """The result's and the variables' shapes for an image of that size."""
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    return jax.eval_shape(model.init_with_output, jax.random.key(0), image)


def test_its_parameters():
    logits, variables = shapes(make_model("small_cnn", "classify", 10, jnp.float32), (32, 32))
    assert logits.shape == (2, 10)
    counted = {
        name: sum(leaf.size for leaf in jax.tree.leaves(layer))
        for name, layer in variables["params"].items()
    }
    assert counted == {
        "Conv_0": 27 * 32 + 32,
        "Conv_1": 9 * 32 * 64 + 64,
        "Conv_2": 9 * 64 * 64 + 64,
        "Dense_0": 8 * 8 * 64 * 64 + 64,  # two poolings: 32, 16, 8
        "Dense_1": 64 * 10 + 10,
    }
    assert "batch_stats" not in variables


@pytest.mark.parametrize("size", [(28, 28), (17, 30)], ids=str)
def test_other_sizes(size):
    logits, _ = shapes(SmallCNN(7, widths=(4, 8), hidden=6), size)
    assert logits.shape == (2, 7)


def test_training_and_evaluation_give_the_same_logits():
    # No norm and no dropout.
    model, images = SmallCNN(3, widths=(4, 4), hidden=4), jnp.ones((1, 8, 8, 3))
    variables = model.init(jax.random.key(0), images)
    same = model.apply(variables, images, train=True) == model.apply(variables, images)
    assert same.all()
