"""A run's model on the available devices: its mesh, its weights, and which configs fit it."""

import json

import equality
import jax
import numpy as np
import pytest
import runs

from convmesh.config import apply_overrides, defaults, to_json
from convmesh.data.augmentation.eval_view import eval_size
from convmesh.errors import ConfigError, DataError
from convmesh.inference.trained_model import (
    available_mesh,
    check_image_size,
    check_same_model,
    load_variables,
    with_overrides,
)
from convmesh.steps.setup import make_setup
from convmesh.workdir.checkpoints import Checkpoints
from convmesh.workdir.layout import Workdir

pytestmark = pytest.mark.usefixtures("tiny_net")


def test_the_mesh_is_the_configs_if_it_fits_else_all_devices_over_data(photos):
    config = runs.photo_config(photos, {"mesh.data": 2, "mesh.spatial": 2, "mesh.model": 2})
    assert dict(available_mesh(config).shape) == {"data": 2, "spatial": 2, "model": 2}
    config.mesh.data = 16
    assert dict(available_mesh(config).shape) == {"data": 8, "spatial": 1, "model": 1}
    with pytest.raises(ConfigError, match="mesh.data=16"):
        available_mesh(config, required=True)


def test_variables_are_those_of_the_chosen_step(photo_run):
    workdir = Workdir(photo_run)
    setup = make_setup(*workdir.read_run(), equality.make_mesh((2, 2, 2)))
    newest, step = load_variables(setup, workdir)
    earlier, at_4 = load_variables(setup, workdir, step=4)
    assert (step, at_4) == (8, 4)
    leaves = zip(jax.tree.leaves(newest), jax.tree.leaves(earlier), strict=True)
    assert any(not np.array_equal(a, b) for a, b in leaves)
    with pytest.raises(ConfigError, match="--step 5"):
        load_variables(setup, workdir, step=5)


@pytest.mark.parametrize(
    "changes, resize",
    [
        ({"data.image_size": (320, 320)}, 331),
        ({"data.image_size": (112, 160)}, 116),
        ({"data.image_size": (320, 320), "data.eval_resize": 350}, 350),
        ({"data.image_size": (224, 224)}, 232),
        ({}, 232),
    ],
)
def test_the_resize_follows_another_image_size(changes, resize):
    given = {"data.image_size": (224, 224), "data.eval_resize": 232}
    trained = apply_overrides(defaults("classify"), given)
    assert with_overrides(trained, changes).data.eval_resize == resize
    trained.data.eval_resize = 0
    assert with_overrides(trained, {"data.image_size": (320, 320)}).data.eval_resize == 0
    with pytest.raises(ConfigError, match=r"data.image_size: only a new run can leave it open; th"):
        with_overrides(trained, {"data.image_size": (0, 0)})


@pytest.mark.parametrize(
    "changes, size, resize",
    [
        ({}, (256, 256), 280),
        ({"data.eval_size": (320, 320)}, (320, 320), 350),
        # The size that is given is that of evaluation, whatever the run's.
        ({"data.image_size": (320, 320)}, (320, 320), 350),
        ({"data.image_size": (320, 320), "data.eval_size": (128, 128)}, (128, 128), 140),
    ],
)
def test_another_size_in_evaluation(changes, size, resize):
    given = {"data.image_size": (224, 224), "data.eval_size": (256, 256), "data.eval_resize": 280}
    found = with_overrides(apply_overrides(defaults("classify"), given), changes)
    assert (eval_size(found), found.data.eval_resize) == (size, resize)


def test_a_run_without_checkpoint_has_no_variables(photo_run, tmp_path):
    setup = make_setup(*Workdir(photo_run).read_run(), equality.make_mesh((1, 1, 1)))
    with pytest.raises(DataError, match="no checkpoint yet; train first"):
        load_variables(setup, Workdir(tmp_path))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"ema.decay": 0.0}, "ema.decay=0.0"),
        ({"model.name": "small_cnn"}, "was trained with tiny_net"),
        ({"model.backbone": "resnet18"}, "model.backbone=resnet18"),
        ({"ema.decay": 0.5}, None),
        ({"eval.batch_size": 3}, None),
    ],
    ids=str,
)
def test_a_config_of_another_model_is_refused(photos, tmp_path, change, message):
    trained = runs.photo_config(photos)
    if "model.backbone" in change:
        trained = defaults("detect")
    config = apply_overrides(trained, change)
    if message is None:
        check_same_model(trained, config, Workdir(tmp_path))
    else:
        with pytest.raises(ConfigError, match=message):
            check_same_model(trained, config, Workdir(tmp_path))


def test_an_image_size_that_was_edited_is_named_where_the_weights_depend_on_it(photos, tmp_path):
    config = runs.photo_config(photos, {"model.name": "small_cnn"})
    workdir, mesh = Workdir(tmp_path), equality.make_mesh((1, 1, 1))
    workdir.write_run(config, runs.CLASSES)
    state = make_setup(config, runs.CLASSES, mesh).create_state()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, {"config": json.loads(to_json(config)), "classes": runs.CLASSES})
    text = workdir.config_file.read_text()
    edited = apply_overrides(config, {"data.image_size": (32, 48)})
    workdir.config_file.write_text(to_json(edited))
    setup = make_setup(*workdir.read_run(), mesh)
    said = r"config.json: data.image_size is \(32, 48\), but .* trained with \(16, 16\)"
    with pytest.raises(DataError, match=said):
        load_variables(setup, workdir)
    # As it was, but another model is asked for: the weight is named.
    workdir.config_file.write_text(text)
    with pytest.raises(DataError, match="checkpoints/0: holds another model .*/kernel has the"):
        load_variables(setup, workdir)


@pytest.mark.parametrize("size, fits", [((24, 32), True), ((32, 24), True), ((48, 24), False)])
def test_weights_of_dense_layers_fit_one_image_size(photos, size, fits):
    # small_cnn's first dense layer has a weight for each pixel.
    trained = runs.photo_config(photos, {"model.name": "small_cnn", "data.image_size": (24, 32)})
    config = apply_overrides(trained, {"data.image_size": size})
    setup = make_setup(config, ("a", "b"), equality.make_mesh((1, 1, 1)))
    if fits:
        check_image_size(setup, trained)
    else:
        message = "data.image_size=48,24: the weights of small_cnn fit images of 24 x 32"
        with pytest.raises(ConfigError, match=message):
            check_image_size(setup, trained)
