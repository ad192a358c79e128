"""The files of a classifier's evaluation: by class, confusions, calibration, doubtful images."""

from __future__ import annotations

from collections.abc import Sequence

from convmesh.data.record import BadExample, Source
from convmesh.inference.split_predictions import SplitPredictions
from convmesh.plots.calibration import draw_calibration
from convmesh.plots.confusion_matrix import draw_confusion
from convmesh.plots.grids import draw_predictions_grid
from convmesh.plots.png import save_png
from convmesh.tasks import classification_report as report
from convmesh.tasks.detection_report import most_confused
from convmesh.workdir.layout import EvaluationFiles

MAX_DRAWN = 24  # images in worst.png, and in mislabelled.png
MAX_PAIRS = 30  # pairs of classes in confusion.json


def write_classifier_report(
    files: EvaluationFiles, source: Source, results: SplitPredictions, classes: Sequence[str]
) -> None:
    """Write `classes` and `mislabelled` as JSON, `confusion` and `calibration` as JSON and PNG.

    And pictures of the worst mistakes and of the images that are likely mislabelled. Raises
    OSError.
    """
    truth, found = results.truth, results.predictions
    table = report.confusion(truth, found, len(classes))
    files.write("classes", report.class_rows(table, classes), indent=1)
    pairs = most_confused(table, classes, MAX_PAIRS)
    confusion = {"names": list(classes), "rows_truth_columns_predicted": table.tolist()}
    files.write("confusion", confusion | {"most_confused": pairs})
    draw_confusion(table, classes, files.picture("confusion"), pairs=pairs)
    calibration = report.calibration(truth, found)
    files.write("calibration", calibration, indent=1)
    draw_calibration(calibration, files.picture("calibration"))
    doubted = report.likely_mislabelled(truth, found, classes)
    files.write("mislabelled", [row for _, row in doubted], indent=1)
    worst = report.worst_mistakes(truth, found, MAX_DRAWN)
    for name, chosen in (
        ("worst", worst),
        ("mislabelled", [i for i, _ in doubted[:MAX_DRAWN]]),
    ):
        _draw_images(files, source, results, classes, name, chosen)


def _draw_images(
    files: EvaluationFiles,
    source: Source,
    results: SplitPredictions,
    classes: Sequence[str],
    name: str,
    chosen: Sequence[int],
) -> None:
    images, predictions, labels = [], [], []
    for i in chosen:
        try:
            record = source[results.truth[i]["index"]]
        except BadExample:  # readable when it was evaluated
            continue
        images.append(record.image)
        predictions.append(results.predictions[i])
        labels.append(results.truth[i]["label"])
    picture = draw_predictions_grid(images, predictions, classes, truth=labels, columns=6)
    save_png(picture, files.picture(name))
