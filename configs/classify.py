"""Classifies your own images, in one folder per class: DIR/train/CLASS/* and DIR/val/CLASS/*.

    convmesh train --config configs/classify.py --workdir runs/mine --config.data.root=DIR

Without an evaluation split, a tenth of the images is held out. The classes are read from the data.
The length of the run, its ten evaluations and the EMA decay follow from the number of images.

Time and result: not measured yet.
"""

from convmesh.config import defaults


def get_config():
    config = defaults("classify")
    config.model.name = "resnet18"
    config.train.batch_size = 32
    config.ema.decay = -1
    config.eval.every_steps = -1
    return config
