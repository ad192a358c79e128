"""Classifies single digits, with a ResNet-18.

    convmesh train --config configs/digits_classify.py --workdir runs/digits

Time and result: 3.6 minutes on one CPU core, top-1 accuracy 0.570 on the 300 validation
digits, seed 0 (2026-11-30).
"""

from convmesh.config import defaults


def get_config():
    config = defaults("classify")
    config.model.name = "resnet18"
    config.data.name = "digit_scenes/digits"
    config.data.image_size = (32, 32)
    config.data.augment.flip = 0.0  # a mirrored digit is not a digit
    config.data.augment.crop = (0.7, 1.0)
    config.train.batch_size = 64
    config.train.epochs = 20.0
    return config
