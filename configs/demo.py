"""Detects the digits in drawn scenes, with a small detector that a laptop's CPU trains.

    convmesh train --config configs/demo.py --workdir runs/demo

Time and result: not measured yet.
"""

from convmesh.config import defaults


def get_config():
    config = defaults("detect")
    config.model.name = "detector_nano"
    config.data.name = "digit_scenes"
    config.data.image_size = (224, 224)
    config.data.max_boxes = 8
    config.data.augment.flip = 0.0  # a mirrored digit is another sign
    config.data.augment.scale = (0.7, 1.3)
    config.data.augment.color = 0.5
    config.train.batch_size = 16
    config.train.steps = 2000
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-3
    config.ema.decay = 0.998
    config.mesh.data = -1
    return config
