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
import secrets
import shutil
import time
from pathlib import Path

from convmesh.distributed.compile_cache import user_folder
from convmesh.errors import NO_LOCKS

_FOLDER = "local_copies"
_KEPT_SECONDS = 60 * 24 * 3600.0  # after a process of a host has used its folder
_held: list[int] = []  # descriptors of locked files: the process holds them until it ends


@functools.cache
def _own_folder(process: int) -> Path:
    """An empty folder that this process alone uses; removed at its end."""
    import fcntl

    # Where hosts share the cache folder, their locks may not hold for each other.
    root = user_folder() / _FOLDER / (platform.node() or "host")
    root.mkdir(parents=True, exist_ok=True)
    _remove_old(root)
    name = 0
    while True:
        file = os.open(root / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            os.close(file)
            name += 1
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            # What a killed process leaves is then removed by `_remove_old` alone.
            os.close(file)
            name = secrets.randbits(62)
            file = os.open(root / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            break
    _held.append(file)
    folder = root / str(name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    atexit.register(_remove, folder, process)
    return folder


def stay() -> None:
    """Says to other hosts that this process still uses its folder: see `_remove_old`."""
    for file in _held:
        os.utime(file)


def _remove_old(own: Path) -> None:
    """Removes what other hosts, such as pods, or killed processes of this one, left long ago."""
    for lock in own.glob("*.lock"):
        with contextlib.suppress(OSError):
            if time.time() - lock.stat().st_mtime > _KEPT_SECONDS:
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink()
    for host in own.parent.iterdir():
        with contextlib.suppress(OSError, ValueError):
            last = max(path.stat().st_mtime for path in host.iterdir())
            if host != own and time.time() - last > _KEPT_SECONDS:
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
