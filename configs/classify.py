"""Classifies your own images, one folder a class: DIR/train/CLASS/* and DIR/val/CLASS/*.

    convmesh train --config configs/classify.py --workdir runs/mine --config.data.root=DIR

Without a split for evaluation a tenth of the images is held out. The classes come from the data,
and from the number of images the length of the run, its ten evaluations, and the decay of the
average.

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
