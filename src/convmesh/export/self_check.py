"""The check of an exported file against the run's own predictions, before it is called written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from convmesh.data.record import BadExample, Record, Source
from convmesh.errors import RunError
from convmesh.inference.onnx_model import found_in
from convmesh.inference.split_predictions import image_truth

# An image batch uint8 [1, height, width, 3] to the exported program's outputs.
Run = Callable[[np.ndarray], dict[str, np.ndarray]]
SHOWN_SCORE = 0.05  # detections below this are compared by the AP alone
DRAWN = 40  # images of the split that are compared detection by detection


@dataclass(frozen=True)
class Tolerance:
    """The largest differences allowed: of boxes in pixels, scores, and the metric of the split.

    flips: fraction of detections that only one of the two may have. Rounding can turn a comparison
    in suppression, where an IoU is at its threshold, or the order of two equal scores.
    """

    pixels: float
    score: float
    metric: float
    flips: float


TOLERANCES = {
    "float32": Tolerance(0.5, 1e-3, 1e-3, 0.002),
    "float16": Tolerance(4.0, 0.03, 5e-3, 0.03),
}


class ExportDiffers(RunError):
    """The exported file does not compute what the run's model does."""


@dataclass
class Differences:
    """What was compared, and how far apart it is."""

    images: int = 0
    compared: int = 0  # detections, or probabilities
    alone: int = 0  # detections that only one of the two has
    pixels: float = 0.0
    score: float = 0.0
    beyond: list[str] = field(default_factory=list)  # the images where something differs by more

    def add(self, name: str, ours: Any, theirs: Any, tolerance: Tolerance) -> None:
        """Compares the predictions for one image: `to_host` of the run, and of the file."""
        self.images += 1
        if "boxes" not in ours:
            order = np.argsort(ours["labels"]), np.argsort(theirs["labels"])
            differences = np.abs(ours["scores"][order[0]] - theirs["scores"][order[1]])
            self.compared += len(differences)
            self._note(name, 0.0, float(differences.max()), tolerance)
            return
        left = list(range(len(theirs["scores"])))
        for i, score in enumerate(ours["scores"]):
            if score < SHOWN_SCORE:
                continue
            self.compared += 1
            near = [
                (np.abs(ours["boxes"][i] - theirs["boxes"][j]).max(), j)
                for j in left
                if ours["labels"][i] == theirs["labels"][j]
                and abs(score - theirs["scores"][j]) <= 10 * tolerance.score
            ]
            if not near or min(near)[0] > 20 * tolerance.pixels:
                self.alone += 1
                continue
            pixels, j = min(near)
            left.remove(j)
            numbers = ("scores", "class_confidence", "box_confidence")
            worst = max(abs(float(ours[n][i]) - float(theirs[n][j])) for n in numbers)
            self._note(name, float(pixels), worst, tolerance)
        lost = theirs["scores"][left] >= SHOWN_SCORE + tolerance.score
        self.alone += int(lost.sum())

    def _note(self, name: str, pixels: float, score: float, tolerance: Tolerance) -> None:
        self.pixels, self.score = max(self.pixels, pixels), max(self.score, score)
        if (pixels > tolerance.pixels or score > tolerance.score) and name not in self.beyond:
            self.beyond.append(name)

    def describe(self) -> str:
        """One line."""
        if not self.compared:
            return f"{self.images} images, no detection"
        boxes = f"boxes by {self.pixels:.2g} pixels, " if self.pixels else ""
        alone = f", {self.alone} that only one of the two has" if self.alone else ""
        return (
            f"{self.images} images, {self.compared} results{alone}; at most apart: {boxes}scores "
            f"by {self.score:.1e}"
        )

    def check(self, tolerance: Tolerance) -> None:
        """Raises ExportDiffers if the file's results are too far from the run's."""
        if self.beyond:
            raise ExportDiffers(
                f"the exported file differs from the run: {self.describe()} (allowed: "
                f"{tolerance.pixels:g} pixels, {tolerance.score:g}), on {self.beyond[0]} and "
                f"{len(self.beyond) - 1} more; nothing was written"
            )
        if self.alone > max(1, tolerance.flips * self.compared):
            raise ExportDiffers(
                f"the exported file finds other objects than the run: {self.describe()}; nothing "
                "was written"
            )


