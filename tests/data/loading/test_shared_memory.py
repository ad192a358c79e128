"""Records in memory that several processes share."""

import contextlib
import fcntl
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from convmesh.data.loading import shared_memory
from convmesh.data.loading.kept_records import OwnMemory
from convmesh.data.loading.shared_memory import Offer, SharedMemory, offered
from convmesh.data.record import Record

# How the code that another process runs begins; it has opened the memory as `kept`.
OTHER = f"""
import os, signal, sys
import numpy as np
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_shared_memory import Offer, SharedMemory, record
"""


def record(number, side=100):
    image = np.random.default_rng(number).integers(0, 256, (side, 90, 3), np.uint8)
    boxes = np.arange(4 * number, dtype=np.float32).reshape(-1, 4) / 3
    labels, crowd = np.arange(number, dtype=np.int32), np.arange(number) % 2 == 1
    area = boxes[:, 0] * 2 if number % 2 else None
    return Record(image, number, f"\udcff{number}.png", 3, boxes, labels, crowd, area, 1)


def other(offer, body, size=10**6, count=8):
    """Run `body` in another process; returns its exit status."""
    code = f"{OTHER}\nkept = SharedMemory({offer!r}, {count}, {size})\n{body}"
    return subprocess.run([sys.executable, "-c", code], timeout=60).returncode


@contextlib.contextmanager
def shared(size=10**6, count=8):
    with offered() as offer:
        yield offer, SharedMemory(offer, count, size)


def assert_equal(one, two):
    for field in fields(Record):
        a, b = getattr(one, field.name), getattr(two, field.name)
        if isinstance(a, np.ndarray):
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), field.name
        else:
            assert a == b, field.name


def test_a_record_is_the_same_bits_in_another_process():
    with shared() as (offer, kept):
        assert other(offer, "for n in (0, 3, 4): kept.add(n, record(n))") == 0
        for number in (0, 3, 4):
            assert_equal(kept.get(number), record(number))
        assert kept.get(1) is None
        kept.add(1, record(1))
        body = "assert kept.get(1).image.tobytes() == record(1).image.tobytes()"
        assert other(offer, body) == 0


def test_arrays_are_read_only_views_that_outlive_the_memory():
    with shared() as (_, kept):
        kept.add(3, record(3))
        found = kept.get(3)
        for name in ("image", "boxes", "labels", "crowd", "area"):
            assert not getattr(found, name).flags.writeable, name
        assert np.shares_memory(found.image, kept.get(3).image)
    del kept
    assert_equal(found, record(3))


def test_an_image_in_another_order_of_its_bytes_in_memory_is_kept_too():
    with shared() as (_, kept):
        image = record(3).image.transpose(1, 0, 2)[::-1]
        kept.add(0, Record(image, 0, "0.png"))
        assert np.array_equal(kept.get(0).image, image)


def test_a_record_is_held_once_and_the_limit_is_kept():
    with shared(size=100_000) as (_, kept):
        for _ in range(5):
            kept.add(2, record(2))
        kept.add(4, record(4))
        kept.add(5, record(5))  # 27,000 bytes each
        kept.add(6, record(6))
        kept.add(7, record(7, side=20))  # a small one still fits
        assert [kept.get(n) is not None for n in range(8)] == [0, 0, 1, 0, 1, 1, 0, 1]
        assert 81_000 < os.fstat(kept._file).st_blocks * 512 < 110_000


@pytest.mark.parametrize(
    "when",
    [
        "if start > 1000 and len(data) > 5000: write(file, data[:5000], start); kill()",
        "if start > 1000 and len(data) < 5000: kill()",  # the rest of the record
        "if start < 1000 and seen: kill()",  # completing the entry, under the lock
        "if start == 0: kill()",  # making room, under the lock
    ],
)
def test_what_a_killed_process_has_half_written_is_never_read(when):
    body = f"""
write, seen = os.pwrite, []
def kill(): os.kill(os.getpid(), signal.SIGKILL)
def cut(file, data, start):
    {when}
    if start > 1000: seen.append(start)
    return write(file, data, start)
os.pwrite = cut
kept.add(3, record(3))
"""
    with shared() as (offer, kept):
        kept.add(1, record(1))
        assert other(offer, body) == -signal.SIGKILL
        assert kept.get(3) is None
        kept.add(3, record(3))  # kept if the other had not reserved it, else decoded each time
        kept.add(4, record(4))
        assert kept.get(3) is None or kept.get(3).image.tobytes() == record(3).image.tobytes()
        assert_equal(kept.get(1), record(1))
        assert_equal(kept.get(4), record(4))


