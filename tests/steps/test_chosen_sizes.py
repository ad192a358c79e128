"""What a classifier's recipe leaves open is chosen by its images and devices."""

import types

import cv2
import numpy as np
import pytest
from sources import Scenes

from convmesh.config import apply_overrides, load_config
from convmesh.config.keys import AUTO_MODEL
from convmesh.config.open_keys import OPEN_VALUES, open_keys
from convmesh.data.splits import open_train
from convmesh.errors import ConfigError
from convmesh.steps import chosen_sizes
from convmesh.steps.chosen_sizes import (
    Contents,
    sizes_for,
    with_chosen_sizes,
    with_sizes_of_all,
)

RECIPE = "classify"
GPUS = [types.SimpleNamespace(platform="gpu")] * 4


def chosen(**contents):
    photos = {"images": 3000, "side": 160.0, "classes": 10, "accelerated": False, "shards": 1}
    sizes = sizes_for(Contents(**photos | contents))
    return sizes["model.name"], sizes["data.image_size"][0], sizes["train.batch_size"]


@pytest.mark.parametrize(
    ("contents", "wanted"),
    [
        ({"side": 28.0}, ("resnet9_quarter", 32, 32)),
        ({"side": 28.0, "accelerated": True}, ("resnet9", 32, 32)),
        ({"side": 66.0}, ("resnet18_half", 64, 32)),
        ({"side": 640.0}, ("resnet18_half", 96, 32)),
        ({"side": 640.0, "accelerated": True}, ("resnet18", 224, 32)),
        ({"side": 130.0, "accelerated": True}, ("resnet18", 128, 32)),
        ({"images": 20_000, "accelerated": True}, ("resnet50", 160, 32)),
        ({"classes": 100, "accelerated": True}, ("resnet50", 160, 32)),
        ({"images": 20_000, "classes": 100}, ("resnet18_half", 96, 32)),
        ({"side": 8.0}, ("resnet9_quarter", 32, 32)),
    ],
)
def test_model_and_size_by_images_and_device(contents, wanted):
    assert chosen(**contents) == wanted


@pytest.mark.parametrize(
    ("contents", "batch"),
    [
        ({"shards": 8}, 32),  # devices of a CPU share its cores
        ({"shards": 4, "accelerated": True, "images": 10**6}, 128),
        ({"shards": 64, "accelerated": True, "images": 10**6}, 256),
        ({"shards": 64, "accelerated": True, "images": 3000}, 64),  # 30 steps an epoch would be 100
        ({"shards": 3, "accelerated": True, "images": 10**6}, 96),
        ({"shards": 5, "images": 3000}, 30),
        ({"shards": 4, "accumulate": 3}, 24),
        ({"shards": 100, "images": 3000}, 100),
        ({"shards": 2, "norm_group": 24}, 24),
        ({"shards": 2, "norm_group": 5, "accumulate": 2}, 20),
        ({"shards": 4, "accelerated": True, "images": 300}, 32),
    ],
)
def test_the_batch_divides_over_the_devices_and_into_pairs(contents, batch):
    assert chosen(**contents)[2] == batch
    parts = contents["shards"] * contents.get("accumulate", 1)
    assert batch % parts == 0 and batch // contents.get("accumulate", 1) % 2 == 0


def test_the_recipe_for_everybody_leaves_them_open_and_a_given_value_stays(monkeypatch, capsys):
    assert open_keys(load_config(RECIPE)) == list(OPEN_VALUES)
    config = load_config(RECIPE, {"data.image_size": (40, 48)})
    assert open_keys(config) == ["model.name", "train.batch_size"]
    config.data.root = "photos"
    source = Scenes(50, "classify", shape=(100, 64))
    monkeypatch.setattr(chosen_sizes, "open_train", lambda config: source)
    found = with_chosen_sizes(config)
    assert (found.model.name, found.data.image_size) == ("resnet18_half", (40, 48))
    assert open_keys(found) == []
    assert config.model.name == AUTO_MODEL
    said = capsys.readouterr().err
    sizes = "model.name=resnet18_half train.batch_size=32"
    assert f"{sizes}: chosen for 50 images of about 80 pixels, on CPUs" in said
    assert "image_size" not in said


def test_a_recipe_that_leaves_nothing_open_opens_no_data(capsys):
    config = load_config("imagenet_resnet50", {"data.root": "/no/such/folder"})
    assert with_chosen_sizes(config) is config
    assert not any(capsys.readouterr())


def test_devices_elsewhere_and_no_data(capsys):
    config = load_config(RECIPE, {"mesh.spatial": 2})
    found = with_chosen_sizes(config, elsewhere=GPUS)
    assert (found.model.name, found.data.image_size) == ("resnet50", (224, 224))
    assert found.train.batch_size == 64  # two of the four devices share an image
    said = capsys.readouterr().err
    assert "chosen for images as of ImageNet, since no data is named, on accelerators" in said
    found = with_chosen_sizes(config, elsewhere=GPUS, images=900)
    assert found.train.batch_size == 32


def test_simulated_devices_are_counted_without_being_started(monkeypatch):
    monkeypatch.setattr(chosen_sizes.devices, "simulated_devices", lambda: 6)
    monkeypatch.setattr(chosen_sizes.processes, "count", lambda: 2)
    monkeypatch.setattr(chosen_sizes.jax, "devices", lambda: pytest.fail("started"))
    found = with_chosen_sizes(load_config(RECIPE))
    assert (found.model.name, found.train.batch_size) == ("resnet18_half", 24)


def test_the_side_is_that_of_most_images_and_broken_ones_do_not_count():
    some_broken = Scenes(9, "classify", broken=(0, 3))  # the others have 40 x 30 pixels
    assert chosen_sizes.usual_side(some_broken) == pytest.approx(34.64, abs=0.01)
    all_broken = Scenes(2, "classify", broken=(0, 1))
    assert chosen_sizes.usual_side(all_broken) == chosen_sizes.IMAGENET_SIDE


def test_weights_need_a_named_model():
    config = load_config(RECIPE, {"init_from": "imagenet"})
    with pytest.raises(ConfigError, match="model.name=auto: init_from=imagenet holds the weights"):
        with_chosen_sizes(config)


def test_large_images_have_the_size_of_their_files(tmp_path):
    for name in "ab":
        (tmp_path / "train" / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "train" / name / "1.jpg"), np.zeros((900, 1600, 3), np.uint8))
    config = load_config(RECIPE, {"data.root": str(tmp_path), "data.image_size": (64, 64)})
    assert chosen_sizes.usual_side(open_train(config)) == 1200.0


def test_process_0_chooses_for_all(monkeypatch):
    # This one, not the first, sees no earlier run, and chooses other sizes.
    config = load_config(RECIPE, {"data.root": "photos"})
    keys = open_keys(config)
    monkeypatch.setattr(chosen_sizes, "_devices_here", lambda: (False, 2))
    own = {"model.name": "resnet18", "data.image_size": (32, 32), "train.batch_size": 8}
    monkeypatch.setattr(chosen_sizes, "_chosen", lambda config, *_: apply_overrides(config, own))
    monkeypatch.setattr(chosen_sizes.processes, "is_first", lambda: False)
    monkeypatch.setattr(chosen_sizes.processes, "wait_for_others", lambda *_: None)
    told = {"model.name": "resnet34", "data.image_size": (64, 64), "train.batch_size": 6}
    monkeypatch.setattr(chosen_sizes.processes, "broadcast", lambda own: told)
    found = with_sizes_of_all(config, keys)
    assert (found.model.name, found.data.image_size) == ("resnet34", (64, 64))
    assert with_sizes_of_all(found, []) is found
