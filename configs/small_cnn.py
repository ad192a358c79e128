"""The classic small training: three convolutions, plain SGD, a tenth held out.

    convmesh train --config configs/small_cnn.py --workdir runs/small_cnn

Cross-entropy on class ids, batches of 16, SGD at 0.001 with momentum 0.9, and nothing else: no
schedule, no weight decay, no clipping, no average of the weights. A first run to read, and a
baseline.

Time and result: not measured since the digits took their present ink (before: 3.5 minutes on 2 CPU
cores, top 1 of 0.500 on the 120 digits held out, seed 0).
"""

from convmesh.config import defaults


def get_config():
    config = defaults("classify")
    config.model.name = "small_cnn"
    config.data.name = "digit_scenes/digits"
    config.data.image_size = (32, 32)
    config.data.train_split = "train[:90%]"
    config.data.eval_split = "train[90%:]"  # one tenth for validation
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
