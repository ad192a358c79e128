"""From a config to the parts of a run: length, mesh, what the mesh cannot shard."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convmesh import mesh as meshes
from convmesh.config import apply_overrides, defaults
from convmesh.errors import ConfigError
from convmesh.models.depth import Frozen
from convmesh.steps.setup import (
    config_mesh,
    count_steps,
    ema_decay_for,
    layout_notes,
    make_run_mesh,
    make_setup,
    precision_on,
)

pytestmark = pytest.mark.usefixtures("tiny_net")


def config(**changes):
    """The defaults with changes; `train__steps=3` sets train.steps."""
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return apply_overrides(defaults("classify"), {"model.name": "small_cnn"} | changes)


# --- the length of a run --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, images, steps",
    [
        (dict(init_from="imagenet"), 1000, 3000 / 1000**0.5 / 3 * 1000 / 16),
        (dict(init_from="imagenet", train__epochs=3), 1000, 3 * 1000 / 16),
        (dict(train__steps=7), 1000, 7),
        (dict(train__epochs=3.0), 160, 30),
        (dict(train__epochs=0.5), 160, 5),
        (dict(train__epochs=0.001), 160, 1),  # at least one
        (dict(), 100, 300 * 100 / 16),  # few images: 300 epochs
        (dict(), 10, 300 * 10 / 16),  # at most 300
        (dict(), 10_000, 30 * 10_000 / 16),
        (dict(), 10**7, 12 * 10**7 / 16),  # 12 at the least
    ],
)
def test_steps(changes, images, steps):
    assert count_steps(config(**changes), images) == round(steps)


# --- what suits the length of a run ---------------------------------------------------------------


@pytest.mark.parametrize(
    "steps, decay",
    [
        (1, 0.998),
        (10_000, 0.998),
        (20_000, 0.999),
        (50_000, 0.9996),
        (10**5, 0.9998),
        (10**7, 0.9998),
    ],
)
def test_the_default_decay_of_the_average(steps, decay):
    assert ema_decay_for(steps) == pytest.approx(decay, abs=1e-12)


@pytest.mark.parametrize("steps, every", [(1, 1), (9, 1), (100, 10), (101, 11), (95_000, 9500)])
def test_about_ten_evaluations_a_run(steps, every):
    chosen = {"ema__decay": -1, "eval__every_steps": -1}
    mesh = make_run_mesh(config())
    setup = make_setup(config(train__steps=steps, **chosen), "ab", mesh)
    assert setup.eval_every == every and setup.ema_decay == ema_decay_for(steps)
    assert setup.abstract_state().ema is not None
    given = make_setup(config(train__steps=steps, ema__decay=0.5, eval__every_steps=7), "ab", mesh)
    assert given.eval_every == 7 and given.ema_decay == 0.5
    assert make_setup(config(ema__decay=0), "ab", mesh).abstract_state().ema is None


def test_stages_that_the_model_lacks_are_refused():
    mesh = make_run_mesh(config())
    given = config(model__name="tiny_net", train__frozen_stages=3)
    with pytest.raises(ConfigError, match="train.frozen_stages=3: tiny_net has 2 stages"):
        make_setup(given, "ab", mesh)
    make_setup(config(model__name="tiny_net", train__frozen_stages=2), "ab", mesh)


def test_several_sizes_are_refused_where_the_model_takes_one():
    several = {"data__image_size": (64, 64), "data__sizes": (0.5, 1)}
    given = config(model__name="tiny_net", **several)
    make_setup(given, "ab", make_run_mesh(given))
    given = config(model__name="small_cnn", **several)
    with pytest.raises(ConfigError, match="the weights of small_cnn fit one image size only"):
        make_setup(given, "ab", make_run_mesh(given))


def test_sizes_that_are_one_size_are_refused_before_any_device_is_used(monkeypatch):
    monkeypatch.setattr(jax, "devices", None)
    given = config(data__image_size=(64, 64), data__sizes=(0.75, 1, 1.25))
    with pytest.raises(ConfigError, match="multiples of 32, all of them are 64 x 64"):
        make_run_mesh(given)


def test_several_sizes_are_refused_where_processes_split_the_rows(monkeypatch):
    given = config(data__image_size=(64, 64), data__sizes=(0.5, 1))
    make_run_mesh(given)
    split = lambda *args: SimpleNamespace(has_all_rows=False)  # noqa: E731
    monkeypatch.setattr(meshes, "process_shard", split)
    with pytest.raises(ConfigError, match="data.sizes: on this mesh the rows .* over processes"):
        make_run_mesh(given)
    make_run_mesh(config(data__image_size=(64, 64)))  # with one size rows may be split


# --- the mesh and the rest ------------------------------------------------------------------------


def test_the_mesh_of_the_config():
    mesh = make_run_mesh(config(mesh__data=-1, mesh__spatial=2, mesh__model=2))
    assert dict(mesh.shape) == {"data": 2, "spatial": 2, "model": 2}


def test_a_mesh_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="mesh.data=3.*8 device"):
        make_run_mesh(config(mesh__data=3))


@pytest.mark.parametrize("batch, near", [(20, "16"), (21, "24"), (1, "8")])
def test_a_batch_that_does_not_divide_is_refused_with_a_size_that_does(batch, near):
    with pytest.raises(ConfigError, match=rf"train.batch_size={batch}: .* 8 devices.* {near},"):
        make_run_mesh(config(train__batch_size=batch))


@pytest.mark.parametrize("batch, near", [(20, 16), (25, 32), (1, 16)])
def test_micro_batches_that_do_not_divide_are_refused_with_a_size_that_does(batch, near):
    with pytest.raises(ConfigError) as error:
        make_run_mesh(config(train__batch_size=batch, train__accumulate=4, mesh__spatial=2))
    assert str(error.value) == (
        f"train.batch_size={batch}: does not divide over train.accumulate=4 times the 4 devices of "
        f"the data axis; use {near}, or another mesh.data"
    )
    make_run_mesh(config(train__batch_size=near, train__accumulate=4, mesh__spatial=2))


@pytest.mark.parametrize(
    "accumulate, group, examples", [(1, 3, 16), (1, 32, 16), (2, 16, 8), (4, 3, 4)]
)
def test_ghost_groups_that_do_not_divide_a_micro_batch_are_refused(accumulate, group, examples):
    given = config(
        model__name="resnet18", train__accumulate=accumulate, model__norm_group=group, mesh__data=2,
        mesh__spatial=4,
    )  # fmt: skip
    with pytest.raises(ConfigError) as error:
        make_setup(given, "ab", make_run_mesh(given))
    assert str(error.value) == (
        f"model.norm_group={group}: {examples} examples (train.batch_size / train.accumulate) are "
        "not a multiple of it; 0 uses the global batch"
    )


def test_fsdp_is_in_the_mesh_and_options_that_a_model_lacks_are_refused():
    mesh = make_run_mesh(config(mesh__fsdp=True))
    assert dict(mesh.shape) == {"data": 8, "spatial": 1, "model": 1, "fsdp": 1}
    assert dict(config_mesh(config(mesh__data=2), jax.devices()[:2]).shape)["data"] == 2
    for key, value in [("remat", True), ("norm_group", 4)]:
        with pytest.raises(ConfigError, match=rf"model.{key}={value}: small_cnn has no"):
            make_setup(config(**{f"model__{key}": value}), "ab", mesh)


# --- what the mesh cannot shard -------------------------------------------------------------------


def notes(net="small_cnn", side=32, **changes):
    given = config(model__name=net, data__image_size=(side, side), **changes)
    return layout_notes(make_setup(given, "abcdefgh", make_run_mesh(given), train_images=9))


def test_no_notes_where_everything_is_sharded():
    assert notes() == []
    assert notes(mesh__data=2, mesh__spatial=2, mesh__model=2) == []
    # Groups of 2 on devices that hold 2: no communication.
    assert notes(net="tiny_net", model__norm_group=2) == []


def test_layers_that_do_not_fit_the_mesh_are_named():
    # 44 rows fit over 4 devices, and 22 do not: nor do the pooling that gives them and what
    # follows. A dense layer has no rows.
    assert notes(side=44, mesh__data=2, mesh__spatial=4) == [
        "mesh.spatial: 4 of 7 layers have rows that do not divide and are not sharded: "
        "pooling 2x2, Conv_1, Conv_2",
    ]


@pytest.mark.parametrize(
    "batch, group, accumulate, over",
    [
        (16, 4, 1, "holds 2 examples, so the groups span up to 2"),
        (16, 16, 1, "holds 2 examples, so the groups span up to 8"),
        (16, 8, 2, "holds 1 examples, so the groups span up to 8"),
        (24, 2, 1, "holds 3 examples, so the groups span up to 2"),  # on every second device
        (40, 8, 1, "holds 5 examples, so the groups span up to 3"),  # 8 to 15: devices 1, 2 and 3
    ],
)
def test_groups_over_several_devices_are_noted(batch, group, accumulate, over):
    given = dict(train__batch_size=batch, model__norm_group=group, train__accumulate=accumulate)
    assert notes(net="tiny_net", **given) == [
        f"model.norm_group={group}: a device {over} devices along mesh.data, which communicate"
    ]


def test_groups_over_sharded_rows_are_noted():
    found = notes(net="tiny_net", side=64, model__norm_group=4, mesh__data=4, mesh__spatial=2)
    assert found == [
        "model.norm_group=4: each group spans mesh.spatial, so its statistics are summed over the "
        "devices that hold its rows"
    ]


def test_an_unknown_model_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="small_cmm.*did you mean small_cnn"):
        make_setup(config(model__name="small_cmm"), "ab", make_run_mesh(config()))


@dataclasses.dataclass(frozen=True)
class FakeDevice:
    platform: str
    compute_capability: str = ""


def precision(given, platform="cpu", capability=""):
    devices = np.array([FakeDevice(platform, capability)])
    return precision_on(config(precision=given), SimpleNamespace(devices=devices))


def test_precision():
    assert precision("float32", "tpu") == "float32"
    assert precision("bfloat16") == "bfloat16"
    before = jax.config.jax_enable_x64
    try:
        assert precision("float64") == "float64"
        assert jnp.zeros((), jnp.float64).dtype == jnp.float64
    finally:
        jax.config.update("jax_enable_x64", before)


@pytest.mark.parametrize(
    "device, wanted",
    [
        (("cpu",), "float32"),
        (("tpu",), "bfloat16"),
        (("gpu", "9.0"), "bfloat16"),
        (("gpu", "8.0"), "bfloat16"),
        (("cuda", "10.0"), "bfloat16"),
        (("gpu", "7.5"), "float32"),
        (("gpu", "7.0"), "float32"),
        (("rocm", "gfx942"), "bfloat16"),
    ],
)
def test_auto_is_bfloat16_where_devices_have_it(device, wanted):
    assert defaults("classify").precision == "auto"
    assert precision("auto", *device) == wanted


def test_the_model_computes_in_the_precision_of_the_setup():
    given = config()
    for asked, dtype in (("auto", "float32"), ("bfloat16", "bfloat16")):
        given.precision = asked
        setup = make_setup(given, "ab", make_run_mesh(given), 10)
        assert setup.precision == dtype and setup.model.dtype == dtype


def test_float64_is_refused_on_accelerators():
    with pytest.raises(ConfigError, match="precision=float64"):
        precision("float64", "gpu")


def test_setup_holds_what_the_config_says():
    given = config(train__epochs=2.0, data__image_size=(16, 16), ema__decay=0.0)
    setup = make_setup(given, ("a", "b", "c"), make_run_mesh(given), train_images=32)
    assert (setup.steps, setup.classes, setup.task.classes) == (4, ("a", "b", "c"), 3)
    assert setup.model.classes == 3 and setup.model.dtype == jnp.float32
    state = setup.abstract_state()
    assert state.ema is None
    assert state.params["Dense_1"]["kernel"].shape == (64, 3)


def test_the_metric_of_the_config_selects_the_best_checkpoint():
    mesh = make_run_mesh(config())
    assert make_setup(config(), "ab", mesh).best_metric == "top1"
    given = config(checkpoint__best_metric="top5")
    assert make_setup(given, "ab", mesh).best_metric == "top5"


def test_groups_are_checked_before_any_device_is_used(monkeypatch):
    monkeypatch.setattr(jax, "devices", None)
    with pytest.raises(ConfigError, match="model.norm_group=3: 16 examples"):
        make_run_mesh(config(model__norm_group=3))


def test_state_and_step_get_the_keys_of_the_config():
    given = config(model__name="tiny_net", train__seed=7, train__frozen_stages=1)
    setup = make_setup(given, "ab", make_run_mesh(given))
    spec, parts = setup.state_spec, setup.step_parts()
    assert (spec.seed, spec.image_size, spec.ema) == (7, tuple(given.data.image_size), True)
    assert (parts.frozen, parts.accumulate) == (Frozen(1), 1)
    assert parts.ema_decay == setup.ema_decay
    assert setup.step_parts((64, 96)).task.image_size == (64, 96)
    assert parts.task.image_size == tuple(given.data.image_size)
