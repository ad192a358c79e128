import equality
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding

from convmesh import mesh as meshes
from convmesh.errors import ConfigError
from convmesh.mesh import DATA, MODEL, SPATIAL, P, make_mesh

CUBE = (2, 2, 2)


def sizes(mesh):
    return tuple(mesh.shape[axis] for axis in (DATA, SPATIAL, MODEL))


# --- making one ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked, wanted",
    [
        ({}, (8, 1, 1)),
        (dict(spatial=2), (4, 2, 1)),
        (dict(data=2, spatial=2, model=-1), (2, 2, 2)),
        (dict(data=1, spatial=-1), (1, 8, 1)),
        (dict(data=2, spatial=4), (2, 4, 1)),
        (dict(data=-1, spatial=4, model=2), (1, 4, 2)),
    ],
)
def test_one_size_may_be_all_that_is_left(asked, wanted):
    mesh = make_mesh(**asked)
    assert mesh.axis_names == (DATA, SPATIAL, MODEL)
    assert sizes(mesh) == wanted
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert sorted(d.id for d in mesh.devices.flat) == sorted(d.id for d in jax.devices())


def test_some_of_the_devices():
    mesh = make_mesh(-1, 2, devices=jax.devices()[2:6])
    assert sizes(mesh) == (2, 2, 1)
    assert {d.id for d in mesh.devices.flat} == {d.id for d in jax.devices()[2:6]}


