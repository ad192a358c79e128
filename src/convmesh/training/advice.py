"""Advice on common mistakes in a recipe, from numbers that a run computes anyway.

Each check returns a sentence that ends with what to do, or '' if nothing is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convmesh.data.survey import Survey, survey
from convmesh.distributed import processes
from convmesh.geometry import FINEST_STRIDE, round_to_stride
from convmesh.training.hooks import Hook, RunView

LISTED = 5  # names in a sentence
OPENING = 0.2  # first part of the run, by which its loss curve is judged
LEAST_LINES = 8  # logged lines in the opening; with fewer the loss is not judged


class Advice(Hook):
    """Logs advice at the start, early in the run, and at its end."""

    def __init__(self) -> None:
        """Takes no arguments."""
        self._judged = False

    def on_start(self, run: RunView) -> None:
        """Logs advice about the data and the config."""
        if processes.is_first():
            setup = run.setup
            _log(run, at_start(setup.config, setup.classes, setup.steps, survey(run.data.train)))

    def after_evaluation(self, run: RunView, step: int, metrics: Mapping[str, float]) -> None:
        """Logs advice about the loss curve of the opening, once."""
        if self._judged or step < OPENING * run.setup.steps:
            return
        self._judged = True
        if processes.is_first():
            _log(run, of_curve(run.setup.config, run.workdir.training_rows(), run.setup.steps))

    def on_end(self, run: RunView) -> None:
        """Logs advice if many boxes had no grid point."""
        if processes.is_first():
            rows = [row for row in run.workdir.training_rows() if row["step"] > run.start_step]
            _log(run, at_end(rows, run.counts.boxes, run.step - run.start_step))


def _log(run: RunView, sentences: Sequence[str]) -> None:
    for sentence in sentences:
        run.log(f"advice: {sentence}")


def at_start(config: Any, classes: Sequence[str], steps: int, found: Survey) -> list[str]:
    """Sentences about a run of `steps` steps on a split with contents `found`, before it starts."""
    batch, size = config.train.batch_size, tuple(config.data.image_size)
    sentences = [
        absent_classes(classes, found.per_class),
        large_batch(found.images, batch),
        "" if config.init_from else short_run(found.images, batch, steps),
        "" if config.init_from else frozen_random(config.train.frozen_stages),
    ]
    if config.task == "detect":
        sentences += [tiny_boxes(found.sizes, found.objects, size), padding(found.sizes, size)]
    return [sentence for sentence in sentences if sentence]


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
    """Sentences about `steps` steps with `boxes` boxes in all; rows: of those that were logged."""
    missed = [row.get("boxes_without_point") or 0.0 for row in rows]
    sentence = without_point(float(np.mean(missed or [0.0])) * steps, boxes)
    return [sentence] if sentence else []


# Before the first step.


def absent_classes(classes: Sequence[str], per_class: np.ndarray | None) -> str:
    """For classes without examples. per_class: int [classes], examples of each; None if unknown."""
    if per_class is None or per_class.all():
        return ""
    absent = [name for name, count in zip(classes, per_class, strict=True) if not count]
    names = ", ".join(absent[:LISTED]) + (", ..." if len(absent) > LISTED else "")
    return (
        f"{len(absent)} of the {len(classes)} classes have no training example: {names}; add "
        "examples, or remove them from the classes"
    )


def large_batch(images: int, batch_size: int) -> str:
    """For a batch with more examples than there are images."""
    if images >= batch_size:
        return ""
    return (
        f"train.batch_size={batch_size} is larger than the number of images, {images}, so every "
        "batch contains some of them twice; lower it"
    )


def short_run(images: int, batch_size: int, steps: int) -> str:
    """For a run of fewer than 10 epochs and fewer than 500 steps."""
    epochs = steps * batch_size / images
    if epochs >= 10 or steps >= 500:
        return ""
    return (
        f"{steps} steps see each image {epochs:.1f} times: too little for random initial "
        "weights; train longer (train.steps=0 with train.epochs=0 chooses a length)"
    )


def frozen_random(frozen_stages: int) -> str:
    """For frozen stages of a run that starts from no other's weights."""
    if not frozen_stages:
        return ""
    return (
        f"train.frozen_stages={frozen_stages} without init_from freezes random weights: the stem "
        "and these stages never learn; set init_from to a trained run, or train.frozen_stages=0"
    )


