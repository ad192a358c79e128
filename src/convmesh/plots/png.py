"""Writes pictures as PNG files, atomically."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from convmesh.workdir import atomic_files


def save_png(image: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Write an image [height, width, 3] uint8 RGB; creates the folder.

    Raises ValueError for another shape or dtype, OSError if writing fails.
    """
    check_image(image)
    encoded, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not encoded:
        raise ValueError(f"{path}: an image of shape {image.shape} cannot be encoded as PNG")
    write_png(data.tobytes(), path)


def write_png(data: bytes, path: str | os.PathLike[str]) -> None:
    """Write encoded PNG data atomically; creates the folder. Raises OSError."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    atomic_files.write_atomically(path, data)


def check_image(image: np.ndarray) -> None:
    """Raise ValueError unless `image` is uint8 [height, width, 3] and not empty."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"not an RGB image: {image.dtype} {image.shape}; wanted uint8 [h, w, 3]")