def test_other_processes_wait_while_an_entry_is_changed_or_first_read(monkeypatch):
    with shared() as (offer, kept):
        other, seen = offer.open(), []

        def locked():
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            fcntl.flock(other, fcntl.LOCK_UN)
            return False

        def write(file, data, start, write=os.pwrite):
            seen.append((start >= kept._records, locked()))
            return write(file, data, start)

        monkeypatch.setattr(os, "pwrite", write)
        kept.add(1, record(1))
        # The room and the entry; pixels and the rest, for which nobody waits; the entry.
        assert seen == [(False, True)] * 2 + [(True, False)] * 2 + [(False, True)]
        looks, entry = [], kept._entry
        monkeypatch.setattr(kept, "_entry", lambda n: looks.append(locked()) or entry(n))
        kept.get(1), kept.get(1)
        assert looks == [True, False, False]
        os.close(other)


def test_many_processes_write_and_read_whole_records_only():
    body = """
for turn in range(3):
    for n in np.random.default_rng(os.getpid()).permutation(64).tolist():
        found = kept.get(n)
        if found is None:
            kept.add(n, record(n))
        elif found.image.tobytes() != record(n).image.tobytes() or len(found.boxes) != n:
            sys.exit(5)
"""
    with shared(count=64, size=10**7) as (offer, kept):
        code = f"{OTHER}\nkept = SharedMemory({offer!r}, 64, {10**7})\n{body}"
        started = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
        assert [process.wait(60) for process in started] == [0, 0, 0]
        for number in range(64):
            assert_equal(kept.get(number), record(number))
        held = sum(record(n).image.nbytes for n in range(64))
        # Each once: the rest are the records without pixels.
        assert held < os.fstat(kept._file).st_blocks * 512 < held + 64 * 4096


def test_the_memory_is_gone_with_its_last_process():
    path = "/proc/{}/fd/{}"
    with offered() as offer:
        kept = SharedMemory(offer, 8, 10**6)
    own = pickle.loads(pickle.dumps(kept))  # as a data worker gets it
    kept.add(3, record(3))
    assert_equal(own.get(3), record(3))
    files = [path.format(os.getpid(), memory._file) for memory in (kept, own)]
    assert all("memfd:convmesh-images" in os.readlink(file) for file in files)
    del kept, own
    assert not any(os.path.exists(file) for file in files)


def test_a_copy_that_cannot_open_it_has_a_part_for_itself(monkeypatch):
    with offered() as offer:
        kept = SharedMemory(offer, 8, 10**6, part=5000)
    kept.limit = 70_000
    data = pickle.dumps(kept)
    assert pickle.loads(data).limit == 70_000
    del kept
    copy = pickle.loads(data)
    assert isinstance(copy, OwnMemory) and copy.limit == 5000 and copy.get(7) is None


def test_another_file_is_not_opened(tmp_path):
    (tmp_path / "other").write_bytes(b"x" * 1000)
    reading, writing = os.pipe()
    with offered() as offer, open(tmp_path / "other", "r+b") as file:
        for number in (file.fileno(), reading, 10**6):
            with pytest.raises(OSError):
                Offer(os.getpid(), number, offer.token).open()
    os.close(reading), os.close(writing)
    assert (tmp_path / "other").read_bytes() == b"x" * 1000


def test_without_room_for_the_file_there_is_no_memory():
    body = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try: SharedMemory(kept_offer, 8, 10**6)
except OSError: sys.exit(7)
"""
    with offered() as offer:
        assert other(offer, f"kept_offer = {offer!r}{body}", size=10) == 7


def test_if_memory_ends_what_is_there_stays(monkeypatch):
    with shared() as (_, kept):
        kept.add(1, record(1))

        def fail(file, data, start):
            raise OSError("no memory")

        monkeypatch.setattr(shared_memory.os, "pwrite", fail)
        kept.add(2, record(2))
        monkeypatch.undo()
        kept.add(3, record(3))
        assert kept.get(2) is kept.get(3) is None
        assert_equal(kept.get(1), record(1))


def test_a_system_without_such_memory_offers_none(monkeypatch):
    for name in ("pwrite", "memfd_create"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, lambda *_: os.open("/no such file", 0))
            with offered() as offer:
                assert offer is None
    monkeypatch.delattr(os, "memfd_create")
    with offered() as offer:
        assert offer is None
    with offered(wanted=False) as offer:
        assert offer is None
