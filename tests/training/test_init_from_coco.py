"""Detectors from the published weights of their own, or of their backbone's classifier."""

import hashlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weight_files

from convmesh.config import apply_overrides, defaults
from convmesh.errors import ConfigError
from convmesh.inference.weight_import import import_weights
from convmesh.models.registry import MODELS
from convmesh.models.resnet import Bottleneck, ResNet, ResNetBackbone
from convmesh.models.retinanet import RetinaNet
from convmesh.steps.setup import make_run_mesh, make_setup
from convmesh.training import init_from
from convmesh.training.init_from import load_init_from, weights_model
from convmesh.training.signals import StopSignal
from convmesh.weights import published
from convmesh.weights.class_names import coco_classes
from convmesh.weights.other_names import in_scheme
from convmesh.weights.published import Published
from convmesh.weights.torch_names import names_of_leaves, to_torch
from convmesh.workdir.checkpoints import Checkpoints
from convmesh.workdir.layout import Workdir

NAME, SIZE = "tiny_retinanet", (64, 64)
body = {"blocks": (1, 1, 1, 1), "width": 4, "block": Bottleneck}
TinyResNet = partial(ResNet, **body)
TinyRetinaNet = partial(RetinaNet, backbone=partial(ResNetBackbone, **body), features=8, depth=1)


@pytest.fixture(autouse=True)
def models(monkeypatch):
    """Makes the detector and the classifier of its backbone known."""
    monkeypatch.setitem(MODELS, NAME, ("detect", __name__, "TinyRetinaNet"))
    monkeypatch.setitem(MODELS, "tiny_classifier", ("classify", __name__, "TinyResNet"))


def write(path, net, scheme=""):
    """A file of torch of random numbers under torchvision's names; and its arrays by these."""
    images = jax.ShapeDtypeStruct((1, *SIZE, 3), jnp.float32)
    abstract = jax.eval_shape(net.init, jax.random.key(0), images)
    names = net.torch_names()
    rng = np.random.default_rng(0)
    shapes = names_of_leaves(names, abstract)
    arrays = {name: rng.uniform(0.1, 1, shape).astype("f4") for name, shape in shapes.items()}
    stored = names_of_leaves(in_scheme(scheme, names), abstract) if scheme else shapes
    path.write_bytes(weight_files.as_torch_zip(dict(zip(stored, arrays.values(), strict=True))))
    return arrays


def publish(monkeypatch, table, name, path, epsilon=None):
    """Makes the file at `path` the published one of a model, in the cache of the user."""
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    weights = Published(f"{name}-{digits}.pth", 1.0, epsilon=epsilon)
    monkeypatch.setitem(published.TABLES[table], name, weights)
    cache = path.parent / "cache"
    (cache / "weights").mkdir(parents=True)
    path.rename(cache / "weights" / weights.file)
    monkeypatch.setattr(init_from.compile_cache, "user_folder", lambda: cache)
    return cache / "weights" / weights.file


def start(tmp_path, source, classes):
    """The state of a run with random weights, what it starts from, and the state after that."""
    changes = {"model.name": NAME, "data.image_size": SIZE, "data.root": "x", "init_from": source}
    config = apply_overrides(defaults("detect"), changes | {"train.batch_size": 8})
    setup = make_setup(config, classes, make_run_mesh(config), 8)
    found = load_init_from(setup, Workdir(tmp_path / "run"), StopSignal())
    before = setup.create_state()
    state = jax.device_get(before.variables())
    names = setup.model.torch_names()
    return to_torch(names, state), found, to_torch(names, found.merge_params(before).variables())


def is_variance(name):
    return name.endswith("running_var")


def test_of_other_classes_all_but_the_class_outputs_are_taken(tmp_path, monkeypatch):
    path = tmp_path / "net.pth"
    arrays = write(path, TinyRetinaNet(classes=90))
    publish(monkeypatch, "coco", NAME, path, epsilon=0.0)
    before, found, after = start(tmp_path, "coco", ("red cell", "white cell"))
    anew = {f"head.classification_head.cls_logits.{kind}" for kind in ("weight", "bias")}
    for name, array in after.items():
        wanted = before[name] if name in anew else arrays[name]
        # The file's norms have an epsilon of 0, ours one of 1e-5.
        np.testing.assert_allclose(array, wanted - 1e-5 * is_variance(name), atol=1e-7)
    assert f"{len(arrays) - 2} of this model's {len(arrays)} arrays start" in found.notes[1]
    assert "randomly initialised, other shape: 2 of class (" in found.notes[2]


