"""Prediction: a run's trained model applied to images or files, on the available devices."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from convmesh import mesh as meshes
from convmesh.config import same_for_all_processes
from convmesh.data.augmentation.eval_view import EvalView
from convmesh.data.placement import Placement
from convmesh.distributed import console, processes, same_run
from convmesh.distributed.batch import Batch
from convmesh.distributed.cores import usable_cores
from convmesh.errors import ConfigError, DataError, some
from convmesh.inference.image_files import FoundImages, find_images, read_batches
from convmesh.inference.onnx_model import ONNX, OnnxModel
from convmesh.inference.options import DEFAULT_OPTIONS, PredictOptions
from convmesh.inference.prediction_output import (
    Describe,
    Found,
    PredictionFolder,
    Predictor,
    classes_output,
    detections_output,
)
from convmesh.inference.trained_model import available_mesh, load_variables
from convmesh.inference.video_prediction import predict_video
from convmesh.steps.setup import Setup, make_setup
from convmesh.steps.step import jit_predict_step
from convmesh.workdir.layout import Workdir

_THREADS = min(8, usable_cores())  # decoding, drawing and PNG compression release the GIL
_NAMED = 3  # unreadable files named in the error; if more, all are printed before it


class _Predictor:
    """A model with its weights, compiled for batches of one size."""

    task = ""

    def __init__(self, setup: Setup, variables: Any, batch_size: int) -> None:
        """Not called directly; use `load`."""
        shards = setup.mesh.shape[meshes.DATA]
        self.setup, self.classes = setup, setup.classes
        self.batch_size = -(-batch_size // shards) * shards
        step = jit_predict_step(setup.mesh, model=setup.model, task=setup.task)
        self.call = functools.partial(step, variables)  # uint8 images on the mesh -> outputs

    @classmethod
    def load(
        cls,
        workdir: str | os.PathLike[str],
        *,
        step: int | None = None,
        best: bool = False,
        batch_size: int = 8,
        **task_options: Any,
    ) -> Self:
        """Load the model of a checkpoint of `workdir`: of `step`, the best, or the newest.

        Detectors also take `score_threshold` (0.3), `iou_threshold` (0.65) and `max_detections`
        (100). Raises ConfigError if the folder is not a run or has the other task, DataError if it
        has no checkpoint.
        """
        files = Workdir(workdir)
        config, classes = files.read_run()
        if config.task != cls.task:
            other = {"detect": "Detector", "classify": "Classifier"}[config.task]
            raise ConfigError(f"{files}: its task is {config.task}; load it with {other}")
        advice = "give every process the same run"
        same_run.check_same(same_for_all_processes(config), advice)
        setup = make_setup(config, classes, available_mesh(config))
        options = {name: value for name, value in task_options.items() if value is not None}
        if "max_detections" in options:  # suppression must get at least as many candidates
            options["candidates"] = max(setup.task.candidates, options["max_detections"])
        setup = dataclasses.replace(setup, task=dataclasses.replace(setup.task, **options))
        variables, _ = load_variables(setup, files, step, best)
        return cls(setup, variables, batch_size)

    def found(self, images: Sequence[np.ndarray]) -> Iterator[dict[str, Any]]:
        """Yield `task.to_host` of each image; images are uint8 [height, width, 3] of any size."""
        view = EvalView.of(self.setup.config)
        for start in range(0, len(images), self.batch_size):
            batch = np.zeros((self.batch_size, *view.size, 3), np.uint8)
            placements = []
            for i, image in enumerate(images[start : start + self.batch_size]):
                batch[i], scale, offset = view(_checked(image))
                placements.append(Placement(scale, offset, image.shape[:2]))
            images_on_mesh = meshes.make_global_batch(self.setup.mesh, Batch(image=batch)).image
            outputs = jax.device_get(self.call(images_on_mesh))
            for i, placement in enumerate(placements):
                output = {name: value[i] for name, value in outputs.items()}
                yield self.setup.task.to_host(output, placement)


class Detector(_Predictor):
    """A trained detector: `Detector.load(workdir)(images)`."""

    task = "detect"

    @classmethod
    def load(
        cls, workdir: str | os.PathLike[str], *, score_threshold: float = 0.3, **options: Any
    ) -> Self:
        """Load the model of a checkpoint of `workdir`; `options` are step, best, batch_size,
        iou_threshold and max_detections. Raises ConfigError, DataError as `Classifier.load`.
        """
        return super().load(workdir, score_threshold=score_threshold, **options)

    def __call__(self, images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Return the detections of each image (uint8 [height, width, 3] RGB), best first.

        For each image: `boxes` float32 [n, 4], x0 y0 x1 y1 in its pixels, `scores`,
        `box_confidence`, `class_confidence` [n], `labels` int [n], and `classes`, a list of n
        names. Raises ValueError for an image of another shape or dtype.
        """
        distinct = map(self.setup.task.distinct, self.found(images))
        return [
            found | {"classes": [self.classes[i] for i in found["labels"]]} for found in distinct
        ]


