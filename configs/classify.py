"""Classifies your own images, one folder a class: DIR/train/CLASS/* and DIR/val/CLASS/*.

    convmesh train --config configs/classify.py --workdir runs/mine --config.data.root=DIR

Without a split for evaluation a tenth of the images is held out. The classes, and the length of
the run, come from the data.

Time and result: not measured yet.
"""

from convmesh.config import defaults


def get_config():
    config = defaults("classify")
    config.model.name = "resnet18"
    config.train.batch_size = 32
    return config
