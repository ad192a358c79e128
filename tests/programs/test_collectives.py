import equality
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding

from convmesh import mesh as meshes
from convmesh.mesh import DATA, MODEL, SPATIAL, P
from convmesh.programs.collectives import CollectiveTotal, find_collectives, total_collectives

CUBE = (2, 2, 2)
REDUCER = """
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}
"""


def program(*lines, computations=""):
    """HLO text, as XLA prints it, of an entry computation with these instructions."""
    body = "\n".join(f"  {line}" for line in lines)
    return f"""HloModule jit_f, is_scheduled=true, num_partitions=8

FileNames
1 "f.py"
{REDUCER}{computations}
ENTRY %main.0_spmd (x: f32[2,3], y: bf16[5]) -> f32[2,3] {{
  %x = f32[2,3]{{1,0:T(8,128)}} parameter(0), sharding={{devices=[2,2,2]<=[8]}}
  %y = bf16[5]{{0}} parameter(1)
{body}
}}
"""


def totals(text, mesh):
    """The collectives of a program's text, summed by kind and axes."""
    return total_collectives(find_collectives(text, mesh), mesh)


def read(*lines, shape=CUBE, computations=""):
    """The totals of such a program, as plain tuples."""
    found = totals(program(*lines, computations=computations), equality.make_mesh(shape))
    return [(each.kind, each.axes, each.count, each.bytes) for each in found]


def all_reduce(groups):
    attributes = f"channel_id=1, {groups}use_global_device_ids=true, to_apply=%add"
    return f"ROOT %r = f32[2,3]{{1,0}} all-reduce(%x), {attributes}"


# --- groups of devices --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "groups, axes",
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", (MODEL,)),
        ("{{0,2},{1,3},{4,6},{5,7}}", (SPATIAL,)),
        ("{{0,4},{1,5},{2,6},{3,7}}", (DATA,)),
        ("{{0,2,4,6},{1,3,5,7}}", (DATA, SPATIAL)),
        ("{{4,0,5,1},{6,2,7,3}}", (DATA, MODEL)),
        ("{{0,3},{1,2},{4,7},{5,6}}", (SPATIAL, MODEL)),  # a diagonal
        ("{{0},{1},{2,6},{3},{4},{5},{7}}", (DATA,)),  # some devices take no part
        ("{{0,1,2,3,4,5,6,7}}", (DATA, SPATIAL, MODEL)),
        ("{}", (DATA, SPATIAL, MODEL)),
        ("[2,4]<=[8]", (SPATIAL, MODEL)),
        ("[4,2]<=[8]", (MODEL,)),
        ("[1,8]<=[8]", (DATA, SPATIAL, MODEL)),
        ("[4,2]<=[2,4]T(1,0)", (DATA,)),
        ("[2,4]<=[4,2]T(1,0)", (DATA, SPATIAL)),
        ("[2,4]<=[2,2,2]T(1,0,2)", (DATA, MODEL)),
        ("mesh['data'=2,'spatial'=2,'model'=2] {'spatial'}", (SPATIAL,)),
        ("mesh['data'=2,'spatial'=2,'model'=2] {'model','data'}", (DATA, MODEL)),
        # XLA's mesh is not ours.
        ("mesh['axis_0'=2,'axis_1'=1,'axis_2'=4] {'axis_2'}", (SPATIAL, MODEL)),
        ("mesh['axis_0'=2,'axis_1'=1,'axis_2'=4] {'axis_0'}", (DATA,)),
        ("mesh['model'=2,'data'=4] {'model'}", (DATA,)),
        ("mesh['a'=2,'b'=4] {'b':(1)2}", (SPATIAL,)),
        ("mesh['a'=2,'b'=4] {'b':(2)2}", (MODEL,)),
        ("mesh['a'=8] {'a':(1)2,'a':(4)2}", (DATA, MODEL)),
        ("mesh['a'=2,'b'=2,'c'=2], device_ids=([4,2]T(1,0)) {'a'}", (MODEL,)),
        ("mesh['a'=2,'b'=4], device_ids=(0,4,1,5,2,6,3,7) {'a'}", (SPATIAL,)),
    ],
)
def test_axes_of_replica_groups(groups, axes):
    assert read(all_reduce(f"replica_groups={groups}, ")) == [("all-reduce", axes, 1, 24)]


