"""The video files of `convmesh predict`: decoded frame by frame, and written with drawings."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import cv2
import numpy as np

from convmesh.errors import DataError, RunError

# File name suffixes of videos, in lower case.
SUFFIXES = frozenset(".mp4 .avi .mov .mkv .webm .m4v".split())
_CODEC = "mp4v"  # MPEG-4 part 2, the one that every build of OpenCV can write
# FFmpeg prints what it finds wrong; we do. OpenCV reads this when the first file is opened.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
_quiet_lock = threading.Lock()
_quiet_levels: list[int] = []  # what the level was when each of those within `_quiet` entered
# Frames per second where a file states none, or more than this.
_USUAL_RATE, _MAX_RATE = 25.0, 1000.0


def is_video(file: Path) -> bool:
    """Whether a file is a video by its suffix."""
    return file.suffix.lower() in SUFFIXES


class Frame(NamedTuple):
    """A frame: seconds from the start of the video, and uint8 [height, width, 3] RGB, upright."""

    time: float
    image: np.ndarray


class VideoReader:
    """The frames of a video file, of which only those asked for are in memory; to be closed.

    width, height: of the frames as they are shown. rate: frames per second. count: how many frames
    the file states, None if it does not; index: of the next frame.
    """

    def __init__(self, file: Path) -> None:
        """Raises DataError if the file cannot be read, or has no frame that can be decoded."""
        self.file = file
        try:
            file.open("rb").close()
        except OSError as error:
            raise DataError(f"{file}: {error.strerror}") from None
        with _quiet():
            self._capture = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG)
        rate, count = (
            self._capture.get(key) for key in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT)
        )
        self.rate = rate if 0 < rate <= _MAX_RATE else _USUAL_RATE
        self.count = int(count) if 0 < count < 2**31 else None
        self.index = 0
        self._first = self._decode()
        if self._first is None:
            self.close()
            raise DataError(
                f"{file}: no frame can be decoded; it is not a video, is damaged or empty, or "
                "OpenCV lacks its codec"
            )
        self.height, self.width = self._first.image.shape[:2]

    def read(self, number: int) -> list[Frame]:
        """Return the next `number` frames, fewer at the end. Raises DataError if the size changes.

        A frame that cannot be decoded ends the video; see `missing`.
        """
        frames: list[Frame] = []
        while len(frames) < number:
            frame, self._first = self._first or self._decode(), None
            if frame is None:
                break
            if frame.image.shape[:2] != (self.height, self.width):
                raise DataError(f"{self.file}: frame {self.index} has another size than the first")
            self.index += 1
            frames.append(frame)
        return frames

    def missing(self) -> str:
        """A line that says how many frames could not be read once `read` has ended, or ''.

        Some formats only estimate the number of frames, so a difference of 1% is not mentioned.
        """
        if self.count is None or self.index >= 0.99 * self.count - 1:
            return ""
        return (
            f"{self.file}: damaged or cut off; only the first {self.index} of {self.count} frames "
            "could be read and are in the output"
        )

    def close(self) -> None:
        """Close the file."""
        self._capture.release()

    def _decode(self) -> Frame | None:
        with _quiet():
            try:
                decoded, image = self._capture.read()
            except cv2.error:
                decoded = False
        if not decoded:
            return None
        seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if not (math.isfinite(seconds) and (seconds > 0 or self.index == 0)):
            seconds = self.index / self.rate
        return Frame(seconds, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


class VideoWriter:
    """An mp4 file, put in place with its last frame or not at all: a context manager.

    A frame whose sides are odd gets another row or column, as the codec demands.
    """

    def __init__(self, path: Path, rate: float, size: tuple[int, int]) -> None:
        """Open `path` for frames of `size` (height, width), `rate` a second.

        Raises RunError if OpenCV cannot write it, OSError if the folder cannot be made.
        """
        self._path, self._written = path, 0
        self._padding = (size[0] % 2, size[1] % 2)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}.new{path.suffix}")
        whole = (size[1] + self._padding[1], size[0] + self._padding[0])
        code = cv2.VideoWriter.fourcc(*_CODEC)
        with _quiet():
            self._writer = cv2.VideoWriter(str(self._temporary), cv2.CAP_FFMPEG, code, rate, whole)
        if not self._writer.isOpened():
            self._temporary.unlink(missing_ok=True)
            raise RunError(
                f"{path}: OpenCV cannot write it; the folder is read-only, or its build lacks the "
                f"codec {_CODEC}"
            )

    def write(self, image: np.ndarray) -> None:
        """Append a frame, uint8 [height, width, 3] RGB."""
        bottom, right = self._padding
        if bottom or right:
            image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        with _quiet():
            self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self._written += 1

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Put the file in place, or remove it after an exception.

        Raises RunError if it does not hold what was written: OpenCV reports no failed write.
        """
        try:
            with _quiet():
                self._writer.release()
            if kind is None:
                self._check()
                os.replace(self._temporary, self._path)
        finally:
            self._temporary.unlink(missing_ok=True)

    def _check(self) -> None:
        with _quiet():
            capture = cv2.VideoCapture(str(self._temporary), cv2.CAP_FFMPEG)
            count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
            capture.release()
        if count != self._written:
            raise RunError(
                f"{self._path}: only {count} of {self._written} frames could be written; is the "
                "disk full?"
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep OpenCV from printing; what fails is reported by our own messages.

    Its level is that of the process, and frames are read and written in several threads: the first
    to enter sets it, and the last to leave restores it.
    """
    with _quiet_lock:
        _quiet_levels.append(cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT))
    try:
        yield
    finally:
        with _quiet_lock:
            level = _quiet_levels.pop()
            if not _quiet_levels:
                cv2.utils.logging.setLogLevel(level)
