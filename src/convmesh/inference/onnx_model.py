"""A model in an ONNX file of `convmesh export`, run by onnxruntime as a run's model is by JAX."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convmesh.errors import ConfigError, DataError, first_line, some
from convmesh.inference.onnx_digest import KEY, has_digest, is_intact
from convmesh.tasks.detection import keep_distinct

ONNX = ".onnx"
OUTPUTS = {
    "detect": ("boxes", "labels", "scores", "class_confidence", "box_confidence", "valid"),
    "classify": ("probabilities",),
}


class OnnxModel:
    """Images to the task's predictions, as `Detector` and `Classifier` return them.

    task: "detect" or "classify". classes: names, index = class id. category_ids: the data set's own
    number of each class, where it has some. score_threshold: detections below it are left out.
    max_detections: of an image. most: how many the file finds in an image, None if it may be any
    number. suppresses: whether suppression is inside the file. batch: a number, or a symbol's name.
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        score_threshold: float = 0.3,
        max_detections: int | None = None,
    ) -> None:
        """Loads the file.

        Raises ConfigError if onnxruntime is not installed, DataError if the file is damaged, or
        not one of `convmesh export`.
        """
        self.score_threshold, self.max_detections = score_threshold, max_detections
        self._file = Path(file)
        self._session = _open(self._file)
        self._input, self.batch = self._checked_input()
        about = self._session.get_modelmeta().custom_metadata_map
        self.task = about.get("task", "")
        shapes = {output.name: output.shape for output in self._session.get_outputs()}
        if self.task not in OUTPUTS or not shapes.keys() >= set(OUTPUTS[self.task]):
            raise DataError(f"{file}: not a file of `convmesh export`: its metadata name no task")
        self.classes: tuple[str, ...] = self._list(about, "classes", str, "names")
        self.category_ids: tuple[int, ...] | None = None
        if "category_ids" in about:
            self.category_ids = self._list(about, "category_ids", int, "integers")
            self._check_count(len(self.category_ids), "category ids")
        if self.task == "classify":
            self._check_count(shapes["probabilities"][-1], "probabilities of each image")
        rows = shapes["boxes"][1] if self.task == "detect" else None
        self.most = rows if isinstance(rows, int) else None
        self.suppresses = about.get("nms") != "none"
        try:
            self._iou_threshold = float(about.get("iou_threshold", 1))
        except ValueError:
            raise DataError(f"{file}: its metadata `iou_threshold` is no number") from None

    def _checked_input(self) -> tuple[str, Any]:
        """Name and batch size of the input. Raises DataError unless it takes images of any size."""
        inputs = self._session.get_inputs()
        first = inputs[0] if len(inputs) == 1 else None
        if first is None or first.type != "tensor(uint8)" or first.shape[3:] != [3]:
            described = some([f"{each.name} {each.type} {each.shape}" for each in inputs])
            raise DataError(
                f"{self._file}: not a file of `convmesh export`: its input is {described}, not "
                "image tensor(uint8) ['batch', 'height', 'width', 3]"
            )
        batch, height, width, _ = first.shape
        if isinstance(height, int) or isinstance(width, int):
            raise DataError(
                f"{self._file}: takes images of {height} x {width} (height x width) only, and "
                "`convmesh export` writes files for any; export it again"
            )
        return first.name, batch

    def _list(self, about: dict[str, str], key: str, kind: type, wanted: str) -> tuple[Any, ...]:
        try:
            found = json.loads(about[key])
            if not isinstance(found, list) or not all(type(each) is kind for each in found):
                raise ValueError
        except (KeyError, ValueError):
            raise DataError(f"{self._file}: its metadata `{key}` are no list of {wanted}") from None
        return tuple(found)

    def _check_count(self, count: Any, what: str) -> None:
        if isinstance(count, int) and count != len(self.classes):
            raise DataError(
                f"{self._file}: has {count} {what}, but {len(self.classes)} `classes` in its "
                "metadata; export it again"
            )

    def run_one(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """The file's outputs, [batch, ...], for an image uint8 [height, width, 3], the first.

        Raises DataError if it cannot be run.
        """
        count = self.batch if isinstance(self.batch, int) else 1
        names = [output.name for output in self._session.get_outputs()]
        images = np.repeat(image[None], count, axis=0)
        try:
            found = self._session.run(None, {self._input: images})
        except Exception as error:  # onnxruntime has a class for each of its codes
            height, width = image.shape[:2]
            raise DataError(
                f"{self._file}: onnxruntime cannot run it on an image of {height} x {width}: "
                f"{first_line(error)}"
            ) from None
        return dict(zip(names, found, strict=True))

    def __call__(self, images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """The predictions of each image, uint8 [height, width, 3] RGB of any size."""
        return [self._named(self.found(image)) for image in images]

    def found(self, image: np.ndarray) -> dict[str, Any]:
        """What `task.to_host` returns of a run's model, for one image."""
        found = found_in(self.run_one(image), self.task)
        if self.task == "detect":
            kept = found["scores"] >= self.score_threshold
            found = {name: value[kept][: self.max_detections] for name, value in found.items()}
        return found

    def _named(self, found: dict[str, Any]) -> dict[str, Any]:
        """With the names of the classes, as `Detector` and `Classifier` return it."""
        if self.task == "detect":
            found = keep_distinct(found, self._iou_threshold)
            if (highest := max(found["labels"], default=0)) >= len(self.classes):
                raise DataError(
                    f"{self._file}: finds class {highest} of {len(self.classes)} in its metadata"
                )
            return found | {"classes": [self.classes[i] for i in found["labels"]]}
        return {
            "classes": [self.classes[i] for i in found["labels"]],
            "probabilities": found["scores"],
            "labels": found["labels"],
        }


def found_in(outputs: dict[str, np.ndarray], task: str) -> dict[str, np.ndarray]:
    """What `task.to_host` returns, of an exported file's outputs for a batch: its first image."""
    found = {name: value[0] for name, value in outputs.items()}
    if task == "classify":
        order = np.argsort(-found["probabilities"], kind="stable")
        return {"labels": order, "scores": found["probabilities"][order]}
    valid = found.pop("valid")
    return {name: value[valid] for name, value in found.items()}


def _open(file: Path) -> Any:
    """An onnxruntime session of a file."""
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(
            f"--model {file}: onnxruntime is not installed; pip install 'convmesh[onnx]'"
        ) from None
    if not file.is_file():
        raise ConfigError(f"--model {file}: no such file")
    data = file.read_bytes()
    changed = DataError(
        f"{file}: is damaged, or another tool changed it; export it again, or remove its metadata "
        f"entry {KEY}, which is that of another content"
    )
    if has_digest(data) and not is_intact(data):
        raise changed
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            data, options, providers=onnxruntime.get_available_providers()
        )
    except Exception as error:  # onnxruntime has a class for each of its codes
        raise DataError(
            f"{file}: damaged, or no ONNX file that onnxruntime runs: {first_line(error)}"
        ) from None
    if KEY in session.get_modelmeta().custom_metadata_map and not has_digest(data):
        raise changed
    return session
