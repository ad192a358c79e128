"""Prediction: a trained model from its workdir, on images, on whatever devices are here."""

import dataclasses
import functools
import glob
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np

from convmesh import draw
from convmesh import mesh as meshes
from convmesh.data.augment import centre_crop, letterbox
from convmesh.data.images import SUFFIXES, read_image
from convmesh.errors import ConfigError, DataError
from convmesh.evaluation import load_variables, mesh_here, read_category_ids, read_workdir
from convmesh.setup import make_setup
from convmesh.step import jit_predict_step
from convmesh.tasks.classify import ranked


class _Predictor:
    """A model with its weights, compiled for batches of one size."""

    task = ""

    def __init__(self, setup, variables, batch_size: int):
        """Use `load`."""
        shards = setup.mesh.shape[meshes.DATA]
        self.setup, self.classes = setup, setup.classes
        self._variables = variables
        self._batch_size = -(-batch_size // shards) * shards
        self._predict = jit_predict_step(setup.mesh, model=setup.model, task=setup.task)

    @classmethod
    def load(cls, workdir, *, step=None, best=False, batch_size=8, **task_options):
        """The model of a checkpoint of `workdir`: of `step`, the best, or the newest by default.

        Detectors take `score_threshold` (0.3), `iou_threshold` (0.65), `max_detections` (100) too.
        Raises ConfigError if the folder is no run or of the other task, DataError if it has no
        checkpoint.
        """
        workdir = Path(workdir)
        config, classes = read_workdir(workdir)
        if config.task != cls.task:
            other = {"detect": "Detector", "classify": "Classifier"}[config.task]
            raise ConfigError(f"{workdir}: its task is {config.task}; load it with {other}")
        setup = make_setup(config, classes, mesh_here(config))
        chosen = {name: value for name, value in task_options.items() if value is not None}
        if "max_detections" in chosen:  # no more than enter suppression can leave it
            chosen["candidates"] = max(setup.task.candidates, chosen["max_detections"])
        setup = dataclasses.replace(setup, task=dataclasses.replace(setup.task, **chosen))
        variables, _ = load_variables(setup, workdir, step, best)
        return cls(setup, variables, batch_size)

    def _found(self, images: Sequence[np.ndarray]) -> Iterator[dict]:
        """`task.to_host` of each image, in order; images uint8 [height, width, 3] of any size."""
        place = letterbox if self.task == "detect" else centre_crop
        size = tuple(self.setup.config.data.image_size)
        for start in range(0, len(images), self._batch_size):
            some = images[start : start + self._batch_size]
            batch = np.zeros((self._batch_size, *size, 3), np.uint8)
            placements = []
            for i, image in enumerate(some):
                batch[i], scale, offset = place(_checked(image), size)
                placements.append(
                    {"scale": scale, "offset": offset, "original_size": image.shape[:2]}
                )
            images_on_mesh = meshes.place(self.setup.mesh, {"image": batch})["image"]
            out = jax.device_get(self._predict(self._variables, images_on_mesh))
            for i, placement in enumerate(placements):
                one = {name: value[i] for name, value in out.items()}
                yield self.setup.task.to_host(one, placement)


class Detector(_Predictor):
    """A trained detector: `Detector.load(workdir)(images)`."""

    task = "detect"

    @classmethod
    def load(cls, workdir, *, score_threshold: float = 0.3, **options):
        """The model of a checkpoint of `workdir`; `options` are step, best, batch_size,
        iou_threshold and max_detections. Raises ConfigError, DataError as `Classifier.load`.
        """
        return super().load(workdir, score_threshold=score_threshold, **options)

    def __call__(self, images: Sequence[np.ndarray]) -> list[dict]:
        """What is in each image (uint8 [height, width, 3] RGB, of any size), best first.

        For each: `boxes` float32 [n, 4], x0 y0 x1 y1 in its pixels, `scores`, `box_confidence`,
        `class_confidence` [n], `labels` int [n], and `classes`, a list of n names.
        """
        distinct = map(self.setup.task.distinct, self._found(images))
        return [
            found | {"classes": [self.classes[i] for i in found["labels"]]} for found in distinct
        ]


class Classifier(_Predictor):
    """A trained classifier: `Classifier.load(workdir)(images)`."""

    task = "classify"

    def __call__(self, images: Sequence[np.ndarray]) -> list[dict]:
        """For each image (uint8 [height, width, 3] RGB): `classes`, `probabilities`, best first."""
        return [
            {
                "classes": [self.classes[i] for i in found["labels"]],
                "probabilities": found["scores"],
                "labels": found["labels"],
            }
            for found in self._found(images)
        ]


def _checked(image) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"an image is {image.dtype} {image.shape}; wanted uint8 [height, width, 3], RGB"
        )
    return image


