"""`convmesh overfit`: a self-test of a recipe: can its model overfit the first few images?

If model, labels and losses fit together, a few hundred steps suffice; if not, the metrics show
what is likely to be wrong. It runs the ordinary training loop with a changed config.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from convmesh.config import KEYS, apply_overrides, parse_overrides
from convmesh.config.open_keys import open_keys
from convmesh.config.tree import flatten
from convmesh.data.record import BadExample, Source
from convmesh.data.splits import open_eval
from convmesh.distributed import console, processes
from convmesh.errors import ConfigError, RunError
from convmesh.steps.chosen_sizes import with_sizes_of_all
from convmesh.tasks.average_precision import coco_metrics
from convmesh.training import advice
from convmesh.training.loop import train
from convmesh.training.one_run import check_same_config
from convmesh.workdir.layout import Workdir

PASSING_SCORE = 0.95  # of AP50, or of top1
SHOWN_SCORE = 0.3  # minimum score of the detections that pictures show

# Groups of keys that a recipe sets for a long run; here they take their defaults.
RESET_GROUPS = ("train", "optimizer", "schedule", "ema", "eval", "checkpoint")
# The value that switches an augmentation off, by the kind of its key.
OFF: dict[str, Any] = {"float": 0.0, "interval": (1.0, 1.0), "bool": False}


OFF_BY_DEFAULT = (
    "data.augment.policy",
    "data.balance",
    "data.decode",
    "data.eval_resize",
    "data.eval_size",
    "loss.label_smoothing",
    "loss.balance",
    "model.stochastic_depth",
    "model.dropout",
)


def _can_be_off(name: str) -> bool:
    """Whether the key is not a parameter of another, such as the alpha of mixup."""
    within = KEYS[name].within
    return KEYS[name].kind != "float" or within is None or 0.0 in within


def overfit_config(
    config: ConfigDict, images: int, steps: int, overrides: Sequence[str] = ()
) -> ConfigDict:
    """`config`, changed to overfit `images` images in `steps` steps; `overrides` win.

    Data, model, loss weights, precision and mesh stay the recipe's.
    """
    groups = {name: name.partition(".")[0] for name in KEYS}
    changes = {n: key.default for n, key in KEYS.items() if groups[n] in RESET_GROUPS}
    augmentations = [name for name in KEYS if name.startswith("data.augment.")]
    changes |= {
        name: OFF[KEYS[name].kind]
        for name in augmentations
        if KEYS[name].kind in OFF and KEYS[name].task in ("", config.task) and _can_be_off(name)
    }
    if config.task == "classify":
        changes |= {name: KEYS[name].default for name in OFF_BY_DEFAULT}
    changes |= {
        "data.first": images,
        "data.eval_split": config.data.train_split,
        "data.sizes": (),
        "data.cache": "true",
        "data.workers": 0,
        "model.norm_group": 0,
        "train.seed": config.train.seed,
        "train.batch_size": images,
        "train.steps": steps,
        "train.log_every_steps": max(1, steps // 40),
        "optimizer.learning_rate": 4e-3,
        "optimizer.weight_decay": 0.0,
        "schedule.name": "constant",
        "ema.decay": 0.0,
    }
    return apply_overrides(apply_overrides(config, changes), overrides)


def overfit(
    config: ConfigDict,
    folder: str | os.PathLike[str],
    images: int = 8,
    steps: int = 200,
    overrides: Sequence[str] = (),
) -> dict[str, float]:
    """Trains on the first `images` images in `folder`; returns the metrics on the same images.

    Writes what training writes and prints whether the test was passed. Raises RunError with the
    likely reasons if it was not, and everything that `train` raises.
    """
    workdir = Workdir(folder)
    config = overfit_config(_with_sizes(config, workdir), images, steps, overrides)
    try:
        metrics = train(config, str(workdir))
    except ConfigError as error:
        # By default the batch size is the number of images: name the flag instead of the key.
        key = f"train.batch_size={images}: "
        if "train.batch_size" in parse_overrides(overrides) or not str(error).startswith(key):
            raise
        problem = str(error).removeprefix(key)
        raise ConfigError(f"--images {images}: this batch size {problem}") from None
    why = processes.broadcast(_why(config, workdir, metrics) if processes.is_first() else [])
    name = "AP50" if config.task == "detect" else "top1"
    score = metrics.get(name)
    score = 0.0 if score is None or not np.isfinite(score) else float(score)
    result = f"{name} {score:.2f} on {int(metrics.get('images', 0))} images"
    if score < PASSING_SCORE:
        raise RunError(
            f"failed: {result}, at least {PASSING_SCORE:g} needed: {'; '.join(why)} (pictures: "
            f"{workdir.first_batch_picture} and {workdir.evaluation('')})"
        )
    fits = "model, boxes and losses" if config.task == "detect" else "model, labels and loss"
    console.print_result(f"passed: {result}: {fits} fit together")
    for sentence in why:
        console.print_result(f"but {sentence}")
    return metrics


def _with_sizes(config: ConfigDict, workdir: Workdir) -> ConfigDict:
    """`config` with the sizes that training would choose, or those of the run in `workdir`."""
    check_same_config(config, ())
    left_open = open_keys(config)
    if left_open and workdir.has_run():
        recorded = dict(flatten(workdir.read_config()))
        config = apply_overrides(config, {key: recorded[key] for key in left_open})
    return with_sizes_of_all(config, left_open)


def _why(config: ConfigDict, workdir: Workdir, metrics: Mapping[str, float]) -> list[str]:
    """Likely reasons for a low score, from the files of the run."""
    rows = workdir.training_rows()
    source = open_eval(config)
    truth = list(_readable(source))
    if config.task == "classify":
        return why_classes([record.label for record in truth], metrics, rows, source.classes)
    detections = workdir.evaluation(source.split).read("predictions")
    return why_boxes(truth, detections, metrics, rows)


def _readable(source: Source) -> Iterator[Any]:
    """The readable records of a split; training has reported the others."""
    for index in range(len(source)):
        with contextlib.suppress(BadExample):
            yield source[index]


def why_boxes(
    truth: Sequence[Any],
    detections: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Likely reasons why a detector did not overfit these images; [] if it did.

    truth: records of the images. detections: `predictions.json`. rows: logged rows of training
    steps.
    """
    boxes = sum(int((~record.crowd).sum()) for record in truth)
    last = rows[-1] if rows else {}
    reasons = [advice.without_point(last.get("boxes_without_point") or 0.0, boxes)]
    if last.get("boxes_truncated"):
        reasons.append("an image has more boxes than data.max_boxes; set it higher")
    if (metrics.get("AP50") or 0.0) >= PASSING_SCORE:
        return [sentence for sentence in reasons if sentence]
    reasons.append(why_loss(rows))
    shown = [detection for detection in detections if detection["score"] >= SHOWN_SCORE]
    any_class = _any_class_ap50(truth, detections)
    if not shown:
        reasons.append(f"nothing was detected with a score of {SHOWN_SCORE:g} or more")
    elif any_class >= PASSING_SCORE:
        reasons.append(
            f"the boxes are found but their classes are wrong (AP50 {any_class:.2f} ignoring "
            "classes): do two classes look the same, or are labels wrong?"
        )
    else:
        reasons.append(
            f"{len(shown)} detections for {boxes} objects, and they do not overlap them (AP50 "
            f"{any_class:.2f} ignoring classes): do the boxes fit their objects in "
            "plots/first_batch.png?"
        )
    return [sentence for sentence in reasons if sentence]


