"""Prediction of one video: decoding, predicting and drawing at the same time, batch by batch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from tqdm import tqdm

from convmesh.distributed import console, processes
from convmesh.errors import DataError
from convmesh.inference.prediction_output import Describe, ImageOutput, Predictor
from convmesh.inference.video_files import Frame, VideoReader, VideoWriter


def predict_video(
    file: Path,
    drawn: Path,
    loaded: tuple[Predictor, Describe],
    pool: Executor,
    batch_size: int,
) -> dict[str, Any]:
    """Predict each frame of `file`; write the video `drawn`; return what predictions.json says.

    No more than three batches of frames are in memory: one is decoded in `pool` while one is
    predicted, and the pictures of the last one are drawn. `loaded`: the predictor, and what
    describes its findings and draws them on a frame without changing its size.

    Raises DataError if some process cannot read the file, RunError if `drawn` cannot be written.
    """
    predictor, describe = loaded
    reader = _open_by_all(file)
    entries: list[dict[str, Any]] = []

    def finish(drawing: Sequence[tuple[Frame, Future[ImageOutput]]]) -> None:
        for frame, future in drawing:
            output = future.result()
            writer.write(output.picture)
            entries.append({"index": len(entries), "time": frame.time, **output.entry})

    try:
        size = (reader.height, reader.width)
        with VideoWriter(drawn, reader.rate, size) as writer, _progress(reader) as progress:
            reading = pool.submit(reader.read, batch_size)
            drawing: list[tuple[Frame, Future[ImageOutput]]] = []
            while frames := _read_by_all(reading.result()):
                reading = pool.submit(reader.read, batch_size)
                found = predictor([frame.image for frame in frames])
                finish(drawing)
                drawing = [
                    (frame, pool.submit(describe, frame.image, one))
                    for frame, one in zip(frames, found, strict=True)
                ]
                progress.update(len(frames))
            finish(drawing)
    finally:
        reader.close()
    if missing := reader.missing():
        console.print_result(missing)
    about = {"file": str(file), "video": drawn.name, "width": size[1], "height": size[0]}
    return about | {"frame_rate": reader.rate, "frames": entries}


def _open_by_all(file: Path) -> VideoReader:
    """The opened file; raises DataError on every process if one of them cannot open it."""
    try:
        opened, reason = VideoReader(file), ""
    except DataError as error:
        opened, reason = None, str(error)
    reasons = [found for found in processes.gather(reason) if found]
    if opened is None or reasons:
        if opened is not None:
            opened.close()
        raise DataError(reasons[0])
    return opened


def _read_by_all(frames: list[Frame]) -> list[Frame]:
    """As many frames as every process has read: each must predict the same."""
    return frames[: min(processes.gather(len(frames)))]


def _progress(reader: VideoReader) -> tqdm[Any]:
    """A bar of the frames on standard error, if that is a terminal."""
    return tqdm(
        total=reader.count,
        desc=reader.file.name,
        unit=" frames",
        file=sys.stderr,
        dynamic_ncols=True,
        disable=not (processes.is_first() and sys.stderr.isatty()),
    )
