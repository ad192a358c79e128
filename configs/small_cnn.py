"""Classifies digits with three convolutions and plain SGD: a first recipe to read, and a baseline.

    convmesh train --config configs/small_cnn.py --workdir runs/small_cnn

Cross-entropy on class ids, batch size 16, SGD at 0.001 with momentum 0.9, a tenth of the images for
validation; no learning rate schedule, weight decay, gradient clipping or EMA.

Time and result: 1.5 minutes on one CPU core, top-1 accuracy 0.625 on the 120 validation digits,
seed 0 (2026-11-30).
"""

from convmesh.config import defaults


def get_config():
    config = defaults("classify")
    config.model.name = "small_cnn"
    config.data.name = "digit_scenes/digits"
    config.data.image_size = (32, 32)
    config.data.train_split = "train[:90%]"
    config.data.eval_split = "train[90%:]"  # a tenth for validation
    config.data.augment.flip = 0.0
    config.data.augment.crop = (1.0, 1.0)
    config.data.augment.color = 0.0
    config.train.batch_size = 16
    config.train.epochs = 60.0
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 0.0
    config.schedule.name = "constant"
    config.schedule.warmup_steps = 0
    config.ema.decay = 0.0
    return config
