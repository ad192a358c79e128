"""The weights that a run takes from another: those that fit by name; all others are logged."""

import types
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
import weight_files

from convmesh.config import apply_overrides, defaults, to_json
from convmesh.errors import ConfigError, DataError
from convmesh.inference.weight_export import export_weights
from convmesh.inference.weight_import import ImportOptions, import_weights
from convmesh.models.registry import MODELS
from convmesh.models.resnet import ResNet
from convmesh.steps.setup import make_run_mesh, make_setup
from convmesh.training import init_from
from convmesh.training.init_from import compared, load_init_from
from convmesh.training.signals import StopSignal
from convmesh.weights.schemes import own_names
from convmesh.weights.torch_names import names_of_leaves, to_torch
from convmesh.workdir.checkpoints import Checkpoints
from convmesh.workdir.layout import Workdir

pytestmark = pytest.mark.usefixtures("tiny_net")

SmallResNet = partial(ResNet, blocks=(1, 1, 1, 1), width=8)


def fresh(photos, source, classes=runs.CLASSES, **changes):
    """The setup of a run that starts from `source`."""
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    config = runs.photo_config(photos, {"init_from": str(source), "train.seed": 7} | changes)
    return make_setup(config, classes, make_run_mesh(config), runs.TRAIN_PHOTOS)


def variables_of(photos, workdir, step=8):
    """The averaged weights of a checkpoint, on the host."""
    setup = fresh(photos, workdir)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return jax.device_get(checkpoints.restore_variables(step, setup.abstract_state()))


def load(setup, folder):
    """What a run in `folder` starts from."""
    return load_init_from(setup, Workdir(folder), StopSignal())


def same(a, b):
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_all_weights_where_all_fit_on_another_mesh(photos, photo_run, tmp_path):
    mesh = {"mesh__data": 2, "mesh__spatial": 2, "mesh__model": 2, "mesh__fsdp": True}
    setup = fresh(photos, photo_run, **mesh)
    before = setup.create_state()
    start = load(setup, tmp_path)
    state, wanted = start.merge_params(before), variables_of(photos, photo_run)
    for found in (state.ema, state.variables()):
        assert all(jax.tree.leaves(jax.tree.map(same, jax.device_get(found), wanted)))
    places = lambda tree: jax.tree.map(lambda leaf: leaf.sharding, tree)  # noqa: E731
    assert places(state) == places(setup.abstract_state())
    assert int(state.step) == 0 and state.opt_state is before.opt_state
    # The state is donated: no buffer stands in it twice.
    buffers = [leaf.unsafe_buffer_pointer() for leaf in _on_one_device(state)]
    assert len(set(buffers)) == len(buffers)
    assert start.notes == (
        f"init_from: weights of {photo_run}, step 8, EMA",
        "init_from: 32 of this model's 32 arrays start from them",
    )


def _on_one_device(state):
    return [leaf.addressable_shards[0].data for leaf in jax.tree.leaves(state) if leaf.ndim]


def test_the_precision_is_that_of_the_run_that_starts(photos, photo_run, tmp_path):
    source = runs.copy(photo_run, tmp_path / "source")
    config = Workdir(source).read_config()
    config.precision = "float64"
    (source / "config.json").write_text(to_json(config))
    setup = fresh(photos, source)
    try:
        state = load(setup, tmp_path).merge_params(setup.create_state())
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(state.variables())} == {"float32"}
        assert not jax.config.jax_enable_x64
    finally:
        jax.config.update("jax_enable_x64", False)


def test_a_checkpoint_of_it_into_a_run_without_an_average(photos, photo_run, tmp_path):
    setup = fresh(photos, photo_run / "checkpoints" / "4", ema__decay=0.0)
    state = load(setup, tmp_path).merge_params(setup.create_state())
    assert state.ema is None
    # What is taken is the average of the other run, which keeps one.
    first, last = (variables_of(photos, photo_run, step)["params"] for step in (4, 8))
    found = state.params["head"]["kernel"]
    assert same(found, first["head"]["kernel"]) and not same(found, last["head"]["kernel"])


