"""What saves a day: one sentence for each common mistake, from numbers that are known anyway.

Each function takes numbers and returns a sentence that ends in what to do, or '' where there is
nothing to say. Nothing is said of a run that is as it should be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convmesh.data.survey import Survey

FINEST_STRIDE = 8  # pixels of the input
MULTIPLE = 32  # of which input sides are advised, the coarsest stride
LISTED = 5  # names in a sentence
OPENING = 0.2  # part of the run by whose end it shows whether it learns
LEAST_LINES = 8  # logged in the opening, below which nothing is said of the loss


def at_start(config: Any, classes: Sequence[str], steps: int, found: Survey) -> list[str]:
    """Sentences about a run of `steps` steps on a split as `found`, before the first step."""
    batch, size = config.train.batch_size, tuple(config.data.image_size)
    said = [
        absent_classes(classes, found.per_class),
        large_batch(found.images, batch),
        "" if config.init_from else short_run(found.images, batch, steps),
    ]
    if config.task == "detect":
        said += [tiny_boxes(found.sizes, found.objects, size), padding(found.sizes, size)]
    return [sentence for sentence in said if sentence]


def of_curve(config: Any, rows: Sequence[Mapping[str, Any]], steps: int) -> list[str]:
    """Sentences about the opening of a run of `steps` steps.

    rows: the lines of `metrics.jsonl` of the training split, None where a number was not finite.
    """
    opening = [row for row in rows if row["step"] <= max(OPENING * steps, 1)]
    rate = config.optimizer.learning_rate
    sentence = rate_too_high(opening, rate, config.optimizer.clip_norm)
    if not sentence and not config.init_from:  # a trained model may have little left to learn
        sentence = rate_too_low(opening, rate)
    return [sentence] if sentence else []


def at_end(rows: Sequence[Mapping[str, Any]], boxes: int, steps: int) -> list[str]:
    """Sentences about `steps` steps that held `boxes` boxes; rows: the logged ones of them."""
    missed = [row.get("boxes_without_point") or 0.0 for row in rows]
    sentence = without_point(float(np.mean(missed or [0.0])) * steps, boxes)
    return [sentence] if sentence else []


# Before the first step.


def absent_classes(classes: Sequence[str], per_class: np.ndarray | None) -> str:
    """per_class: training examples that hold each class, int [classes]; None where not known."""
    if per_class is None or per_class.all():
        return ""
    absent = [name for name, count in zip(classes, per_class, strict=True) if not count]
    names = ", ".join(absent[:LISTED]) + (", ..." if len(absent) > LISTED else "")
    return (
        f"no training example holds {len(absent)} of the {len(classes)} classes, {names}: nothing "
        "can be learnt of them; add examples, or leave them out of the classes"
    )


def large_batch(images: int, batch_size: int) -> str:
    """For a batch that holds some image twice."""
    if images >= batch_size:
        return ""
    return (
        f"train.batch_size={batch_size} is more than the {images} images there are, so every step "
        "sees some of them twice; lower it"
    )


def short_run(images: int, batch_size: int, steps: int) -> str:
    """For a run of fewer than 10 epochs and fewer than 500 steps."""
    epochs = steps * batch_size / images
    if epochs >= 10 or steps >= 500:
        return ""
    return (
        f"{steps} steps see each image {epochs:.1f} times: too little for weights that begin at "
        "random; train longer (train.steps=0 with train.epochs=0 chooses a length)"
    )


def tiny_boxes(sizes: np.ndarray, objects: Sequence[np.ndarray], size: tuple[int, int]) -> str:
    """For objects most of which are smaller than the finest stride once the image is fitted.

    sizes: [k, 2] (height, width) of images; objects: of each [n, 2], height and width of its
    objects in its pixels; size: (height, width) of the input.
    """
    sides = [o.max(axis=1) * min(size / whole) for o, whole in zip(objects, sizes, strict=True)]
    longer = np.concatenate([*sides, np.zeros(0)])
    small = float(np.mean(longer < FINEST_STRIDE)) if len(longer) else 0.0
    if small <= 0.5:
        return ""
    times = min(4.0, 2 * FINEST_STRIDE / max(1.0, float(np.median(longer))))
    wanted = [_multiple(times * side) for side in size]
    return (
        f"{small:.0%} of the objects are smaller than {FINEST_STRIDE} pixels, the finest stride, "
        f"in an input of {size[0]} x {size[1]}; set data.image_size larger, such as "
        f"{wanted[0]},{wanted[1]}"
    )


def padding(sizes: np.ndarray, size: tuple[int, int]) -> str:
    """For an input of which 40% is padding, if another shape of as many pixels has half that.

    sizes: [k, 2] (height, width) of images; size: (height, width) of the input.
    """
    if not len(sizes):
        return ""
    height_to_width = float(np.median(sizes[:, 0] / sizes[:, 1]))
    pixels = size[0] * size[1]
    better = (
        _multiple((pixels * height_to_width) ** 0.5),
        _multiple((pixels / height_to_width) ** 0.5),
    )
    now, then = _padded(sizes, size), _padded(sizes, better)
    if now < 0.4 or then > now / 2:
        return ""
    return (
        f"{now:.0%} of the input of {size[0]} x {size[1]} is padding, since the images have "
        f"another shape; with data.image_size={better[0]},{better[1]} it is {then:.0%}"
    )


def _padded(sizes: np.ndarray, size: tuple[int, int]) -> float:
    """The mean part of the input that fitted images leave empty."""
    scale = (np.array(size) / sizes).min(axis=1)
    return float(np.mean(1 - sizes.prod(axis=1) * scale**2 / (size[0] * size[1])))


def _multiple(side: float) -> int:
    return max(1, round(side / MULTIPLE)) * MULTIPLE


# From what was logged.


def rate_too_high(opening: Sequence[Mapping[str, Any]], rate: float, clip_norm: float) -> str:
    """For a loss that rises threefold, is often no number, or stays while gradients are clipped.

    opening: logged lines; clip_norm: as in the config, 0 for none.
    """
    told, last = "", opening[-1] if opening else {}
    losses = _finite(opening, "loss")
    skipped = last.get("nonfinite_steps") or 0
    if last and skipped > 0.05 * last["step"]:
        told = f"{skipped:.0f} of the first {last['step']} steps had no finite loss or gradient"
    elif len(losses) >= LEAST_LINES:
        first, now = _ends(losses)
        norms = _finite(opening, "gradient_norm")
        clipped = float(np.mean(norms > clip_norm)) if clip_norm and len(norms) else 0.0
        if now > 3 * first:
            told = f"the loss has risen from {first:.3g} to {now:.3g} by step {last['step']}"
        elif clipped > 0.9 and now >= 0.99 * first:
            told = (
                f"the loss has not fallen by step {last['step']}, and {clipped:.0%} of the "
                "gradients were clipped (optimizer.clip_norm)"
            )
    return told and f"{told}; try a tenth of optimizer.learning_rate={rate:g}"


def rate_too_low(opening: Sequence[Mapping[str, Any]], rate: float) -> str:
    """For a loss that moves by less than 1%. opening: logged lines."""
    losses = _finite(opening, "loss")
    if len(losses) < LEAST_LINES:
        return ""
    first, now = _ends(losses)
    if abs(now - first) >= 0.01 * abs(first):
        return ""
    return (
        f"the loss has moved from {first:.4g} to {now:.4g} by step {opening[-1]['step']}: hardly "
        f"at all; try ten times optimizer.learning_rate={rate:g}, and look at plots/first_batch.png"
    )


def without_point(missed: float, boxes: float) -> str:
    """For more than 5% of the boxes without a grid point. Both numbers are of the same steps."""
    if missed <= 0.05 * boxes:
        return ""
    return (
        f"{missed / boxes:.0%} of the boxes had no grid point to learn them, being too small or "
        "too close together; set data.image_size larger"
    )


def _finite(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    values = np.array([row.get(name) for row in rows], float)
    return values[np.isfinite(values)]


def _ends(values: np.ndarray) -> tuple[float, float]:
    """The medians of the first and the last quarter."""
    quarter = max(1, len(values) // 4)
    return float(np.median(values[:quarter])), float(np.median(values[-quarter:]))
