"""Atomic file writes: after a crash a file is complete or absent, never half written."""

import contextlib
import os
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Writes a file; after a crash or a full disk it has its old or its new content.

    A file that already has this content is not written again. Raises OSError that names `path`.
    """
    path = Path(path)
    data = data.encode() if isinstance(data, str) else data
    if path.is_file() and path.read_bytes() == data:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.filename2 is None:  # a full disk names no file, an unwritable folder a hidden one
            error.filename = str(path)
        raise
    sync_folder(path.parent)


def remove_temporary_files(folder: Path) -> None:
    """Removes the temporary files of a killed `write_atomically` in and below `folder`."""
    for path in folder.rglob(".*.[0-9]*.new"):
        with contextlib.suppress(OSError):
            path.unlink()


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Fsyncs `folder`, so that files created, renamed or removed in it survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