def test_without_groups_all_devices_communicate():
    assert read(all_reduce("")) == [("all-reduce", (DATA, SPATIAL, MODEL), 1, 24)]
    assert read(all_reduce("replica_groups={}, "), shape=(2, 1, 4))[0][1] == (DATA, MODEL)


@pytest.mark.parametrize(
    "groups",
    [
        "{{0},{1},{2},{3},{4},{5},{6},{7}}",
        "[8,1]<=[8]",
        "mesh['data'=8,'spatial'=1,'model'=1] {'model'}",
    ],
)
def test_a_group_of_one_device_is_no_communication(groups):
    assert read(all_reduce(f"replica_groups={groups}, "), shape=(8, 1, 1)) == []


@pytest.mark.parametrize(
    "pairs, axes",
    [
        ("{{0,2},{1,3},{4,6},{5,7}}", (SPATIAL,)),
        ("{{2,0}}", (SPATIAL,)),
        ("{{0,1},{2,6},{3,3}}", (DATA, MODEL)),
        ("{{0,0},{1,1}}", None),
        ("{}", None),
    ],
)
def test_axes_of_a_permutation(pairs, axes):
    line = f"ROOT %r = f32[2,3]{{1,0}} collective-permute(%x), source_target_pairs={pairs}"
    assert read(line) == ([("collective-permute", axes, 1, 24)] if axes else [])


def test_text_in_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="in an unknown format"):
        read(all_reduce("replica_groups=<new>, "))
    with pytest.raises(ValueError, match="in an unknown format"):
        read("%r = f32[2,3]{1,0} collective-permute(%x), source_target_pairs=[8]")
    with pytest.raises(ValueError, match="out of bounds"):
        read(all_reduce("replica_groups={{0,8}}, "))
    with pytest.raises(ValueError, match="ENTRY"):
        totals("module @jit_f {\n}\n", equality.make_mesh(CUBE))


# --- bytes --------------------------------------------------------------------------------------

OVER_MODEL = "channel_id=1, replica_groups={{0,1},{2,3},{4,5},{6,7}}"


@pytest.mark.parametrize(
    "line, wanted",
    [
        (
            "%r = f32[2,6]{0,1} all-gather(%x), ATTRIBUTES, dimensions={1}",
            ("all-gather", 48, ("f32[2,6]",)),
        ),
        (
            "%r = (f32[2,6]{1,0}, bf16[10]{0}) all-gather(%x, %y), ATTRIBUTES, dimensions={1}",
            ("all-gather", 68, ("f32[2,6]", "bf16[10]")),
        ),
        (
            "%r = f32[1,3]{1,0} reduce-scatter(%x), ATTRIBUTES, dimensions={0}, to_apply=%add",
            ("reduce-scatter", 24, ("f32[2,3]",)),
        ),
        (
            "%r = (f32[2,3]{1,0}, bf16[5]{0}) all-reduce(%x, %y), ATTRIBUTES, to_apply=%add",
            ("all-reduce", 34, ("f32[2,3]", "bf16[5]")),
        ),
        (
            "%r = (f32[2,3], f32[2,3], bf16[5], bf16[5], bf16[5], /*index=5*/bf16[5]) "
            "all-reduce(%x, %x, %y, %y, %y, /*index=5*/%y), ATTRIBUTES, to_apply=%add",
            ("all-reduce", 88, ("f32[2,3]",) * 2 + ("bf16[5]",) * 4),
        ),
        (
            "%r = (f32[2,3]{1,0}, f32[2,3]{1,0}) all-to-all(%x, %x), ATTRIBUTES",
            ("all-to-all", 48, ("f32[2,3]", "f32[2,3]")),
        ),
        (
            "%r = bf16[5]{0} collective-broadcast(%y), ATTRIBUTES",
            ("collective-broadcast", 10, ("bf16[5]",)),
        ),
        (
            "%r = f32[2,3]{1,0} ragged-all-to-all(%x, %x, %y, %y, %y, /*index=5*/%y), ATTRIBUTES",
            ("ragged-all-to-all", 24, ("f32[2,3]",)),
        ),
    ],
)
def test_payload_of_each_kind(line, wanted):
    text = program(line.replace("ATTRIBUTES", OVER_MODEL))
    (found,) = find_collectives(text, equality.make_mesh(CUBE))
    assert (found.kind, found.bytes, found.shapes) == wanted
    assert found.axes == (MODEL,) and found.count == 1 and not found.in_loop


