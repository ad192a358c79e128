"""The model, image size and batch size of a classifier whose recipe leaves them open.

From its images and classes and the devices, before anything is built. What is chosen is a rule, not
a search: the same data on the same kind of devices gives the same sizes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from convmesh.config import apply_overrides
from convmesh.config.keys import AUTO_MODEL
from convmesh.config.open_keys import open_keys
from convmesh.config.tree import flatten
from convmesh.data.record import BadExample, Source
from convmesh.data.splits import open_train
from convmesh.data.survey import evenly_spaced
from convmesh.distributed import console, devices, processes, same_run
from convmesh.distributed.clusters import start_seconds
from convmesh.errors import ConfigError
from convmesh.geometry import round_to_stride

SMALL_SIDE = 48  # pixels; images up to this side are digits, icons, CIFAR: not photos
SMALL_INPUT = 32
CPU_SIDE = 96  # of the input on CPUs, where arithmetic is what a run lacks
ACCELERATOR_SIDE = 224
DEEP_IMAGES, DEEP_CLASSES = 20_000, 100  # from either, ResNet-50 is taken on accelerators
BATCH, LARGEST_BATCH = 32, 256  # a device's, and that of all devices
STEPS_PER_EPOCH = 30  # at least, before a batch is made larger for more devices


@dataclasses.dataclass(frozen=True)
class Contents:
    """What the sizes depend on.

    images: to train on. side: their usual side in pixels, the geometric mean of height and width.
    classes: how many there are.
    accelerated: whether the devices are not CPUs. shards: devices along the data axis. accumulate:
    micro-batches of a step. norm_group: see `model.norm_group`.
    """

    images: int
    side: float
    classes: int
    accelerated: bool
    shards: int
    accumulate: int = 1
    norm_group: int = 0


# Where no data is named, as for check-mesh.
IMAGENET_IMAGES, IMAGENET_SIDE, IMAGENET_CLASSES = 1_281_167, 400.0, 1000


def with_chosen_sizes(
    config: ConfigDict, elsewhere: Sequence[Any] | None = None, images: int = 0
) -> ConfigDict:
    """`config` with every key that it leaves open set; says on the console what was chosen.

    elsewhere: devices that are not here, to compile for. images: their number, if it is not that of
    the data. Raises ConfigError if weights are to be loaded into a model that is not named, and as
    `open_train`.
    """
    if not open_keys(config):
        return config
    found = _devices_here() if elsewhere is None else _kind_of(elsewhere)
    return _chosen(config, *found, images)


def with_sizes_of_all(config: ConfigDict, left_open: Sequence[str]) -> ConfigDict:
    """The same for a run of several processes, as process 0 chooses; every process must call it.

    left_open: the keys that the recipe left open, of which `config` may have those of an earlier
    run: process 0's count, since another may not see that run yet.
    """
    if not left_open:
        return config
    found = _devices_here()
    if open_keys(config):  # by all, so that none waits for another that lists a large set alone
        config = _chosen(config, *found)
    processes.wait_for_others("choose the sizes", start_seconds())
    values = dict(flatten(config))
    return apply_overrides(config, processes.broadcast({key: values[key] for key in left_open}))


def _chosen(config: ConfigDict, accelerated: bool, count: int, images: int = 0) -> ConfigDict:
    """`config` with its open keys set for `count` devices."""
    keys = open_keys(config)
    if "model.name" in keys and config.init_from:
        raise ConfigError(
            f"model.name={AUTO_MODEL}: init_from={config.init_from} holds the weights of one "
            "model; name it, or take configs/finetune_classify.py"
        )
    named = bool(config.data.root or config.data.name)
    contents = _contents(config, accelerated, count, named)
    contents = dataclasses.replace(contents, images=images or contents.images)
    chosen = {key: value for key, value in sizes_for(contents).items() if key in keys}
    shown = " ".join(f"{key}={_text(value)}" for key, value in chosen.items())
    what = f"{contents.images:,} images of about {contents.side:.0f} pixels"
    if not named:
        what = "images as of ImageNet, since no data is named"
    kind = "accelerators" if accelerated else "CPUs"
    console.print_status(f"{shown}: chosen for {what}, on {kind}")
    return apply_overrides(config, chosen)


def _devices_here() -> tuple[bool, int]:
    """Whether the devices of all processes are accelerators, and how many they are.

    Simulated devices are not started for it: `devices.expect_temporaries` comes before that.
    """
    if simulated := devices.simulated_devices():
        return False, simulated * processes.count()
    same_run.check_same_devices()  # starts them, with all processes at once
    return _kind_of(jax.devices())


def _kind_of(found: Sequence[Any]) -> tuple[bool, int]:
    return found[0].platform != "cpu", len(found)


def _contents(config: ConfigDict, accelerated: bool, count: int, named: bool) -> Contents:
    """The contents of the data that `config` names, or those of ImageNet, on `count` devices."""
    source = open_train(config) if named else None
    taken = max(1, config.mesh.spatial) * max(1, config.mesh.model)
    return Contents(
        images=len(source) if source else IMAGENET_IMAGES,
        side=usual_side(source) if source else IMAGENET_SIDE,
        classes=len(source.classes) if source else IMAGENET_CLASSES,
        accelerated=accelerated,
        shards=config.mesh.data if config.mesh.data > 0 else max(1, count // taken),
        accumulate=config.train.accumulate,
        norm_group=config.model.norm_group,
    )


def sizes_for(contents: Contents) -> dict[str, Any]:
    """The value of each key that can be left open."""
    if contents.side <= SMALL_SIDE:
        name, side = "resnet9" if contents.accelerated else "resnet9_quarter", SMALL_INPUT
    elif contents.accelerated:
        deep = contents.images >= DEEP_IMAGES or contents.classes >= DEEP_CLASSES
        name = "resnet50" if deep else "resnet18"
        side = min(ACCELERATOR_SIDE, round_to_stride(contents.side))
    else:
        name, side = "resnet18_half", min(CPU_SIDE, round_to_stride(contents.side))
    return {
        "model.name": name,
        "data.image_size": (side, side),
        "train.batch_size": _batch_size(contents),
    }


def _batch_size(contents: Contents) -> int:
    """BATCH for each device, as far as an epoch keeps its steps; for CPUs, whose devices share
    their cores, BATCH for all.

    A multiple of what the devices, micro-batches, groups of batch norm and pairs of mixup need.
    """
    wanted = BATCH * contents.shards if contents.accelerated else BATCH
    bound = max(BATCH, min(LARGEST_BATCH, contents.images // STEPS_PER_EPOCH))
    micro_batch = math.lcm(contents.shards, 2, contents.norm_group or 1)
    multiple = micro_batch * contents.accumulate
    return max(1, min(wanted, bound) // multiple) * multiple


def usual_side(source: Source) -> float:
    """The median over some images of the geometric mean of height and width, in pixels.

    Images that cannot be read are left to the checks of training.
    """
    sides = []
    for index in evenly_spaced(len(source)):
        try:
            height, width = source.read(index, None).image.shape[:2]
        except BadExample:
            continue
        sides.append((height * width) ** 0.5)
    return float(np.median(sides)) if sides else IMAGENET_SIDE


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
