"""Detects the digits in drawn scenes, with a small detector that a laptop's CPU trains.

    convmesh train --config configs/demo.py --workdir runs/demo

On 2 CPU cores, as 2 simulated devices (--cpu-devices 2): 8 minutes with set-up; AP 0.686, AP50
0.910 on the test split (seed 0). See docs/results.md.
"""

from convmesh.config import defaults


def get_config():
    config = defaults("detect")
    config.model.name = "detector_nano"
    config.model.norm_group = 4  # batch norm needs no communication between 2 devices
    config.data.name = "digit_scenes"
    config.data.image_size = (224, 224)
    config.data.max_boxes = 8
    config.data.augment.flip = 0.0  # a mirrored digit is not a digit
    config.data.augment.scale = (0.9, 1.1)  # little zoom: in five epochs the scenes hardly repeat
    config.data.augment.color = 0.0
    config.train.batch_size = 8
    config.train.steps = 2800
    config.optimizer.learning_rate = 8e-3
    config.loss.class_weight = 5.0
    return config
