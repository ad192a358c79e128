"""Detects the 80 classes of COCO 2017, over a pod of TPUs or many GPU hosts. NEVER RUN: no figure
here is ours.

    convmesh train --config configs/coco_pod.py --workdir runs/coco_pod --config.data.root=DIR

configs/coco.py with the larger model, four times the batch and more zoom, over all devices that are
here: 8 to 1,024 of them, of a number that divides 1,024. Every host runs the same command
(docs/machines.md), and DIR lies where each can read it. 300 epochs: some 34,700 steps.

What it aims at: AP 46 on val2017, as configs/coco.py with detector_large, for the same reasons and
with the same doubts; the published figures stand there: 46.9 and 49.4 for models of this size. One
doubt more: the learning rate is that of a batch of 256 times 2, the square root of 4, which is a
rule for Adam and no result for this model. Batch statistics, which are summed over all devices in
every layer, may be what bounds many hosts: --config.model.norm_group=32 takes them over 32 images.

No fsdp: parameters, two moments and the average are 0.4 GB in float32, which any device holds
whole. --config.mesh.fsdp=true shares them all the same.
"""

from convmesh.config import defaults


def get_config():
    config = defaults("detect")
    config.model.name = "detector_large"
    config.precision = "bfloat16"
    config.data.format = "coco"
    config.data.image_size = (640, 640)
    config.data.workers = 16  # of each host
    config.data.on_bad_box = "clip"  # a few boxes have no area; they are counted
    config.data.max_boxes = 300  # a mosaic holds those of four images
    config.data.augment.scale = (0.1, 2.0)
    config.data.augment.mosaic = 0.5
    config.data.augment.mixup = 0.1
    config.data.augment.last_plain = 0.07  # 20 epochs
    config.train.batch_size = 1024
    config.train.epochs = 300.0
    config.train.log_every_steps = 100
    config.optimizer.learning_rate = 8e-3
    config.schedule.name = "flat_cosine"
    config.schedule.floor = 0.05
    config.schedule.warmup_steps = 1000
    config.ema.decay = 0.9995  # the average goes over fewer steps, but as many images
    config.mesh.data = -1
    config.eval.every_steps = 1160  # ten epochs
    return config
