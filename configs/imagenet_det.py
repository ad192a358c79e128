"""Detects the 200 classes of ImageNet's detection set, on 8 GPUs or TPU chips. NEVER RUN: no figure
here is ours.

    convmesh train --config configs/imagenet_det.py --workdir runs/det --config.data.root=DIR

DIR is the ILSVRC folder as it is distributed, with `Annotations/DET`, `Data/DET` and
`ImageSets/DET`. 24 epochs of some 456,600 images in batches of 128: 85,600 steps.

What it aims at: AP50 0.45 on val. AP at IoU 0.5 is what the challenge measures; of a model of one
stage and this size no figure is known to us, so the aim is a guess. (On COCO, TOOD on a ResNet-50,
a detector of this kind, gets AP 42.4 in 12 epochs, from a backbone trained on ImageNet: arXiv
2108.07755, mmdetection's table.) Why this may stay below: a ResNet-50 from nothing, one size of
image, and no balance between frequent and rare classes.
"""

from convmesh.config import defaults


def get_config():
    config = defaults("detect")
    config.model.name = "detector_resnet50"
    config.precision = "bfloat16"
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
