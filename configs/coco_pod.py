"""Detects the 80 classes of COCO 2017, on a TPU pod or many GPU hosts (never run).

    convmesh train --config configs/coco_pod.py --workdir runs/coco_pod --config.data.root=DIR

configs/coco.py with the larger model, four times the batch size and stronger zoom, on all devices
that JAX finds: 8 to 1,024, a number that divides 1,024. Run the same command on every host
(docs/machines.md); DIR must be readable from each. 300 epochs: about 34,700 steps.

None of the numbers below is a result of this recipe. Expected AP on val2017: 46, as for
detector_large in configs/coco.py, with the same caveats; the published results listed there are
46.9 and 49.4 for models of this size. One more caveat: the learning rate is that of batch size 256
times 2, the square root of 4, a rule for Adam that was not tested on this model. Batch norm
statistics are summed over all devices in every layer, which may limit the speed on many hosts:
--config.model.norm_group=32 takes them over 32 images.

No fsdp: parameters, the two moments of AdamW and the EMA are 0.4 GB in float32, which fits on any
device. --config.mesh.fsdp=true shards them anyway.
"""

from convmesh.config import defaults


def get_config():
    config = defaults("detect")
    config.model.name = "detector_large"
    config.data.format = "coco"
    config.data.image_size = (640, 640)
    config.data.workers = 16  # per host
    config.data.on_bad_box = "clip"  # a few boxes have no area; they are counted
    config.data.max_boxes = 300  # a mosaic holds the boxes of four images
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
    config.ema.decay = 0.9995  # fewer steps, but about as many images
    config.mesh.data = -1
    config.eval.every_steps = 1160  # ten epochs
    return config
