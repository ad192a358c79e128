"""Classifies ImageNet with a ConvNeXt-T in 300 epochs, on 32 GPUs or many TPU chips (never run).

    convmesh train --config configs/imagenet_convnext_tiny.py --workdir runs/cnt \\
        --config.data.root=DIR

DIR holds `train/` and `val/` with a folder for each of the 1,000 classes; or `--config.data.name=
imagenet2012 --config.data.eval_split=validation` reads the set of TFDS. 93,800 steps of 4,096
images; on fewer devices --config.train.accumulate=4 needs a quarter of the memory.

The recipe is the paper's (arXiv 2201.03545, table 5). None of the numbers below is a result of this
one. Expected top-1: 82. Published: 82.1. It may differ: the paper's RandAugment is timm's, which
draws the magnitude around 9 and has a few other operations, and its erased rectangles hold noise.
"""

from convmesh.config import defaults


def get_config():
    config = defaults("classify")
    config.model.name = "convnext_tiny"
    config.model.stochastic_depth = 0.1
    config.data.image_size = (224, 224)
    config.data.eval_resize = 256
    config.data.eval_interpolation = "bicubic"
    config.data.augment.crop = (0.08, 1.0)
    config.data.augment.color = 0.0
    config.data.augment.policy = "randaugment"
    config.data.augment.operations = 2
    config.data.augment.magnitude = 9
    config.data.augment.erase = 0.25
    config.data.augment.mixup = 0.5
    config.data.augment.mixup_alpha = 0.8
    config.data.augment.cutmix = 0.5
    config.data.augment.last_plain = 0.0
    config.data.decode = "crop"
    config.data.workers = 16
    config.train.batch_size = 4096
    config.train.epochs = 300.0
    config.train.log_every_steps = 100
    config.loss.label_smoothing = 0.1
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 4e-3
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 0.0
    config.schedule.name = "cosine"
    config.schedule.floor = 0.0
    config.schedule.warmup_steps = 6256  # twenty epochs
    config.ema.decay = 0.9999
    config.mesh.data = -1
    config.eval.every_steps = 6256
    return config
