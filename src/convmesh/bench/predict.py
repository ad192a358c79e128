"""`convmesh bench predict`: a trained model in its workdir, as ONNX and as StableHLO."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np

from convmesh import mesh as meshes
from convmesh.data.augmentation.eval_view import EvalView
from convmesh.data.placement import Placement
from convmesh.data.record import BadExample, Source
from convmesh.distributed.batch import Batch
from convmesh.export.exporting import Prepared, check_output, prepare, write
from convmesh.export.options import ExportOptions
from convmesh.export.self_check import Run

IMAGES = 16  # of the evaluation split, at most
ROUNDS = 4  # the first compiles and is not counted
NOISE = (480, 640)  # of images, where the evaluation split is not here


@dataclasses.dataclass(frozen=True)
class Latency:
    """Milliseconds for an image, one after the other."""

    median: float
    p99: float  # the 99th percentile

    @classmethod
    def of(cls, seconds: list[float]) -> Latency:
        """That of measured times."""
        return cls(*(1000 * float(np.percentile(seconds, q)) for q in (50, 99)))

    @property
    def images_per_second(self) -> float:
        """Of the median."""
        return 1000 / self.median


@dataclasses.dataclass(frozen=True)
class PredictCost:
    """The latency of each form, and of the parts of a prediction from the workdir.

    size: (height, width) of the images. parts: resize, network, results.
    """

    images: int
    size: tuple[int, int]
    workdir: Latency
    onnx: Latency
    stablehlo: Latency
    parts: Mapping[str, Latency]

    def ratio(self, form: str) -> float:
        """The median latency of a file, relative to the workdir's; below 1 it is faster."""
        return getattr(self, form).median / self.workdir.median


def measure_predict(prepared: Prepared, files: Mapping[str, Run]) -> PredictCost:
    """Times predictions of the same images by the run and its files, in turns."""
    images = _images(prepared.source)
    seconds: dict[str, list[float]] = {}

    def timed(name: str, call: Callable, *args: Any) -> Any:
        before = time.perf_counter()
        result = call(*args)
        seconds.setdefault(name, []).append(time.perf_counter() - before)
        return result

    for i in range(ROUNDS):
        if i == 1:
            seconds.clear()
        for image in images:
            timed("workdir", _by_parts, prepared, image, timed)
            for form, run in files.items():
                timed(form, run, image)
    found = {name: Latency.of(values) for name, values in seconds.items()}
    forms = {name: found.pop(name) for name in ("workdir", *files)}
    return PredictCost(len(images), images[0].shape[:2], parts=found, **forms)


def _by_parts(prepared: Prepared, image: np.ndarray, timed: Callable) -> Any:
    """A prediction as `Detector` and `Classifier` make it, each part timed."""
    setup, predictor = prepared.setup, prepared.predictor
    view = EvalView.of(setup.config)
    pixels, scale, offset = timed("resize", view, image)

    def network() -> Any:
        batch = Batch(image=np.repeat(pixels[None], predictor.batch_size, axis=0))
        return jax.device_get(predictor.call(meshes.make_global_batch(setup.mesh, batch).image))

    outputs = timed("network", network)
    output = {name: value[0] for name, value in outputs.items()}
    placement = Placement(scale, offset, image.shape[:2])
    return timed("results", setup.task.to_host, output, placement)


def _images(source: Source | None) -> list[np.ndarray]:
    """Images of one size, since XLA compiles a StableHLO file for each: that of the first one."""
    if source is None:
        rng = np.random.default_rng(0)
        return [rng.integers(0, 256, (*NOISE, 3), np.uint8) for _ in range(IMAGES)]
    images = list(itertools.islice(_readable(source), IMAGES))
    height, width = images[0].shape[:2]
    return [cv2.resize(image, (width, height)) for image in images]


def _readable(source: Source) -> Iterable[np.ndarray]:
    for index in range(len(source)):
        try:
            yield source[index].image
        except BadExample:
            continue


def bench_predict(
    workdir: str | os.PathLike[str], overrides: Iterable[str] = (), as_json: bool = False
) -> PredictCost:
    """Measures and prints the latency of a run's model, and of its exported files.

    Raises the errors of `export`.
    """
    with tempfile.TemporaryDirectory(prefix="convmesh-predict-") as folder:
        names = {"onnx": "model.onnx", "stablehlo": "model.stablehlo"}
        for form, name in names.items():
            check_output(Path(folder) / name, ExportOptions(form))
        prepared = prepare(workdir, ExportOptions(), overrides)
        files = {
            form: write(prepared.program, prepared.about, Path(folder) / name, form)
            for form, name in names.items()
        }
        cost = measure_predict(prepared, files)
    if as_json:
        print(json.dumps(_as_json(cost)))
        return cost
    height, width = cost.size
    title = f"{cost.images} images of {height} x {width}, one at a time"
    print(f"{title:44}{'median ms':>10}{'99 % ms':>10}{'images/s':>10}{'of workdir':>12}")
    for name, latency in (
        ("workdir", cost.workdir),
        *((f"  {part}", latency) for part, latency in cost.parts.items()),
        ("ONNX, by onnxruntime", cost.onnx),
        ("StableHLO, by XLA", cost.stablehlo),
    ):
        print(
            f"{name:44}{latency.median:10.1f}{latency.p99:10.1f}{latency.images_per_second:10.1f}"
            f"{latency.median / cost.workdir.median:12.2f}"
        )
    return cost


def _as_json(cost: PredictCost) -> dict[str, Any]:
    numbers = dataclasses.asdict(cost)
    return numbers | {f"ratio_{form}": cost.ratio(form) for form in ("onnx", "stablehlo")}