def test_of_classes_of_the_same_name_the_outputs_are_taken(tmp_path, monkeypatch):
    path = tmp_path / "net.pth"
    arrays = write(path, TinyRetinaNet(classes=90))
    publish(monkeypatch, "coco", NAME, path)
    before, found, after = start(tmp_path, "coco", ("Dog", "red cell", "cat"))
    dog, cat = 1 + coco_classes().index("dog"), 1 + coco_classes().index("cat")
    for kind in ("weight", "bias"):
        name = f"head.classification_head.cls_logits.{kind}"
        by_anchor = [each[name].reshape(9, -1, *each[name].shape[1:]) for each in (before, after)]
        there = arrays[name].reshape(9, 91, *arrays[name].shape[1:])
        np.testing.assert_array_equal(by_anchor[1][:, [0, 1, 3]], there[:, [0, dog, cat]])
        np.testing.assert_array_equal(by_anchor[1][:, 2], by_anchor[0][:, 2])
    said = "outputs taken of 2 of 3 classes, which have the same names there: Dog, cat"
    assert f"init_from: {said}" in found.notes
    assert "randomly initialised" not in "".join(found.notes)


@pytest.mark.parametrize("source", ["imagenet", "file"])
def test_of_the_classifier_the_backbone_is_taken(tmp_path, monkeypatch, source):
    path = tmp_path / "net.pth"
    arrays = write(path, TinyResNet(classes=1000))
    if source == "imagenet":
        publish(monkeypatch, "imagenet", "tiny_classifier", path)
    else:
        source = str(path)
    _, found, after = start(tmp_path, source, ("cat", "dog"))
    taken = {k: v for k, v in after.items() if k.startswith("backbone.body.")}
    assert len(taken) == len(arrays) - 2
    for name, array in taken.items():
        np.testing.assert_array_equal(array, arrays[name.removeprefix("backbone.body.")])
    assert "unused, not in this model: 2 of head" in "".join(found.notes)


def test_of_the_hub_the_pixels_are_those_that_its_repository_states(tmp_path, monkeypatch):
    path = tmp_path / "net.pth"
    write(path, TinyRetinaNet(classes=2))
    monkeypatch.setattr(init_from, "hub_weights", lambda address, cache, log: path)
    stated = {"data.pixel_mean": (0.5, 0.4, 0.3), "data.eval_interpolation": "bicubic"}
    monkeypatch.setattr(init_from, "hub_input", lambda address, cache, models: stated)
    _, found, _ = start(tmp_path, "hf://a/net", ("cat", "dog"))
    assert (
        "another mean and deviation: give --config.data.pixel_mean=0.5,0.4,0.3 " in found.notes[-1]
    )


def test_whose_weights_are_meant(monkeypatch):
    def model(**changes):
        changes = {key.replace("__", "."): value for key, value in changes.items()}
        return weights_model(apply_overrides(defaults("detect"), {"model.name": NAME} | changes))

    assert model(init_from="coco") == NAME
    assert model(init_from="imagenet") == "tiny_classifier"
    assert model(init_from="imagenet", model__backbone="resnet18") == "resnet18"
    assert model(init_from="net.pth") == NAME
    # None are published of it, with whatever backbone: `published_weights` says so.
    assert model(init_from="coco", model__backbone="resnet18") == NAME
    monkeypatch.setitem(published.TABLES["coco"], NAME, Published("net-0.pth", 1.0))
    with pytest.raises(ConfigError, match="init_from=coco: .* own backbone only; leave"):
        model(init_from="coco", model__backbone="resnet18")


@pytest.mark.parametrize("known", [True, False])
def test_an_import_under_the_names_of_an_older_torchvision(tmp_path, monkeypatch, known):
    """Of the published file the epsilon is known; another file is taken as it is."""
    path = tmp_path / "net.pth"
    arrays = write(path, TinyRetinaNet(classes=90), "torchvision's RetinaNet before 0.13")
    if known:
        path = publish(monkeypatch, "coco", NAME, path, epsilon=0.0)
    output = tmp_path / "run"
    import_weights(path, NAME, output, overrides={"data.image_size": SIZE})
    config, classes = Workdir(output).read_run()
    assert classes == coco_classes() and config.model.name == NAME
    setup = make_setup(config, classes, make_run_mesh(config), 1)
    with Checkpoints(output, read_only=True) as checkpoints:
        variables = jax.device_get(checkpoints.restore_variables(0, setup.abstract_state()))
    for name, array in to_torch(setup.model.torch_names(), variables).items():
        shift = 1e-5 * (known and is_variance(name))
        np.testing.assert_allclose(array, arrays[name] - shift, atol=1e-7)
