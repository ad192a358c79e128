"""Classifies ImageNet with an EfficientNetV2-S, on 8 GPUs or many TPU chips (never run).

    convmesh train --config configs/imagenet_efficientnet_v2_s.py --workdir runs/v2s \\
        --config.data.root=DIR

DIR holds `train/` and `val/` with a folder for each of the 1,000 classes; or `--config.data.name=
imagenet2012 --config.data.eval_split=validation` reads the set of TFDS. 750,700 steps of 1,024
images of 300 pixels; evaluation takes 384.

The recipe is that of torchvision's weights IMAGENET1K_V1. None of the numbers below is a result of
this one. Expected top-1: 84. Published: 84.23 by torchvision, 83.9 by the paper (arXiv 2104.00298,
table 7). It may differ: there each image comes four times in a row, with other crops (repeated
augmentation), and batch statistics are those of a device's 128 images, here of 32.
"""

from convmesh.config import defaults


def get_config():
    config = defaults("classify")
    config.model.name = "efficientnet_v2_s"
    config.model.norm_group = 32
    config.model.stochastic_depth = 0.2
    config.model.dropout = 0.2
    config.data.image_size = (300, 300)
    config.data.eval_size = (384, 384)
    config.data.eval_resize = 384
    config.data.augment.crop = (0.08, 1.0)
    config.data.augment.color = 0.0
    config.data.augment.policy = "trivialaugment"
    config.data.augment.erase = 0.1
    config.data.augment.mixup = 0.5
    config.data.augment.mixup_alpha = 0.2
    config.data.augment.cutmix = 0.5
    config.data.augment.last_plain = 0.0
    config.data.decode = "crop"
    config.data.workers = 16
    config.train.batch_size = 1024
    config.train.epochs = 600.0
    config.train.log_every_steps = 100
    config.loss.label_smoothing = 0.1
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.5
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 2e-5
    config.optimizer.clip_norm = 0.0
    config.schedule.name = "cosine"
    config.schedule.floor = 0.0
    config.schedule.warmup_steps = 6255  # five epochs
    config.ema.decay = 0.99997
    config.mesh.data = -1
    config.eval.every_steps = 12_510
    return config
