"""Decoded records in memory that the processes and data workers of a host share.

The memory is a file without a name (memfd), which another process of the same user opens below
/proc as long as the first one has it open. So it is not limited as /dev/shm is in a container, and
is gone with the last process that has it open, however that ends.

The file holds a token, the end of what is in use, an entry for each record (where it begins, bytes
of its pixels, bytes of the rest), and the records. It is written by `pwrite`, which reports that
there is no memory, and read through a mapping that cannot be written to. An entry is changed and,
before this process has once seen it complete, read under a lock of the file. It is completed after
its record, so a record that a killed process has half written is never read.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import secrets
import stat
import struct
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convmesh.data.loading.kept_records import KeptRecords, OwnMemory, make_read_only
from convmesh.data.record import Record

_HEADER = struct.Struct("<16sQ")  # token, end of what is in use
_ENTRY = struct.Struct("<QQQ")
_BEING_WRITTEN = 1  # instead of where the record begins; 0: there is none
_NO_PIXELS = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Offer:
    """Where other processes of the host find shared memory: an open file of a process.

    token: 16 random bytes in it, which no other file has.
    """

    process: int
    file: int
    token: bytes

    def open(self) -> int:
        """Return a new descriptor of the file. Raises OSError if it cannot be opened."""
        path = f"/proc/{self.process}/fd/{self.file}"
        # In another container the number may be that of any process, and the file a pipe.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FileNotFoundError(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if os.pread(descriptor, len(self.token), 0) != self.token:
            os.close(descriptor)
            raise FileNotFoundError(path)
        return descriptor


@contextlib.contextmanager
def offered(wanted: bool = True) -> Iterator[Offer | None]:
    """While open, offer new memory, without any contents, to the processes of this host.

    None if it is not `wanted`, or the system has no such memory. Who has opened it keeps it.
    """
    if not wanted or not hasattr(os, "memfd_create"):
        yield None
        return
    with contextlib.ExitStack() as stack:
        offer = None
        with contextlib.suppress(OSError):
            descriptor = os.memfd_create("convmesh-images")
            stack.callback(os.close, descriptor)
            token = secrets.token_bytes(16)
            os.pwrite(descriptor, token, 0)
            offer = Offer(os.getpid(), descriptor, token)
        yield offer


class SharedMemory(KeptRecords):
    """Records that all processes share which have opened the same offer.

    A copy in another process, such as a data worker, shares them too.
    """

    shared = True

    def __init__(self, offer: Offer, count: int, size: int, part: float = 0):
        """Open `offer` for up to `count` records in `size` bytes, the same in all processes.

        part: bytes that a copy in another process may take for itself if it cannot open the memory.
        Raises OSError if it cannot be opened, or is larger than this process may have files.
        """
        self._file = offer.open()
        weakref.finalize(self, os.close, self._file).atexit = False  # threads may still read
        self._token, self._count, self._part = offer.token, count, part
        self._records = _HEADER.size + count * _ENTRY.size  # where the first one may begin
        self.limit, self._size = size, max(size, self._records)
        try:
            if os.fstat(self._file).st_size < self._size:
                os.ftruncate(self._file, self._size)
            self._bytes = mmap.mmap(self._file, self._size, mmap.MAP_SHARED, mmap.PROT_READ)
        except (ValueError, OverflowError) as error:
            raise OSError(str(error)) from error
        self._seen = bytearray(count)
        self._threads = threading.Lock()

    def get(self, number: int) -> Record | None:
        """Return a record, whose pixels are a view of the memory; None if it is not there."""
        if not self._seen[number]:
            with self._locked():
                if self._entry(number)[0] <= _BEING_WRITTEN:
                    return None
            self._seen[number] = True  # from now on it does not change
        start, pixels, rest = self._entry(number)
        end = start + pixels
        shape, record = pickle.loads(self._bytes[end : end + rest])
        make_read_only(record)
        image = np.frombuffer(self._bytes, np.uint8, pixels, start).reshape(shape)
        return replace(record, image=image)

    def add(self, number: int, record: Record) -> None:
        """Keep a record if there is room and no process has it or is writing it."""
        pixels = np.ascontiguousarray(record.image)
        rest = pickle.dumps((pixels.shape, replace(record, image=_NO_PIXELS)))
        start = self._reserve(number, pixels.nbytes + len(rest))
        if start is None:
            return
        try:
            self._write(start, pixels.reshape(-1).data)
            self._write(start + pixels.nbytes, memoryview(rest))
        except OSError:  # no memory, or a limit on the size of files: what is there stays
            self.limit = 0
            return
        with self._locked():
            self._write_entry(number, start, pixels.nbytes, len(rest))

    def _reserve(self, number: int, size: int) -> int | None:
        """Return where to write a record of `size` bytes; None if it is not to be written."""
        with self._locked():
            if self._entry(number)[0]:
                return None
            token, end = _HEADER.unpack_from(self._bytes)
            start = max(end, self._records)
            if start + size > self.limit:
                return None
            try:
                self._write(0, memoryview(_HEADER.pack(token, start + size)))
                self._write_entry(number, _BEING_WRITTEN, 0, 0)
            except OSError:
                self.limit = 0
                return None
            return start

    def _entry(self, number: int) -> tuple[int, int, int]:
        start, pixels, rest = _ENTRY.unpack_from(self._bytes, _HEADER.size + number * _ENTRY.size)
        return start, pixels, rest

    def _write_entry(self, number: int, *entry: int) -> None:
        at = _HEADER.size + number * _ENTRY.size
        self._write(at, memoryview(_ENTRY.pack(*entry)))

    def _write(self, start: int, data: memoryview) -> None:
        while data:
            written = os.pwrite(self._file, data, start)
            start, data = start + written, data[written:]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude other threads and processes; the lock of a process that is killed is free."""
        import fcntl  # only Unix has it

        with self._threads:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def __reduce__(self) -> tuple[Any, ...]:
        own = Offer(os.getpid(), self._file, self._token)
        return _copy, (own, self._count, self._size, self._part, self.limit)


def _copy(offer: Offer, count: int, size: int, part: float, limit: float) -> KeptRecords:
    try:
        copy = SharedMemory(offer, count, size, part)
    except OSError:
        return OwnMemory(count, part)
    copy.limit = limit
    return copy