def test_another_number_of_classes_initialises_the_head(photos, photo_run, tmp_path):
    setup = fresh(photos, photo_run, classes=("pink", "white", "black"))
    before = setup.create_state()
    head = jax.device_get(before.params["head"])
    start = load(setup, tmp_path)
    state, wanted = start.merge_params(before), variables_of(photos, photo_run)
    for params in (state.params, state.ema["params"]):
        assert all(jax.tree.leaves(jax.tree.map(same, jax.device_get(params["head"]), head)))
        assert same(params["stem"]["conv"]["kernel"], wanted["params"]["stem"]["conv"]["kernel"])
    assert start.notes[1:] == (
        "init_from: 30 of this model's 32 arrays start from them",
        "init_from: randomly initialised, other shape: 2 of head (weights.txt lists them)",
    )
    assert start.details[:2] == (
        "params/head/bias (4,) there, (3,) here: randomly initialised, other shape",
        "params/head/kernel (16, 4) there, (16, 3) here: randomly initialised, other shape",
    )
    assert len(start.details) == 32 and all(line.endswith(": taken") for line in start.details[2:])


def test_other_names_of_as_many_classes_are_logged(photos, photo_run, tmp_path):
    setup = fresh(photos, photo_run, classes=("blue", "green", "grey", "pink"))
    assert load(setup, tmp_path).notes[2:] == (
        "init_from: same number of classes, other names: blue, green, grey, red there, "
        "blue, green, grey, pink here",
    )


def test_of_as_many_classes_those_at_another_place_keep_their_outputs(photos, photo_run, tmp_path):
    setup = fresh(photos, photo_run, classes=("pink", "blue", "green", "grey"))
    start, before = load(setup, tmp_path), setup.create_state()
    initial = jax.device_get(before.params["head"]["kernel"])
    kernel = jax.device_get(start.merge_params(before).params["head"]["kernel"])
    there = variables_of(photos, photo_run)["params"]["head"]["kernel"]
    assert start.notes[2].startswith("init_from: outputs taken of 3 of 4 classes")
    assert same(kernel[:, 1:], there[:, :3]) and same(kernel[:, 0], initial[:, 0])


def test_the_same_classes_in_another_order_keep_their_outputs(photos, photo_run, tmp_path):
    setup = fresh(photos, photo_run, classes=("blue", "grey", "green", "red"))
    start = load(setup, tmp_path)
    assert start.notes[2:] == (
        "init_from: outputs taken of 4 of 4 classes, which have the same names there: blue, grey, "
        "green, ... (4 in all)",
    )
    kernel = start.merge_params(setup.create_state()).params["head"]["kernel"]
    there = variables_of(photos, photo_run)["params"]["head"]["kernel"]
    assert same(kernel, np.asarray(there)[:, [0, 2, 1, 3]])


def test_what_one_model_has_and_the_other_not_is_named(photos, photo_run, tmp_path, monkeypatch):
    deeper = lambda **given: runs.TinyNet(**given).clone(blocks=(2, 1, 1))  # noqa: E731
    flat = lambda **given: runs.TinyNet(**given).clone(blocks=(1,))  # noqa: E731
    monkeypatch.setattr(runs, "Deeper", deeper, raising=False)
    monkeypatch.setattr(runs, "Flat", flat, raising=False)
    monkeypatch.setitem(MODELS, "deeper", ("classify", "runs", "Deeper"))
    monkeypatch.setitem(MODELS, "flat", ("classify", "runs", "Flat"))

    setup = fresh(photos, photo_run, model__name="deeper")
    found = load(setup, tmp_path)
    [absent] = [line for line in found.notes if "not in the source:" in line]
    assert absent.endswith(": 10 of stage 1, 15 of stage 3 (weights.txt lists them)")
    absent = {line.partition(":")[0] for line in found.details if "not in the source" in line}
    assert len(absent) == 25
    assert "params/stage1_block2/conv1/conv/kernel (3, 3, 8, 8)" in absent
    assert "batch_stats/stage3_block1/conv1/norm/mean (32,)" in absent
    [shape] = [line for line in found.details if "other shape" in line]
    assert shape.startswith("params/head/kernel (16, 4) there, (32, 4) here: ")

    setup = fresh(photos, photo_run, model__name="flat")
    found = load(setup, tmp_path)
    [unused] = [line for line in found.notes if "not in this model" in line]
    assert ": 15 of stage 2 (" in unused
    unused = {line.partition(":")[0] for line in found.details if "unused" in line}
    assert len(unused) == 15
    assert "params/stage2_block1/shortcut/conv/kernel (1, 1, 8, 16)" in unused


