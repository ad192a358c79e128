"""check-mesh: what it compares, and that it sees a mesh that is wrong."""

import equality
import jax
import numpy as np
import pytest

import convmesh.ops.conv
from convmesh import proof
from convmesh.config import apply_overrides, defaults
from convmesh.proof import noise_setup


def setup_on(mesh, **changes):
    """small_cnn on noise, on a mesh of that shape."""
    given = {"model.name": "small_cnn", "data.classes": tuple("abcdefgh"), "train.batch_size": 8}
    config = apply_overrides(defaults("classify"), given | {"data.image_size": (16, 16)} | changes)
    return noise_setup(config, equality.make_mesh(mesh))


def test_differences_by_hand():
    wanted = {"a": np.array([1.0, -4.0]), "b": np.zeros(2), "c": np.ones(3)}
    got = {"a": np.array([1.0, -4.4]), "b": np.full(2, 1e-13), "c": np.array([1, np.nan, 1])}
    worst, second, third = proof.differences(got, wanted)
    assert worst.leaf == "c" and worst.fails  # a NaN is worse than anything
    assert (second.leaf, second.error) == ("a", pytest.approx(0.1)) and second.fails
    assert third.leaf == "b" and not third.fails  # zero in theory, and nearly so


def test_a_sum_made_twice_shows_as_a_ratio():
    (found,) = proof.differences({"k": np.array([2.0, 4.0])}, {"k": np.array([1.0, 2.0])})
    assert found.ratio == pytest.approx(2) and found.error == pytest.approx(1)


def test_noise_sets_the_tolerance():
    wanted, noisy = {"a": np.array([100.0])}, {"a": np.array([100.1])}
    judge = lambda got, noisy: proof.differences({"a": np.array([got])}, wanted, noisy, 1e-4)[0]  # noqa: E731
    assert judge(100.9, noisy).tolerance == pytest.approx(0.01)  # ten times the noise
    assert not judge(100.9, noisy).fails and judge(101.1, noisy).fails
    assert judge(100.9, wanted).tolerance == 1e-4 and judge(100.9, wanted).fails
    # However noisy, a leaf is not called right for being off by half.
    assert judge(150.0, {"a": np.array([104.0])}).tolerance == proof.MOST
    assert judge(150.0, {"a": np.array([180.0])}).tolerance == np.inf


@pytest.mark.parametrize("changes", [{}, {"precision": "bfloat16"}], ids=["float32", "bfloat16"])
def test_a_right_mesh_is_called_equal(changes):
    said = []
    proof.check_mesh(setup_on((2, 2, 2, True), **changes), said.append)
    assert "data 2, spatial 2, model 2, fsdp against one device" in said[0]
    assert said[1] == "all 7 windows use the whole mesh"
    assert said[-1] == "equal: this mesh trains as one device does"
    assert any(line.startswith("gradients: 10 leaves") for line in said)


def test_a_lost_sum_is_found_in_float32(monkeypatch):
    exchange = convmesh.ops.conv.exchange

    def without_the_upper_neighbour(x, above, below, fill):
        y = exchange(x, above, below, fill)
        return y.at[:, :above].set(0) if above else y

    monkeypatch.setattr(convmesh.ops.conv, "exchange", without_the_upper_neighbour)
    with pytest.raises(proof.NotEqual, match="leaves are not those of one device") as error:
        proof.check_mesh(setup_on((2, 4, 1)), lambda text: None)
    assert error.value.exit_code == 1
    assert jax.config.jax_enable_x64 is False
