"""Small videos for the tests, written by OpenCV."""

from pathlib import Path

import cv2
import numpy as np


def write_video(path: Path, frames, rate: float = 12.5, codec: str = "mp4v") -> Path:
    """Writes frames, uint8 [height, width, 3] RGB with even sides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    code = cv2.VideoWriter.fourcc(*codec)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, rate, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


def shades(number: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Frames of one colour each: red, ever brighter, and green, ever darker."""
    frame = np.zeros((height, width, 3), np.uint8)
    return [frame + np.array([12 * i, 255 - 12 * i, 60], np.uint8) for i in range(number)]
