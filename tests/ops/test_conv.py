import functools
import itertools

import equality
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax import lax
from jax.sharding import NamedSharding

from convmesh import mesh as meshes
from convmesh.mesh import DATA, MODEL, SPATIAL, P
from convmesh.ops.conv import conv2d, pair
from convmesh.programs.collectives import find_collectives


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# --- against loops ------------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "kernel, options",
    [
        ((1, 1), {}),
        ((1, 1), dict(stride=2)),
        ((1, 1), dict(padding=1)),
        ((3, 3), {}),
        ((3, 3), dict(stride=2)),
        ((3, 3), dict(padding=0)),
        ((3, 3), dict(dilation=2)),
        ((3, 3), dict(dilation=2, stride=2, padding=1)),
        ((3, 3), dict(groups=2)),
        ((3, 3), dict(groups=4, stride=2)),
        ((7, 7), dict(stride=2)),
        ((6, 6), dict(stride=4, padding=1)),
        ((2, 2), dict(stride=2)),
        ((1, 3), {}),
        ((5, 2), dict(padding=(2, 0))),
        ((3, 2), dict(stride=(1, 3), dilation=(2, 1))),
    ],
    ids=str,
)
def test_equals_loops(kernel, options):
    groups = options.get("groups", 1)
    x, kernel = normal(2, 9, 10, 4), normal(*kernel, 4 // groups, 4, seed=1)
    dilation = options.get("dilation", 1)
    sides = zip(np.broadcast_to(dilation, 2), kernel.shape[:2], strict=True)
    padding = options.get("padding", tuple(d * (k - 1) // 2 for d, k in sides))
    padding = (padding, padding) if isinstance(padding, int) else padding
    wanted = reference.conv2d(x, kernel, **{**options, "padding": padding})
    np.testing.assert_allclose(conv2d(x, kernel, **options), wanted, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_depthwise_with_two_filters_a_channel():
    x, kernel = normal(2, 5, 6, 3), normal(3, 3, 1, 6)
    wanted = reference.conv2d(x, kernel, padding=(1, 1), groups=3)
    np.testing.assert_allclose(conv2d(x, kernel, groups=3), wanted, atol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("size", [(32, 33), (7, 10), (2, 3)], ids=str)
@pytest.mark.parametrize("dilation", [1, 2, (1, 2)])
@pytest.mark.parametrize("stride", [1, 2, (3, 2)])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3), (5, 5), (1, 3), (7, 6)], ids=str)
def test_same_padding_is_that_of_tensorflow(kernel, stride, dilation, size):
    x, kernel = normal(2, *size, 2), normal(*kernel, 2, 2, seed=1)
    wanted = lax.conv_general_dilated(
        x,
        kernel,
        pair(stride),
        "SAME",
        rhs_dilation=pair(dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    found = conv2d(x, kernel, stride=stride, dilation=dilation, padding="SAME")
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_same_padding_by_hand():
    # Stride 2 over 4 pixels: one zero, after them. Torch's padding has one before, too.
    x, kernel = jnp.arange(1.0, 5).reshape(1, 1, 4, 1), jnp.ones((1, 3, 1, 1))
    assert conv2d(x, kernel, stride=2, padding="SAME").ravel().tolist() == [6, 7]
    assert conv2d(x, kernel, stride=2).ravel().tolist() == [3, 9]


def test_another_word_for_padding_is_refused():
    with pytest.raises(ValueError, match="padding='VALID'.*nor 'SAME'"):
        conv2d(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)), padding="VALID")


def test_cross_correlation_by_hand():
    # The kernel is not flipped: its upper left tap meets the pixel at the upper left.
    x = jnp.arange(1.0, 10).reshape(1, 3, 3, 1)
    kernel = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1).at[1, 1].set(10)
    assert conv2d(x, kernel)[0, :, :, 0].tolist() == [[10, 20, 30], [40, 51, 62], [70, 84, 95]]


@pytest.mark.parametrize(
    "x, kernel, groups",
    [
        ((1, 4, 4, 3), (3, 3, 4, 8), 1),
        ((1, 4, 4, 8), (3, 3, 8, 8), 2),
        ((1, 4, 4, 4), (1, 1, 2, 3), 2),
    ],
)
def test_channels_that_do_not_match_are_refused(x, kernel, groups):
    with pytest.raises(ValueError, match=f"conv2d: input channels {x[-1]}.*groups={groups}"):
        conv2d(jnp.ones(x), jnp.ones(kernel), groups=groups)


# --- types --------------------------------------------------------------------------------------


def test_dtype_is_the_type_of_the_arithmetic_alone():
    x, kernel = (
        jnp.asarray(normal(2, 6, 6, 4), jnp.float32),
        jnp.asarray(normal(3, 3, 4, 4), jnp.float32),
    )
    narrow = functools.partial(conv2d, dtype=jnp.bfloat16)
    y, pull = jax.vjp(narrow, x, kernel)
    assert y.dtype == jnp.bfloat16
    assert [g.dtype for g in pull(y)] == [jnp.float32, jnp.float32]
    wanted = conv2d(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert wanted.dtype == jnp.bfloat16  # x's type by default
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_allclose(y.astype(np.float32), conv2d(x, kernel), atol=0.2)


def test_kernel_gradients_are_summed_over_devices_in_the_kernels_type():
    # Each device adds one number, 256 or 1: the sum 263 has no place in bfloat16.
    x = jnp.array([256.0] + [1] * 7).reshape(8, 1, 1, 1)

    def total(kernel, x):
        return conv2d(x, kernel, dtype=jnp.bfloat16).astype(jnp.float32).sum()

    kernel = jnp.ones((1, 1, 1, 1))
    gradient = meshes.on_mesh(equality.make_mesh((8, 1, 1)), jax.jit(jax.grad(total)))(kernel, x)
    assert gradient.dtype == jnp.float32
    assert gradient.item() == 263


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 0.02)])
def test_narrower_types_on_a_mesh(dtype, tolerance):
    x, kernel = (jnp.asarray(a, jnp.float32) for a in (normal(4, 8, 8, 8), normal(3, 3, 8, 8)))

    def both(x, kernel):
        y, pull = jax.vjp(functools.partial(conv2d, dtype=dtype), x, kernel)
        return y, pull(jnp.ones_like(y))

    wanted = jax.jit(both)(x, kernel)
    got = meshes.on_mesh(equality.make_mesh((2, 2, 2)), jax.jit(both))(x, kernel)
    assert got[0].dtype == dtype and got[1][1].dtype == jnp.float32
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        np.testing.assert_allclose(one, other, atol=tolerance * abs(other).max())