class InBackbone(nn.Module):
    """The tiny net as a detector would hold it."""

    classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        return runs.TinyNet(classes=self.classes, dtype=self.dtype, name="backbone")(x, train)


def test_a_backbone_is_found_by_its_place_alone_and_in_a_larger_model(
    photos, photo_run, tmp_path, monkeypatch
):
    monkeypatch.setitem(MODELS, "in_backbone", ("classify", __name__, "InBackbone"))
    setup = fresh(photos, photo_run, model__name="in_backbone")
    found = load(setup, tmp_path).notes
    assert found[1:] == ("init_from: 32 of this model's 32 arrays start from them",)


def test_a_detector_for_other_classes_has_one_layer_anew():
    config = apply_overrides(
        defaults("detect"), {"model.name": "detector_tiny", "data.image_size": (64, 64)}
    )
    mesh = make_run_mesh(config)
    three, five = (make_setup(config, classes, mesh) for classes in ("abc", "vwxyz"))
    found = three.abstract_state().ema
    total = len(jax.tree.leaves(found))
    fit = compared(five, "source", three, found)
    assert fit.lines == (
        f"init_from: {total - 2} of this model's {total} arrays start from them",
        "init_from: randomly initialised, other shape: 2 of head (weights.txt lists them)",
    )
    assert fit.details[0].startswith("params/head/class/bias (3,) there, (5,) here: randomly")


def test_a_run_that_has_begun_takes_nothing(photos, photo_run, tmp_path):
    setup = fresh(photos, tmp_path / "gone")
    assert load(setup, photo_run) is None
    assert load(fresh(photos, ""), tmp_path) is None


def test_what_does_not_exist_is_refused(photos, photo_run, tmp_path):
    for path, message in [
        (tmp_path / "gone", "init_from=.*gone: no checkpoints there; give the workdir of a run"),
        (photo_run / "checkpoints", "no checkpoints there"),
        (photo_run / "checkpoints" / "5", "init_from 5: no such checkpoint; there are 4, 8"),
    ]:
        setup = fresh(photos, path)
        with pytest.raises(ConfigError, match=message):
            load(setup, tmp_path)
    (tmp_path / "bare" / "checkpoints").mkdir(parents=True)
    setup = fresh(photos, tmp_path / "bare")
    with pytest.raises(ConfigError, match="init_from=.*bare: .*config.json: missing"):
        load(setup, tmp_path)


@pytest.mark.parametrize("word, meant", [("Imagenet", "imagenet"), ("cocoo", "coco")])
def test_a_word_that_is_nearly_one_of_the_tables_is_told(photos, tmp_path, word, meant):
    with pytest.raises(ConfigError, match=f"init_from={word}: .* there; did you mean {meant}?"):
        load(fresh(photos, word), tmp_path)


def test_a_file_that_names_no_classes_says_whose_outputs_are_taken(photos, tmp_path):
    path = tmp_path / "net.pth"
    write_torch_file(path, runs.TinyNet, classes=len(runs.CLASSES))
    notes = load(fresh(photos, path), tmp_path / "run").notes
    assert notes[:3] == (
        f"init_from: weights of {path}, by torchvision's names",
        "init_from: the file does not name its 4 classes; its outputs are taken for this run's, in "
        "their order: blue, green, grey, ... (4 in all)",
        "init_from: 32 of this model's 32 arrays start from them",
    )


def test_a_model_that_shares_nothing_is_refused(photos, photo_run, tmp_path):
    setup = fresh(photos, photo_run, model__name="small_cnn")
    with pytest.raises(ConfigError, match="none of its weights fits; its model is tiny_net, this"):
        load(setup, tmp_path)