class Classifier(_Predictor):
    """A trained classifier: `Classifier.load(workdir)(images)`."""

    task = "classify"

    def __call__(self, images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Return the classes of each image (uint8 [height, width, 3] RGB), best first.

        For each image: `classes`, a list of all names, `probabilities` [classes] and `labels` int
        [classes]. Raises ValueError for an image of another shape or dtype.
        """
        return [
            {
                "classes": [self.classes[i] for i in found["labels"]],
                "probabilities": found["scores"],
                "labels": found["labels"],
            }
            for found in self.found(images)
        ]


def predict_files(
    trained: str | os.PathLike[str],
    paths: Sequence[str],
    output: str | os.PathLike[str],
    options: PredictOptions = DEFAULT_OPTIONS,
) -> list[dict[str, Any]]:
    """Predict files, folders and globs; write predictions.json and a picture of each to `output`.

    `trained` is a workdir, or an ONNX file of `convmesh export`.

    Images come first, then videos, each frame by frame into a drawn video. Files that cannot be
    read are named and passed by. Returns what predictions.json holds.

    Raises:
      ConfigError: a path names no image, `output` holds inputs or labels that would be
        overwritten, or `trained` is neither. Nothing is written.
      DataError: no file could be read, or there is no checkpoint.
    """
    found_files = find_images(paths)
    files = [*found_files.files, *found_files.videos]
    _check_same_files(files)
    folder = PredictionFolder.for_files(os.path.expanduser(output), files, options.save_txt)
    predictor, describe = _load(trained, options)
    with ThreadPoolExecutor(_THREADS) as pool:
        outcomes = [
            *_predict_images(found_files.files, folder, (predictor, describe), pool, options),
            *_predict_videos(found_files.videos, folder, (predictor, describe), pool, options),
        ]
    entries = [entry for entry in outcomes if not isinstance(entry, str)]
    folder.write_predictions(entries)
    _report(found_files, folder, entries)
    _report_unreadable([reason for reason in outcomes if isinstance(reason, str)], len(files))
    return entries


def _predict_images(
    files: Sequence[Path],
    folder: PredictionFolder,
    loaded: tuple[Predictor, Describe],
    pool: Executor,
    options: PredictOptions,
) -> Iterator[dict[str, Any] | str]:
    """Predict and draw images; yield the entry of each, or the reason why it cannot be read.

    While the devices work on a batch, the next one is read and the pictures of the last one are
    drawn.
    """
    predictor, describe = loaded

    def write(file: Path, image: np.ndarray, found: Found) -> dict[str, Any]:
        described = describe(image, found)
        folder.write_image(file, described)
        height, width = image.shape[:2]
        about = {"file": str(file), "picture": folder.pictures[file]}
        return about | {"width": width, "height": height, **described.entry}

    writing: list[Future[dict[str, Any]]] = []
    for batch in map(_read_by_all, read_batches(pool, files, options.batch_size)):
        yield from (reason for _, reason in batch if isinstance(reason, str))
        images = [(file, image) for file, image in batch if not isinstance(image, str)]
        predictions = predictor([image for _, image in images])
        yield from (future.result() for future in writing)
        writing = [
            pool.submit(write, file, image, found)
            for (file, image), found in zip(images, predictions, strict=True)
        ]
    yield from (future.result() for future in writing)


def _predict_videos(
    files: Sequence[Path],
    folder: PredictionFolder,
    loaded: tuple[Predictor, Describe],
    pool: Executor,
    options: PredictOptions,
) -> Iterator[dict[str, Any] | str]:
    """Predict and draw videos; yield the entry of each, or the reason why it cannot be read."""
    predictor, describe = loaded
    on_frame = functools.partial(describe, frame=True)
    for file in files:
        drawn = folder.root / folder.pictures[file]
        try:
            yield predict_video(file, drawn, (predictor, on_frame), pool, options.batch_size)
        except DataError as error:
            yield str(error)


def _report(
    found: FoundImages, folder: PredictionFolder, entries: Sequence[dict[str, Any]]
) -> None:
    """Print what was written, and which folders and files were passed by."""
    videos = sum("video" in entry for entry in entries)
    counts = [f"{len(entries) - videos} images"] if found.files else []
    counts += [f"{videos} videos"] if found.videos else []
    console.print_result(
        f"{', '.join(counts)}: {folder.predictions_file}, and a picture of each next to it"
    )
    if found.empty:
        console.print_result(f"no image found in {some(found.empty)}")
    if passed_by := found.describe_passed_by():
        console.print_result(passed_by)


def _check_same_files(files: Sequence[Path]) -> None:
    """Raise ConfigError if the processes predict different files; their folders may differ."""
    names = "\n".join(file.name for file in files)
    digest = hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    stated = {"images": f"{len(files)} (names {digest})"}
    same_run.check_same(stated, "give every process the same images", "find its images")


def _read_by_all(batch: Sequence[tuple[Path, Any]]) -> list[tuple[Path, Any]]:
    """`batch`, of files with an image or the reason why there is none, without images of some
    processes only: each process must predict the same.
    """
    read = list(batch)
    unread = [i for i, (_, image) in enumerate(read) if isinstance(image, str)]
    for process, indices in enumerate(processes.gather(unread)):
        for i in indices:
            file, image = read[i]
            if not isinstance(image, str):
                read[i] = file, f"{file}: {processes.named([process])} cannot read it"
    return read


def _load(trained: str | os.PathLike[str], options: PredictOptions) -> tuple[Predictor, Describe]:
    """The model of a workdir or an ONNX file, and the function that describes its predictions."""
    model: Detector | Classifier | OnnxModel
    category_ids = None
    if Path(trained).suffix == ONNX and not Path(trained).is_dir():
        model = OnnxModel(trained, options.threshold, options.max_detections)
        task, category_ids = model.task, model.category_ids
        _check_exported(model, str(trained), options.max_detections)
    else:
        workdir = Workdir(trained)
        config, _ = workdir.read_run()
        task = config.task
        model = _load_trained(workdir, task, options)
        if task == "detect":
            category_ids = workdir.read_category_ids(model.classes)
    if task == "classify":
        return model, functools.partial(classes_output, classes=model.classes, top_k=options.top_k)
    return model, functools.partial(detections_output, category_ids=category_ids)


def _check_exported(model: OnnxModel, file: str, max_detections: int) -> None:
    """Raise ConfigError if a file cannot find so many detections; say if it has all candidates."""
    most = model.most
    if most is not None and max_detections > max(most, DEFAULT_OPTIONS.max_detections):
        raise ConfigError(
            f"--max-detections {max_detections}: {file} finds at most {most} in an image, which is "
            "set inside the file; --workdir takes more"
        )
    if model.task == "detect" and not model.suppresses:
        console.print_result(
            f"{file}: exported with --nms none: the detections of an object overlap, and its best "
            "is not chosen"
        )


def _load_trained(workdir: Workdir, task: str, options: PredictOptions) -> Detector | Classifier:
    if task == "classify":
        return Classifier.load(str(workdir), batch_size=options.batch_size)
    return Detector.load(
        str(workdir),
        batch_size=options.batch_size,
        score_threshold=options.threshold,
        iou_threshold=options.iou,
        max_detections=options.max_detections,
    )


def _report_unreadable(reasons: Sequence[str], total: int) -> None:
    """Print the files that could not be read; raise DataError if these are all."""
    if not reasons:
        return
    if len(reasons) < total or len(reasons) > _NAMED:
        header = f"{len(reasons)} of {total} files could not be read and were passed by:"
        console.print_result("\n".join([header, *reasons]))
    if len(reasons) == total:
        raise DataError(
            f"none of the {total} files could be read: "
            + "; ".join([*reasons[:_NAMED], *["..."] * (len(reasons) > _NAMED)])
        )


def _checked(image: Any) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"an image is {image.dtype} {image.shape}; wanted uint8 [height, width, 3], RGB"
        )
    return image
