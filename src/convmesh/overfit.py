"""The self-test of a recipe on its own data: its model learns the first few images by heart.

A model, labels and losses that fit together can do that in a few hundred steps; where they cannot,
the numbers say what is likely to be wrong. The loop is that of training, with another config.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convmesh import advice, processes
from convmesh.config import KEYS, apply_overrides, parse_overrides
from convmesh.data import BadExample, open_eval
from convmesh.data.documents import read_json
from convmesh.errors import ConfigError, RunError
from convmesh.report import METRICS_FILE, is_of_training, read_metrics
from convmesh.tasks.average_precision import coco_metrics

BAR = 0.95  # of AP50, or of top1
SURE = 0.3  # score of a detection that a picture would show

# What these groups of keys say is a long run's; here they take their defaults.
NOT_THE_RECIPES = ("train", "optimizer", "schedule", "ema", "eval", "checkpoint")
# What switches an augmentation off, by the kind of its key.
OFF: dict[str, Any] = {"float": 0.0, "interval": (1.0, 1.0), "bool": False}


def overfit_config(config, images: int, steps: int, overrides=()):
    """`config`, made to learn `images` images by heart in `steps` steps; `overrides` win.

    The recipe's are the data, the model, the weights of the losses, the precision and the mesh.
    """
    groups = {name: name.partition(".")[0] for name in KEYS}
    changes = {n: key.default for n, key in KEYS.items() if groups[n] in NOT_THE_RECIPES}
    augmentations = [name for name in KEYS if name.startswith("data.augment.")]
    changes |= {
        name: OFF[KEYS[name].kind]
        for name in augmentations
        if KEYS[name].kind in OFF and KEYS[name].task in ("", config.task)
    }
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
    config, workdir, images: int = 8, steps: int = 200, overrides=(), say=print
) -> dict[str, float]:
    """Trains on the first `images` images until they are known by heart; returns the metrics.

    Writes what training writes, and says that the test was passed. Raises RunError with the likely
    reasons if it was not, and all that `train` raises.
    """
    from convmesh.training import train

    config = overfit_config(config, images, steps, overrides)
    workdir = Path(workdir)
    try:
        metrics = train(config, workdir)
    except ConfigError as error:
        # The batch is the images, unless the call says otherwise: in the words of the call.
        key = f"train.batch_size={images}: "
        if "train.batch_size" in parse_overrides(overrides) or not str(error).startswith(key):
            raise
        what = str(error).removeprefix(key)
        raise ConfigError(f"--images {images}: one batch of them {what}") from None
    why = processes.broadcast(_why(config, workdir, metrics) if processes.is_first() else [])
    name = "AP50" if config.task == "detect" else "top1"
    score = metrics.get(name)
    score = 0.0 if score is None or not np.isfinite(score) else float(score)
    what = f"{name} {score:.2f} on {int(metrics.get('images', 0))} images"
    if score < BAR:
        raise RunError(
            f"failed: {what}, where {BAR:g} is due: {'; '.join(why)} (pictures: "
            f"{workdir / 'plots' / 'first_batch.png'} and {workdir / 'eval'})"
        )
    if processes.is_first():
        fits = "model, boxes and losses" if config.task == "detect" else "model, labels and loss"
        say(f"passed: {what}: {fits} fit together")
        for sentence in why:
            say(f"but {sentence}")
    return metrics


def _why(config, workdir: Path, metrics: Mapping[str, float]) -> list[str]:
    """What the files of the run say of its end."""
    rows = read_metrics(workdir / METRICS_FILE)
    train = [row for row in rows if is_of_training(row)]
    source = open_eval(config)
    truth = list(_readable(source))
    if config.task == "classify":
        return why_classes([record.label for record in truth], metrics, train, source.classes)
    found = read_json(workdir / "eval" / source.split / "predictions.json")
    return why_boxes(truth, found, metrics, train)


def _readable(source) -> Iterator[Any]:
    """The records of a split; training has refused or passed by those that cannot be read."""
    for index in range(len(source)):
        with contextlib.suppress(BadExample):
            yield source[index]


def why_boxes(
    truth: Sequence[Any],
    found: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
) -> list[str]:
    """What is likely to keep a detector from learning these images; [] if it has learnt them.

    truth: records of the images. found: `predictions.json`. rows: logged lines of training steps.
    """
    boxes = sum(int((~record.crowd).sum()) for record in truth)
    last = rows[-1] if rows else {}
    said = [advice.without_point(last.get("boxes_without_point") or 0.0, boxes)]
    if last.get("boxes_truncated"):
        said.append("there are more boxes in an image than data.max_boxes; set it higher")
    if (metrics.get("AP50") or 0.0) >= BAR:
        return [sentence for sentence in said if sentence]
    said.append(why_loss(rows))
    sure = [one for one in found if one["score"] >= SURE]
    any_class = _any_class_ap50(truth, found)
    if not sure:
        said.append(f"nothing was detected with a score of {SURE:g} or more")
    elif any_class >= BAR:
        said.append(
            f"the boxes are found and their classes are not (AP50 {any_class:.2f} if any class is "
            "right): are two classes alike, or the labels wrong?"
        )
    else:
        said.append(
            f"{len(sure)} detections for {boxes} objects, and they do not lie on them (AP50 "
            f"{any_class:.2f} if any class is right): do the boxes fit their objects in "
            "plots/first_batch.png?"
        )
    return [sentence for sentence in said if sentence]


def why_classes(
    labels: Sequence[int],
    metrics: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
) -> list[str]:
    """What is likely to keep a classifier from learning images of `labels`, as `why_boxes`."""
    if (metrics.get("top1") or 0.0) >= BAR:
        if len(set(labels)) > 1 or len(classes) < 2:
            return []
        return [f"all images are of class {classes[labels[0]]}, which proves little; take more"]
    said, right = [why_loss(rows)], (rows[-1].get("top1") or 0.0) if rows else 0.0
    if right >= BAR:
        said.append(
            f"in training top1 was {right:.2f} and in evaluation it is not: do the objects lie in "
            "the middle of the images, which is what evaluation looks at? more --steps may help"
        )
    elif not said[0]:
        said.append("are there images that are alike and have two labels? more --steps may help")
    return [sentence for sentence in said if sentence]


def why_loss(rows: Sequence[Mapping[str, Any]]) -> str:
    """Says so if the loss has not fallen to a half."""
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


def _any_class_ap50(truth: Sequence[Any], found: Sequence[Mapping[str, Any]]) -> float:
    """AP50 if every class were the same."""
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
        own = [one for one in found if one["image_id"] == record.image_id]
        corners = np.array([one["bbox"] for one in own], float).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        detections.append(
            {
                "image_id": record.image_id,
                "boxes": corners,
                "scores": np.array([one["score"] for one in own], float),
                "labels": np.zeros(len(own), np.int32),
            }
        )
    ap50 = coco_metrics(images, detections, ("any",))["AP50"]
    return float(ap50) if np.isfinite(ap50) else 0.0
