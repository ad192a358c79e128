"""Small prepared TFDS data sets for tests."""

import cv2
import numpy as np
import tensorflow_datasets as tfds

from convmesh.config import defaults

NAMES = ["ant", "bee", "cow"]
LABEL = tfds.features.ClassLabel(names=NAMES)


def png(height=20, width=40, value=0):
    done, splits = cv2.imencode(".png", np.full((height, width, 3), value, np.uint8))
    assert done
    return splits.tobytes()


def box(x0, y0, x1, y1, width=40, height=20):
    return tfds.features.BBox(ymin=y0 / height, xmin=x0 / width, ymax=y1 / height, xmax=x1 / width)


def config_for(root, name="farm", task="detect", **changes):
    config = defaults(task)
    config.data.root, config.data.name = str(root), name
    config.data.update(changes)
    return config


class Like(tfds.core.GeneratorBasedBuilder):
    """Has the features of a stock data set, and examples in `train` only."""

    VERSION = tfds.core.Version("1.0.0")
    made = None  # (features, examples), set before use

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=self.made[0], disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield from enumerate(self.made[1])


def like(monkeypatch, folder, features, examples):
    """Prepares `Like` with these features and examples."""
    monkeypatch.setattr(Like, "made", (features, examples))
    Like(data_dir=str(folder), file_format="array_record").download_and_prepare()