@pytest.mark.parametrize(
    "array, size",
    [
        ("f32[]", 4),
        ("f64[3]{0}", 24),
        ("f16[3]{0}", 6),
        ("bf16[2,3]{1,0:T(8,128)(2,1)S(1)}", 12),
        ("f8e4m3fn[7]{0}", 7),
        ("pred[5]{0}", 5),
        ("s32[2,1,4]{2,1,0}", 32),
        ("u8[9]{0}", 9),
        ("s64[2]{0}", 16),
        ("c128[2]{0}", 32),
        ("s4[3]{0:E(4)}", 2),
        ("f32[<=8,3]{1,0}", 96),
        ("f32[0,3]{1,0}", 0),
    ],
)
def test_bytes_of_each_type(array, size):
    lines = (
        f"%z = {array} parameter(2)",
        f"%r = {array} collective-permute(%z), channel_id=1, source_target_pairs={{{{0,1}}}}",
    )
    (found,) = find_collectives(program(*lines), equality.make_mesh(CUBE))
    assert found.bytes == size
    assert found.shapes == (array.partition("{")[0].replace("<=", ""),)


# --- asynchronous forms -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines, wanted",
    [
        (
            (
                "%s = f32[2,3]{1,0} all-reduce-start(%x), ATTRIBUTES, to_apply=%add",
                "ROOT %d = f32[2,3]{1,0} all-reduce-done(%s)",
            ),
            ("all-reduce", 24),
        ),
        (
            (
                "%s = (f32[2,3]{1,0}, bf16[5]{0}) all-reduce-start(%x, %y), ATTRIBUTES",
                "ROOT %d = (f32[2,3]{1,0}, bf16[5]{0}) all-reduce-done(%s)",
            ),
            ("all-reduce", 34),
        ),
        (
            (
                "%s = (f32[2,3]{1,0}, f32[4,3]{1,0}) all-gather-start(%x), ATTRIBUTES",
                "ROOT %d = f32[4,3]{1,0} all-gather-done(%s)",
            ),
            ("all-gather", 48),
        ),
        (
            (
                "%s = ((f32[2,3]{1,0}, bf16[5]{0}), (f32[4,3]{1,0}, bf16[10]{0}), u32[]) "
                "all-gather-start(%x, %y), ATTRIBUTES",
                "ROOT %d = (f32[4,3]{1,0}, bf16[10]{0}) all-gather-done(%s)",
            ),
            ("all-gather", 68),
        ),
        (
            (
                "%s = ((f32[2,3]{1,0}), f32[1,3]{1,0}) reduce-scatter-start(%x), ATTRIBUTES",
                "%u = ((f32[2,3]{1,0}), f32[1,3]{1,0}) reduce-scatter-update(%s)",
                "ROOT %d = f32[1,3]{1,0} reduce-scatter-done(%u)",
            ),
            ("reduce-scatter", 24),
        ),
        (
            (
                "%s = ((f32[2,3]{1,0}), f32[2,3]{1,0}, u32[]) all-to-all-start(%x), ATTRIBUTES",
                "ROOT %d = f32[2,3]{1,0} all-to-all-done(%s)",
            ),
            ("all-to-all", 24),
        ),
        (
            (
                "%s = (bf16[5]{0}, bf16[5]{0}, u32[], u32[]) collective-permute-start(%y), "
                "channel_id=1, source_target_pairs={{0,1},{2,3}}",
                "ROOT %d = bf16[5]{0} collective-permute-done(%s)",
            ),
            ("collective-permute", 10),
        ),
    ],
)
def test_a_start_and_its_done_are_one_collective(lines, wanted):
    kind, size = wanted
    lines = [line.replace("ATTRIBUTES", OVER_MODEL) for line in lines]
    assert read(*lines) == [(kind, (MODEL,), 1, size)]


def test_a_wrapped_collective_is_counted_once():
    wrapped = f"""
%wrapped (p: f32[2,3]) -> f32[1,3] {{
  %p = f32[2,3]{{1,0}} parameter(0)
  ROOT %r = f32[1,3]{{1,0}} reduce-scatter(%p), {OVER_MODEL}, dimensions={{0}}, to_apply=%add
}}, execution_thread="parallel"
"""
    type_ = "((f32[2,3]{1,0}), f32[1,3]{1,0}, u32[])"
    lines = (
        f"%s = {type_} async-start(%x), calls=%wrapped",
        f"%u = {type_} async-update(%s), calls=%wrapped",
        "ROOT %d = f32[1,3]{1,0} async-done(%u), calls=%wrapped",
    )
    assert read(*lines, computations=wrapped) == [("reduce-scatter", (MODEL,), 1, 24)]


