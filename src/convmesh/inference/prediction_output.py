"""The output folder of `convmesh predict`: predictions as JSON and CSV, pictures, videos, text."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convmesh.errors import ConfigError
from convmesh.inference.video_files import is_video
from convmesh.plots.detections import draw_detections, draw_on_frame
from convmesh.plots.grids import draw_predictions_grid
from convmesh.plots.png import save_png
from convmesh.tasks.classify import ranked
from convmesh.workdir import atomic_files

# An image's predictions by name, as `Detector` and `Classifier` return them.
Found = Mapping[str, Any]


@dataclass(frozen=True)
class ImageOutput:
    """The output for one image.

    entry: its predictions, for predictions.json. picture: [height, width, 3] uint8 RGB.
    text: a line for each prediction.
    """

    entry: dict[str, Any]
    picture: np.ndarray
    text: str


# The predictions of images, and the output for an image; with frame=True for one of a video.
Predictor = Callable[[Sequence[np.ndarray]], Sequence[Found]]
Describe = Callable[..., ImageOutput]


@dataclass(frozen=True)
class PredictionFolder:
    """The files of one call of `predict`. Each is written atomically.

    root: the folder; created when the first file is written.
    pictures: name of the PNG of each image and of the mp4 of each video.
    save_txt: whether to write a text file next to each PNG.
    """

    root: Path
    pictures: Mapping[Path, str]
    save_txt: bool = False

    @classmethod
    def for_files(
        cls, root: str | os.PathLike[str], files: Sequence[Path], save_txt: bool = False
    ) -> PredictionFolder:
        """Return the folder for these inputs. Writes nothing.

        Raises ConfigError if an input, or a text file that may hold labels, would be overwritten.
        """
        folder = cls(Path(root), _picture_names(files), save_txt)
        folder._check(files)
        return folder

    @property
    def predictions_file(self) -> Path:
        """The predictions of all images."""
        return self.root / "predictions.json"

    def write_image(self, file: Path, output: ImageOutput) -> None:
        """Write picture and text of an input. Raises OSError."""
        save_png(output.picture, self.root / self.pictures[file])
        if self.save_txt:
            atomic_files.write_atomically(self._text_file(self.pictures[file]), output.text)

    def write_predictions(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Write predictions.json, and the same as a table, predictions.csv. Raises OSError."""
        self.root.mkdir(parents=True, exist_ok=True)
        text = json.dumps(entries, indent=1) + "\n"
        atomic_files.write_atomically(self.predictions_file, text)
        table = self.predictions_file.with_suffix(".csv")
        # A file's name may be no text.
        content = predictions_table(entries).encode("utf-8", "surrogateescape")
        atomic_files.write_atomically(table, content)

    def _text_file(self, picture: str) -> Path:
        return (self.root / picture).with_suffix(".txt")

    def _check(self, files: Sequence[Path]) -> None:
        """Raise ConfigError if inputs or labels would be overwritten.

        Text files are treated as labels if inputs are in the same folder, or if the folder has no
        predictions.json of an earlier call: YOLO's labels are in a separate folder.
        """
        inputs = {file.resolve() for file in files}
        folders = {file.parent.resolve() for file in files} | {file.parent for file in inputs}
        predicted = self.predictions_file.exists() and self.root.resolve() not in folders
        for name in self.pictures.values():
            if (self.root / name).resolve() in inputs:
                raise ConfigError(
                    f"--output {self.root}: {name} would overwrite an input; name another folder"
                )
            text = self._text_file(name)
            if self.save_txt and name.endswith(".png") and not predicted and text.exists():
                raise ConfigError(
                    f"--output {self.root}: --save-txt would overwrite {text.name}, which may be "
                    "labels; name another folder"
                )


_COLUMNS = {  # of predictions.csv, by what an entry holds
    "detections": ("class", "score", "box_confidence", "class_confidence", *"x0 y0 x1 y1".split()),
    "classes": ("class", "probability"),
}