# --- convmesh predict -------------------------------------------------------------------------

_THREADS = min(8, os.cpu_count() or 1)  # decoding, drawing and PNG's packing release Python's lock


def predict_files(
    workdir,
    paths: Sequence[str],
    output,
    *,
    threshold: float = 0.3,
    iou: float | None = None,
    max_detections: int = 100,
    top_k: int = 5,
    batch_size: int = 8,
    save_txt: bool = False,
) -> list[dict]:
    """Predicts files, folders and globs; `output` gets predictions.json and a picture of each.

    Raises ConfigError, before anything is written, where `output` holds inputs or labels that would
    be written over. Returns what predictions.json holds. Files that are no readable image are
    named, and make it a DataError in the end, after all others are written. The next batch is read,
    and the pictures of the last one are drawn, while the devices work on this one.
    """
    files = find_images(paths)
    output = Path(output)
    pictures = _picture_names(files)
    _check_output(output, files, pictures.values(), save_txt)
    config, _ = read_workdir(Path(workdir))
    detect = config.task == "detect"
    if detect:
        predictor = Detector.load(
            workdir,
            batch_size=batch_size,
            score_threshold=threshold,
            iou_threshold=iou,
            max_detections=max_detections,
        )
    else:
        predictor = Classifier.load(workdir, batch_size=batch_size)
    describe = _describe_classes(top_k)
    if detect:
        ids = read_category_ids(Path(workdir), predictor.classes)
        describe = functools.partial(_describe_detections, category_ids=ids)
    entries: list[dict] = []
    unreadable: list[str] = []

    def write(file: Path, image: np.ndarray, one: dict) -> dict:
        entry, picture, lines = describe(image, one, predictor.classes)
        height, width = image.shape[:2]
        draw.save_png(picture, output / pictures[file])
        if save_txt:
            _text_file(output, pictures[file]).write_text("".join(lines))
        return {"file": str(file), "width": width, "height": height, **entry}

    batches = [files[i : i + batch_size] for i in range(0, len(files), batch_size)]
    with ThreadPoolExecutor(_THREADS) as pool:
        reading = [pool.submit(_read, file) for file in batches[0]]
        writing: list[Future] = []
        for batch, following in zip(batches, [*batches[1:], []], strict=True):
            read = [(file, future.result()) for file, future in zip(batch, reading, strict=True)]
            reading = [pool.submit(_read, file) for file in following]
            unreadable += [text for _, text in read if isinstance(text, str)]
            images = [(file, image) for file, image in read if not isinstance(image, str)]
            found = predictor([image for _, image in images])
            entries += [future.result() for future in writing]
            writing = [
                pool.submit(write, file, image, one)
                for (file, image), one in zip(images, found, strict=True)
            ]
        entries += [future.result() for future in writing]
    output.mkdir(parents=True, exist_ok=True)
    (output / "predictions.json").write_text(json.dumps(entries, indent=1) + "\n")
    print(f"{len(entries)} images: {output / 'predictions.json'}, and a picture of each beside it")
    if len(unreadable) > _NAMED:
        print("\n".join(["could not be read:", *unreadable]))
    if unreadable:
        raise DataError(
            f"{len(unreadable)} of {len(files)} files could not be read: "
            + "; ".join([*unreadable[:_NAMED], *["..."] * (len(unreadable) > _NAMED)])
        )
    return entries


