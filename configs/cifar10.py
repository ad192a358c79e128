"""Classifies CIFAR-10 with a ResNet-56 for small images (never run).

    convmesh prepare --name cifar10 --root data
    convmesh train --config configs/cifar10.py --workdir runs/cifar10 --config.data.root=data

64,000 steps of 128 images, the learning rate divided by ten after half and three quarters, on one
GPU or any number of devices; the test images are evaluated ten times and choose nothing: take the
last checkpoint.

None of the numbers below is a result of this recipe. Expected top-1: 93. Published: 93.0 (He et
al., arXiv 1512.03385, table 6, with crops from images padded by 4 pixels). It may differ: crops
here take 60 to 100% of the image and are resized, and shortcuts that change shape are convolutions.
"""

from convmesh.config import defaults


def get_config():
    config = defaults("classify")
    config.model.name = "resnet56"
    config.data.name = "cifar10"
    config.data.eval_split = "test"
    config.data.image_size = (32, 32)
    config.data.augment.crop = (0.6, 1.0)
    config.data.augment.color = 0.0
    config.data.workers = 4
    config.train.batch_size = 128
    config.train.steps = 64_000
    config.train.log_every_steps = 100
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 0.0
    config.schedule.name = "steps"
    config.schedule.milestones = (0.5, 0.75)
    config.schedule.warmup_steps = 400
    config.ema.decay = 0.0
    config.eval.every_steps = 6_400
    return config
