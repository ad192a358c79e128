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

# An image uint8 [height, width, 3] to the exported program's outputs, of which it is the first.
Run = Callable[[np.ndarray], dict[str, np.ndarray]]
Found = dict[str, Any]
COMPARED = 0.05  # the score from which detections are compared one by one; the AP compares all
BEST = 10  # of an image, compared from half of its best score on, however low that is
SPARE = 4  # detections of low score that only one of the two may have
FEW = 10  # results, below which the check says little
DULL = 10  # times the tolerance: probabilities that vary less say little of the image
FIRST = 40  # images of the split that are compared detection by detection


@dataclass(frozen=True)
class Tolerance:
    """When two results are the same, and how many need not be.

    pixels, score: the largest difference of boxes, and of scores and confidences or probabilities.
    alone: the largest fraction of detections that only one of the two has: where an IoU is at the
    threshold of suppression, rounding decides. low: that of detections of low score, among which it
    decides more often, and SPARE may differ besides. metric: the largest difference of that of the
    split.
    """

    pixels: float
    score: float
    alone: float
    low: float
    metric: float


TOLERANCES = {
    "float32": Tolerance(0.5, 1e-3, 0.002, 0.05, 1e-3),
    "float16": Tolerance(2.0, 0.02, 0.05, 0.25, 5e-3),
}


class ExportDiffers(RunError):
    """The exported file does not compute what the run's model does."""


@dataclass
class Differences:
    """What was compared, and how far apart it is."""

    tolerance: Tolerance
    lowest: float = 0.0  # the score below which a detection is left out by the run
    images: int = 0
    compared: int = 0  # detections of the run, or probabilities
    alone: int = 0  # detections that only one of the two has
    low: int = 0  # those of `compared`, and of `alone`, whose score is below COMPARED
    low_alone: int = 0
    pixels: float = 0.0  # the largest difference of the others
    score: float = 0.0
    example: str = ""  # an image with a difference
    probabilities: list[np.ndarray] = field(default_factory=list)  # the run's of each image

    def add(self, name: str, ours: Found, theirs: Found) -> None:
        """Compares the predictions for one image: `to_host` of the run, and of the file."""
        self.images += 1
        alone = self.alone
        (self._add_detections if "boxes" in ours else self._add_classes)(ours, theirs)
        if self.alone > alone:
            self.example = self.example or name

    def _add_classes(self, ours: Found, theirs: Found) -> None:
        by_class = [found["scores"][np.argsort(found["labels"])] for found in (ours, theirs)]
        differences = np.abs(by_class[0] - by_class[1])
        self.probabilities.append(by_class[0])
        self.compared += len(differences)
        self.score = max(self.score, float(differences.max()))
        self.alone += int((~(differences <= self.tolerance.score)).sum())

    def _add_detections(self, ours: Found, theirs: Found) -> None:
        wanted, left = self._counting(ours), list(range(len(theirs["scores"])))
        for i in wanted:
            self.compared += 1
            self.low += bool(ours["scores"][i] < COMPARED)
            same = {j: apart for j in left if (apart := self._same(ours, i, theirs, j))}
            if not same:
                self._add_alone(ours["scores"][i])
                continue
            nearest = min(same, key=lambda j: same[j])
            left.remove(nearest)
            pixels, score = same[nearest]
            self.pixels, self.score = max(self.pixels, pixels), max(self.score, score)
        others = set(range(len(ours["scores"]))) - set(wanted)
        for j in set(left) & set(self._counting(theirs)):
            if not any(self._same(ours, i, theirs, j) for i in others):
                self._add_alone(theirs["scores"][j])

    def _add_alone(self, score: float) -> None:
        self.alone += 1
        self.low_alone += bool(score < COMPARED)

    def _counting(self, found: Found) -> list[int]:
        """The detections that the other has to have, too: the good ones, and the best.

        A rounding may move others across the number of detections or the lowest score.
        """
        scores = found["scores"]
        lowest = np.full(len(scores), COMPARED)
        lowest[:BEST] = min(COMPARED, scores.max(initial=0) / 2)
        # A NaN counts.
        return np.flatnonzero(~(scores < np.maximum(lowest, 1.1 * self.lowest))).tolist()

    def _same(self, ours: Found, i: int, theirs: Found, j: int) -> tuple[float, float] | None:
        """How far two detections are apart, see `_apart`; None if they are not the same."""
        pixels, score = _apart(ours, i, theirs, j)
        close = pixels <= self.tolerance.pixels and score <= self.tolerance.score
        return (pixels, score) if close else None

    def describe(self) -> str:
        """One line."""
        boxes = f"boxes by {self.pixels:.1g} pixels, " if self.pixels else ""
        alone = f", {self.alone} that only one of the two has" if self.alone else ""
        return (
            f"{self.images} images, {self.compared} results{alone}; the others differ by at most: "
            f"{boxes}scores by {self.score:.1g}"
        )

    def check(self) -> None:
        """Raises ExportDiffers if the file's results are not those of the run."""
        allowed, low_allowed = self.tolerance.alone, SPARE + self.tolerance.low * self.low
        good, good_alone = self.compared - self.low, self.alone - self.low_alone
        if good_alone > allowed * good or self.low_alone > low_allowed:
            raise ExportDiffers(
                f"the exported file does not find what the run does: {self.describe()} (an image "
                f"where they differ: {self.example}); nothing was written"
            )


