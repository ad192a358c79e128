"""Workdirs from files of weights: what is taken, said, refused and written; and export."""

import json
from functools import partial

import jax
import numpy as np
import pytest
import runs
import weight_files
from safetensors import safe_open

from convmesh.errors import ConfigError, DataError, RunError
from convmesh.inference import weight_import
from convmesh.inference.evaluation import evaluate
from convmesh.inference.prediction import Classifier
from convmesh.inference.trained_model import load_variables
from convmesh.inference.weight_export import export_weights
from convmesh.inference.weight_import import ImportOptions, import_weights
from convmesh.mesh import make_mesh
from convmesh.models.efficientnet import EfficientNetLite, Stage, make_stages
from convmesh.models.registry import MODELS, make_model
from convmesh.steps.setup import make_setup
from convmesh.weights.class_names import coco_classes
from convmesh.weights.files import read_metadata, read_weights
from convmesh.weights.schemes import own_names
from convmesh.weights.torch_names import from_torch, names_of_leaves, to_torch
from convmesh.workdir.layout import Workdir

pytestmark = pytest.mark.usefixtures("tiny_net")
SMALL = ("data.image_size=16,16",)
PARTIAL = ImportOptions(partial=True)
LITE = (Stage(1, 3, 1, 8, 1, squeezed=False), Stage(2, 3, 2, 8, 1, squeezed=False))
TinyLite = partial(EfficientNetLite, stages=make_stages(LITE, 32), last=16)


def state_dict(classes=4, seed=0):
    """Torchvision's arrays of `tiny_net`, of random numbers."""
    net = runs.TinyNet(classes=classes)
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32)
    abstract = jax.eval_shape(net.init, jax.random.key(0), images)
    rng = np.random.default_rng(seed)
    shapes = names_of_leaves(net.torch_names(), abstract)
    return {name: rng.uniform(0.1, 1, shape).astype("f4") for name, shape in shapes.items()}


@pytest.fixture
def file(tmp_path):
    """Writes arrays in torch's zip form."""

    def write(arrays):
        path = tmp_path / "net.pth"
        path.write_bytes(weight_files.as_torch_zip(arrays))
        return path

    return write


@pytest.fixture
def names(tmp_path):
    """A file of the four classes."""
    path = tmp_path / "names.txt"
    path.write_text("\n".join(runs.CLASSES))
    return ImportOptions(str(path))


def arrays_of(workdir):
    """The weights of the newest checkpoint, under torchvision's names."""
    files = Workdir(workdir)
    setup = make_setup(*files.read_run(), make_mesh(), train_images=1)
    variables, _ = load_variables(setup, files)
    return to_torch(setup.model.torch_names(), jax.device_get(variables))


def same(a, b):
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_an_imported_workdir_evaluates_and_predicts(file, names, tmp_path, photos, capsys):
    arrays, output = state_dict(), tmp_path / "imported"
    import_weights(file(arrays), "tiny_net", output, names, SMALL)
    assert same(arrays_of(output), arrays)
    config, classes = Workdir(output).read_run()
    assert (config.model.name, classes) == ("tiny_net", runs.CLASSES)
    assert tuple(config.data.image_size) == (16, 16) and config.ema.decay == 0
    said = capsys.readouterr().out
    assert f"all of the {len(arrays)} arrays of tiny_net taken, by torchvision's names" in said
    assert "4 classes: blue, green, grey, ..." in said and "randomly" not in said
    listed = (output / "weights.txt").read_text().splitlines()
    assert sorted(listed) == sorted(f"{name}: taken" for name in arrays)
    [found] = Classifier.load(output)([np.zeros((20, 30, 3), np.uint8)])
    variables, fit = from_torch(runs.TinyNet(classes=4).torch_names(), abstract_variables(), arrays)
    assert fit.complete
    pixels = -np.array(config.data.pixel_mean) / np.array(config.data.pixel_std)
    black = np.tile(pixels.astype("f4"), (1, 16, 16, 1))
    logits = runs.TinyNet(classes=4).apply(variables, black)
    wanted = np.sort(np.asarray(jax.nn.softmax(logits[0])))[::-1]
    np.testing.assert_allclose(found["probabilities"], wanted, rtol=1e-4)
    assert evaluate(output, "val", overrides={"data.root": str(photos)})["images"] == 12


def abstract_variables():
    net, images = runs.TinyNet(classes=4), jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32)
    return jax.eval_shape(net.init, jax.random.key(0), images)


