"""A model in an ONNX file of `convmesh export`, run by onnxruntime as a run's model is by JAX."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convmesh.errors import ConfigError, DataError, first_line
from convmesh.inference.onnx_digest import KEY, has_digest, is_intact
from convmesh.tasks.detection import keep_distinct

ONNX = ".onnx"
OUTPUTS = {
    "detect": ("boxes", "labels", "scores", "class_confidence", "box_confidence", "valid"),
    "classify": ("probabilities",),
}


class OnnxModel:
    """Images to the task's predictions, as `Detector` and `Classifier` return them.

    task: "detect" or "classify". classes: names, index = class id. score_threshold: detections
    below it are left out. max_detections: of an image.
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
        about = self._session.get_modelmeta().custom_metadata_map
        self.task = about.get("task", "")
        names = {output.name for output in self._session.get_outputs()}
        if self.task not in OUTPUTS or not names.issuperset(OUTPUTS[self.task]):
            raise DataError(f"{file}: not a file of `convmesh export`: its metadata name no task")
        try:
            self.classes = tuple(json.loads(about["classes"]))
            if not all(isinstance(name, str) for name in self.classes):
                raise ValueError
        except (KeyError, ValueError, TypeError):
            raise DataError(f"{file}: its metadata `classes` are no list of names") from None
        self.batch = self._session.get_inputs()[0].shape[0]  # a symbol's name, if it may be any
        try:
            self._iou_threshold = float(about.get("iou_threshold", 1))
        except ValueError:
            raise DataError(f"{file}: its metadata `iou_threshold` is no number") from None

    def run_one(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """The file's outputs, [batch, ...], for an image uint8 [height, width, 3], the first."""
        count = self.batch if isinstance(self.batch, int) else 1
        names = [output.name for output in self._session.get_outputs()]
        images = np.repeat(image[None], count, axis=0)
        return dict(zip(names, self._session.run(None, {"image": images}), strict=True))

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
