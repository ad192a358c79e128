"""Detects blood cells in the 364 microscope images of BCCD, from random weights, on a laptop's CPU.

    convmesh train --config configs/bccd.py --workdir runs/bccd --config.data.root=BCCD

On a CPU with --cpu-devices 2. BCCD is the folder of https://github.com/Shenggan/BCCD_Dataset that
holds Annotations, JPEGImages and ImageSets (MIT). Trained on its `trainval` split (292 images) and
evaluated on its `test` split (72) with the EMA weights of the last step. The settings were chosen
on `train` and `val`.

12 to 13 minutes on 2 CPU cores: test AP 0.613, 0.612, 0.614 and AP50 0.913, 0.916, 0.917 (seeds 0,
1, 2). See docs/results.md.
"""

from convmesh.config import defaults


def get_config():
    config = defaults("detect")
    config.model.name = "detector_nano"
    config.model.norm_group = 8  # batch norm needs no communication between 2 devices
    config.data.train_split = "trainval"
    config.data.eval_split = "test"
    config.data.image_size = (192, 256)  # 480 x 640 at 0.4
    config.data.on_bad_box = "drop"  # two boxes of the training images have no area
    config.data.max_boxes = 60
    config.data.augment.scale = (0.7, 1.4)
    config.data.augment.vertical_flip = 0.5  # cells have no fixed orientation
    config.data.augment.quarter_turn = 0.5
    config.data.augment.mosaic = 0.5
    config.data.augment.last_plain = 0.4
    config.train.batch_size = 16
    config.train.steps = 3000
    config.optimizer.learning_rate = 4e-3
    return config