def test_an_export_is_imported_bit_for_bit_with_all_that_it_states(file, names, tmp_path):
    arrays, first, second = state_dict(), tmp_path / "first", tmp_path / "second"
    changes = (*SMALL, "data.eval_resize=20", "data.pixel_mean=0.4,0.5,0.6")
    import_weights(file(arrays), "tiny_net", first, names, changes)
    exported = tmp_path / "net.safetensors"
    export_weights(first, exported)
    assert same(read_weights(exported), arrays)
    with safe_open(exported, "np") as opened:  # by the library of the format
        assert same({name: opened.get_tensor(name) for name in opened.keys()}, arrays)  # noqa: SIM118
    stated = read_metadata(exported)
    assert json.loads(stated["model.name"]) == "tiny_net"
    assert json.loads(stated["model.backbone"]) == ""
    assert json.loads(stated["classes"]) == list(runs.CLASSES)
    import_weights(exported, "tiny_net", second)
    assert same(arrays_of(second), arrays)
    assert Workdir(second).read_run() == Workdir(first).read_run()


def test_the_averaged_weights_of_a_run_are_exported(photo_run, tmp_path):
    for step in (4, 8):
        export_weights(photo_run, tmp_path / f"{step}.safetensors", step=step)
    files = Workdir(photo_run)
    setup = make_setup(*files.read_run(), make_mesh(), train_images=1)
    for step in (4, 8):
        variables, _ = load_variables(setup, files, step)
        wanted = to_torch(setup.model.torch_names(), jax.device_get(variables))
        assert same(read_weights(tmp_path / f"{step}.safetensors"), wanted)


def test_a_detector_is_exported_under_its_own_names_and_comes_back(tmp_path):
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    config_overrides = ("data.image_size=64,64",)
    net = make_detector()
    abstract = jax.eval_shape(net.init, jax.random.key(0), images)
    names = own_names(abstract)
    assert names["backbone/stem/conv"] == "backbone.stem.conv"
    shapes = names_of_leaves(names, abstract)
    rng = np.random.default_rng(0)
    arrays = {name: rng.uniform(0.1, 1, shape).astype("f4") for name, shape in shapes.items()}
    path = tmp_path / "detector.safetensors"
    path.write_bytes(weight_files.as_safetensors(arrays))
    (tmp_path / "names.txt").write_text("cat\ndog\nowl")
    options = ImportOptions(str(tmp_path / "names.txt"))
    import_weights(path, "detector_tiny", tmp_path / "run", options, config_overrides)
    export_weights(tmp_path / "run", tmp_path / "again.safetensors")
    assert same(read_weights(tmp_path / "again.safetensors"), arrays)


def make_detector():
    return make_model("detector_tiny", "detect", 3, np.float32)


def test_a_partial_fit_is_refused_and_every_weight_that_does_not_fit_is_named(
    file, names, tmp_path, capsys
):
    arrays, output = state_dict(), tmp_path / "imported"
    left_out = "layer2.0.conv2.weight"
    del arrays[left_out]
    arrays["bn1.bias"] = np.zeros(7, "f4")
    arrays["layer9.weight"] = np.zeros(3, "f4")
    arrays["bn1.num_batches_tracked"] = np.array(5)
    with pytest.raises(DataError) as error:
        import_weights(file(arrays), "tiny_net", output, names, SMALL)
    for part in (f"1 missing: {left_out}", "1 not in the model: layer9.weight", "--partial"):
        assert part in str(error.value)
    assert "1 misshaped: bn1.bias [7] for [8]" in str(error.value)
    assert not output.exists()
    import_weights(
        file(arrays), "tiny_net", output, ImportOptions(names.classes, partial=True), SMALL
    )
    said = capsys.readouterr().out
    assert "randomly initialised: 1 of stage 2, 1 of stem" in said
    assert "unused, not in the model: layer9.weight" in said
    listed = (output / "weights.txt").read_text().splitlines()
    for line in (f"{left_out}: missing", "layer9.weight: not in the model"):
        assert line in listed
    assert "bn1.bias: [7], the model's is [8]" in listed and "fc.weight: taken" in listed
    found = arrays_of(output)
    assert np.std(found[left_out]) > 0
    for name in ("fc.weight", "bn1.weight"):
        np.testing.assert_array_equal(found[name], arrays[name])


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("layer2.0.conv1.weight", np.nan, "not finite, first layer2.0.conv1.weight, 1 of its"),
        ("bn1.running_var", -1.0, "negative variances, first bn1.running_var, 1 of its 8 values"),
    ],
)
def test_values_that_no_trained_net_has_are_refused(file, names, tmp_path, name, value, said):
    arrays, output = state_dict(), tmp_path / "imported"
    arrays[name].flat[0] = value
    path = file(arrays)
    with pytest.raises(DataError, match=f"^{path}: 1 of its arrays have .*{said}"):
        import_weights(path, "tiny_net", output, names, SMALL)
    assert not output.exists()


