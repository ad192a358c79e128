"""flops: counts by hand, and what devices can do."""

import equality
import jax
import jax.numpy as jnp
import pytest

from convmesh import flops, proof
from convmesh.config import apply_overrides, defaults
from convmesh.ops.conv import conv2d


def count(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return flops.flops(jax.make_jaxpr(function)(*arrays).jaxpr)


def test_a_convolution_by_hand():
    # 2 x 5 x 5 results of 7 channels, each of 3 x 3 x 4 taps, two operations a tap.
    by_hand = 2 * (2 * 5 * 5 * 7) * (3 * 3 * 4)
    assert count(conv2d, (2, 5, 5, 4), (3, 3, 4, 7)) == by_hand
    grouped = lambda x, k: conv2d(x, k, groups=2)  # noqa: E731
    assert count(grouped, (2, 5, 5, 4), (3, 3, 2, 8)) == 2 * (2 * 5 * 5 * 8) * (3 * 3 * 2)
    # A 1x1 is a product.
    assert count(conv2d, (2, 5, 5, 4), (1, 1, 4, 7)) == 2 * (2 * 5 * 5 * 7) * 4


def test_products_inside_of_functions_are_counted_and_nothing_else():
    inner = jax.jit(lambda a, b: jnp.tanh(a @ b) + 1)
    assert count(lambda a, b: inner(a, b).sum(), (3, 4), (4, 5)) == 2 * 3 * 5 * 4


def setup(**changes):
    given = {"model.name": "resnet50", "train.batch_size": 16, "data.image_size": (224, 224)}
    config = apply_overrides(defaults("classify"), given | changes)
    return proof.noise_setup(config, equality.make_mesh((2, 1, 1)))


def test_resnet50_as_everybody_counts_it():
    # 4.09 billion multiply-adds an image forward (torchvision's figure), twice that backward.
    assert flops.step_flops(setup()) == pytest.approx(16 * 3 * 2 * 4.09e9, rel=0.01)


@pytest.mark.parametrize(
    "kind, precision, most",
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA H100 PCIe", "bfloat16", 756e12),
        ("NVIDIA A100-SXM4-40GB", "float32", 19.5e12),
        ("NVIDIA L40", "bfloat16", None),  # not an L4
        ("TPU v5 lite", "bfloat16", 197e12),
        ("TPU v5", "bfloat16", 459e12),
        ("TPU v4", "float32", None),
        ("cpu", "float32", None),
    ],
)
def test_peaks(kind, precision, most):
    assert flops.peak(kind, precision) == most


def test_the_time_at_the_peak_of_all_devices(monkeypatch):
    assert flops.ideal_seconds(setup()) is None
    monkeypatch.setitem(flops.PEAKS, "cpu", {"float32": 1e12})
    two = setup()
    assert flops.ideal_seconds(two) == flops.step_flops(two) / 2e12
