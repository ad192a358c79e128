"""Detects what your own boxes show: DIR in the layout of COCO, Pascal VOC or YOLO.

    convmesh train --config configs/detect.py --workdir runs/mine --config.data.root=DIR

Without a split for evaluation a tenth of the images is held out. The layout, the classes, and the
length of the run come from the data. The model is small enough for a CPU; on a GPU take a larger
one and larger images, as in --config.model.name=detector_medium
--config.data.image_size=640,640 (docs/models.md has them all). Where left is not right, as in
letters, add --config.data.augment.flip=0.

Boxes that leave their image are cut to it, and those without area left out; both are counted, and
`convmesh check-data` names them.

Time and result: not measured yet.
"""

from convmesh.config import defaults


def get_config():
    config = defaults("detect")
    config.model.name = "detector_small"
    config.data.image_size = (320, 320)
    config.data.on_bad_box = "clip"
    config.data.max_boxes = 200  # a mosaic holds those of four images
    config.data.augment.mosaic = 0.5
    config.data.augment.last_plain = 0.4
    config.optimizer.learning_rate = 2e-3
    config.eval.every_steps = -1
    config.ema.decay = -1
    return config
