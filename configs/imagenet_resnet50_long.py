"""Classifies ImageNet with a ResNet-50 in 600 epochs, by the long modern recipe (never run).

    convmesh train --config configs/imagenet_resnet50_long.py --workdir runs/r50 \\
        --config.data.root=DIR

DIR holds `train/` and `val/` with a folder for each of the 1,000 classes; or `--config.data.name=
imagenet2012 --config.data.eval_split=validation` reads the set of TFDS. 8 GPUs or many TPU chips:
750,700 steps of 1,024 images.

The recipe is that of torchvision's weights IMAGENET1K_V2: TrivialAugment, random erasing, mixup or
cutmix, label smoothing, an average of the weights, crops of 176 pixels in training and 224 in
evaluation. None of the numbers below is a result of this one. Expected top-1: 80 to 81. Published:
80.86. It may differ: there each image comes four times in a row, with other crops (repeated
augmentation), the average is taken every 32 steps, and batch statistics are those of a device's 128
images, here of 32.
"""

from convmesh.config import defaults


def get_config():
    config = defaults("classify")
    config.model.name = "resnet50"
    config.model.norm_group = 32
    config.data.image_size = (176, 176)
    config.data.eval_size = (224, 224)
    config.data.eval_resize = 232
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