def predictions_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """The entries of predictions.json as CSV: a line for each detection or class, best first.

    `rank` counts the lines of an image from 1; `frame` is the index of a frame of a video, and
    empty for an image. An image without detections has one line, of rank 0.
    """
    found = [part for entry in entries for part in entry.get("frames", [entry])]
    kind = next((kind for kind in _COLUMNS if any(kind in part for part in found)), "classes")
    stream = io.StringIO()
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow(["file", "frame", "rank", *_COLUMNS[kind]])
    for entry in entries:
        for part in entry.get("frames", [entry]):
            about = [entry["file"], part["index"] if "frames" in entry else ""]
            predicted = part.get(kind, [])
            for rank, one in enumerate(predicted, start=1):
                values = one | dict(zip(("x0", "y0", "x1", "y1"), one.get("box", ()), strict=False))
                rows.writerow([*about, rank, *(values[name] for name in _COLUMNS[kind])])
            if not predicted:
                rows.writerow([*about, 0, *[""] * len(_COLUMNS[kind])])
    return stream.getvalue()


def detections_output(
    image: np.ndarray,
    found: Found,
    category_ids: Sequence[int] | None = None,
    frame: bool = False,
) -> ImageOutput:
    """Return the output for the detections of an image uint8 [height, width, 3].

    Lines of text are `class x y width height score`: the class id, then centre and size of the box
    as fractions of the image. `category_ids`: the data set's own number of each class. `frame`: of
    a video, so the picture keeps its size.
    """
    height, width = image.shape[:2]
    names = ("scores", "box_confidence", "class_confidence")
    detections, lines = [], []
    for box, name, label, *numbers in zip(
        found["boxes"].tolist(),
        found["classes"],
        found["labels"].tolist(),
        *(found[name].tolist() for name in names),
        strict=True,
    ):
        score, box_confidence, class_confidence = numbers
        detection = {
            "box": box,
            "class": name,
            "score": score,
            "box_confidence": box_confidence,
            "class_confidence": class_confidence,
        }
        if category_ids:
            detection["category_id"] = category_ids[label]
        detections.append(detection)
        x0, y0, x1, y1 = box
        centre = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height)
        size = ((x1 - x0) / width, (y1 - y0) / height)
        values = " ".join(f"{value:.6f}" for value in (*centre, *size, score))
        lines.append(f"{label} {values}\n")
    draw = draw_on_frame if frame else draw_detections
    picture = draw(image, found["boxes"], found["classes"], found["scores"], labels=found["labels"])
    return ImageOutput({"detections": detections}, picture, "".join(lines))


def classes_output(
    image: np.ndarray, found: Found, classes: Sequence[str], top_k: int, frame: bool = False
) -> ImageOutput:
    """Return the output for the `top_k` classes of an image uint8 [height, width, 3].

    Lines of text are `class probability`, best first. `frame`: of a video, so the picture keeps its
    size and shows the best class alone.
    """
    scored = {"labels": found["labels"], "scores": found["probabilities"]}
    best = ranked(scored, classes, top_k)
    text = "".join(f"{entry['class']} {entry['probability']:.6f}\n" for entry in best)
    if frame:
        whole = np.array([[0, 0, *image.shape[1::-1]]])
        names, scores = [best[0]["class"]], [best[0]["probability"]]
        picture = draw_on_frame(image, whole, names, scores, labels=found["labels"][:1])
    else:
        picture = draw_predictions_grid([image], [scored], classes, columns=1)
    return ImageOutput({"classes": best}, picture, text)


def _picture_names(files: Sequence[Path]) -> dict[Path, str]:
    """A PNG or mp4 name for each file: its own, with a number if another file has that name."""
    names: dict[Path, str] = {}
    used: set[str] = set()
    for file in files:
        suffix = ".mp4" if is_video(file) else ".png"
        name, n = f"{file.stem}{suffix}", 1
        while name.lower() in used:
            n += 1
            name = f"{file.stem}_{n}{suffix}"
        used.add(name.lower())
        names[file] = name
    return names
