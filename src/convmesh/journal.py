"""Files of JSON lines, each with the step it belongs to, and never one twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from convmesh import durable
from convmesh.errors import DataError, RunError


class Journal:
    """A file that lines are added to; a run that goes on from step N drops what is beyond it.

    Several processes of one machine may add to the same file: the lines of a call stay together.
    """

    def __init__(self, path, start_step: int = 0, drops: bool = True):
        """Opens `path`; with `drops`, without the lines of steps beyond `start_step`.

        Raises RunError if it cannot be written, DataError for a line that is none of a journal.
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
        """Adds a line for each row, at one stroke. Raises RunError if the disk takes it not."""
        if self._file is None:
            raise ValueError(f"{self.path}: closed")
        data = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
        try:
            while data:  # a full disk may take a part
                data = data[os.write(self._file, data) :]
        except OSError as error:
            raise self._failed(error) from error

    def sync(self) -> None:
        """Brings to the disk what was added."""
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
            f"{self.path}: cannot be written: {error.strerror or error}; mend that, and run again "
            "to go on from the newest checkpoint"
        )


def read(path) -> list[dict[str, Any]]:
    """The rows of a journal, in their order; null reads as None.

    A last line that was only half written, as after a crash, is left out. Raises FileNotFoundError;
    DataError if another line is no JSON object with a step.
    """
    path = Path(path)
    # Split at line feeds only: JSON may hold other characters that `splitlines` cuts at.
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
    """Takes lines of later steps, and a half-written last line, out of the file at one stroke."""
    if path.exists():
        kept = [row for row in read(path) if row["step"] <= step]
        durable.write_whole(path, "".join(json.dumps(row) + "\n" for row in kept))
