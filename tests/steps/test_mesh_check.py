"""check-mesh: what it compares, and that it detects a wrong mesh."""

import dataclasses

import equality
import flax.linen as nn
import jax
import numpy as np
import pytest

import convmesh.ops.conv
from convmesh.config import apply_overrides, defaults
from convmesh.models.layers import BatchNorm, Conv, Dense
from convmesh.models.registry import MODELS
from convmesh.steps import mesh_check
from convmesh.steps.noise import noise_setup


def setup_on(mesh, **changes):
    """small_cnn on noise, on a mesh of that shape."""
    given = {"model.name": "small_cnn", "data.classes": tuple("abcdefgh"), "train.batch_size": 8}
    config = apply_overrides(defaults("classify"), given | {"data.image_size": (16, 16)} | changes)
    return noise_setup(config, equality.make_mesh(mesh))


def test_differences_by_hand():
    expected = {"a": np.array([1.0, -4.0]), "b": np.zeros(2), "c": np.ones(3)}
    got = {"a": np.array([1.0, -4.4]), "b": np.full(2, 1e-13), "c": np.array([1, np.nan, 1])}
    worst, second, third = mesh_check.differences(got, expected)
    assert worst.leaf == "c" and worst.fails  # a NaN is worse than anything
    assert (second.leaf, second.error) == ("a", pytest.approx(0.1)) and second.fails
    assert third.leaf == "b" and not third.fails  # zero in theory, and nearly so


def test_a_sum_taken_twice_shows_as_a_ratio():
    (found,) = mesh_check.differences({"k": np.array([2.0, 4.0])}, {"k": np.array([1.0, 2.0])})
    assert found.ratio == pytest.approx(2) and found.error == pytest.approx(1)


def test_noise_sets_the_tolerance():
    expected, noisy = {"a": np.array([100.0])}, {"a": np.array([100.1])}

    def judge(got, noisy):
        return mesh_check.differences({"a": np.array([got])}, expected, noisy, 1e-4)[0]

    assert judge(100.9, noisy).tolerance == pytest.approx(0.01)  # ten times the noise
    assert not judge(100.9, noisy).fails and judge(101.1, noisy).fails
    assert judge(100.9, expected).tolerance == 1e-4 and judge(100.9, expected).fails
    # However noisy, a leaf that is off by half is not accepted.
    assert judge(150.0, {"a": np.array([104.0])}).tolerance == mesh_check.MAX_TOLERANCE
    assert judge(150.0, {"a": np.array([180.0])}).tolerance == np.inf


def test_trees_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="1 leaves, the reference has 2"):
        mesh_check.differences([np.ones(2)], [np.ones(2), np.ones(2)])
    with pytest.raises(ValueError, match=r"a: \(3,\), the reference has \(2,\)"):
        mesh_check.differences({"a": np.ones(3)}, {"a": np.ones(2)})


@pytest.mark.parametrize("changes", [{}, {"precision": "bfloat16"}], ids=["float32", "bfloat16"])
def test_a_correct_mesh_passes(changes):
    logged = []
    mesh_check.check_mesh(setup_on((2, 2, 2, True), **changes), logged.append)
    assert "data 2, spatial 2, model 2, fsdp against one device" in logged[0]
    assert logged[1] == "all 7 windows use the full mesh"
    assert logged[-1] == "equal: this mesh trains as one device does"
    assert any(line.startswith("gradients: 10 leaves") for line in logged)


def test_a_lost_halo_is_found_in_float32(monkeypatch):
    exchange = convmesh.ops.conv.exchange

    def without_the_upper_neighbour(x, above, below, fill):
        y = exchange(x, above, below, fill)
        return y.at[:, :above].set(0) if above else y

    monkeypatch.setattr(convmesh.ops.conv, "exchange", without_the_upper_neighbour)
    with pytest.raises(
        mesh_check.MeshCheckError, match="leaves differ from those of one device"
    ) as error:
        mesh_check.check_mesh(setup_on((2, 4, 1)), lambda text: None)
    assert error.value.exit_code == 1
    assert jax.config.jax_enable_x64 is False


class Biased(nn.Module):
    """A bias that batch norm subtracts again: its gradient is 0 but for rounding."""

    classes: int
    dtype: type

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = Conv(8, bias=True, dtype=self.dtype)(x)
        x = nn.relu(BatchNorm(self.dtype)(x, train))
        return Dense(self.classes, self.dtype)(x.mean((1, 2)))


@pytest.fixture
def biased(monkeypatch):
    """Registers the model `biased`; the config keys that select it."""
    monkeypatch.setitem(MODELS, "biased", ("classify", __name__, "Biased"))
    return {"model.name": "biased", "data.image_size": (8, 8)}