_NAMED = 3  # unreadable files in the error; if there are more, all are listed before it


def _read(file: Path) -> np.ndarray | str:
    """The upright image, or why it cannot be read."""
    try:
        return read_image(str(file))
    except DataError as error:
        return str(error)


def find_images(paths: Sequence[str]) -> list[Path]:
    """The image files that files, folders (and what is below them) and globs name, each once.

    Raises ConfigError for a path that names nothing.
    """
    found: dict[Path, None] = {}
    for given in paths:
        path = Path(given)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        elif path.exists():
            inside = [path]
        else:
            inside = [Path(p) for p in sorted(glob.glob(given, recursive=True))]
            inside = [p for p in inside if p.is_file()]
        if not inside:
            raise ConfigError(f"{given}: no image there")
        found |= dict.fromkeys(inside)
    return list(found)


def _picture_names(files: Sequence[Path]) -> dict[Path, str]:
    """A PNG name for each file: its own, with a number where another has taken that."""
    names, taken = {}, set()
    for file in files:
        name, n = f"{file.stem}.png", 1
        while name.lower() in taken:
            n += 1
            name = f"{file.stem}_{n}.png"
        taken.add(name.lower())
        names[file] = name
    return names


def _text_file(output: Path, picture: str) -> Path:
    return (output / picture).with_suffix(".txt")


def _check_output(
    output: Path, files: Sequence[Path], pictures: Iterable[str], save_txt: bool
) -> None:
    """Refuses to write over inputs or, where text files are asked for, over labels.

    Raises ConfigError. A text file is taken for labels if it lies beside inputs, or where no
    earlier prediction has left its predictions.json: YOLO's labels lie in a folder of their own.
    """
    inputs = {file.resolve() for file in files}
    folders = {file.parent.resolve() for file in files} | {file.parent for file in inputs}
    predicted = (output / "predictions.json").exists() and output.resolve() not in folders
    for name in pictures:
        if (output / name).resolve() in inputs:
            raise ConfigError(f"--output {output}: {name} there is an input; name another folder")
        text = _text_file(output, name)
        if save_txt and not predicted and text.exists():
            raise ConfigError(
                f"--output {output}: --save-txt would write over {text.name}, which may be labels;"
                " name another folder"
            )


def _describe_detections(image, found, classes, category_ids=None):
    """The JSON entry, the picture, and lines `class x y width height score` (of 1, centres)."""
    numbers = zip(
        found["boxes"].tolist(),
        found["classes"],
        *(found[k].tolist() for k in ("scores", "box_confidence", "class_confidence", "labels")),
        strict=True,
    )
    height, width = image.shape[:2]
    detections, lines = [], []
    for box, name, score, box_confidence, class_confidence, label in numbers:
        detections.append(
            {
                "box": box,
                "class": name,
                "score": score,
                "box_confidence": box_confidence,
                "class_confidence": class_confidence,
            }
            | ({"category_id": category_ids[label]} if category_ids else {})
        )
        x0, y0, x1, y1 = box
        middle = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height)
        size = ((x1 - x0) / width, (y1 - y0) / height)
        lines.append(" ".join([str(label), *(f"{v:.6f}" for v in (*middle, *size, score))]) + "\n")
    picture = draw.draw_detections(
        image, found["boxes"], found["classes"], found["scores"], labels=found["labels"]
    )
    return {"detections": detections}, picture, lines


def _describe_classes(top_k: int):
    def describe(image, found, classes):
        best = ranked({"labels": found["labels"], "scores": found["probabilities"]}, classes, top_k)
        lines = [f"{b['class']} {b['probability']:.6f}\n" for b in best]
        one = {"labels": found["labels"], "scores": found["probabilities"]}
        picture = draw.draw_predictions_grid([image], [one], classes, columns=1)
        return {"classes": best}, picture, lines

    return describe
