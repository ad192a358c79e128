"""The folders in WORKDIR/checkpoints: which are checkpoints, and which other programs left there.

A checkpoint is a folder whose name is its step, written as Python writes it: `9`, and neither `09`
nor a file `9`. Saving, damage and deletion have names of their own.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convmesh.workdir.checksums import CHECKSUMS, is_unchanged

CHECKPOINTS = "checkpoints"  # in a workdir
DAMAGED, COPY, DELETED = ".damaged", ".copy", ".deleted"  # suffixes of folders set aside
UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that Orbax is writing
META = "meta/metadata"  # where Orbax writes it
_OURS = re.compile(r"\d+\.(damaged|copy)(-\d+)?|\d+\.deleted")


def saved_steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in `folder`, ascending, intact or not; [] if it is absent."""
    paths = entries(folder)
    return sorted(int(path.name) for path in paths if names_step(path.name) and path.is_dir())


def names_step(name: str) -> bool:
    """Whether `name` is that of a checkpoint."""
    return name.isdecimal() and str(int(name)) == name


def unlike_steps(folder: Path) -> list[str]:
    """Names in `folder` of what looks like a checkpoint and is none, such as `9 (copy)` or `09`."""
    return sorted(path.name for path in entries(folder) if _looks_like_one(path))


def _looks_like_one(path: Path) -> bool:
    if _OURS.fullmatch(path.name) or UNFINISHED in path.name:
        return False
    if names_step(path.name) and path.is_dir():
        return False
    return path.name.isdecimal() or (path / CHECKSUMS).is_file()


def entries(folder: Path) -> list[Path]:
    """What is in `folder`; [] if it is absent."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def free_names(path: Path, suffix: str) -> Iterator[Path]:
    """Names beside `path` to set it aside: with `suffix`, and with `suffix`-2, -3, ..."""
    yield path.with_name(f"{path.name}{suffix}")
    n = 2
    while True:
        yield path.with_name(f"{path.name}{suffix}-{n}")
        n += 1


def read_meta(checkpoint: Path) -> dict[str, Any]:
    """The meta of a checkpoint. Raises OSError, or ValueError if it is damaged."""
    meta = json.loads((checkpoint / META).read_bytes())
    return meta if isinstance(meta, dict) else {}


def held_step(checkpoint: Path) -> int | None:
    """The step that a checkpoint was saved under; None if it does not say, or cannot be read."""
    try:
        step = read_meta(checkpoint).get("step")
    except (OSError, ValueError):
        return None
    return step if isinstance(step, int) else None


def newest_meta(folder: Path) -> dict[str, Any]:
    """The meta of the newest checkpoint in `folder` whose meta is intact; {} if there is none."""
    for step in reversed(saved_steps(folder)):
        with contextlib.suppress(OSError, ValueError):
            if is_unchanged(folder / str(step), META):
                return read_meta(folder / str(step))
    return {}


def printable(name: str) -> str:
    """A file name as text that any terminal shows."""
    return name if name.isprintable() else ascii(name)
