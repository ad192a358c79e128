"""The model, image size and batch size of a classifier whose recipe leaves them open.

From the number and the size of its images and the devices, before anything is built. What is
chosen is a rule, not a search: the same data on the same kind of device gives the same sizes.
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
from convmesh.config.tree import flatten
from convmesh.data.record import BadExample, Source
from convmesh.data.splits import open_train
from convmesh.distributed import console
from convmesh.errors import ConfigError
from convmesh.geometry import round_to_stride

SMALL_SIDE = 48  # pixels; images up to this side are digits, icons, CIFAR: not photos
CPU_SIDE = 96  # of the input on CPUs, where arithmetic is what a run lacks
ACCELERATOR_SIDE = 224
DEEP_FROM = 20_000  # images, from which ResNet-50 is taken on accelerators
BATCH, LARGEST_BATCH = 32, 256  # a device's, and that of all devices
STEPS_PER_EPOCH = 30  # at least, before a batch is made larger for more devices
_SAMPLES = 16  # images whose size is looked at

# The keys that a recipe can leave open, with the values that do so.
OPEN_VALUES: dict[str, Any] = {
    "model.name": AUTO_MODEL,
    "data.image_size": (0, 0),
    "train.batch_size": 0,
}


@dataclasses.dataclass(frozen=True)
class Contents:
    """What the sizes depend on.

    images: to train on. side: their usual side in pixels, the geometric mean of height and width.
    accelerated: whether the devices are not CPUs. shards: devices along the data axis.
    accumulate: micro-batches of a step.
    """

    images: int
    side: float
    accelerated: bool
    shards: int
    accumulate: int = 1


# Without data, as for check-mesh: ImageNet's.
USUAL_IMAGES, USUAL_SIDE = 1_281_167, 400.0


def open_keys(config: ConfigDict) -> list[str]:
    """The keys of OPEN_VALUES that `config` leaves open."""
    values = dict(flatten(config))
    return [
        key
        for key, value in OPEN_VALUES.items()
        if values[key] == value or (isinstance(value, tuple) and tuple(values[key]) == value)
    ]


def with_chosen_sizes(config: ConfigDict, devices: Sequence[Any] | None = None) -> ConfigDict:
    """`config` with every key of OPEN_VALUES set; says on the console what was chosen.

    devices: to train on; None takes those that are here. The images are those that the config
    names, or ImageNet's if it names none. Raises ConfigError if weights are to be loaded into a
    model that is not named, and as `open_train`.
    """
    keys = open_keys(config)
    if not keys:
        return config
    if "model.name" in keys and config.init_from:
        raise ConfigError(
            f"model.name={AUTO_MODEL}: init_from={config.init_from} holds the weights of one "
            "model; name it, or take configs/finetune_classify.py"
        )
    named = config.data.root or config.data.name
    source = open_train(config) if named else None
    devices = jax.devices() if devices is None else devices
    accelerated = devices[0].platform != "cpu"
    contents = Contents(
        images=len(source) if source is not None else USUAL_IMAGES,
        side=usual_side(source) if source is not None else USUAL_SIDE,
        accelerated=accelerated,
        shards=config.mesh.data if config.mesh.data > 0 else _free_devices(config, len(devices)),
        accumulate=config.train.accumulate,
    )
    chosen = {key: value for key, value in sizes_for(contents).items() if key in keys}
    shown = " ".join(f"{key}={_text(value)}" for key, value in chosen.items())
    kind = "an accelerator" if accelerated else "CPUs"
    console.print_status(
        f"{shown}: for {contents.images:,} images of about {contents.side:.0f} pixels, on {kind}"
    )
    return apply_overrides(config, chosen)


def sizes_for(contents: Contents) -> dict[str, Any]:
    """The value of each key of OPEN_VALUES."""
    if contents.side <= SMALL_SIDE:
        name, side = "resnet20", 32
    elif contents.accelerated:
        name = "resnet50" if contents.images >= DEEP_FROM else "resnet18"
        side = min(ACCELERATOR_SIDE, round_to_stride(contents.side))
    else:
        name, side = "resnet18_half", min(CPU_SIDE, round_to_stride(contents.side))
    return {
        "model.name": name,
        "data.image_size": (side, side),
        "train.batch_size": _batch_size(contents),
    }


def _batch_size(contents: Contents) -> int:
    """BATCH for each device, as far as an epoch keeps its steps; a multiple of the devices.

    On CPUs, which share their cores, BATCH for all devices.
    """
    wanted = BATCH * contents.shards if contents.accelerated else BATCH
    bound = max(BATCH, min(LARGEST_BATCH, contents.images // STEPS_PER_EPOCH))
    parts = contents.shards * contents.accumulate
    multiple = math.lcm(parts, 2 * contents.accumulate)  # mixup takes pairs
    return max(1, min(wanted, bound) // multiple) * multiple


def usual_side(source: Source) -> float:
    """The median over some images of the geometric mean of height and width, in pixels.

    Images that cannot be read are left to the checks of training.
    """
    sides = []
    for index in np.linspace(0, len(source) - 1, min(_SAMPLES, len(source))).astype(int):
        try:
            height, width = source.read(int(index), None).image.shape[:2]
        except BadExample:
            continue
        sides.append((height * width) ** 0.5)
    return float(np.median(sides)) if sides else USUAL_SIDE


def _free_devices(config: ConfigDict, devices: int) -> int:
    """Of `devices`, those that `mesh.data=-1` leaves to the data axis."""
    taken = max(1, config.mesh.spatial) * max(1, config.mesh.model)
    return max(1, devices // taken)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
