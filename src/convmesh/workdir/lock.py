"""A lock that allows one run per workdir: two would overwrite each other's files."""

import contextlib
import errno
import json
import os
import secrets
import socket
import sys
import time
from pathlib import Path
from typing import Any, Self

from convmesh.errors import NO_LOCKS, ConfigError, RunError

LOCK = ".lock"


class RunLock:
    """An exclusive lock on a workdir; a context manager.

    The operating system releases it when the process ends for any reason, so no stale lock
    remains. It works between machines if the file system supports that (NFS 4 does); a file system
    without locks gives a warning.
    """

    def __init__(self, workdir: str | os.PathLike[str]) -> None:
        """Does not take the lock yet."""
        self._path = Path(workdir) / LOCK
        self._file = -1
        self._created: list[Path] = []  # folders, the innermost first
        self.token = ""  # of the holder, random; by it other processes recognise the folder

    def refuse_if_held(self) -> None:
        """Raises ConfigError if another run holds the lock; changes nothing."""
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            # A shared lock, so that two checks do not exclude each other.
            self._try(file, shared=True)
        finally:
            os.close(file)  # and the lock with it

    def holds(self, token: str) -> bool:
        """Whether the workdir, as this process sees it, is locked by the holder of `token`."""
        return bool(token) and self._stated().get("token") == token

    def __enter__(self) -> Self:
        """Takes the lock; creates the workdir if it does not exist.

        Raises ConfigError if another run holds it or the folder cannot be written, RunError if the
        disk is full.
        """
        folder = self._path.parent
        self._created = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            kind = RunError if error.errno in (errno.ENOSPC, errno.EDQUOT) else ConfigError
            raise kind(f"--workdir {self._path.parent}: {error.strerror}") from error
        try:
            self._take()
            self.token = secrets.token_hex(16)
            holder = {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "since": time.strftime("%Y-%m-%d %H:%M:%S"),
                "token": self.token,
            }
            self._write(json.dumps(holder))
            if not self.holds(self.token):  # by which the other processes recognise the folder
                self.token = ""
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._write("")
        if kind is not None and issubclass(kind, ConfigError):
            self._remove_created()
        self._close()

    def _remove_created(self) -> None:
        """Removes the folders that the lock has created, if nothing else is in them."""
        with contextlib.suppress(OSError):
            if self._created and os.listdir(self._path.parent) == [LOCK]:
                self._path.unlink()
                for folder in self._created:
                    folder.rmdir()

    def check(self) -> None:
        """Raises RunError if the locked workdir was removed or replaced."""
        try:
            current = os.stat(self._path)
        except OSError:
            current = None
        if current is None or not os.path.samestat(current, os.fstat(self._file)):
            raise RunError(
                f"{self._path.parent}: the folder was removed or replaced; the run cannot save to "
                "it"
            )

    def _take(self) -> None:
        for _ in range(10):  # a check may hold it for a moment
            try:
                return self._try(self._file)
            except ConfigError:
                time.sleep(0.03)
        self._try(self._file)

    def _try(self, file: int, shared: bool = False) -> None:
        try:
            import fcntl
        except ImportError:  # not a Unix
            return
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{self._path.parent}: another run is using it, {self._holder()}; wait for it, "
                "stop it, or use another --workdir"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            print(
                f"{self._path}: this file system has no locks ({error.strerror}); make sure "
                "that no other run uses the folder",
                file=sys.stderr,
            )

    def _holder(self) -> str:
        try:
            holder = self._stated()
            return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
        except KeyError:
            return "an unknown process"

    def _stated(self) -> dict[str, Any]:
        """What the holder has written into the lock; {} if nothing can be read."""
        try:
            holder = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return holder if isinstance(holder, dict) else {}

    def _write(self, text: str) -> None:
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, text.encode(), 0)
            os.fsync(self._file)  # over NFS, others see it then
        except OSError:  # a full disk; the lock works without the text
            pass

    def _close(self) -> None:
        os.close(self._file)
        self._file = -1
