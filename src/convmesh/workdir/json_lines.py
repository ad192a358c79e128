"""JSON Lines files whose rows have a `step`; on resume, rows of later steps are dropped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from convmesh.errors import DataError, RunError
from convmesh.workdir import atomic_files


class JsonLines:
    """An append-only file; a run that resumes from step N first drops the lines beyond N.

    Several processes on one machine may append to it: the lines of one call stay together.
    """

    def __init__(
        self, path: str | os.PathLike[str], start_step: int = 0, drops: bool = True
    ) -> None:
        """Opens `path`; with `drops`, removes the lines of steps beyond `start_step`.

        Raises RunError if it cannot be written, DataError if a line is not a JSON object with a
        step.
        """
        self.path = Path(path)
        try:
            if drops:
                _drop_after(self.path, start_step)
            self._file: int | None = os.open(
                self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644
            )
        except OSError as error:
            raise self._failed(error) from error

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends all rows in one call. Raises RunError if writing fails."""
        if self._file is None:
            raise ValueError(f"{self.path}: closed")
        data = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
        try:
            while data:  # a full disk may accept only a part
                data = data[os.write(self._file, data) :]
        except OSError as error:
            raise self._failed(error) from error

    def sync(self) -> None:
        """Flushes the file to the disk."""
        if self._file is not None:
            try:
                os.fsync(self._file)
            except OSError as error:
                raise self._failed(error) from error

    def close(self) -> None:
        """Closes the file. May be called again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _failed(self, error: OSError) -> RunError:
        return RunError(
            f"{self.path}: cannot be written: {error.strerror or error}; fix that and run again to "
            "resume from the newest checkpoint"
        )


def read_json_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file, in order; null reads as None.

    An incomplete last line, as after a crash, is left out. Raises FileNotFoundError; DataError if
    another line is not a JSON object with a step.
    """
    path = Path(path)
    # Split at line feeds only: JSON may contain other characters that `splitlines` splits at.
    lines = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise ValueError
        except (ValueError, RecursionError):
            if number == len(lines):
                break
            raise DataError(
                f"{path}: line {number}: not a JSON object with a step; delete the line"
            ) from None
        rows.append(row)
    return rows


def _drop_after(path: Path, step: int) -> None:
    """Rewrites the file without the lines of later steps and without an incomplete last line."""
    if path.exists():
        kept = [row for row in read_json_lines(path) if row["step"] <= step]
        atomic_files.write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept))