def tiny_boxes(sizes: np.ndarray, objects: Sequence[np.ndarray], size: tuple[int, int]) -> str:
    """For objects that are mostly smaller than the finest stride at the input size.

    sizes: [k, 2] (height, width) of images; objects: for each image [n, 2], height and width of
    its objects in its pixels; size: (height, width) of the input.
    """
    sides = [
        o.max(axis=1) * min(size / image_size) for o, image_size in zip(objects, sizes, strict=True)
    ]
    longer = np.concatenate([*sides, np.zeros(0)])
    small = float(np.mean(longer < FINEST_STRIDE)) if len(longer) else 0.0
    if small <= 0.5:
        return ""
    times = min(4.0, 2 * FINEST_STRIDE / max(1.0, float(np.median(longer))))
    suggested = [round_to_stride(times * side) for side in size]
    return (
        f"{small:.0%} of the objects are smaller than {FINEST_STRIDE} pixels, the finest stride, "
        f"at the input size of {size[0]} x {size[1]}; increase data.image_size, for example to "
        f"{suggested[0]},{suggested[1]}"
    )


def padding(sizes: np.ndarray, size: tuple[int, int]) -> str:
    """For an input with at least 40% padding, if another shape of equal area at most halves that.

    sizes: [k, 2] (height, width) of images; size: (height, width) of the input.
    """
    if not len(sizes):
        return ""
    height_to_width = float(np.median(sizes[:, 0] / sizes[:, 1]))
    pixels = size[0] * size[1]
    better = (
        round_to_stride((pixels * height_to_width) ** 0.5),
        round_to_stride((pixels / height_to_width) ** 0.5),
    )
    now, then = _padded(sizes, size), _padded(sizes, better)
    if now < 0.4 or then > now / 2:
        return ""
    return (
        f"{now:.0%} of the input of {size[0]} x {size[1]} is padding, since the images have "
        f"another shape; with data.image_size={better[0]},{better[1]} it would be {then:.0%}"
    )


def _padded(sizes: np.ndarray, size: tuple[int, int]) -> float:
    """The mean fraction of the input that is padding."""
    scale = (np.array(size) / sizes).min(axis=1)
    return float(np.mean(1 - sizes.prod(axis=1) * scale**2 / (size[0] * size[1])))


# From the logged metrics.


def rate_too_high(opening: Sequence[Mapping[str, Any]], rate: float, clip_norm: float) -> str:
    """For a loss that rises threefold, is often not finite, or stays while gradients are clipped.

    opening: logged lines; clip_norm: as in the config, 0 for none.
    """
    problem, last = "", opening[-1] if opening else {}
    losses = _finite(opening, "loss")
    skipped = last.get("nonfinite_steps") or 0
    if last and skipped > 0.05 * last["step"]:
        problem = f"{skipped:.0f} of the first {last['step']} steps had no finite loss or gradient"
    elif len(losses) >= LEAST_LINES:
        first, now = _ends(losses)
        norms = _finite(opening, "gradient_norm")
        clipped = float(np.mean(norms > clip_norm)) if clip_norm and len(norms) else 0.0
        if now > 3 * first:
            problem = f"the loss has risen from {first:.3g} to {now:.3g} by step {last['step']}"
        elif clipped > 0.9 and now >= 0.99 * first:
            problem = (
                f"the loss has not fallen by step {last['step']}, and {clipped:.0%} of the "
                "gradients were clipped (optimizer.clip_norm)"
            )
    return problem and f"{problem}; try a tenth of optimizer.learning_rate={rate:g}"


def rate_too_low(opening: Sequence[Mapping[str, Any]], rate: float) -> str:
    """For a loss that moves by less than 1%. opening: logged lines."""
    losses = _finite(opening, "loss")
    if len(losses) < LEAST_LINES:
        return ""
    first, now = _ends(losses)
    if abs(now - first) >= 0.01 * abs(first):
        return ""
    return (
        f"the loss has hardly changed, from {first:.4g} to {now:.4g}, by step "
        f"{opening[-1]['step']}; try ten times optimizer.learning_rate={rate:g}, and check "
        "plots/first_batch.png"
    )


def without_point(missed: float, boxes: float) -> str:
    """For more than 5% of the boxes without a grid point; both counts are over the same steps."""
    if missed <= 0.05 * boxes:
        return ""
    return (
        f"{missed / boxes:.0%} of the boxes had no grid point assigned: they are too small or too "
        "close together; increase data.image_size"
    )


def _finite(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    values = np.array([row.get(name) for row in rows], float)
    return values[np.isfinite(values)]


def _ends(values: np.ndarray) -> tuple[float, float]:
    """The medians of the first and the last quarter."""
    quarter = max(1, len(values) // 4)
    return float(np.median(values[:quarter])), float(np.median(values[-quarter:]))
