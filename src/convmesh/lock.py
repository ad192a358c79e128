"""One run in a directory: two would destroy each other's files."""

import errno
import json
import os
import socket
import sys
import time
from pathlib import Path

from convmesh.errors import ConfigError, RunError

LOCK_FILE = ".lock"


class RunLock:
    """While open, no other process can open one for the same workdir; a context manager.

    The system holds it for this process and gives it up with it, however it ends, so that nothing
    is left to clear away. It holds between machines where the file system passes locks on (NFS 4
    does); where there are no locks at all, a warning says so.
    """

    def __init__(self, workdir):
        """Takes nothing yet."""
        self._path = Path(workdir) / LOCK_FILE
        self._file = -1

    def refuse_if_held(self) -> None:
        """Raises ConfigError if another run holds the lock; makes and changes nothing."""
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            # Shared, which reading allows, so that who only asks is in nobody's way.
            self._try(file, shared=True)
        finally:
            os.close(file)  # and the lock with it

    def __enter__(self):
        """Takes the lock, in a workdir that is made if it is absent.

        Raises ConfigError if another run holds it or the folder cannot be written, RunError for a
        disk that is full.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            kind = RunError if error.errno in (errno.ENOSPC, errno.EDQUOT) else ConfigError
            raise kind(f"--workdir {self._path.parent}: {error.strerror}") from error
        try:
            self._take()
            holder = {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            }
            self._write(json.dumps(holder))
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_):
        self._write("")
        self._close()

    def check(self) -> None:
        """Raises RunError if the workdir is not the one that was locked any more."""
        try:
            there = os.stat(self._path)
        except OSError:
            there = None
        if there is None or not os.path.samestat(there, os.fstat(self._file)):
            raise RunError(
                f"{self._path.parent}: the folder is gone, or another has taken its place; the run "
                "cannot be saved there"
            )

    def _take(self) -> None:
        for _ in range(10):  # who only asks may hold it for a moment
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
                f"{self._path.parent}: another run is under way there, {self._holder()}; wait for "
                "it, stop it, or take another --workdir"
            ) from None
        except OSError as error:
            known = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EBADF)
            if error.errno not in known:
                raise
            print(
                f"{self._path}: this file system has no locks ({error.strerror}); see that no "
                "other run uses the folder",
                file=sys.stderr,
            )

    def _holder(self) -> str:
        try:
            told = json.loads(self._path.read_text())
            return f"process {told['pid']} on {told['host']}, since {told['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "which has not yet said who it is"

    def _write(self, text: str) -> None:
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, text.encode(), 0)
        except OSError:  # a full disk: the lock itself needs no text
            pass

    def _close(self) -> None:
        os.close(self._file)
        self._file = -1