def _apart(ours: Found, i: int, theirs: Found, j: int) -> tuple[float, float]:
    """How far two detections are apart: (pixels, score); infinite for those of two classes."""
    if ours["labels"][i] != theirs["labels"][j]:
        return np.inf, np.inf
    pixels = np.abs(ours["boxes"][i] - theirs["boxes"][j]).max()
    numbers = ("scores", "class_confidence", "box_confidence")
    return float(pixels), max(abs(float(ours[n][i]) - float(theirs[n][j])) for n in numbers)


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
    lowest = getattr(setup.task, "score_threshold", 0.0)
    hard = Differences(tolerance, lowest)
    for name, image in hard_images():
        theirs = found_in(run(image), task)
        hard.add(name, next(iter(predict([image]))), theirs)
    log(f"hard images: {hard.describe()}")
    hard.check()
    split = Differences(tolerance, lowest)
    if source is not None:
        _compare_split(run, predict, setup, source, split, log)
    if doubt := _doubt(hard, split):
        log(doubt)


def _compare_split(
    run: Run,
    predict: Callable[[list[np.ndarray]], Iterator[Any]],
    setup: Any,
    source: Source,
    split: Differences,
    log: Callable[[str], Any],
) -> None:
    """Compares the first images of the split one by one, in `split`, and the metrics of all."""
    ours, theirs, truth = [], [], []
    for index, record in _readable(source):
        found = next(iter(predict([record.image])))
        exported = found_in(run(record.image), setup.config.task)
        if split.images < FIRST:
            split.add(record.file_name, found, exported)
        about = image_truth(record, record.image.shape[:2], index)
        identity = {name: about[name] for name in ("image_id", "file_name")}
        truth.append(about)
        ours.append(found | identity)
        theirs.append(exported | identity)
    log(f"split {source.split}: {split.describe()}")
    split.check()
    metrics = [setup.task.metrics(truth, found, setup.classes) for found in (ours, theirs)]
    name = setup.task.best_metric
    of_run, of_file = metrics[0][name], metrics[1][name]
    if of_run is None and of_file is None:
        log(f"{name} of split {source.split} is undefined")
        return
    log(f"{name} of split {source.split}: {of_run:.4f} of the run, {of_file:.4f} of the file")
    if not abs(of_run - of_file) <= split.tolerance.metric:
        raise ExportDiffers(
            f"the exported file has a {name} of {of_file:.4f}, the run {of_run:.4f} (allowed: "
            f"{split.tolerance.metric:g}); nothing was written"
        )


def _doubt(*parts: Differences) -> str:
    """A line on what the comparisons do not prove, or ''."""
    images = sum(part.images for part in parts)
    results = sum(part.compared for part in parts)
    probabilities = [array for part in parts for array in part.probabilities]
    if not probabilities:
        found = f"the run finds only {results} objects in these {images} images"
        return f"{found}, so that they hardly check the file" if results < FEW else ""
    varies = float(np.ptp(probabilities, axis=0).max())
    if varies >= DULL * parts[0].tolerance.score:
        return ""
    return (
        f"the run's probabilities hardly depend on the image (by {varies:.1g} over {images} "
        "images), so that they hardly check what the file does with images"
    )


def _readable(source: Source) -> Iterator[tuple[int, Record]]:
    """The examples that can be read, with their indices, and a progress bar."""
    for index in tqdm(range(len(source)), "compare", unit="image", leave=False, disable=None):
        try:
            yield index, source[index]
        except BadExample:
            continue
