"""The files of an evaluation: metrics, predictions, and details of what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convmesh.data.record import BadExample, Source
from convmesh.inference.classifier_report import write_classifier_report
from convmesh.inference.split_predictions import SplitPredictions
from convmesh.plots.confusion_matrix import draw_confusion
from convmesh.plots.detection_curves import draw_detection_curves
from convmesh.plots.grids import MatchedImage, draw_matched_grid, draw_predictions_grid
from convmesh.plots.png import save_png
from convmesh.steps.setup import Setup
from convmesh.tasks import detection_report, matching
from convmesh.workdir.layout import EvaluationFiles
from convmesh.workdir.metrics import json_numbers

MAX_DRAWN = 16  # images in predictions.png
MAX_RANKED = 9  # images in worst.png, and in best.png
MAX_PAIRS = 30  # pairs of classes in confusion.json


def write_report(
    files: EvaluationFiles,
    setup: Setup,
    source: Source,
    results: SplitPredictions,
    metrics: Mapping[str, float],
    why_zero: Sequence[str],
) -> None:
    """Write all files of an evaluation.

    metrics.json (with `why_zero` if there are such sentences), predictions.json and
    predictions.png; for a detector also `curves`, `confusion` and `images` as JSON and pictures;
    for a classifier those of `write_classifier_report`. Raises OSError.
    """
    if setup.config.task == "detect":
        matches = matching.match(results.truth, results.predictions, setup.classes)
        _write_curves(files, matches, setup.classes)
        _write_confusion(files, results, setup.classes)
        _write_ranked_images(files, source, results, matches, setup.classes)
    else:
        write_classifier_report(files, source, results, setup.classes)
    found = setup.task.results(results.predictions, setup.classes, source.category_ids)
    files.write("predictions", found)
    explanation = {"why_zero": list(why_zero)} if why_zero else {}
    files.write("metrics", json_numbers(metrics) | explanation, indent=1)
    _draw_predictions(files, setup, source, results)


def _write_curves(
    files: EvaluationFiles, matches: matching.Matches, classes: Sequence[str]
) -> None:
    curves = detection_report.curves(matches, classes)
    files.write("curves", curves)
    draw_detection_curves(curves, files.picture("curves"))


def _write_confusion(
    files: EvaluationFiles, results: SplitPredictions, classes: Sequence[str]
) -> None:
    iou, score = matching.IOU, matching.SCORE
    table = detection_report.confusion(results.truth, results.predictions, classes)
    pairs = detection_report.most_confused(table, classes, MAX_PAIRS)
    confusion = {
        "iou": iou,
        "score": score,
        "names": [*classes, "background"],
        "rows_truth_columns_predicted": table.tolist(),
        "most_confused": pairs,
    }
    files.write("confusion", confusion)
    draw_confusion(table, classes, files.picture("confusion"), iou=iou, score=score, pairs=pairs)


def _write_ranked_images(
    files: EvaluationFiles,
    source: Source,
    results: SplitPredictions,
    matches: matching.Matches,
    classes: Sequence[str],
) -> None:
    """The score of each image, and pictures of the worst and the best."""
    iou, score = matching.IOU, matching.SCORE
    scores = detection_report.image_scores(matches, results.truth)
    files.write("images", {"iou": iou, "score": score, "images": scores}, indent=1)
    for name, chosen in (
        ("worst", detection_report.worst_images(scores, MAX_RANKED)),
        ("best", detection_report.best_images(scores, MAX_RANKED)),
    ):
        title = f"The {name} of {len(scores)} images by F1: IoU >= {iou:g}, score >= {score:g}"
        images = [_matched(source, results, matches, scores[i], i) for i in chosen]
        readable = [image for image in images if image is not None]
        save_png(draw_matched_grid(readable, classes, title), files.picture(name))


def _matched(
    source: Source,
    results: SplitPredictions,
    matches: matching.Matches,
    score: Mapping[str, Any],
    i: int,
) -> MatchedImage | None:
    """Image `i` with its right and wrong detections; None if it can no longer be read."""
    truth, predicted = results.truth[i], results.predictions[i]
    try:
        record = source[truth["index"]]
    except BadExample:
        return None
    of_image = detection_report.image_matches(matches, i)
    shown = of_image.index
    caption = "F1 {F1:.2f}: {true_positives} right, {false_positives} wrong, {misses} missed   "
    return MatchedImage(
        image=record.image,
        boxes=predicted["boxes"][shown],
        labels=predicted["labels"][shown],
        scores=predicted["scores"][shown],
        correct=of_image.correct,
        ignored=of_image.ignored,
        objects=truth["boxes"],
        object_labels=truth["labels"],
        crowd=truth["crowd"],
        missed=of_image.missed,
        caption=caption.format(**score) + Path(truth["file_name"]).name,
    )


def _draw_predictions(
    files: EvaluationFiles, setup: Setup, source: Source, results: SplitPredictions
) -> None:
    """The readable ones of the split's first images, with predictions and truth."""
    detect = setup.config.task == "detect"
    first = [i for i, true in enumerate(results.truth) if true["index"] < MAX_DRAWN]
    images, predictions, truth = [], [], []
    for i in first:
        predicted, true = results.predictions[i], results.truth[i]
        try:
            record = source[true["index"]]
        except BadExample:  # readable when it was evaluated
            continue
        images.append(record.image)
        predictions.append(setup.task.distinct(predicted) if detect else predicted)
        truth.append(true if detect else true["label"])
    picture = draw_predictions_grid(images, predictions, setup.classes, truth=truth)
    save_png(picture, files.picture("predictions"))