def hard_images() -> Iterator[tuple[str, np.ndarray]]:
    """Images of sizes and contents that are unlike the usual: tiny, huge, grey, 1:5."""
    rng = np.random.default_rng(0)
    yield "a 1 x 1 image", np.full((1, 1, 3), 200, np.uint8)
    yield "a 7 x 5 image", rng.integers(0, 256, (7, 5, 3)).astype(np.uint8)
    y, x = np.mgrid[:1300, :1900]
    waves = 127 + 60 * np.sin(x / 90) + 60 * np.cos(y / 70)
    yield "a 1300 x 1900 image", np.stack([waves, waves[::-1], waves[:, ::-1]], 2).astype(np.uint8)
    yield "a grey image", np.full((240, 320, 3), 128, np.uint8)
    strip = rng.integers(0, 256, (12, 60, 3)).repeat(10, 0).repeat(10, 1).astype(np.uint8)
    yield "a 120 x 600 image", strip
    yield "a 600 x 120 image", strip.transpose(1, 0, 2)


def compare(
    run: Run,
    predict: Callable[[list[np.ndarray]], Iterator[Any]],
    setup: Any,
    source: Source | None,
    tolerance: Tolerance,
    log: Callable[[str], Any],
) -> None:
    """Compares a file with a run on hard images and on its evaluation split, if there is one.

    run: the file. predict: `to_host` of each image by the run's model. Logs what was compared.
    Raises ExportDiffers.
    """
    task = setup.config.task
    hard = Differences()
    for name, image in hard_images():
        theirs = found_in(run(image[None]), task)
        hard.add(name, next(iter(predict([image]))), theirs, tolerance)
    log(f"hard images: {hard.describe()}")
    hard.check(tolerance)
    if source is None:
        return
    metrics = _compare_split(run, predict, setup, source, tolerance, log)
    name = setup.task.best_metric
    ours, theirs = (m[name] for m in metrics)
    log(f"{name} of split {source.split}: {ours:.4f} of the run, {theirs:.4f} of the file")
    if not abs(ours - theirs) <= tolerance.metric:
        raise ExportDiffers(
            f"the exported file has a {name} of {theirs:.4f}, the run {ours:.4f} (allowed: "
            f"{tolerance.metric:g}); nothing was written"
        )


def _compare_split(
    run: Run,
    predict: Callable[[list[np.ndarray]], Iterator[Any]],
    setup: Any,
    source: Source,
    tolerance: Tolerance,
    log: Callable[[str], Any],
) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics of the split, of the run and of the file; checks the first images one by one."""
    split, truth = Differences(), []
    ours, theirs = [], []
    for index, record in _readable(source):
        found = next(iter(predict([record.image])))
        exported = found_in(run(record.image[None]), setup.config.task)
        if split.images < DRAWN:
            split.add(record.file_name, found, exported, tolerance)
        about = image_truth(record, record.image.shape[:2], index)
        identity = {name: about[name] for name in ("image_id", "file_name")}
        truth.append(about)
        ours.append(found | identity)
        theirs.append(exported | identity)
    log(f"split {source.split}: {split.describe()}")
    split.check(tolerance)
    metrics = [setup.task.metrics(truth, found, setup.classes) for found in (ours, theirs)]
    return metrics[0], metrics[1]


def _readable(source: Source) -> Iterator[tuple[int, Record]]:
    """The examples that can be read, with their indices, and a progress bar."""
    for index in tqdm(range(len(source)), "compare", unit="image", leave=False, disable=None):
        try:
            yield index, source[index]
        except BadExample:
            continue
