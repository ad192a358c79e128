"""The files of `convmesh predict`: images and videos found by path, images read in threads."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convmesh.data.formats.files import list_files
from convmesh.data.images import SUFFIXES, read_image
from convmesh.errors import ConfigError, DataError, some
from convmesh.inference.video_files import is_video

_SHOWN = 5  # suffixes of files passed by


@dataclass(frozen=True)
class FoundImages:
    """The image files of a call, each once, and the files in its folders that are no images.

    videos: the video files, which are no images and not passed by. empty: the folders without
    either, as given.
    """

    files: list[Path]
    videos: list[Path]
    passed_by: list[Path]
    empty: list[str]

    def describe_passed_by(self) -> str:
        """Return a line that counts the files passed by, by suffix, or ''."""
        if not self.passed_by:
            return ""
        suffixes = Counter(path.suffix.lower() or "no suffix" for path in self.passed_by)
        counts = ", ".join(f"{suffix} ({count})" for suffix, count in suffixes.most_common(_SHOWN))
        more = ", ..." if len(suffixes) > _SHOWN else ""
        return (
            f"{len(self.passed_by)} files passed by, not images that can be read by their suffix: "
            f"{counts}{more}, such as {self.passed_by[0]}"
        )


def find_images(paths: Sequence[str]) -> FoundImages:
    """Return the image and video files named by files, folders (as training does) and globs.

    In folders, hidden files are left out, links are followed, and files count by their suffix.
    Raises ConfigError for a path that does not exist, and if no path has images.
    """
    found: dict[Path, None] = {}
    passed_by: dict[Path, None] = {}
    empty = list[str]()
    for given in paths:
        path = Path(os.path.expanduser(given))
        others: list[Path] = []
        if path.is_dir():
            listed = [path / name for name in list_files(path)]
            files = [f for f in listed if f.suffix.lower() in SUFFIXES or is_video(f)]
            others = [file for file in listed if file not in set(files)]
        elif path.exists():
            files = [path]
        else:
            matches = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]
            files = [p for p in matches if p.is_file()]
        if not files and not path.is_dir():
            raise ConfigError(f"{given}: no image found")
        if not files:
            empty.append(given)
        found |= dict.fromkeys(files)
        passed_by |= dict.fromkeys(others)
    result = FoundImages(
        [file for file in found if not is_video(file)],
        [file for file in found if is_video(file)],
        [path for path in passed_by if path not in found],
        empty,
    )
    if not found:
        passed = result.describe_passed_by()
        raise ConfigError(f"{some(paths)}: no image found{'; ' + passed if passed else ''}")
    return result


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
