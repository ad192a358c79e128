"""A training run draws and weighs classes as the config says, or refuses what it cannot know."""

import shutil

import numpy as np
import pytest

from convmesh.config import apply_overrides, defaults
from convmesh.data.loading.cache import Cached, with_caches
from convmesh.data.loading.loader import train_batches
from convmesh.data.order import DataOrder
from convmesh.data.splits import open_data, open_train
from convmesh.errors import ConfigError
from convmesh.steps.noise import noise_setup
from convmesh.training.class_balance import with_class_weights


class Unknown:
    """A source whose classes are known only from its images."""

    split = "train"

    def single_labels(self):
        return None

    def __len__(self):
        return 4


class Known(Unknown):
    """A source of four images, of which one is of the second class."""

    def single_labels(self):
        return np.array([0, 0, 0, 1])


def setup_of(**changes):
    given = {"model.name": "small_cnn", "data.classes": ("a", "b"), "data.image_size": (16, 16)}
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return noise_setup(apply_overrides(defaults("classify"), given | changes))


def test_weights_are_those_of_the_training_split():
    weights = with_class_weights(setup_of(loss__balance=1.0), Known()).task.class_weights
    assert weights == pytest.approx((2 / 3, 2))
    assert with_class_weights(setup_of(), Known()).task.class_weights == ()


@pytest.mark.parametrize("key", ["loss.balance", "data.balance"])
def test_classes_that_are_known_only_from_the_images_are_refused(key):
    setup = setup_of(**{key.replace(".", "__"): 0.5})
    with pytest.raises(ConfigError, match=f"{key}=0.5: the classes of split 'train'"):
        with_class_weights(setup, Unknown())


def test_classes_of_a_cached_split_are_known(photos):
    changes = {"data.root": str(photos), "data.image_size": (16, 16), "data.cache": "true"}
    config = apply_overrides(defaults("classify"), changes | {"data.balance": 0.5})
    data = with_caches(open_data(config), config)
    assert isinstance(data.train, Cached)
    order = DataOrder.of(data.train, config)
    assert order.classes is not None


def test_the_loader_draws_rare_classes_as_often(photos, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    names = sorted(path.name for path in (folder / "train").iterdir())
    for path in sorted((folder / "train" / names[0]).iterdir())[1:]:
        path.unlink()  # one image is left
    config = apply_overrides(
        defaults("classify"),
        {
            "data.root": str(folder),
            "data.image_size": (16, 16),
            "train.batch_size": 8,
            "data.balance": 1.0,
        },
    )
    source = open_train(config)
    with train_batches(source, config) as batches:
        labels = np.concatenate([next(batches).label for _ in range(12)])
    counts = np.bincount(labels, minlength=len(names))
    assert counts.max() - counts.min() <= 12