def test_frozen_weights_that_are_not_in_the_source_are_named(
    photos, photo_run, tmp_path, monkeypatch
):
    deeper = lambda **given: runs.TinyNet(**given).clone(blocks=(2, 1))  # noqa: E731
    monkeypatch.setattr(runs, "Deeper", deeper, raising=False)
    monkeypatch.setitem(MODELS, "deeper", ("classify", "runs", "Deeper"))
    setup = fresh(photos, photo_run, model__name="deeper", train__frozen_stages=1)
    [line] = [line for line in load(setup, tmp_path).notes if "frozen_stages" in line]
    said = "init_from: train.frozen_stages=1 freezes 10 arrays with random values: "
    assert line.startswith(said) and line.count("stage1_block2/") == 3
    assert line.endswith("; lower it, or take weights that fit")
    notes = load(fresh(photos, photo_run, train__frozen_stages=1), tmp_path).notes
    assert not any("frozen_stages" in line for line in notes)


def test_damage_is_found(photos, photo_run, tmp_path):
    source = runs.copy(photo_run, tmp_path / "source")
    file = max((source / "checkpoints" / "8").rglob("*"), key=lambda p: p.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    setup = fresh(photos, source / "checkpoints" / "8")
    with pytest.raises(DataError, match="step 8 is damaged .*; choose another init_from"):
        load(setup, tmp_path)
    # Of the workdir, the newest that is whole, and it is told.
    setup = fresh(photos, source)
    assert load(setup, tmp_path).notes[0].endswith("step 4, EMA")


def test_the_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(init_from, "_read", lambda setup, path: asked.append(path))
    monkeypatch.setenv("HOME", "/home/ada")
    setup = types.SimpleNamespace(config=types.SimpleNamespace(init_from="~/runs/one"))
    load(setup, tmp_path)
    assert asked == [Path("/home/ada/runs/one")]


def test_a_number_is_a_step_only_in_a_folder_of_checkpoints():
    assert init_from.split_path(Path("run/checkpoints/8")) == (Path("run"), 8)
    assert init_from.split_path(Path("runs/8")) == (Path("runs/8"), None)


def write_torch_file(path, net, size=16, classes=5):
    """A file of torch of random numbers under torchvision's names; and its arrays."""
    net = net(classes=classes)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    shapes = names_of_leaves(net.torch_names(), jax.eval_shape(net.init, jax.random.key(0), images))
    rng = np.random.default_rng(0)
    arrays = {name: rng.uniform(0.1, 1, shape).astype("f4") for name, shape in shapes.items()}
    path.write_bytes(weight_files.as_torch_zip(arrays))
    return arrays


def test_a_file_of_torch_fits_all_but_the_head_on_any_mesh(photos, tmp_path):
    path = tmp_path / "net.pth"
    arrays = write_torch_file(path, runs.TinyNet)
    mesh = {"mesh__data": 2, "mesh__spatial": 2, "mesh__model": 2, "mesh__fsdp": True}
    setup = fresh(photos, path, **mesh)
    before = setup.create_state()
    start = load(setup, tmp_path / "run")
    state = start.merge_params(before)
    for found in (state.ema, state.variables()):
        exported = to_torch(setup.model.torch_names(), jax.device_get(found))
        for name, array in exported.items():
            if name.startswith("fc."):
                assert array.shape[0] == len(runs.CLASSES)
            else:
                np.testing.assert_array_equal(array, arrays[name])
    places = lambda tree: jax.tree.map(lambda leaf: leaf.sharding, tree)  # noqa: E731
    assert places(state) == places(setup.abstract_state())
    assert start.notes[:2] == (
        f"init_from: weights of {path}, by torchvision's names",
        "init_from: 30 of this model's 32 arrays start from them",
    )
    assert "randomly initialised, other shape: 2 of head" in start.notes[2]


@pytest.mark.parametrize("imported", [True, False])
def test_a_detectors_backbone_starts_from_a_classifiers_file_or_import(
    tmp_path, monkeypatch, imported
):
    monkeypatch.setitem(MODELS, "small_resnet", ("classify", __name__, "SmallResNet"))
    path = tmp_path / "net.pth"
    arrays = write_torch_file(path, SmallResNet, classes=1000)
    source = path
    if imported:
        source = tmp_path / "imported"
        import_weights(path, "small_resnet", source, overrides=("data.image_size=32,32",))
    config = defaults("detect")
    changes = {"model.name": "detector_tiny", "model.backbone": "small_resnet"}
    config = apply_overrides(config, changes | {"data.image_size": (64, 64), "data.root": "x"})
    config = apply_overrides(config, {"init_from": str(source), "train.batch_size": 8})
    setup = make_setup(config, ("cat", "dog"), make_run_mesh(config), 8)
    start = load(setup, tmp_path / "run")
    state = start.merge_params(setup.create_state())
    backbone = {
        "params": jax.device_get(state.params["backbone"]),
        "batch_stats": jax.device_get(state.batch_stats["backbone"]),
    }
    names = {n: t for n, t in SmallResNet(classes=1).torch_names().items() if n != "head"}
    exported = to_torch(names, backbone)
    assert len(exported) == len(arrays) - 2
    for name, array in exported.items():
        np.testing.assert_array_equal(array, arrays[name])
    assert f"{len(exported)} of this model's" in start.notes[1]


def test_an_exported_detector_with_another_backbone_comes_back(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "small_resnet", ("classify", __name__, "SmallResNet"))
    changes = {"model.name": "detector_tiny", "model.backbone": "small_resnet"}
    changes |= {"data.image_size": (64, 64), "data.root": "x", "train.batch_size": 8}
    config = apply_overrides(defaults("detect"), changes)
    mesh, classes = make_run_mesh(config), ("cat", "dog")
    net = make_setup(config, classes, mesh, 8)
    state = net.abstract_state()
    abstract = {"params": state.params, "batch_stats": state.batch_stats}
    shapes = names_of_leaves(own_names(abstract), abstract)
    rng = np.random.default_rng(0)
    arrays = {name: rng.uniform(0.1, 1, shape).astype("f4") for name, shape in shapes.items()}
    first, exported = tmp_path / "first.safetensors", tmp_path / "exported.safetensors"
    first.write_bytes(weight_files.as_safetensors(arrays))
    (tmp_path / "names.txt").write_text("cat\ndog")
    import_weights(
        first,
        "detector_tiny",
        tmp_path / "run",
        ImportOptions(str(tmp_path / "names.txt")),
        {"model.backbone": "small_resnet", "data.image_size": (64, 64)},
    )
    export_weights(tmp_path / "run", exported)
    import_weights(exported, "detector_tiny", tmp_path / "again")  # the file states its backbone
    assert Workdir(tmp_path / "again").read_run() == Workdir(tmp_path / "run").read_run()

    for source in (tmp_path / "run", exported):
        config.init_from = str(source)
        found = load(make_setup(config, classes, mesh, 8), tmp_path / "new")
        assert f"{len(arrays)} of this model's {len(arrays)} arrays start" in found.notes[1]


def test_pixels_of_another_scale_are_noted(photos, photo_run, tmp_path):
    other = {"data__pixel_mean": (0.5, 0.5, 0.5), "data__pixel_std": (0.5, 0.5, 0.5)}
    notes = load(fresh(photos, photo_run, **other), tmp_path).notes
    assert notes[-1] == (
        "init_from: these weights were trained on pixels of another mean and deviation: give "
        "--config.data.pixel_mean=0.485,0.456,0.406 --config.data.pixel_std=0.229,0.224,0.225"
    )


def test_a_file_of_values_that_are_not_finite_is_refused(photos, tmp_path):
    path = tmp_path / "net.pth"
    arrays = write_torch_file(path, runs.TinyNet)
    arrays["bn1.bias"][0] = np.nan
    path.write_bytes(weight_files.as_torch_zip(arrays))
    with pytest.raises(DataError, match=f"{path}: 1 of its arrays .* not finite, first bn1.bias"):
        load(fresh(photos, path), tmp_path / "run")


def test_a_file_that_cannot_be_read_is_named(photos, tmp_path):
    path = tmp_path / "net.pth"
    path.write_bytes(b"text")
    with pytest.raises(DataError, match=f"{path}: no weights of a form"):
        load(fresh(photos, path), tmp_path / "run")