# --- loops, calls and branches ------------------------------------------------------------------

LOOP = """
%body (p: f32[2,3]) -> f32[2,3] {
  %p = f32[2,3]{1,0} parameter(0)
  ROOT %r = f32[2,3]{1,0} collective-permute(%p), channel_id=1, source_target_pairs={{0,2}}
}

%condition (q: f32[2,3]) -> pred[] {
  %q = f32[2,3]{1,0} parameter(0)
  %c = pred[] constant(true)
  ROOT %any = pred[] all-reduce(%c), channel_id=2, replica_groups=[4,2]<=[8], to_apply=%add
}
"""
WHILE = "f32[2,3]{1,0} while(%x), condition=%condition, body=%body"
STATED = 'backend_config={"known_init_step":{"init":"0"},"known_trip_count":{"n":"3"}}'


def test_a_loop_counts_its_trips():
    line = f'ROOT %w = {WHILE}, metadata={{op_name="jit(f)/while"}}, {STATED}'
    assert read(line, computations=LOOP) == [
        ("all-reduce", (MODEL,), 4, 4),  # the condition is evaluated once more than the body
        ("collective-permute", (SPATIAL,), 3, 72),
    ]
    found = find_collectives(program(line, computations=LOOP), equality.make_mesh(CUBE))
    assert [each.in_loop for each in found] == [False, False]


def test_a_loop_of_unknown_length_is_marked():
    line = f"%w = {WHILE}"
    outside = "ROOT %r = f32[2,3]{1,0} all-reduce(%w), replica_groups={{0,4}}, to_apply=%add"
    text = program(line, outside, computations=LOOP)
    found = find_collectives(text, equality.make_mesh(CUBE))
    assert [(each.kind, each.axes, each.count, each.in_loop) for each in found] == [
        ("all-reduce", (MODEL,), 1, True),
        ("collective-permute", (SPATIAL,), 1, True),
        ("all-reduce", (DATA,), 1, False),
    ]


def test_a_loop_in_a_loop():
    outer = f"""{LOOP}
%outer (p: f32[2,3]) -> f32[2,3] {{
  %x = f32[2,3]{{1,0}} parameter(0)
  ROOT %w = {WHILE}, {STATED}
}}

%once (q: f32[2,3]) -> pred[] {{
  ROOT %c = pred[] constant(true)
}}
"""
    line = "ROOT %w = f32[2,3]{1,0} while(%x), condition=%once, body=%outer"
    stated = f"{line}, {STATED.replace('3', '5')}"
    assert read(stated, computations=outer)[1] == ("collective-permute", (SPATIAL,), 15, 360)
    found = find_collectives(program(line, computations=outer), equality.make_mesh(CUBE))
    assert [(each.count, each.in_loop) for each in found] == [(4, True), (3, True)]


def test_calls_and_branches():
    line = "f32[2,3]{1,0} call(%x), to_apply=%body"
    branch = "conditional(%i, %x, %x), branch_computations={%body, %body}"
    lines = (f"%a = {line}", f"%b = {line}", f"%c = f32[2,3]{{1,0}} {branch}")
    wanted = [("collective-permute", (SPATIAL,), 4, 96)]
    assert read(*lines, computations=LOOP) == wanted
    fused = "%a = f32[2,3]{1,0} fusion(%x), kind=kLoop, calls=%body"
    assert read(fused, computations=LOOP) == [("collective-permute", (SPATIAL,), 1, 24)]


# --- sums ---------------------------------------------------------------------------------------


def test_totals_are_sorted_by_kind_and_axes():
    reduced = "f32[2,3]{1,0} all-reduce(%x), replica_groups="
    lines = (
        "%a = f32[2,3]{1,0} reduce-scatter(%x), replica_groups={{0,1}}",
        f"%b = {reduced}{{{{0,2}}}}",
        f"%c = {reduced}{{{{0,4}}}}",
        f"%d = {reduced}[4,2]<=[2,2,2]T(0,2,1)",
        f"%g = {reduced}{{{{0,1}}}}",
        "%e = f32[] parameter(2)",
        "%f = f32[] all-reduce(%e), replica_groups={{1,3}}",
    )
    assert totals(program(*lines), equality.make_mesh(CUBE)) == [
        CollectiveTotal("all-reduce", (DATA,), 1, 24),
        CollectiveTotal("all-reduce", (SPATIAL,), 3, 24 + 24 + 4),
        CollectiveTotal("all-reduce", (MODEL,), 1, 24),
        CollectiveTotal("reduce-scatter", (MODEL,), 1, 24),
    ]