@pytest.mark.parametrize(
    "asked, said",
    [
        (dict(data=3), "mesh.data=3, mesh.spatial=1, mesh.model=1"),
        (dict(data=2, spatial=2), "mesh.data=2, mesh.spatial=2, mesh.model=1"),
        (dict(spatial=3), "mesh.data=-1, mesh.spatial=3"),
        (dict(data=16), "mesh.data=16"),
        (dict(data=0), "mesh.data=0"),
        (dict(data=-1, spatial=0), "mesh.data=-1, mesh.spatial=0"),
        (dict(data=-2, spatial=-4), "mesh.data=-2, mesh.spatial=-4"),
        (dict(data=-1, spatial=-1), "mesh.data=-1, mesh.spatial=-1, mesh.model=1"),
        (dict(data=-1, spatial=-1, model=8), "mesh.data=-1, mesh.spatial=-1, mesh.model=8"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_refused(asked, said):
    with pytest.raises(ConfigError) as error:
        make_mesh(**asked)
    assert said in str(error.value)
    assert "8 device(s)" in str(error.value) and "multiply to 8" in str(error.value)
    assert error.value.exit_code == 2


# --- the table ----------------------------------------------------------------------------------

# Where all of 2 x 2 x 2 devices are used; an axis is left out where it does not divide.
ACTIVATIONS = [
    ((4, 6, 5, 8), P(DATA, SPATIAL, None, MODEL)),
    ((3, 6, 5, 8), P(None, SPATIAL, None, MODEL)),
    ((4, 7, 5, 8), P(DATA, None, None, MODEL)),
    ((4, 6, 5, 3), P(DATA, SPATIAL, None, None)),
    ((1, 1, 1, 1), P(None, None, None, None)),
]


@pytest.mark.parametrize("shape, wanted", ACTIVATIONS)
def test_activations(shape, wanted):
    mesh = equality.make_mesh(CUBE)
    assert meshes.activation(shape, mesh) == wanted
    with jax.set_mesh(mesh):
        assert meshes.activation(shape) == wanted  # the mesh in force


def test_activations_with_whole_rows_or_channels():
    mesh, shape = equality.make_mesh(CUBE), (4, 6, 5, 8)
    assert meshes.activation(shape, mesh, rows=False) == P(DATA, None, None, MODEL)
    assert meshes.activation(shape, mesh, channels=False) == P(DATA, SPATIAL, None, None)


def test_an_axis_of_one_device_is_not_named():
    mesh = equality.make_mesh((4, 2, 1))
    assert meshes.activation((4, 6, 5, 8), mesh) == P(DATA, SPATIAL, None, None)
    assert meshes.parameter((3, 3, 4, 8), mesh) == P(None, None, None, None)


@pytest.mark.parametrize(
    "shape, wanted",
    [
        ((3, 3, 4, 8), P(None, None, None, MODEL)),  # a kernel, by output channels
        ((3, 3, 4, 5), P(None, None, None, None)),
        ((6, 8), P(None, MODEL)),  # dense
        ((8,), P(MODEL)),  # a channel vector
        ((7,), P(None)),
        ((), P()),  # a counter
    ],
)
def test_parameters(shape, wanted):
    assert meshes.parameter(shape, equality.make_mesh(CUBE)) == wanted


def test_a_state_is_laid_out_leaf_by_leaf():
    mesh = equality.make_mesh(CUBE)
    state = {"step": np.int32(0), "params": {"kernel": np.ones((3, 3, 3, 8)), "bias": np.ones(8)}}
    state["momentum"] = state["params"]
    layout = meshes.state_shardings(mesh, state)
    assert layout["step"] == NamedSharding(mesh, P())
    assert layout["params"]["kernel"] == NamedSharding(mesh, P(None, None, None, MODEL))
    assert layout["params"]["bias"] == NamedSharding(mesh, P(MODEL))
    assert layout["momentum"] == layout["params"]


def test_batches():
    mesh = equality.make_mesh(CUBE)
    batch = {
        "image": np.zeros((4, 6, 6, 4), np.uint8),  # channels stay whole, whatever divides
        "boxes": np.zeros((4, 8, 4)),
        "label": np.zeros(4),
        "odd": np.zeros((3, 2)),
        "scalar": np.float32(1),
    }
    wanted = {
        "image": P(DATA, SPATIAL, None, None),
        "boxes": P(DATA),
        "label": P(DATA),
        "odd": P(None),
        "scalar": P(),
    }
    layout = meshes.batch_shardings(mesh, batch)
    assert {name: at.spec for name, at in layout.items()} == wanted
    placed = jax.device_put(batch, layout)
    assert placed["image"].addressable_shards[0].data.shape == (2, 3, 6, 4)


def test_replicated_is_whole_everywhere():
    whole = jax.device_put(np.ones((8, 8)), meshes.replicated(equality.make_mesh(CUBE)))
    assert whole.sharding.is_fully_replicated


# --- what the ops ask ---------------------------------------------------------------------------


def test_the_current_mesh():
    assert meshes.current() is None and meshes.axis_size(SPATIAL) == 1
    seen = []

    def look(x):
        mesh = meshes.current()
        seen.append(None if mesh is None else dict(mesh.shape))
        return meshes.axis_size(SPATIAL) * x

    # One trace for each mesh: it is part of what jit remembers.
    program = jax.jit(look)
    on = {
        shape: meshes.on_mesh(equality.make_mesh(shape), program)
        for shape in [(1, 4, 2), (2, 2, 2)]
    }
    assert on[1, 4, 2](1.0) == 4 and on[2, 2, 2](1.0) == 2 and on[1, 4, 2](1.0) == 4
    assert seen == [{DATA: 1, SPATIAL: 4, MODEL: 2}, {DATA: 2, SPATIAL: 2, MODEL: 2}]
    # One device needs no mesh.
    assert meshes.on_mesh(equality.make_mesh((1, 1, 1)), look)(1.0) == 1
    assert seen[-1] is None
    assert meshes.current() is None  # what was set is set back


@pytest.mark.parametrize("batch", [8, 3])
def test_per_example_runs_on_each_devices_own(batch):
    seen = []

    def local(x, tree):
        seen.append(len(x))
        return x * 2, {"sum": (x + tree["y"]).sum(axis=1)}

    x = jnp.arange(batch * 2.0).reshape(batch, 2)
    run = jax.jit(meshes.per_example(local))
    for shape, own in [
        ((1, 1, 1), batch),
        ((8, 1, 1), {8: 1, 3: 3}[batch]),
        ((2, 2, 2), {8: 4, 3: 3}[batch]),
    ]:
        twice, rest = meshes.on_mesh(equality.make_mesh(shape), run)(x, {"y": x})
        np.testing.assert_array_equal(twice, x * 2)
        np.testing.assert_array_equal(rest["sum"], (2 * x).sum(axis=1))
        assert seen[-1] == own
