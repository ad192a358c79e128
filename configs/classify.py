"""Classifies your own images, in one folder per class: DIR/train/CLASS/* and DIR/val/CLASS/*.

    convmesh train --config configs/classify.py --workdir runs/mine --config.data.root=DIR

Without an evaluation split, a tenth of the images is held out. The classes are read from the data.
Model, image size and batch size follow from the images and the devices (steps/chosen_sizes.py), the
length of the run, its ten evaluations and the EMA decay from the number of images; a run says them
in its first lines, and how long it will take. Set a key to choose otherwise. The first half of the
run sees the images at about three quarters of that size: that is quicker.

Time and result: 3,068 photos of ten kinds of clothes, 26 minutes of CPU time, top-1 0.827, 0.821
and 0.806 on the 341 validation photos (seeds 0, 1 and 2; docs/results.md). On a CPU one device for
each core is quicker: with `--cpu-devices 2` 15 minutes on two cores (0.812) instead of 22. Never
run on a GPU or TPU.
"""

from convmesh.config import defaults


def get_config():
    config = defaults("classify")
    config.model.name = "auto"
    config.data.image_size = (0, 0)
    config.data.sizes = (0.75, 1.0)
    config.data.size_order = "growing"
    config.data.augment.color = 0.4
    config.train.batch_size = 0
    config.loss.label_smoothing = 0.1
    config.ema.decay = -1
    config.eval.every_steps = -1
    return config