def test_the_operation_of_jax_is_named():
    note = 'metadata={op_name="jit(f)/psum, replica_groups={{0,4}}" stack_frame_id=3}'
    (found,) = find_collectives(program(all_reduce("") + f", {note}"), equality.make_mesh(CUBE))
    assert found.op_name == "jit(f)/psum, replica_groups={{0,4}}"
    assert found.axes == (DATA, SPATIAL, MODEL)
    (bare,) = find_collectives(program(all_reduce("")), equality.make_mesh(CUBE))
    assert bare.op_name == ""


# --- real programs ------------------------------------------------------------------------------


def compiled(mesh, function, in_specs, out_specs, *shapes):
    """The text of `function` under shard_map, for float32 arrays of these shapes."""
    with jax.set_mesh(mesh):
        sharded = jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)
        arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        return jax.jit(sharded).lower(*arrays).compile().as_text()


BATCH = P(DATA, SPATIAL)


@pytest.mark.parametrize(
    "function, in_specs, out_specs, wanted",
    [
        (lambda x: lax.psum(x, MODEL), P(DATA, MODEL), P(DATA), ("all-reduce", (MODEL,), 1, 96)),
        (
            lambda x: lax.psum(x, (DATA, SPATIAL)),
            BATCH,
            P(),
            ("all-reduce", (DATA, SPATIAL), 1, 96),
        ),
        (
            lambda x: lax.psum(x, (DATA, SPATIAL, MODEL)),
            P(),
            P(),
            ("all-reduce", (DATA, SPATIAL, MODEL), 1, 384),
        ),
        (
            lambda x: lax.all_gather(x, MODEL, axis=1, tiled=True),
            P(DATA, MODEL),
            P(DATA),
            ("all-gather", (MODEL,), 1, 192),
        ),
        (
            lambda x: lax.psum_scatter(x, SPATIAL, tiled=True),
            P(DATA),
            P((DATA, SPATIAL)),
            ("reduce-scatter", (SPATIAL,), 1, 192),
        ),
        (
            lambda x: lax.ppermute(x[:, -1:], SPATIAL, [(0, 1)]),
            BATCH,
            BATCH,
            ("collective-permute", (SPATIAL,), 1, 16),
        ),
        (
            lambda x: lax.all_to_all(x, DATA, 1, 0, tiled=True),
            P(DATA),
            P(None, DATA),
            ("all-to-all", (DATA,), 1, 192),
        ),
    ],
)
def test_a_real_program(function, in_specs, out_specs, wanted):
    """Of an array [8, 12]: 384 bytes, 192 in halves, 96 in quarters."""
    mesh = equality.make_mesh(CUBE)
    text = compiled(mesh, function, in_specs, out_specs, (8, 12))
    assert totals(text, mesh) == [CollectiveTotal(*wanted)]


def test_a_real_combined_sum():
    mesh = equality.make_mesh(CUBE)
    text = compiled(mesh, lambda x, y: lax.psum((x, y), DATA), P(DATA), P(), (4, 6), (4,))
    assert sum(each.bytes for each in totals(text, mesh)) == 2 * 6 * 4 + 2 * 4
    assert {each.axes for each in totals(text, mesh)} == {(DATA,)}


def test_a_real_loop():
    def shift(x):
        again = lambda _, y: 2 * lax.ppermute(y, SPATIAL, [(0, 1)])  # noqa: E731
        return lax.fori_loop(0, 5, again, x)

    mesh = equality.make_mesh(CUBE)
    text = compiled(mesh, shift, BATCH, BATCH, (4, 6))
    assert totals(text, mesh) == [CollectiveTotal("collective-permute", (SPATIAL,), 5, 5 * 24)]


