"""The image files of `convmesh predict`: found by path, read ahead in threads."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path

import numpy as np

from convmesh.data.images import SUFFIXES, read_image
from convmesh.errors import ConfigError, DataError


def find_images(paths: Sequence[str]) -> list[Path]:
    """Return the image files named by files, folders (searched recursively) and globs, each once.

    Raises ConfigError for a path without images.
    """
    found: dict[Path, None] = {}
    for given in paths:
        path = Path(given)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        elif path.exists():
            files = [path]
        else:
            matches = [Path(p) for p in sorted(glob.glob(given, recursive=True))]
            files = [p for p in matches if p.is_file()]
        if not files:
            raise ConfigError(f"{given}: no image found")
        found |= dict.fromkeys(files)
    return list(found)


def read_batches(
    pool: Executor, files: Sequence[Path], batch_size: int
) -> Iterator[list[tuple[Path, np.ndarray | str]]]:
    """Yield the files in batches, each with its upright image or the reason it cannot be read.

    While the caller works on a batch, the next one is read in `pool`. Images are uint8
    [height, width, 3] RGB.
    """

    def start(first: int) -> list[Future[np.ndarray | str]]:
        return [pool.submit(_read, file) for file in files[first : first + batch_size]]

    reading = start(0)
    for first in range(0, len(files), batch_size):
        batch = files[first : first + batch_size]
        read = [(file, future.result()) for file, future in zip(batch, reading, strict=True)]
        reading = start(first + batch_size)
        yield read


def _read(file: Path) -> np.ndarray | str:
    try:
        return read_image(str(file))
    except DataError as error:
        return str(error)