# --- on every mesh ------------------------------------------------------------------------------

# What fits every mesh, and what fits none that is larger than two in some direction.
FITS = dict(batch=8, rows=32, c_in=8, c_out=16, groups=1)
ODD = dict(batch=6, rows=14, c_in=3, c_out=5, groups=1)
GROUPS, DEPTHWISE = dict(groups=2), dict(c_in=8, c_out=8, groups=8)
ODD_GROUPS, ODD_DEPTHWISE = dict(c_in=6, c_out=9, groups=3), dict(c_in=3, c_out=3, groups=3)

# (kernel side, options of conv2d, shapes)
CASES = [
    *(
        (side, options, shape)
        for side, options in [
            (3, {}),
            (3, dict(stride=2)),
            (7, dict(stride=2)),
            (6, dict(stride=4, padding=1)),
            (1, {}),
            (1, dict(stride=2)),
            (3, dict(dilation=2)),
        ]
        for shape in (FITS, ODD)
    ),
    # Directions that differ: (rows, columns).
    ((3, 1), dict(stride=(1, 2), dilation=(2, 1), padding=(2, 0)), FITS),
    ((1, 5), dict(stride=(2, 1)), ODD),
    # Rows that fit and channels that do not, and the other way round; one side of the channels.
    (3, {}, {**FITS, "c_in": 3}),
    (3, {}, {**FITS, "c_out": 5}),
    (3, dict(stride=2), {**ODD, "c_in": 8, "c_out": 16}),
    (3, dict(stride=2), {**FITS, "c_in": 3, "c_out": 5}),
    (1, dict(stride=2), {**ODD, "rows": 32}),
    (7, dict(stride=2), {**FITS, "batch": 6, "c_in": 3}),
    # What a 1x1 convolution may take for a plain product.
    (1, {}, {**FITS, **GROUPS}),
    (1, {}, {**FITS, **DEPTHWISE}),
    (1, dict(stride=2), {**ODD, **ODD_GROUPS}),
    # Groups: complete ones on each device, or more devices than groups, or nothing divides.
    (3, {}, {**FITS, **GROUPS}),
    (3, {}, {**ODD, **ODD_GROUPS}),
    (3, {}, {**FITS, **DEPTHWISE}),
    (3, dict(stride=2), {**FITS, **DEPTHWISE}),
    (3, dict(stride=2), {**FITS, **DEPTHWISE, "c_out": 16}),
    (3, {}, {**ODD, **DEPTHWISE}),
    (3, {}, {**FITS, **ODD_DEPTHWISE}),
    (3, dict(stride=2), {**ODD, **ODD_DEPTHWISE}),
    # TensorFlow's padding: halos of unequal ends, and rows that do not fit.
    (3, dict(stride=2, padding="SAME"), FITS),
    (3, dict(stride=2, padding="SAME"), ODD),
    (7, dict(stride=2, padding="SAME"), FITS),
    (2, dict(padding="SAME"), FITS),
    (3, dict(stride=4, padding="SAME"), FITS),
    (3, dict(stride=2, dilation=2, padding="SAME"), FITS),
    (5, dict(stride=2, padding="SAME"), {**FITS, **DEPTHWISE}),
    (5, dict(stride=2, padding="SAME"), {**ODD, **ODD_DEPTHWISE}),
    ((3, 5), dict(stride=(2, 1), padding="SAME"), FITS),
]


