import dataclasses

import equality
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, NamedSharding, use_abstract_mesh

from convmesh import mesh as meshes
from convmesh.distributed.batch import Batch, ProcessShard
from convmesh.errors import ConfigError
from convmesh.mesh import DATA, MODEL, SPATIAL, P, make_mesh

CUBE = (2, 2, 2)
CUBE_FSDP = (2, 2, 2, True)


@dataclasses.dataclass(frozen=True)
class Device:
    """A device of another process, as far as a mesh needs one."""

    id: int
    process_index: int = 0
    slice_index: int = 0
    coords: tuple = (0, 0, 0)
    core_on_chip: int = 0
    platform: str = "cpu"
    device_kind: str = "fake"


def fakes(count=8, each=4):
    """Devices of which each process has `each`."""
    return [Device(i, process_index=i // each) for i in range(count)]


def sizes(mesh):
    return tuple(mesh.shape[axis] for axis in (DATA, SPATIAL, MODEL))


def ids(devices):
    return np.vectorize(lambda device: device.id)(devices).tolist()


# --- make_mesh ----------------------------------------------------------------------------------


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
def test_one_size_may_be_all_remaining_devices(asked, wanted):
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
    "asked, message",
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
def test_sizes_that_do_not_fit_are_refused(asked, message):
    with pytest.raises(ConfigError) as error:
        make_mesh(**asked)
    assert message in str(error.value)
    assert "8 device(s)" in str(error.value)
    assert "the product of the sizes must be 8" in str(error.value)
    assert error.value.exit_code == 2


def test_fsdp_marks_the_mesh_and_keeps_the_device_order():
    mesh = make_mesh(2, 2, 2, fsdp=True)
    assert mesh.axis_names == (DATA, SPATIAL, MODEL, meshes.FSDP)
    assert sizes(mesh) == (2, 2, 2) and mesh.shape[meshes.FSDP] == 1
    assert mesh.devices[..., 0].tolist() == make_mesh(2, 2, 2).devices.tolist()
    # The mesh is part of the key of jit's cache: the two must differ.
    assert mesh != make_mesh(2, 2, 2) and mesh.abstract_mesh != make_mesh(2, 2, 2).abstract_mesh


def test_neighbours_differ_in_model_and_then_in_spatial():
    assert ids(make_mesh(2, 2, 2).devices) == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    # 4 x 2 chips of a TPU: neighbours there, not in the order of the list.
    chips = [
        Device(i, coords=(i % 4, i // 4, 0), platform="tpu", device_kind="TPU v5 lite")
        for i in (0, 3, 6, 1, 4, 7, 2, 5)
    ]
    where = np.vectorize(lambda chip: np.array(chip.coords), signature="()->(n)")
    at = where(make_mesh(2, 2, 2, devices=chips).devices)  # [data, spatial, model, 3]
    assert (np.abs(at[:, :, 0] - at[:, :, 1]).sum(-1) == 1).all()
    between = np.abs(at[:, 0, :, None] - at[:, 1, None, :]).sum(-1)
    assert between.min((1, 2)).tolist() == [1, 1]


def test_data_alone_goes_across_slices():
    # The devices of two slices, alternating.
    devices = [Device(i, slice_index=i % 2) for i in range(8)]
    mesh = make_mesh(2, 2, 2, devices=devices)
    assert ids(mesh.devices) == [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]
    assert ids(make_mesh(4, 1, 2, devices=devices).devices) == [
        [[0, 2]], [[4, 6]], [[1, 3]], [[5, 7]],
    ]  # fmt: skip
    # Otherwise the order of the list is kept.
    assert ids(make_mesh(1, 4, 2, devices=devices).devices) == [[[0, 1], [2, 3], [4, 5], [6, 7]]]


def test_a_mesh_is_described():
    assert meshes.describe(make_mesh(4, 2, 1)) == "data 4, spatial 2, model 1"
    assert meshes.describe(make_mesh(2, 2, 2, fsdp=True)) == "data 2, spatial 2, model 2, fsdp"


# --- layouts ------------------------------------------------------------------------------------

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
    assert meshes.activation_spec(shape, mesh) == wanted
    with jax.set_mesh(mesh):
        assert meshes.activation_spec(shape) == wanted  # the current mesh


def test_activations_with_replicated_rows_or_channels():
    mesh, shape = equality.make_mesh(CUBE), (4, 6, 5, 8)
    assert meshes.activation_spec(shape, mesh, rows=False) == P(DATA, None, None, MODEL)
    assert meshes.activation_spec(shape, mesh, channels=False) == P(DATA, SPATIAL, None, None)


@pytest.mark.parametrize(
    "mesh, batch, wanted",
    [
        (CUBE, 8, P((DATA, SPATIAL, MODEL))),
        (CUBE_FSDP, 12, P((DATA, SPATIAL))),
        (CUBE, 2, P((DATA,))),
        (CUBE, 3, P(None)),
        ((1, 4, 2), 4, P((SPATIAL,))),
        ((1, 4, 2), 2, P((MODEL,))),  # 4 do not divide, and the 2 after them do
        ((8, 1, 1), 8, P((DATA,))),
        ((1, 1, 1), 8, P(None)),
    ],
    ids=str,
)
def test_examples_are_sharded_over_all_axes_that_divide(mesh, batch, wanted):
    assert meshes.example_spec((batch, 5, 7), equality.make_mesh(mesh)) == wanted


def test_an_axis_of_one_device_is_not_named():
    mesh = equality.make_mesh((4, 2, 1))
    assert meshes.activation_spec((4, 6, 5, 8), mesh) == P(DATA, SPATIAL, None, None)
    assert meshes.parameter_spec((3, 3, 4, 8), mesh) == P(None, None, None, None)


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
    assert meshes.parameter_spec(shape, equality.make_mesh(CUBE)) == wanted


@pytest.mark.parametrize(
    "mesh, shape, wanted",
    [
        (CUBE_FSDP, (3, 3, 4, 8), P(None, None, DATA, MODEL)),  # by input channels too
        (CUBE_FSDP, (3, 3, 3, 8), P(None, None, None, (MODEL, DATA))),  # 3 do not divide
        (CUBE_FSDP, (3, 3, 3, 6), P(None, None, None, MODEL)),  # nor do the 3 of a model's part
        (CUBE_FSDP, (3, 3, 4, 5), P(None, None, DATA, None)),
        (CUBE_FSDP, (3, 3, 3, 5), P(None, None, None, None)),
        (CUBE_FSDP, (6, 8), P(DATA, MODEL)),
        (CUBE_FSDP, (8,), P(MODEL)),  # vectors as without fsdp
        (CUBE_FSDP, (), P()),
        ((8, 1, 1, True), (3, 3, 16, 8), P(None, None, DATA, None)),
        ((8, 1, 1, True), (7, 7, 3, 16), P(None, None, None, DATA)),
        ((8, 1, 1, True), (16,), P(None)),
        ((1, 4, 2, True), (3, 3, 4, 8), P(None, None, None, MODEL)),  # data has one device
        ((8, 1, 1), (3, 3, 16, 8), P(None, None, None, None)),
    ],
    ids=str,
)
def test_parameters_with_fsdp(mesh, shape, wanted):
    mesh = equality.make_mesh(mesh)
    assert meshes.parameter_spec(shape, mesh) == wanted
    with jax.set_mesh(mesh):
        assert meshes.parameter_spec(shape) == wanted


def test_fsdp_shards_the_kernels_over_data():
    mesh = equality.make_mesh(CUBE_FSDP)
    state = {"kernel": np.ones((3, 3, 4, 8)), "stem": np.ones((7, 7, 3, 8)), "bias": np.ones(8)}
    layout = meshes.state_shardings(mesh, {"params": state, "momentum": state, "step": np.int32(0)})
    assert layout["params"]["kernel"] == NamedSharding(mesh, P(None, None, DATA, MODEL))
    assert layout["momentum"] == layout["params"] and layout["step"] == NamedSharding(mesh, P())
    placed = jax.device_put(state, layout["params"])
    held = {name: leaf.addressable_shards[0].data.shape for name, leaf in placed.items()}
    assert held == {"kernel": (3, 3, 2, 4), "stem": (7, 7, 3, 2), "bias": (4,)}


def test_a_state_is_sharded_leaf_by_leaf():
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
    batch = Batch(
        image=np.zeros((4, 6, 6, 4), np.uint8),  # channels are never sharded
        boxes=np.zeros((4, 8, 4)),
        label=np.zeros(4),
        labels=np.zeros((3, 2)),  # 3 do not divide
        index=np.float32(1),  # a scalar
    )
    layout = meshes.batch_shardings(mesh, batch)
    assert {name: sharding.spec for name, sharding in layout.arrays()} == {
        "image": P(DATA, SPATIAL, None, None),
        "boxes": P(DATA),
        "label": P(DATA),
        "labels": P(None),
        "index": P(),
    }
    put = jax.device_put(batch, layout)
    assert put.image.addressable_shards[0].data.shape == (2, 3, 6, 4)


def test_stacked_batches_are_sharded_like_their_micro_batches():
    mesh = equality.make_mesh(CUBE)
    batch = Batch(image=np.zeros((2, 4, 6, 6, 4)), boxes=np.zeros((4, 2, 5)), label=np.ones((2, 3)))
    layout = meshes.batch_shardings(mesh, batch, stacked=True)
    assert {name: sharding.spec for name, sharding in layout.arrays()} == {
        "image": P(None, DATA, SPATIAL, None, None),
        "boxes": P(None, DATA),
        "label": P(None, None),
    }


@pytest.mark.parametrize("shape", [CUBE, CUBE_FSDP], ids=str)
def test_an_array_gets_the_sharding_of_a_parameter(shape):
    kernel = np.ones((3, 3, 4, 8))
    assert meshes.like_a_parameter(kernel) is kernel  # outside any mesh
    mesh = equality.make_mesh(shape)
    made = meshes.on_mesh(mesh, jax.jit(lambda: meshes.like_a_parameter(jnp.ones((3, 3, 4, 8)))))()
    wanted = NamedSharding(mesh, meshes.parameter_spec((3, 3, 4, 8), mesh))
    assert made.sharding.is_equivalent_to(wanted, 4)


def test_replicated_arrays_are_on_every_device():
    array = jax.device_put(np.ones((8, 8)), meshes.replicated(equality.make_mesh(CUBE)))
    assert array.sharding.is_fully_replicated


# --- the current mesh --------------------------------------------------------------------------


def test_the_current_mesh():
    assert meshes.current() is None and meshes.axis_size(SPATIAL) == 1
    seen = []

    def look(x):
        mesh = meshes.current()
        seen.append(None if mesh is None else dict(mesh.shape))
        return meshes.axis_size(SPATIAL) * x

    # One trace for each mesh: it is part of the key of jit's cache.
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
    assert meshes.current() is None  # reset


@pytest.mark.parametrize(
    "shape, batch, own",
    [
        ((1, 1, 1), 8, 8),
        ((8, 1, 1), 8, 1),
        ((8, 1, 1), 3, 3),
        ((2, 2, 2), 16, 2),  # over all axes
        ((2, 2, 2), 6, 3),
        ((2, 2, 2), 3, 3),
    ],
)
def test_per_example_runs_on_the_examples_of_each_device(shape, batch, own):
    seen = []

    def local(x, tree):
        seen.append(len(x))
        return x * 2, {"sum": (x + tree["y"]).sum(axis=1)}

    x = jnp.arange(batch * 2.0).reshape(batch, 2)
    run = meshes.on_mesh(equality.make_mesh(shape), jax.jit(meshes.per_example(local)))
    twice, rest = run(x, {"y": x})
    np.testing.assert_array_equal(twice, x * 2)
    np.testing.assert_array_equal(rest["sum"], (2 * x).sum(axis=1))
    assert set(seen) == {own}


# --- from host arrays to the mesh ----------------------------------------------------------------


def process_shards(mesh, processes, *sizes):
    """What each process reads: [(examples, owned ones, rows), ...]."""
    found = [meshes.process_shard(mesh, *sizes, process=i) for i in range(processes)]
    return [
        (s.examples.tolist(), s.examples[s.owned].tolist(), (s.rows.start, s.rows.stop))
        for s in found
    ]


@pytest.mark.parametrize("shape", [CUBE, (8, 1, 1), (1, 8, 1)], ids=str)
@pytest.mark.parametrize("parts", [1, 2])
def test_one_process_reads_all(shape, parts):
    shard = meshes.process_shard(equality.make_mesh(shape), 16, 24, parts)
    assert (shard.batch_size, shard.height, shard.micro_batches) == (16, 24, parts)
    assert shard.examples.tolist() == list(range(16)) and shard.owned.all()
    assert shard.rows == slice(0, 24)


def test_processes_along_data_read_their_own_examples():
    mesh = make_mesh(2, 2, 2, devices=fakes())
    assert process_shards(mesh, 2, 8, 12) == [
        ([0, 1, 2, 3], [0, 1, 2, 3], (0, 12)),
        ([4, 5, 6, 7], [4, 5, 6, 7], (0, 12)),
    ]
    # Of each of two micro-batches.
    assert process_shards(mesh, 2, 8, 12, 2) == [
        ([0, 1, 4, 5], [0, 1, 4, 5], (0, 12)),
        ([2, 3, 6, 7], [2, 3, 6, 7], (0, 12)),
    ]


def test_processes_along_spatial_read_rows_and_the_first_owns_the_examples():
    mesh = make_mesh(2, 4, 1, devices=fakes(each=2))
    assert process_shards(mesh, 4, 4, 12) == [
        ([0, 1], [0, 1], (0, 6)),
        ([0, 1], [], (6, 12)),
        ([2, 3], [2, 3], (0, 6)),
        ([2, 3], [], (6, 12)),
    ]
    # 10 rows do not divide over 4 devices, so each has them all.
    assert process_shards(mesh, 4, 4, 10)[3] == ([2, 3], [], (0, 10))


def test_processes_along_model_read_the_same():
    mesh = make_mesh(1, 1, 8, devices=fakes())
    assert process_shards(mesh, 2, 4, 12) == [
        ([0, 1, 2, 3],) * 2 + ((0, 12),),
        ([0, 1, 2, 3], [], (0, 12)),
    ]


def test_a_batch_that_does_not_divide_is_replicated_and_owned_once():
    mesh = make_mesh(8, 1, 1, devices=fakes())
    assert process_shards(mesh, 2, 3, 12) == [
        ([0, 1, 2],) * 2 + ((0, 12),),
        ([0, 1, 2], [], (0, 12)),
    ]


def test_the_examples_of_a_process_need_not_be_consecutive():
    alternating = [dataclasses.replace(d, process_index=d.id % 2) for d in fakes()]
    mesh = make_mesh(8, 1, 1, devices=alternating)
    assert process_shards(mesh, 2, 16, 12) == [
        ([0, 1, 4, 5, 8, 9, 12, 13],) * 2 + ((0, 12),),
        ([2, 3, 6, 7, 10, 11, 14, 15],) * 2 + ((0, 12),),
    ]
    assert process_shards(mesh, 2, 16, 12, 2)[1][0] == [1, 3, 5, 7, 9, 11, 13, 15]


def host_batch(batch, height):
    """A batch in whose arrays all numbers differ."""
    count = lambda *shape: np.arange(np.prod(shape)).reshape(shape)  # noqa: E731
    return Batch(
        image=count(batch, height, 5, 3).astype(np.float32),
        boxes=count(batch, 4, 4).astype(np.float32),
        index=count(batch),
        present=count(batch) % 3 > 0,
    )


@pytest.mark.parametrize("shape", [CUBE, (1, 8, 1), (8, 1, 1)], ids=str)
@pytest.mark.parametrize("parts", [1, 2])
def test_the_global_batch_of_one_process(shape, parts):
    mesh, batch = equality.make_mesh(shape), host_batch(16, 8)
    result = meshes.make_global_batch(mesh, batch, meshes.process_shard(mesh, 16, 8, parts))
    assert dict(result.arrays()).keys() == dict(batch.arrays()).keys()
    layout = meshes.batch_shardings(mesh, result, stacked=parts > 1)
    for name, leaf in batch.arrays():
        wanted = leaf.reshape(2, 8, *leaf.shape[1:]) if parts == 2 else leaf
        np.testing.assert_array_equal(np.asarray(getattr(result, name)), wanted)
        assert getattr(result, name).sharding == getattr(layout, name)
    assert result.index.dtype == jnp.int32  # JAX has no int64 here
    if parts == 1:
        result = dict(meshes.make_global_batch(mesh, batch).arrays())
        assert all((np.asarray(result[name]) == leaf).all() for name, leaf in batch.arrays())


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("shape", [(4, 2, 1), (2, 4, 1), (8, 1, 1), (1, 2, 4)], ids=str)
def test_each_process_makes_its_part_of_a_global_batch(shape, parts, monkeypatch):
    """Every device of every process gets its part of the global batch, from its process's shard."""
    alternating = [dataclasses.replace(d, process_index=d.id // 2 % 2) for d in fakes()]
    mesh, batch = make_mesh(*shape, devices=alternating), host_batch(16, 8)
    asked = []

    def only_of(process):
        def make(shape, sharding, part_of_one):
            devices = sharding.devices_indices_map(shape).items()
            asked.extend(device for device, _ in devices if device.process_index == process)
            return [
                (index, part_of_one(index))
                for device, index in devices
                if device.process_index == process
            ]

        return make

    for process in (0, 1):
        shard = meshes.process_shard(mesh, 16, 8, parts, process)
        local = batch.map(lambda _, leaf, shard=shard: leaf[shard.examples])
        local = dataclasses.replace(local, image=local.image[:, shard.rows])
        monkeypatch.setattr(jax, "make_array_from_callback", only_of(process))
        for name, shards in meshes.make_global_batch(mesh, local, shard).arrays():
            array = getattr(batch, name)
            if parts == 2:
                array = array.reshape(2, 8, *array.shape[1:])
            for index, found in shards:
                np.testing.assert_array_equal(found, array[index], err_msg=name)
    assert len(asked) == 8 * len(dict(batch.arrays()))


def test_the_shard_of_the_whole_batch_has_all_examples_and_rows():
    shard = ProcessShard.whole_batch(3, 7)
    assert shard.examples.tolist() == [0, 1, 2] and shard.owned.tolist() == [True] * 3
    assert (shard.rows, shard.micro_batches) == (slice(0, 7), 1)


def on_a(platform, function, *args):
    device = AbstractDevice(device_kind="some", num_cores=1, platform=platform)
    mesh = AbstractMesh((2,), (DATA,), abstract_device=device)
    with use_abstract_mesh(mesh):
        return jax.jit(function)(*args), str(jax.make_jaxpr(function)(*args))


@pytest.mark.parametrize("images, parts", [(4, 0), (5, 5), (8, 2), (9, 3), (12, 3)])
def test_large_images_are_handled_a_few_at_once(images, parts):
    x = np.arange(images * 3.0).reshape(images, 3)
    few = meshes.by_images(lambda row: (row * 2, row.sum()), meshes.MOST_PAIRS // 4)
    (double, total), program = on_a("tpu", few, x)
    np.testing.assert_array_equal(double, x * 2)
    np.testing.assert_array_equal(total, x.sum(1))
    assert (f"length={parts}" in program) if parts else "scan" not in program
    assert "scan" not in on_a("cpu", few, x)[1]
