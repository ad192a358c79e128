"""Folders for local copies of what is kept in object stores, one for each process and address.

They lie in the user's cache folder, by host and number. A process holds a number by a lock of the
operating system, so that what a killed process leaves behind is cleared by the next one that takes
it.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import os
import platform
import shutil
import time
from pathlib import Path

from convmesh.distributed.compile_cache import user_folder

_FOLDER = "local_copies"
_KEPT_SECONDS = 60 * 24 * 3600.0  # after the last process of a host has begun
_held: list[int] = []  # descriptors of locked files: the process holds them until it ends


@functools.cache
def _own_folder(process: int) -> Path:
    """An empty folder that this process alone uses; removed at its end."""
    import fcntl

    # Where hosts share the cache folder, their locks may not hold for each other.
    root = user_folder() / _FOLDER / (platform.node() or "host")
    root.mkdir(parents=True, exist_ok=True)
    _remove_old(root.parent)
    number = 0
    while True:
        file = os.open(root / f"{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            os.close(file)
            number += 1
    _held.append(file)
    os.utime(file)  # see `_remove_old`
    folder = root / str(number)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    atexit.register(_remove, folder, process)
    return folder


def _remove_old(root: Path) -> None:
    """Removes what processes of hosts that are gone, such as pods, have left here long ago."""
    for host in root.iterdir():
        with contextlib.suppress(OSError, ValueError):
            if time.time() - max(path.stat().st_mtime for path in host.iterdir()) > _KEPT_SECONDS:
                shutil.rmtree(host)


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not in a fork
        shutil.rmtree(folder, ignore_errors=True)


def local_folder(url: str) -> Path:
    """The folder of this process for an address; it need not exist yet. Raises OSError.

    That of an address below is not below it.
    """
    scheme, _, path = url.partition("://")
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    return _own_folder(os.getpid()).joinpath(digest, scheme, *path.split("/"))