# Every combination of kernel, stride, dilation and groups, from none to depthwise.
TABLE = [
    (side, dict(stride=stride, dilation=dilation), {**FITS, "c_out": 8, "groups": groups})
    for side, stride, dilation, groups in itertools.product(
        (1, 3, 5, 7), (1, 2), (1, 2), (1, 2, 4, 8)
    )
]


def cases(table):
    """{what: (x, kernel, options)}."""
    every = {}
    for seed, (side, options, shape) in enumerate(table):
        batch, rows, c_in, c_out, groups = shape.values()
        x = normal(batch, rows, 6, c_in, seed=2 * seed)
        kernel = normal(*pair(side), c_in // groups, c_out, seed=2 * seed + 1)
        every[f"{side} {options} {shape}"] = x, kernel, {**options, "groups": groups}
    assert len(every) == len(table)
    return every


def everything(table, shape):
    """The result and both gradients of all cases, compiled as one program for a mesh."""
    mesh, every = equality.make_mesh(shape), cases(table)

    def place(array, spec):
        return jax.device_put(array, NamedSharding(mesh, spec))

    arrays = {
        name: (
            place(x, meshes.activation_spec(x.shape, mesh)),
            place(k, meshes.parameter_spec(k.shape, mesh)),
        )
        for name, (x, k, _) in every.items()
    }

    def all_ops(arrays):
        results = {}
        for name, (x, kernel) in arrays.items():
            y, pull = jax.vjp(functools.partial(conv2d, **every[name][2]), x, kernel)
            results[name] = dict(zip(("y", "dx", "dkernel"), (y, *pull(y)), strict=True))
        return results

    return jax.device_get(meshes.on_mesh(mesh, jax.jit(all_ops))(arrays))


@functools.cache
def one_device():
    with jax.enable_x64(True):
        return everything(CASES, (1, 1, 1))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", equality.ALL_LAYOUTS, ids=str)
def test_every_op_on_every_mesh(shape):
    equality.assert_equal(everything(CASES, shape), one_device())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("side", [1, 3, 5, 7])
def test_every_window_with_every_number_of_groups(side):
    table = [case for case in TABLE if case[0] == side]
    wanted = everything(table, (1, 1, 1))
    for shape in ((2, 2, 2), (1, 2, 4)):
        equality.assert_equal(everything(table, shape), wanted)


@pytest.mark.parametrize(
    "x, kernel, options, wanted",
    [
        ((4, 8, 6, 8), (3, 3, 8, 8), {}, P(DATA, SPATIAL, None, MODEL)),
        ((4, 8, 6, 3), (3, 3, 3, 8), dict(stride=2), P(DATA, SPATIAL, None, MODEL)),
        ((4, 8, 6, 8), (3, 3, 1, 8), dict(groups=8), P(DATA, SPATIAL, None, MODEL)),
        ((4, 8, 6, 8), (3, 3, 8, 5), {}, P(DATA, SPATIAL, None, None)),
        ((4, 7, 6, 8), (3, 3, 8, 8), {}, P(DATA, None, None, MODEL)),
        ((3, 8, 6, 8), (3, 3, 8, 8), {}, P(None, SPATIAL, None, MODEL)),
        ((3, 7, 6, 8), (3, 3, 8, 5), {}, P(None, None, None, None)),
    ],
)
def test_the_work_is_sharded_where_it_can_be(x, kernel, options, wanted):
    mesh = equality.make_mesh((2, 2, 2))
    conv = jax.jit(functools.partial(conv2d, **options))
    y = meshes.on_mesh(mesh, conv)(jnp.ones(x), jnp.ones(kernel))
    assert y.sharding.is_equivalent_to(NamedSharding(mesh, wanted), 4)


def test_a_depthwise_convolution_moves_no_channels():
    mesh, spec = equality.make_mesh((1, 1, 8)), P(None, None, None, MODEL)
    x, kernel = (
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape in [(2, 8, 8, 8), (3, 3, 1, 8)]
    )
    with jax.set_mesh(mesh):
        text = jax.jit(functools.partial(conv2d, groups=8)).lower(x, kernel).compile().as_text()
    assert "convolution" in text
    assert not any(word in text for word in ("all-gather", "all-reduce", "collective-permute"))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (1, 2, 4), (2, 2, 2, True)], ids=str)
