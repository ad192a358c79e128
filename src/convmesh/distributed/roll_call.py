"""The processes of a job find each other, before JAX joins them.

JAX joins processes by their ids alone: given one id twice, or counts that differ, it aborts with a
native stack trace, waits for ever or joins some of them. So each process first says to process 0
who it is, in one line of JSON over TCP, at the address at which JAX's coordinator listens
afterwards. Once all ids are there, process 0 lets all of them go on; if two contradict each other,
it refuses all of them with the same message.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import json
import os
import select
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from convmesh.distributed import failure, processes
from convmesh.distributed.clusters import ProcessInfo, start_seconds
from convmesh.errors import ConfigError, ConvmeshError

WORD_SECONDS = 10  # until a process says for whom it waits
CLUSTER_WORD_SECONDS = 2.5  # the same in process 0, where a cluster said that there are others
REPEAT_SECONDS = 30  # between such words of process 0
REFUSING_SECONDS = 40  # how long process 0 refuses those that come after a contradiction
REFUSED_WORD_SECONDS = 2  # until it prints the contradiction, if others have not come by then
SURPLUS_SECONDS = 1  # how long process 0 looks out for one too many, once all are there
BEGUN_SECONDS = 45  # within this time a job that has lost a process ends, and can be started again
_ANSWER_SECONDS = 3  # for the first line of process 0
_RETRY_SECONDS = 0.2
_LONGEST_LINE = 4096
_GREETING = b"convmesh roll call\n"


@dataclass(frozen=True)
class Member:
    """A process that has said who it is."""

    count: int
    index: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"

    @classmethod
    def parse(cls, line: bytes) -> Member | None:
        """The member that `line` describes; None if it is anything else."""
        try:
            member = cls(**json.loads(line))
            numbers = all(type(n) is int for n in (member.count, member.index, member.pid))
            host = isinstance(member.host, str) and len(member.host) < 256
            if numbers and host and 0 <= member.index < member.count:
                return member
        except (ValueError, TypeError, RecursionError):
            pass
        return None


@dataclass(frozen=True)
class Meeting:
    """Who this process is, and where process 0 is found.

    address, port: of process 0. bind: host and port on which it listens, usually the same.
    """

    info: ProcessInfo
    address: str
    port: int
    bind: tuple[str, int]

    def own(self) -> Member:
        """This process."""
        info = self.info
        return Member(info.num_processes, info.process_id, socket.gethostname(), os.getpid())

    def who(self) -> str:
        """`process 0 of 2`."""
        return f"process {self.info.process_id} of {self.info.num_processes}"

    def cause(self) -> str:
        """For the end of a message: what said that there are others, and how to run alone."""
        if not self.info.started_by:  # flags did
            return ""
        return (
            f"; {self.info.started_by} says that there are {self.info.num_processes} processes, "
            "--num-processes 1 runs this one alone"
        )


def call_roll(meeting: Meeting, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Returns once all processes of the job are there, each with an id of its own.

    meanwhile: work that each process has to do anyway, done while it waits. Raises ConfigError, on
    all of them, for an id given twice or counts that differ; also if process 0 cannot listen at its
    address. Raises ConvmeshError if one is missing after `start_seconds()`.
    """
    if meeting.info.process_id != 0:
        _answer(meeting, meanwhile)
        return
    try:
        listener = _listen(*meeting.bind)
    except OSError as error:
        # Another process 0 may be there already: then all hear of it.
        _ask(meeting, _ANSWER_SECONDS, lambda whom: None)
        problem = f"process 0 cannot listen there: {error.strerror}"
        if error.errno == errno.EADDRINUSE:
            problem += " (by another process 0, or by another program: take another port)"
        raise ConfigError(f"--coordinator {meeting.info.coordinator}: {problem}") from None
    with _Roll(meeting, listener) as roll:
        roll.wait_for_all()
        deadline = time.monotonic() + SURPLUS_SECONDS
        meanwhile()
        roll.let_all_go(deadline)


# Process 0.


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


@dataclass
class _Caller:
    """A connection to process 0, and who is at its other end, once that is known."""

    connection: socket.socket
    received: bytes = b""
    member: Member | None = None