def test_a_real_partitioned_program():
    """Without shard_map XLA's partitioner names the groups after a mesh of its own."""
    mesh = equality.make_mesh(CUBE)
    sharding = lambda *spec: NamedSharding(mesh, P(*spec))  # noqa: E731
    product = jax.jit(
        lambda a, b: a @ b,
        in_shardings=(sharding(DATA, (SPATIAL, MODEL)), sharding((SPATIAL, MODEL))),
        out_shardings=sharding(DATA),
    )
    text = product.lower(jnp.zeros((8, 16)), jnp.zeros((16, 4))).compile().as_text()
    assert totals(text, mesh) == [CollectiveTotal("all-reduce", (SPATIAL, MODEL), 1, 4 * 4 * 4)]


def test_devices_in_another_order():
    """Groups are positions in the mesh, not device ids."""
    devices = np.array(jax.devices())[[3, 1, 4, 0, 5, 2, 7, 6]].reshape(CUBE)
    mesh = jax.sharding.Mesh(devices, meshes.AXES)
    text = compiled(mesh, lambda x: lax.psum(x, SPATIAL), BATCH, P(DATA), (4, 6))
    assert [each.axes for each in totals(text, mesh)] == [(SPATIAL,)]


def test_one_device_sends_nothing():
    mesh = equality.make_mesh((1, 1, 1))
    text = compiled(mesh, lambda x: lax.psum(x, (DATA, MODEL)), P(), P(), (4, 6))
    assert totals(text, mesh) == []


@pytest.mark.parametrize(
    "between, wanted",
    [
        ([], False),
        (["%m = f32[2,3]{1,0} copy(%x)"], False),
        (["%m = f32[2,3]{1,0} fusion(%x), kind=kLoop, calls=%add"], True),
        (["%m = f32[2,3]{1,0} convolution(%x, %x), window={}"], True),
    ],
)
def test_what_is_sent_while_the_device_computes_is_overlapped(between, wanted):
    text = program(
        "%s = f32[2,3]{1,0} all-reduce-start(%x), replica_groups={}, to_apply=%add",
        *between,
        "ROOT %d = f32[2,3]{1,0} all-reduce-done(%s)",
    )
    mesh = equality.make_mesh(CUBE)
    (found,) = find_collectives(text, mesh)
    assert found.overlapped == wanted
    (total,) = total_collectives([found], mesh)
    assert total.overlapped == (24 if wanted else 0)


def test_a_collective_without_a_start_is_not_overlapped():
    text = program(all_reduce("replica_groups={}, "))
    assert not find_collectives(text, equality.make_mesh(CUBE))[0].overlapped


ASYNC = """
%start_1 (p: f32[2,3]) -> (f32[2,3], u32[]) {
  %p = f32[2,3] parameter(0)
  %r.1 = f32[2,3] all-reduce(%p), channel_id=1, replica_groups={}, to_apply=%add
  ROOT %c.1 = (f32[2,3], u32[]) custom-call(%r.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.7 (p.2: f32[2,3], q: f32[2,3]) -> (f32[2,3], f32[2,3]) {
  %p.2 = f32[2,3] parameter(0)
  %q = f32[2,3] parameter(1)
  %r.2 = f32[2,3] all-reduce(%p.2), channel_id=1, replica_groups={}, to_apply=%add
  %m = f32[2,3] multiply(%q, %q)
  ROOT %t = (f32[2,3], f32[2,3]) tuple(%r.2, %m)
}

%done_1 (p.3: f32[2,3]) -> f32[2,3] {
  %p.3 = f32[2,3] parameter(0)
  %r.3 = f32[2,3] all-reduce(%p.3), channel_id=1, replica_groups={}, to_apply=%add
  ROOT %c.3 = f32[2,3] custom-call(%r.3), custom_call_target="AsyncCollectiveDone"
}
"""


def test_a_sum_that_a_tpu_fuses_with_arithmetic_is_counted_once_and_overlapped():
    text = program(
        "%s = (f32[2,3], u32[]) fusion(%x), kind=kCustom, calls=%start_1",
        "%f = (f32[2,3], f32[2,3]) fusion(%x, %x), kind=kCustom, calls=%async_collective_fusion.7",
        "%d = f32[2,3] fusion(%x), kind=kCustom, calls=%done_1",
        all_reduce("replica_groups={}, "),
        computations=ASYNC,
    )
    mesh = equality.make_mesh(CUBE)
    assert [each.overlapped for each in find_collectives(text, mesh)] == [True, False]
    (total,) = total_collectives(find_collectives(text, mesh), mesh)
    assert (total.count, total.bytes, total.overlapped) == (2, 48, 24)