def test_classes_are_those_of_the_head(file, names, tmp_path):
    output = tmp_path / "imported"
    import_weights(file(state_dict(1000)), "tiny_net", output, overrides=SMALL)
    assert Workdir(output).read_classes()[:2] == ("tench", "goldfish")
    with pytest.raises(ConfigError, match=r"has 3 outputs; give the names .* --classes FILE"):
        import_weights(file(state_dict(3)), "tiny_net", tmp_path / "b", overrides=SMALL)
    with pytest.raises(ConfigError, match="has 4 names, but .* 3 outputs; with --partial"):
        import_weights(file(state_dict(3)), "tiny_net", tmp_path / "b", names, SMALL)
    partial = ImportOptions(names.classes, partial=True)
    import_weights(file(state_dict(3)), "tiny_net", tmp_path / "b", partial, SMALL)
    assert Workdir(tmp_path / "b").read_classes() == runs.CLASSES
    headless = {name: a for name, a in state_dict().items() if not name.startswith("fc.")}
    with pytest.raises(ConfigError, match="has no weights of a head; give the names"):
        import_weights(file(headless), "tiny_net", tmp_path / "c", PARTIAL, SMALL)


def test_weights_of_another_net_are_refused(file, tmp_path):
    path = file({"a.weight": np.zeros((3, 4), "f4")})
    with pytest.raises(DataError, match="none of its 1 weights is one of tiny_net.* a.weight"):
        import_weights(path, "tiny_net", tmp_path / "a", PARTIAL)
    with pytest.raises(ConfigError, match="--model tiny_nett: no such model; did you mean"):
        import_weights(path, "tiny_nett", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_what_the_published_weights_expect_is_in_the_config_and_overrides_come_last(
    file, tmp_path, monkeypatch
):
    monkeypatch.setitem(MODELS, "resnet50", MODELS["tiny_net"])
    path = file(state_dict(1000))
    import_weights(path, "resnet50", tmp_path / "a", overrides=("data.eval_resize=256",))
    data = Workdir(tmp_path / "a").read_config().data
    assert (tuple(data.image_size), data.eval_resize) == ((224, 224), 256)


def test_with_another_image_size_the_resize_is_in_proportion(file, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "resnet50", MODELS["tiny_net"])
    path, output = file(state_dict(1000)), tmp_path / "a"
    import_weights(path, "resnet50", output, overrides=("data.image_size=448,448",))
    assert Workdir(output).read_config().data.eval_resize == 464


@pytest.mark.parametrize(
    "names_of, mean", [("torch_names", 0.5), ("lite_package_names", 127 / 255)]
)
def test_lite_has_the_pixels_of_whose_weights_they_are(
    tmp_path, monkeypatch, capsys, names_of, mean
):
    monkeypatch.setitem(MODELS, "efficientnet_lite0", ("classify", __name__, "TinyLite"))
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    net = TinyLite(classes=1000)
    abstract = jax.eval_shape(net.init, jax.random.key(0), images)
    shapes = names_of_leaves(getattr(net, names_of)(), abstract)
    path = tmp_path / "lite.safetensors"
    arrays = {name: np.ones(shape, "f4") for name, shape in shapes.items()}
    path.write_bytes(weight_files.as_safetensors(arrays))
    import_weights(path, "efficientnet_lite0", tmp_path / "a")
    assumed = "assumed to be timm's tf_efficientnet_lite0 (TensorFlow's padding): "
    assert (assumed in capsys.readouterr().out) == (names_of == "torch_names")
    data = Workdir(tmp_path / "a").read_config().data
    assert data.pixel_mean[0] == mean
    assert (tuple(data.image_size), data.eval_interpolation) == ((224, 224), "bicubic")
    export_weights(tmp_path / "a", tmp_path / "again.safetensors")  # which states its model
    import_weights(tmp_path / "again.safetensors", "efficientnet_lite0", tmp_path / "b")
    assert "assumed" not in capsys.readouterr().out


@pytest.mark.parametrize("name, content", [("config.json", "{}"), ("photo.jpg", "x")])
def test_a_folder_that_is_not_empty_is_left_alone(file, names, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match="is not empty"):
        import_weights(file(state_dict()), "tiny_net", tmp_path, names, SMALL)
    assert (tmp_path / name).read_text() == content
    with pytest.raises(ConfigError, match="is a file"):
        import_weights(file(state_dict()), "tiny_net", tmp_path / name, names, SMALL)


@pytest.mark.parametrize("existed", [True, False])
def test_a_failure_leaves_nothing_behind(file, names, tmp_path, monkeypatch, existed):
    def full(checkpoints, *_):
        (checkpoints.workdir / "checkpoints" / "0").mkdir(parents=True)
        raise OSError(28, "No space left on device")

    path, output = file(state_dict()), tmp_path / "imported"
    if existed:
        output.mkdir()
    monkeypatch.setattr(weight_import.Checkpoints, "save", full)
    with pytest.raises(RunError, match="imported: cannot be written: No space left on device"):
        import_weights(path, "tiny_net", output, names, SMALL)
    assert (list(output.iterdir()) == []) if existed else not output.exists()


def test_a_disk_without_room_is_said_before_anything_is_written(file, names, tmp_path, monkeypatch):
    usage = weight_import.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(weight_import.shutil, "disk_usage", lambda _: usage._replace(free=10**4))
    with pytest.raises(RunError, match="needs 0 MB, but only 0 MB are free"):
        import_weights(file(state_dict()), "tiny_net", tmp_path / "new" / "a", names, SMALL)
    assert not (tmp_path / "new").exists()


def test_metadata_of_an_export_that_were_damaged_are_named(tmp_path):
    arrays = {n: a.astype("f4") for n, a in state_dict().items()}
    good = weight_files.as_safetensors(arrays)
    for said, message in (
        ({"classes": "[1]"}, "no list of class names"),
        ({"model.name": "3"}, "its metadata model.name or model.backbone is no name"),
        ({"classes": "{"}, "its metadata classes is no JSON"),
        ({"classes": '["a"]'}, "has 4 outputs, but names 1 classes"),
        ({"data.eval_resize": '"x"'}, "its metadata: data.eval_resize"),
    ):
        length = int.from_bytes(good[:8], "little")
        header = json.loads(good[8 : 8 + length]) | {"__metadata__": said}
        path = tmp_path / "damaged.safetensors"
        path.write_bytes(weight_files.safetensors_file(header, good[8 + length :]))
        with pytest.raises(DataError, match=message):
            import_weights(path, "tiny_net", tmp_path / "a", PARTIAL, SMALL)


def test_an_export_overwrites_nothing(photo_run, tmp_path):
    output = tmp_path / "net.safetensors"
    output.write_text("mine")
    with pytest.raises(ConfigError, match="exists; name a new file"):
        export_weights(photo_run, output)
    assert output.read_text() == "mine"
    with pytest.raises(ConfigError, match="end its name with .safetensors"):
        export_weights(photo_run, tmp_path / "net.pth")
    with pytest.raises(ConfigError, match="there is no folder"):
        export_weights(photo_run, tmp_path / "none" / "net.safetensors")


def test_a_detector_of_torchvision_is_imported_with_the_classes_of_coco(tmp_path, capsys):
    net = make_model("ssdlite320_mobilenet_v3_large", "detect", 90, np.float32)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    shapes = names_of_leaves(net.torch_names(), jax.eval_shape(net.init, jax.random.key(0), images))
    rng = np.random.default_rng(0)
    arrays = {name: rng.uniform(0.1, 1, shape).astype("f4") for name, shape in shapes.items()}
    path = tmp_path / "ssd.pth"
    path.write_bytes(weight_files.as_torch_zip(arrays))
    import_weights(path, "ssdlite320_mobilenet_v3_large", tmp_path / "run")
    assert "90 classes: person, bicycle, car" in capsys.readouterr().out
    config, classes = Workdir(tmp_path / "run").read_run()
    assert tuple(config.data.image_size) == (320, 320) and config.data.pixel_std[0] == 0.5
    assert classes == coco_classes()
    export_weights(tmp_path / "run", tmp_path / "again.safetensors")
    assert same(read_weights(tmp_path / "again.safetensors"), arrays)