@dataclass
class _Roll:
    """The connections of process 0; a context manager, which closes them."""

    meeting: Meeting
    listener: socket.socket
    callers: dict[int, _Caller] = field(default_factory=dict)  # by file descriptor
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def __enter__(self) -> _Roll:
        self.selector.register(self.listener, selectors.EVENT_READ)
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in list(self.callers):
            self._drop(descriptor)
        self.listener.close()
        self.selector.close()

    def wait_for_all(self) -> None:
        """Returns once all have said who they are; raises errors as `call_roll` does."""
        meeting, since = self.meeting, time.monotonic()
        next_word = CLUSTER_WORD_SECONDS if meeting.info.started_by else WORD_SECONDS
        while True:
            self._refuse_contradictions()
            missing = self._missing()
            if not missing:
                return
            waited = time.monotonic() - since
            if waited > start_seconds():
                self._tell({"missing": _named(missing)})
                raise _gave_up(meeting, _named(missing))
            if waited > next_word:
                next_word += REPEAT_SECONDS
                _say_waiting(meeting, _named(missing))
            self._listen_once(0.5)

    def let_all_go(self, deadline: float) -> None:
        """Lets them all join JAX, unless one too many comes before `deadline`."""
        while self._listen_once(max(0.0, deadline - time.monotonic())):
            self._refuse_contradictions()
        self.listener.close()  # JAX listens there now
        self._tell({"go": True})

    def _missing(self) -> list[int]:
        there = {member.index for member in self._members()}
        return sorted(set(range(self.meeting.info.num_processes)) - there)

    def _members(self) -> list[Member]:
        others = [caller.member for caller in self.callers.values()]
        return [self.meeting.own(), *(member for member in others if member is not None)]

    def _contradiction(self) -> str:
        """What two processes say that cannot be true of both; "" if nothing."""
        members = self._members()
        first = members[0]
        for member in members[1:]:
            if member.count != first.count:
                return (
                    f"--num-processes {first.count} was given to process {first.index} "
                    f"({first}), but {member.count} to process {member.index} ({member}); give "
                    "the same number to all"
                )
        by_index: dict[int, Member] = {}
        for member in members:
            other = by_index.setdefault(member.index, member)
            if other is not member:
                return (
                    f"--process-id {member.index} was given twice: to {other} and to {member}; "
                    f"give each process its own, from 0 to {first.count - 1}"
                )
        return ""

    def _refuse_contradictions(self) -> None:
        """Tells all, also those that come in the next seconds, and raises ConfigError."""
        problem = self._contradiction()
        if not problem:
            return
        since, said = time.monotonic(), False
        expected = max(member.count for member in self._members())
        refused = 1
        while True:
            refused += sum(caller.member is not None for caller in self.callers.values())
            self._tell({"refused": problem})
            waited = time.monotonic() - since
            if refused >= expected or waited > REFUSING_SECONDS:
                raise ConfigError(problem)
            if waited > REFUSED_WORD_SECONDS and not said:
                said = True
                failure.print_now(
                    f"{problem}; processes that connect within {REFUSING_SECONDS} s are refused too"
                )
            self._listen_once(0.2)

    def _tell(self, message: dict[str, Any]) -> None:
        """Sends a line to all that have said who they are, and closes their connections."""
        for descriptor, caller in list(self.callers.items()):
            if caller.member is not None:
                with contextlib.suppress(OSError):
                    caller.connection.sendall(json.dumps(message).encode() + b"\n")
                self._drop(descriptor)

    def _listen_once(self, seconds: float) -> bool:
        """Takes what has come, waiting for it for `seconds`; returns whether anything has."""
        ready = self.selector.select(seconds)
        for key, _ in ready:
            if key.fileobj is self.listener:
                self._accept()
            else:
                self._read(key.fd)
        return bool(ready)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self.listener.accept()
            connection.setblocking(False)
            self.callers[connection.fileno()] = _Caller(connection)
            self.selector.register(connection, selectors.EVENT_READ)
            connection.sendall(_GREETING)

    def _read(self, descriptor: int) -> None:
        """Reads what a caller says; forgets it if it has ended or says anything else."""
        caller = self.callers[descriptor]
        try:
            data = caller.connection.recv(_LONGEST_LINE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        caller.received += data
        if caller.member is None and b"\n" in caller.received:
            caller.member = Member.parse(caller.received)
            if caller.member is None:
                data = b""
        if not data or len(caller.received) > _LONGEST_LINE:
            self._drop(descriptor)

    def _drop(self, descriptor: int) -> None:
        caller = self.callers.pop(descriptor)
        self.selector.unregister(caller.connection)
        caller.connection.close()


# The other processes.


class _Found(enum.Enum):
    """What a process has found at the address of process 0."""

    NOTHING = enum.auto()
    ANOTHER = enum.auto()  # something that does not call the roll
    ALL = enum.auto()  # process 0, and in the end all others


def _answer(meeting: Meeting, meanwhile: Callable[[], object]) -> None:
    """Says to process 0 who this is, again and again, until it lets this process go on."""
    info, since, said = meeting.info, time.monotonic(), False
    another_since: float | None = None

    def say_once(whom: str) -> None:
        nonlocal said
        # The processes of a host share a terminal or a log.
        if not said and info.local_index in (None, 0) and not failure.launched():
            _say_waiting(meeting, whom)
        said = True

    while True:
        left = start_seconds() - (time.monotonic() - since)
        found = _ask(meeting, left, say_once, meanwhile)
        if found is _Found.ALL:
            return
        now = time.monotonic()
        another_since = (another_since or now) if found is _Found.ANOTHER else None
        if another_since and now - another_since > BEGUN_SECONDS:
            raise ConfigError(
                f"{meeting.who()}: what answers at {info.coordinator} does not wait for it: a job "
                f"that has begun with another process {info.process_id} (--process-id given "
                "twice?), or another program"
            )
        if now - since > start_seconds():
            raise _gave_up(meeting)
        if now - since > WORD_SECONDS:
            say_once("process 0" if another_since is None else "the job there to end")
        time.sleep(_RETRY_SECONDS if now - since < WORD_SECONDS else 5 * _RETRY_SECONDS)


def _ask(
    meeting: Meeting,
    seconds: float,
    say_once: Callable[[str], None],
    meanwhile: Callable[[], object] = lambda: None,
) -> _Found:
    """Says to process 0 who this is, and waits at most `seconds` until all others are there.

    Calls `say_once` if that takes long. Raises ConfigError if process 0 refuses, ConvmeshError if
    others are missing in the end.
    """
    try:
        with socket.create_connection(
            (meeting.address, meeting.port), timeout=_ANSWER_SECONDS
        ) as connection:
            if connection.getsockname() == connection.getpeername():
                return _Found.NOTHING  # within one machine a socket can connect to itself
            if not _is_greeted(connection):
                return _Found.ANOTHER
            connection.sendall(json.dumps(asdict(meeting.own())).encode() + b"\n")
            meanwhile()
            if not select.select([connection], [], [], max(0.0, min(seconds, WORD_SECONDS)))[0]:
                say_once("the others")
                # Process 0 gives up first, and says who is missing.
                select.select([connection], [], [], max(1.0, seconds + 1 - WORD_SECONDS))
            with connection.makefile("rb") as lines:
                reply = json.loads(lines.readline(_LONGEST_LINE) or b"{}")
    except (OSError, ValueError):
        return _Found.NOTHING
    if "refused" in reply:
        raise ConfigError(str(reply["refused"]))
    if "missing" in reply:
        raise _gave_up(meeting, str(reply["missing"]))
    return _Found.ALL if "go" in reply else _Found.NOTHING


def _is_greeted(connection: socket.socket) -> bool:
    """Whether process 0 calls the roll there. Raises OSError if nothing is said."""
    received = b""
    while received != _GREETING:
        data = connection.recv(len(_GREETING) - len(received))
        if not data:
            raise ConnectionError
        received += data
        if not _GREETING.startswith(received):
            return False
    return True


# Messages.


def _named(group: Sequence[int]) -> str:
    return processes.listed([str(i) for i in group])


def _say_waiting(meeting: Meeting, whom: str) -> None:
    failure.print_now(
        f"{meeting.who()} waits for {whom} at {meeting.info.coordinator}, up to "
        f"{start_seconds():.0f} s{meeting.cause()}"
    )


def _gave_up(meeting: Meeting, missing: str = "") -> ConvmeshError:
    """The error of a process for which `missing` have not come; "" if it has not met process 0."""
    problem = "not all others have connected to" if missing else "no answer from process 0 at"
    who_is_missing = f" ({missing} missing)" if missing else ""
    return ConvmeshError(
        f"{meeting.who()}: {problem} {meeting.info.coordinator} within "
        f"{start_seconds():.0f} s{who_is_missing}; --start-timeout waits longer{meeting.cause()}"
    )
