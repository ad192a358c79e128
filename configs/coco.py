"""Detects the 80 classes of COCO 2017, on 8 GPUs or TPU chips (never run).

    convmesh train --config configs/coco.py --workdir runs/coco --config.data.root=DIR

DIR holds `annotations/`, `train2017/` and `val2017/`. 300 epochs of 118,287 images in batches of
256: about 138,600 steps. --config.model.name=detector_large trains the larger model.

None of the numbers below is a result of this recipe. Expected AP on val2017: 40 with
detector_medium (9.05 M parameters, 30.6 GFLOP at 640 x 640) and 46 with detector_large (24.5 M,
80.3 GFLOP). Published results of models of these sizes after 300 epochs:

    YOLOX-s     9.0 M   26.8 GFLOP   40.5    arXiv 2107.08430, and its repository's table
    YOLOX-m    25.3 M   73.8 GFLOP   46.9    the same
    RTMDet-s    8.9 M   29.6 GFLOP   44.6    arXiv 2212.07784 (its 14.8 G are multiply-adds)
    RTMDet-m   24.7 M   78.5 GFLOP   49.4    the same (39.3 G)

Assignment, losses, optimiser, learning rate, flat-cosine schedule, EMA, mosaic and mixup are close
to RTMDet's. Reasons why the result may be lower: RTMDet has 5 x 5 depthwise convolutions, channel
attention and a pooling pyramid, this model plain 3 x 3 convolutions; RTMDet-s starts from a
backbone pretrained on ImageNet, this model from random weights; and nothing here was tuned on COCO.
Batch norms see 32 images (YOLOX: the 8 of a GPU; RTMDet: all 256): on 8 GPUs a step then has 3
all-reduces instead of 130 (docs/accelerators.md, compiled and not run).
"""

from convmesh.config import defaults


def get_config():
    config = defaults("detect")
    config.model.name = "detector_medium"
    config.model.norm_group = 32  # the images of a device
    config.data.format = "coco"
    config.data.image_size = (640, 640)
    config.data.workers = 16
    config.data.on_bad_box = "clip"  # a few boxes have no area; they are counted
    config.data.max_boxes = 300  # a mosaic holds the boxes of four images
    config.data.augment.scale = (0.5, 2.0)
    config.data.augment.mosaic = 0.5
    config.data.augment.mixup = 0.1
    config.data.augment.last_plain = 0.07  # 20 epochs
    config.train.batch_size = 256
    config.train.epochs = 300.0
    config.train.log_every_steps = 100
    config.optimizer.learning_rate = 4e-3
    config.schedule.name = "flat_cosine"
    config.schedule.floor = 0.05
    config.schedule.warmup_steps = 1000
    config.ema.decay = 0.9998
    config.mesh.data = 8
    config.eval.every_steps = 4620  # ten epochs
    return config