def test_a_lost_micro_batch_is_found(monkeypatch, biased):
    scan = jax.lax.scan

    def without_the_last(function, carry, xs, **options):
        on_several_devices = jax.sharding.get_abstract_mesh().size > 1
        kept = jax.tree.map(lambda x: x[:-1], xs) if on_several_devices else xs
        return scan(function, carry, kept, **options)

    logged = []
    setup = setup_on((2, 1, 1), **biased | {"train.accumulate": 2})
    mesh_check.check_mesh(setup, logged.append)
    assert logged[-1] == "equal: this mesh trains as one device does"
    monkeypatch.setattr(jax.lax, "scan", without_the_last)
    with pytest.raises(mesh_check.MeshCheckError, match="leaves differ from those of one device"):
        mesh_check.check_mesh(setup, logged.append)
    # Without micro-batches nothing is lost.
    mesh_check.check_mesh(setup_on((2, 1, 1), **biased), logged.append)
    assert logged[-1] == "equal: this mesh trains as one device does"


def test_a_leaf_of_noise_alone_is_reported(biased):
    logged = []
    mesh_check.check_mesh(setup_on((2, 1, 1), **biased), logged.append)
    (at,) = (i for i, line in enumerate(logged) if line.startswith("gradients: 6 leaves"))
    assert logged[at + 1] == (
        "  1 of them are noisier than 0.1 in float32 and cannot be judged; "
        "precision=float64 on the CPU judges all"
    )
    assert sum("noisier" in line for line in logged) == 1
    assert logged[-1] == "equal: this mesh trains as one device does"


def test_the_gradients_are_clipped_as_the_recipe_says(monkeypatch, biased):
    taken, sgd_steps = [], mesh_check.sgd_steps
    monkeypatch.setattr(
        mesh_check, "sgd_steps", lambda *given: taken.append(sgd_steps(*given)) or taken[-1]
    )
    changes = biased | {"optimizer.clip_norm": 1e-3}
    mesh_check._compare(setup_on((2, 1, 1), **changes))
    assert len(taken) == 3
    for result in taken:
        leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(result.gradients)]
        assert np.linalg.norm(np.concatenate(leaves)) == pytest.approx(1e-3, rel=1e-5)


def test_the_worst_leaf_is_the_one_farthest_beyond_its_own_tolerance():
    expected = {"a": np.array([100.0]), "b": np.array([100.0])}
    noisy = {"a": np.array([100.5]), "b": np.array([100.0])}
    got = {"a": np.array([102.0]), "b": np.array([101.0])}  # a may differ by 5, b by 0.01
    found = mesh_check.differences(got, expected, noisy, 1e-4)
    assert [(d.leaf, d.fails) for d in found] == [("b", True), ("a", False)]


def test_the_error_counts_all_leaves_and_names_the_worst_three(monkeypatch):
    wrong = [mesh_check.Difference(f"leaf{i}", 1.0, 0.1, 2.0) for i in range(4)]
    right = mesh_check.Difference("right", 0.0, 0.1, 1.0)
    compared = {"gradients": [*wrong, right], "batch statistics": []}
    monkeypatch.setattr(mesh_check, "_compare", lambda setup: compared)
    logged = []
    with pytest.raises(mesh_check.MeshCheckError) as error:
        mesh_check.check_mesh(setup_on((1, 1, 1)), logged.append)
    shown = "; ".join(f"leaf{i}: off by 1.0e+00, x2.00" for i in range(3))
    assert f"check-mesh: 4 leaves differ from those of one device: {shown}. Do" in str(error.value)
    assert logged[-1] == (
        "gradients: 5 leaves, the worst differs by 1.0e+00 (tolerance 1.0e-01): leaf0"
    )


@pytest.mark.parametrize("precision, batches", [("float32", [1, 1, 1]), ("float64", [3, 3])])
def test_the_steps_compared_are_those_of_the_recipe(monkeypatch, precision, batches):
    taken = []

    def steps(spec, mesh, given):
        taken.append((spec, mesh, given))
        return mesh_check.SGDResult([], {}, {}, {}, start=len(taken))

    monkeypatch.setattr(mesh_check, "sgd_steps", steps)
    setup = setup_on((2, 1, 1), **{"train.seed": 7, "train.accumulate": 2})
    # float64 itself would stay on for all later tests.
    setup = dataclasses.replace(setup, precision=precision)
    mesh_check._compare(setup)
    assert [len(given) for _, _, given in taken] == batches
    assert {(spec.seed, spec.accumulate) for spec, _, _ in taken} == {(7, 2)}
    assert [mesh.size for _, mesh, _ in taken] == [1] * (len(batches) - 1) + [2]
    assert [spec.start for spec, _, _ in taken] == [None, 1, 1][: len(batches)]  # all from one
    first = taken[0][2][0].image
    if precision == "float32":
        np.testing.assert_array_equal(taken[1][2][0].image, first[::-1])
    else:
        assert (taken[0][2][1].image != first).any()


def test_the_one_device_is_of_this_process(monkeypatch):
    own = jax.devices()[5:7]
    monkeypatch.setattr(jax, "local_devices", lambda: own)
    assert mesh_check.single_device_mesh().devices.flat[0] is own[0]