def why_classes(
    labels: Sequence[int],
    metrics: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
) -> list[str]:
    """Likely reasons why a classifier did not overfit images of `labels`, as `why_boxes`."""
    if (metrics.get("top1") or 0.0) >= PASSING_SCORE:
        if len(set(labels)) > 1 or len(classes) < 2:
            return []
        return [f"all images are of class {classes[labels[0]]}, which proves little; use more"]
    reasons, train_top1 = [why_loss(rows)], (rows[-1].get("top1") or 0.0) if rows else 0.0
    if train_top1 >= PASSING_SCORE:
        reasons.append(
            f"top1 was {train_top1:.2f} in training but is lower in evaluation: evaluation crops "
            "the centre of the images; are the objects there? more --steps may help"
        )
    elif not reasons[0]:
        reasons.append("are there similar images with different labels? more --steps may help")
    return [sentence for sentence in reasons if sentence]


def why_loss(rows: Sequence[Mapping[str, Any]]) -> str:
    """A sentence if the loss has not halved, else ''."""
    losses = [row["loss"] for row in rows if row.get("loss") is not None]
    skipped = (rows[-1].get("nonfinite_steps") or 0) if rows else 0
    if skipped:
        return f"{skipped:.0f} steps had no finite loss or gradient (nonfinite.jsonl names them)"
    if not losses:
        return "no loss was logged"
    first, last = losses[0], float(np.median(losses[-5:]))
    if last <= first / 2:
        return ""
    fell = "has not fallen" if last >= 0.99 * first else "has fallen too little"
    return f"the loss {fell}, from {first:.3g} to {last:.3g}: try another learning rate, or --steps"


def _any_class_ap50(truth: Sequence[Any], predictions: Sequence[Mapping[str, Any]]) -> float:
    """AP50 with all classes merged into one."""
    images = [
        {
            "image_id": record.image_id,
            "width": record.image.shape[1],
            "height": record.image.shape[0],
            "boxes": record.boxes,
            "labels": np.zeros(len(record.boxes), np.int32),
            "crowd": record.crowd,
        }
        for record in truth
    ]
    detections = []
    for record in truth:
        own = [found for found in predictions if found["image_id"] == record.image_id]
        corners = np.array([found["bbox"] for found in own], float).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        detections.append(
            {
                "image_id": record.image_id,
                "boxes": corners,
                "scores": np.array([found["score"] for found in own], float),
                "labels": np.zeros(len(own), np.int32),
            }
        )
    ap50 = coco_metrics(images, detections, ("any",))["AP50"]
    return float(ap50) if np.isfinite(ap50) else 0.0