@pytest.mark.parametrize("channels", [(8, 8), (8, 16, 4), (8, 3)], ids=str)
def test_several_arrays_are_convolved_as_one(shape, channels):
    mesh = equality.make_mesh(shape)
    parts = [normal(4, 8, 6, c, seed=c) for c in channels]
    kernel = normal(3, 3, sum(channels), 8, seed=9)

    def loss(function, parts, kernel):
        return (jnp.sin(function(parts, kernel))).sum()

    together = lambda parts, kernel: conv2d(jnp.concatenate(parts, -1), kernel)  # noqa: E731
    wanted = jax.grad(functools.partial(loss, together), (0, 1))(parts, kernel)
    gradients = jax.jit(jax.grad(functools.partial(loss, conv2d), (0, 1)))
    equality.assert_equal(meshes.on_mesh(mesh, gradients)(parts, kernel), wanted)


def test_several_arrays_are_not_moved_to_other_devices_before_they_are_convolved():
    mesh = equality.make_mesh((4, 1, 2))
    spec = NamedSharding(mesh, meshes.activation_spec((4, 8, 8, 8), mesh))
    parts = [jax.ShapeDtypeStruct((4, 8, 8, 8), jnp.float32, sharding=spec)] * 2
    kernel = jnp.ones((1, 1, 16, 16))
    loss = lambda parts: conv2d(parts, kernel).sum()  # noqa: E731
    program = meshes.on_mesh(mesh, jax.jit(jax.grad(loss))).lower(parts).compile()
    kinds = {each.kind for each in find_collectives(program.as_text(), mesh)}
    assert kinds <= {"all-gather", "reduce-scatter", "all-reduce"}
