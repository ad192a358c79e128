"""Detects the objects in your own images, with boxes in COCO, Pascal VOC or YOLO format.

    convmesh train --config configs/detect.py --workdir runs/mine --config.data.root=DIR

Without an evaluation split, a tenth of the images is held out. The format and the classes are read
from the data, and the length of the run follows from the number of images. The model is small
enough for a CPU. On a GPU use a larger model and larger images, such as
--config.model.name=detector_medium --config.data.image_size=640,640 (docs/models.md lists all
models). If a mirrored object is another class, as with letters, add --config.data.augment.flip=0.

Boxes that extend beyond their image are clipped and boxes without area are dropped; both are
counted, and `convmesh check-data` lists them.

Time and result: not measured yet.
"""

from convmesh.config import defaults


def get_config():
    config = defaults("detect")
    config.model.name = "detector_small"
    config.data.image_size = (320, 320)
    config.data.on_bad_box = "clip"
    config.data.max_boxes = 200  # a mosaic holds the boxes of four images
    config.data.augment.mosaic = 0.5
    config.data.augment.last_plain = 0.4
    config.optimizer.learning_rate = 2e-3
    config.eval.every_steps = -1
    config.ema.decay = -1
    return config
