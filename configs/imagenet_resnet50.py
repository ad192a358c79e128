"""Classifies ImageNet with a ResNet-50 in 90 epochs, on 8 GPUs or many TPU chips (never run).

    convmesh train --config configs/imagenet_resnet50.py --workdir runs/r50 --config.data.root=DIR

DIR holds `train/` and `val/` with a folder for each of the 1,000 classes
(tools/imagenet_val_folders.py makes those of `val/`); or `--config.data.name=imagenet2012
--config.data.eval_split=validation` reads the set of TFDS. 90 epochs of 1,281,167 images in batches
of 1,024: 112,600 steps. On more than 32 devices a larger batch keeps them busy;
the learning rate goes with it, 0.1 for each 256 images, up to 8,192 (Goyal et al., arXiv
1706.02677), and the steps of five epochs:

    --config.train.batch_size=8192 --config.optimizer.learning_rate=3.2
    --config.schedule.warmup_steps=782 --config.eval.every_steps=782

None of the numbers below is a result of this recipe. Expected top-1: 76. Published: 76.3 with the
recipe that this one follows (Goyal et al., batches of 8,192), 76.1 for torchvision's IMAGENET1K_V1
weights (no warm-up, norms decayed). Batch statistics are those of groups of 32 images, as Goyal et
al. take them over the 32 of a device; those of the whole batch would cost two sums over all devices
in each of the 53 batch norms, there and back.
"""

from convmesh.config import defaults


def get_config():
    config = defaults("classify")
    config.model.name = "resnet50"
    config.model.norm_group = 32
    config.data.image_size = (224, 224)
    config.data.eval_resize = 256
    config.data.augment.crop = (0.08, 1.0)
    config.data.augment.color = 0.0
    config.data.decode = "crop"
    config.data.workers = 16
    config.train.batch_size = 1024
    config.train.epochs = 90.0
    config.train.log_every_steps = 100
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.4
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 0.0
    config.schedule.name = "steps"  # a tenth after 30, 60 and 80 of 90 epochs
    config.schedule.milestones = (1 / 3, 2 / 3, 8 / 9)
    config.schedule.warmup_steps = 6255  # five epochs
    config.ema.decay = 0.0
    config.mesh.data = -1
    config.eval.every_steps = 6255
    return config
