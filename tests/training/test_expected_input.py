"""The input that loaded weights expect becomes the run's, where its config says no other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
import weight_files

from convmesh.config import apply_overrides, defaults
from convmesh.config.tree import flatten
from convmesh.models.efficientnet import EfficientNetLite0
from convmesh.training import init_from, loop
from convmesh.training.expected_input import with_expected_input
from convmesh.weights.torch_names import names_of_leaves
from convmesh.workdir.layout import Workdir

HALVES = (0.5, 0.5, 0.5)


def config(task="classify", **changes):
    model = "detector_tiny" if task == "detect" else "efficientnet_lite0"
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return apply_overrides(defaults(task), {"model.name": model, "init_from": "imagenet"} | changes)


def of(config):
    data = with_expected_input(config).data
    values = (data.pixel_mean, data.pixel_std, data.eval_resize, data.eval_interpolation)
    return tuple(tuple(map(float, v)) if isinstance(v, tuple) else v for v in values)


def test_what_the_published_weights_expect(capsys):
    package = ((127 / 255,) * 3, (128 / 255,) * 3)
    assert of(config()) == (*package, 256, "bicubic")
    said = capsys.readouterr().err
    assert said == (
        "init_from: data.pixel_mean=0.498039,0.498039,0.498039 "
        "data.pixel_std=0.501961,0.501961,0.501961 data.eval_resize=256 "
        "data.eval_interpolation=bicubic, as these weights expect\n"
    )
    imagenet = of(config(init_from=""))
    assert of(config(model__name="resnet50")) == (*imagenet[:2], 232, "bilinear")
    assert of(config(model__name="small_cnn")) == imagenet  # none are published


def test_a_detector_takes_the_scale_of_its_backbones_pixels():
    found = of(config("detect", model__backbone="efficientnet_lite0"))
    assert found == ((127 / 255,) * 3, (128 / 255,) * 3, 0, "bilinear")


def test_a_key_that_is_set_is_kept():
    given = {"data__pixel_mean": HALVES, "data__eval_resize": 300}
    found = of(config(**given))
    assert found == (HALVES, (128 / 255,) * 3, 300, "bicubic")


def test_the_resize_is_in_proportion_to_the_image_size(capsys):
    assert of(config(data__image_size=(112, 112)))[2] == 128
    said = "these weights expect images of 224,224 in evaluation, this run has data.image_size=112"
    assert said in capsys.readouterr().err
    assert of(config(data__image_size=(112, 96)))[2] == 0


def test_the_resize_is_that_of_the_size_in_evaluation(capsys):
    found = of(config(data__image_size=(112, 112), data__eval_size=(224, 224)))
    assert found[2] == 256 and "expect images" not in capsys.readouterr().err
    assert of(config(data__eval_size=(112, 112)))[2] == 128
    assert "this run has data.eval_size=112,112" in capsys.readouterr().err


def lite_arrays(prefix=""):
    net = EfficientNetLite0(classes=5)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = names_of_leaves(net.torch_names(), jax.eval_shape(net.init, jax.random.key(0), images))
    return {name: np.zeros(shape, "f4") for name, shape in shapes.items()}


def test_of_a_file_by_its_model_and_what_it_states(tmp_path):
    path = tmp_path / "lite.pth"
    path.write_bytes(weight_files.as_torch_zip(lite_arrays()))
    assert of(config(init_from=str(path))) == (HALVES, HALVES, 256, "bicubic")


def test_of_the_hub_what_its_repository_states(monkeypatch, capsys):
    stated = {"data.pixel_mean": HALVES, "data.eval_resize": 300, "data.image_size": (288, 288)}
    monkeypatch.setattr(init_from, "hub_input", lambda address, cache, models: stated)
    halves = {"init_from": "hf://a/net", "data__image_size": (144, 144)}
    assert of(config(**halves)) == (HALVES, HALVES, 150, "bicubic")
    assert "expect images of 288,288 in evaluation" in capsys.readouterr().err


def test_nothing_is_said_of_what_is_so_already(monkeypatch, capsys):
    same = dict(flatten(config(init_from="").data))
    stated = {f"data.{key}": list(same[key]) for key in ("pixel_mean", "pixel_std")}
    monkeypatch.setattr(init_from, "hub_input", lambda address, cache, models: stated)
    wanted = of(config(init_from="", model__name="small_cnn"))
    assert of(config(init_from="hf://a/net", model__name="small_cnn")) == wanted
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "task, changes, models",
    [
        ("classify", {}, ["efficientnet_lite0"]),
        ("detect", {"model__backbone": "resnet18"}, ["resnet18", "detector_tiny"]),
        ("detect", {"model__name": "fcos_resnet50_fpn"}, ["fcos_resnet50_fpn", "resnet50"]),
        ("detect", {}, ["detector_tiny"]),
    ],
)
def test_the_hub_is_asked_for_a_net_of_the_run(monkeypatch, task, changes, models):
    asked = []
    monkeypatch.setattr(init_from, "hub_input", lambda *given: asked.append(given) or {})
    with_expected_input(config(task, init_from="hf://a/net", **changes))
    assert [(address, found) for address, _, found in asked] == [("hf://a/net", models)]


def test_of_a_run_or_an_import(photo_run, tmp_path):
    source = Workdir(runs.copy(photo_run, tmp_path / "source"))
    there = source.read_config()
    there.data.pixel_std, there.data.eval_resize = HALVES, 20
    classes = source.read_classes()
    source.write_run(there, classes)
    size = tuple(there.data.image_size)
    for path in (source.root, source.root / "checkpoints" / "8"):
        found = of(config(init_from=str(path), data__image_size=size))
        assert found[1:] == (HALVES, 20, "bilinear")
    assert of(config(init_from=str(tmp_path / "gone"))) == of(config(init_from=""))


@pytest.mark.usefixtures("tiny_net")
def test_a_run_keeps_it_when_it_resumes(photos, photo_run, tmp_path, capsys):
    source = Workdir(runs.copy(photo_run, tmp_path / "source"))
    there = source.read_config()
    there.data.pixel_std = HALVES
    source.write_run(there, source.read_classes())
    given = runs.photo_config(photos, {"init_from": str(source), "train.steps": 2})
    workdir = Workdir(tmp_path / "run")
    loop.train(given, workdir.root)
    assert tuple(workdir.read_config().data.pixel_std) == HALVES
    listed = workdir.weights_file.read_text().splitlines()
    assert len(listed) == 32 and listed[0].endswith(": taken")
    source.config_file.unlink()
    capsys.readouterr()
    given.train.steps = 3
    loop.train(given, workdir.root)
    assert tuple(workdir.read_config().data.pixel_std) == HALVES
    assert "as these weights expect" not in capsys.readouterr().err
