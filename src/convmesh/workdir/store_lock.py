"""The lock of a run whose workdir is in an object store.

Object stores have no locks that end with a process, so this one is an object that its holder
writes again every RENEW_SECONDS, as long as it lives. Who finds one watches it for LEASE_SECONDS:
if it changes, the run is refused; if not, its holder is dead, and the next number is created by a
conditional request, which succeeds for one only. The highest number holds. No clocks are compared.

It excludes two runs that both live and reach the store. A holder that was suspended, or cut off,
for longer than the lease finds at its next save that it has lost the lock, and ends; what it had
begun to write before that is not held back. A server that ignores `If-None-Match` (S3) or
`ifGenerationMatch` (Google) excludes no two runs that start within the same second.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Any, Self

from convmesh.data.stores.object_store import explained
from convmesh.distributed import console
from convmesh.errors import ConfigError, ConvmeshError, RunError
from convmesh.workdir.local_copy import LocalCopy

RENEW_SECONDS, LEASE_SECONDS = 5.0, 30.0
PUSH_SECONDS = 30.0  # between uploads of metrics; each checkpoint also takes them along
_FOLDER = ".lock"

Held = tuple[int, dict[str, Any]]  # number of a lock, and what its holder states


class StoreLock:
    """An exclusive lock on a run in an object store, as `RunLock`; a context manager.

    While it is held, one thread renews it, and another writes new metrics and pictures to the
    store, which may take longer than the lease.
    """

    def __init__(self, copy: LocalCopy) -> None:
        """Does not take the lock yet."""
        self._copy, self._store = copy, copy.store
        self.token = ""
        self._number, self._renewals = 0, 0
        self._ended, self._closing = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=target, name="store lock", daemon=True)
            for target in (self._renew, self._publish)
        ]

    def refuse_if_held(self) -> None:
        """Raises ConfigError if another run holds the lock, which may take LEASE_SECONDS to see."""
        self._last_number()

    def holds(self, token: str) -> bool:
        """Whether the holder of `token` has the lock; then the local copy is brought up to date."""
        held = self._held()
        if not token or held is None or held[1].get("token") != token:
            return False
        self._copy.pull()
        return True

    def __enter__(self) -> Self:
        """Takes the lock, and deletes what a killed run has left half written.

        Raises ConfigError if another run holds it or the store cannot be written, StoreError if it
        does not answer.
        """
        try:
            self._take()
            self._copy.pull()
            if steps := self._copy.remove_unfinished():
                console.print_status(
                    f"{self._store}: deleted what a killed run had written of the checkpoint of "
                    f"step {', '.join(map(str, steps))}"
                )
        except BaseException as error:
            self._release()
            if isinstance(error, OSError):
                raise explained(f"--workdir {self._store}", error, ConfigError) from error
            raise
        self._copy.is_locked, self._copy.before_push = True, self.check
        self._threads[1].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._closing.set()
        self._threads[1].join()
        try:
            self._copy.push()
        except (OSError, RunError) as error:
            if kind is None:
                raise _not_written(self._store, error) from None
            console.print_status(str(_not_written(self._store, error)))
        finally:
            self._copy.is_locked, self._copy.before_push = False, lambda: None
            self._release()

    def _take(self) -> None:
        """Creates the next lock, and renews it from now on. Raises OSError, ConfigError."""
        self._number, self.token = self._last_number() + 1, secrets.token_hex(16)
        self._store.create(self._name(), self._stated())
        held = self._held()
        if held is None or held[1].get("token") != self.token:
            self.token = ""
            raise self._in_use(held)
        self._threads[0].start()
        self._store.delete(name for name in self._store.entries(_FOLDER) if name < self._name())

    def _release(self) -> None:
        """Ends the renewals. The lock stays, as released: no number may be given twice."""
        self._ended.set()
        if self.token and self._threads[0].is_alive():
            self._threads[0].join()
        with contextlib.suppress(OSError):
            if self.token and self._is_ours(self._held()):
                self._store.write(self._name(), json.dumps({"released": True}).encode())
            elif self.token:  # another one has a higher number
                self._store.delete([self._name()])
        self.token = ""

    def _is_ours(self, held: Held | None) -> bool:
        return held is not None and held[1].get("token") == self.token

    def check(self) -> None:
        """Raises RunError if another run has taken the lock over."""
        try:
            held = self._held()
        except OSError:
            return  # what is written next fails, or the store answers again
        if not self._is_ours(held):
            raise RunError(
                f"{self._store}: another run has taken it over, {_holder(held)}: this one had not "
                "renewed its lock in time"
            )

    # The threads.

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            with contextlib.suppress(OSError):  # if it goes on, another run may take it over
                if not self._is_ours(self._held()):
                    return  # the next save says so
                self._renewals += 1
                self._store.write(self._name(), self._stated())

    def _publish(self) -> None:
        """Writes metrics and pictures now and then."""
        failed = False
        while not self._closing.wait(PUSH_SECONDS):
            try:
                self._copy.push()
                failed = False
            except (OSError, RunError) as error:
                if not failed:
                    console.print_status(f"{_not_written(self._store, error)}; trying again")
                failed = True

    # The object.

    def _name(self) -> str:
        return f"{_FOLDER}/{self._number:06}"

    def _stated(self) -> bytes:
        holder = {
            "host": socket.gethostname(),
            **_this_process(),
            "token": self.token,
            "renewals": self._renewals,
        }
        return json.dumps(holder).encode()

    def _held(self) -> Held | None:
        """The lock with the highest number. Raises OSError."""
        while names := sorted(self._store.entries(_FOLDER)):
            try:
                content = self._store.read(names[-1])
            except FileNotFoundError:
                continue
            try:
                holder = json.loads(content)
            except ValueError:
                holder = None
            number = names[-1].removeprefix(f"{_FOLDER}/")
            stated = holder if isinstance(holder, dict) else {}
            return int(number) if number.isdecimal() else 0, stated
        return None

    def _last_number(self) -> int:
        """The number of the last lock, whose holder is dead; 0 without one. Raises ConfigError."""
        try:
            found = self._held()
            if found is None:
                return 0
            if found == self._copy.dead_lock or found[1].get("released") or _has_ended(found[1]):
                return found[0]
            console.print_status(
                f"{self._store}: is locked by {_holder(found)}; watching for up to "
                f"{LEASE_SECONDS:.0f} s whether that run still lives"
            )
            deadline = time.monotonic() + LEASE_SECONDS
            while time.monotonic() < deadline:
                time.sleep(min(1.0, RENEW_SECONDS))
                now = self._held()
                if now is None or now[1].get("released"):
                    return now[0] if now else found[0]
                if now != found:
                    raise self._in_use(now)
        except OSError as error:
            raise explained(f"--workdir {self._store}", error, ConfigError) from error
        self._copy.dead_lock = found
        return found[0]

    def _in_use(self, held: Held | None) -> ConfigError:
        return ConfigError(
            f"{self._store}: another run is using it, {_holder(held)}; wait for it, stop it, or "
            "use another --workdir"
        )


def _not_written(store: Any, error: OSError | RunError) -> ConvmeshError:
    if isinstance(error, RunError):
        return error
    return explained(f"{store}: cannot be written", error, RunError)


def _holder(held: Held | None) -> str:
    stated = held[1] if held else {}
    if {"pid", "host"} <= stated.keys():
        return f"process {stated['pid']} on {stated['host']}"
    return "an unknown process"


# Whether the holder was a process of this machine that has ended: then nobody needs to wait.


def _this_process() -> dict[str, Any]:
    """Process id, when it started, and in what those are unique: the boot and the PID namespace."""
    pid = os.getpid()
    return {"pid": pid, "started": _started(pid), "of": _namespace()}


def _namespace() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return ""


def _started(pid: int) -> str:
    """When a process started, in the kernel's clock ticks; '' if it is not there."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    state, *fields = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]


def _has_ended(stated: dict[str, Any]) -> bool:
    of, pid = stated.get("of"), stated.get("pid")
    if not of or of != _namespace() or not isinstance(pid, int):
        return False
    return _started(pid) != stated.get("started")
