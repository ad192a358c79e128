"""Steps on noise: the classes of a recipe without data, and batches like the loader's."""

import equality
import numpy as np
import pytest
import runs

from convmesh.config import apply_overrides, defaults
from convmesh.errors import ConfigError
from convmesh.steps.noise import noise_batch, noise_setup, noise_step
from convmesh.tasks.classify import Classify
from convmesh.tasks.detect import Detect

ONE_DEVICE = (1, 1, 1)


def setup_of(task, **changes):
    config = apply_overrides(defaults(task), {"train.batch_size": 2} | changes)
    return noise_setup(config, equality.make_mesh(ONE_DEVICE))


def test_classes_are_the_given_ones_those_of_the_data_or_as_many_as_usual(photos):
    model = {"model.name": "resnet18"}
    given = {"data.classes": ("cat", "dog"), "data.root": str(photos)}
    assert setup_of("classify", **model, **given).classes == ("cat", "dog")
    assert setup_of("classify", **model, **{"data.root": str(photos)}).classes == runs.CLASSES
    assert len(setup_of("classify", **model).classes) == 1000
    assert len(setup_of("detect", **{"model.name": "detector_tiny"}).classes) == 80


def test_a_recipe_without_a_model_is_refused():
    with pytest.raises(ConfigError, match="model.name: not set"):
        setup_of("classify")


def test_a_batch_of_labels():
    batch = noise_batch(Classify(5, (8, 12)), (8, 12), 100)
    assert batch.image.shape == (100, 8, 12, 3) and batch.image.dtype == np.uint8
    assert set(batch.label) == set(range(5)) and batch.present.all()
    assert batch.boxes is None


def test_a_batch_of_boxes_inside_their_images():
    batch = noise_batch(Detect(5, (32, 64)), (32, 64), 50, boxes=7)
    assert batch.boxes.shape == (50, 7, 4) and batch.label is None
    assert (batch.boxes[..., :2] >= 0).all()
    assert (batch.boxes[..., 2:] > batch.boxes[..., :2]).all()
    assert (batch.boxes[..., 2:] <= (64, 32)).all()
    assert 0 < batch.crowd.sum() < batch.valid.sum() < batch.valid.size
    assert not (batch.crowd & ~batch.valid).any()


def test_another_seed_gives_another_batch():
    task = Classify(5, (8, 8))
    first, again, other = (noise_batch(task, (8, 8), 2, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.image, again.image)
    assert (first.image != other.image).any()


def test_a_step_on_noise_runs_with_micro_batches():
    changes = {"model.name": "small_cnn", "data.image_size": (16, 16), "train.accumulate": 2}
    changes |= {"train.batch_size": 4, "data.classes": ("a", "b")}
    step, state, batch = noise_step(setup_of("classify", **changes))
    assert batch.image.shape == (2, 2, 16, 16, 3)
    state, metrics = step(state, batch)
    assert int(state.step) == 1 and np.isfinite(float(metrics["loss"]))


def test_a_batch_counts_its_images_and_leaves_no_box_out():
    batch = noise_batch(Detect(5, (32, 64)), (32, 64), 3)
    assert batch.index.tolist() == [0, 1, 2] and batch.truncated.tolist() == [0, 0, 0]
    assert batch.boxes.shape[1] == 4  # by default


def test_a_step_on_noise_has_as_many_boxes_as_the_recipe_allows():
    changes = {"model.name": "detector_tiny", "data.image_size": (32, 32), "data.max_boxes": 9}
    _, _, batch = noise_step(setup_of("detect", **changes))
    assert batch.boxes.shape == (2, 9, 4) and batch.labels.shape == (2, 9)
