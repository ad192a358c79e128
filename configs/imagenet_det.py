"""Detects the 200 classes of ImageNet's detection set, on 8 GPUs or TPU chips (never run).

    convmesh train --config configs/imagenet_det.py --workdir runs/det --config.data.root=DIR

DIR is the ILSVRC folder as it is distributed, with `Annotations/DET`, `Data/DET` and
`ImageSets/DET`. 24 epochs of about 456,600 images in batches of 128: 85,600 steps.

None of the numbers below is a result of this recipe. Expected AP50 on val: 0.45. AP at IoU 0.5 is
the challenge's metric; we know of no published result of a one-stage model of this size, so this is
a guess. (On COCO, TOOD with a ResNet-50, a similar detector, has AP 42.4 after 12 epochs, with a
backbone pretrained on ImageNet: arXiv 2108.07755, mmdetection's table.) Reasons why the result may
be lower: the ResNet-50 starts from random weights, the image size is fixed, and frequent and rare
classes are not balanced.
"""

from convmesh.config import defaults


def get_config():
    config = defaults("detect")
    config.model.name = "detector_resnet50"
    config.data.format = "voc"
    config.data.image_size = (512, 512)
    config.data.workers = 16
    config.data.on_bad_box = "clip"
    config.data.augment.scale = (0.3, 2.0)
    config.train.batch_size = 128
    config.train.epochs = 24.0
    config.train.log_every_steps = 100
    config.optimizer.learning_rate = 2e-3
    config.schedule.warmup_steps = 1000
    config.ema.decay = 0.9998
    config.mesh.data = 8
    config.eval.every_steps = 7134  # two epochs
    return config
