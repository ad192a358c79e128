"""The decoded images of several real processes on loopback: held once, within one budget."""

import json

import jobs
import pytest

COUNT, BYTES = 40, 40 * 30 * 3  # images to train on, and bytes of each
EVAL_COUNT = 10
SAMPLE = 10  # images to evaluate that are decoded to estimate the size of all

# Process i reads all images from number 10 i on, each process all of them, and again.
READ = """
sys.path.insert(0, {tests!r})
from dataclasses import fields
from pathlib import Path
from convmesh.data.loading import cache, shared_memory
from convmesh.data.splits import RunData
from data.loading.test_cache import Logged
from sources import config_for
config = config_for(cache="auto")
log = Path({folder!r})
train, val = Logged({count}, log / "train"), Logged({eval_count}, log / "val")
val.split = "val"
cache.free_memory = lambda: 4 * {allowed} + index
{patch}
data = cache.with_caches(RunData(train, val), config)
processes.wait_for_all("filling")
same, held = True, [0, 0]
for turn in range(2):
    for which, (kept, source) in enumerate([(data.train, train), (data.eval, val)]):
        for i in range(len(source)):
            i = (i + 10 * index) % len(source)
            found, wanted = kept[i], super(Logged, source).__getitem__(i)
            for field in ("image", "boxes", "labels", "crowd"):
                one, two = getattr(found, field), getattr(wanted, field)
                same &= one.dtype == two.dtype and one.tobytes() == two.tobytes()
    processes.wait_for_all("turn")
    if turn == 0: once = len(train.decoded()), len(val.decoded())
    processes.wait_for_all("counted")
twice = len(train.decoded()), len(val.decoded())
memory = [one for one in (data.train, data.eval) if isinstance(one, cache.Cached)]
shared = bool(memory and memory[0].shared)
file = os.fstat(memory[0]._kept._file) if shared else None
inode, blocks = (file.st_ino, 512 * file.st_blocks) if shared else (0, 0)
kinds = [isinstance(one, cache.Cached) for one in (data.train, data.eval)]
limit = memory[0]._kept.limit if memory else 0
found = processes.gather([same, kinds, inode, blocks, limit, data.cached])
if first: print(json.dumps(dict(found=found, once=once, twice=twice)))
"""


@pytest.fixture
def read(tmp_path):
    """`read(processes, ...)`: what each says, and how often images were decoded in each turn."""
    started = []

    def run(processes, allowed, patch=""):
        body = READ.format(
            tests=str(jobs.__file__).rpartition("/")[0],
            folder=str(tmp_path),
            count=COUNT,
            eval_count=EVAL_COUNT,
            allowed=allowed,
            patch=patch,
        )
        started.append(jobs.start(tmp_path, body, "--num-processes", str(processes)))
        status, out, err = jobs.end(started[-1], 120)
        assert status == 0, err
        said = json.loads(out.splitlines()[-1])
        names = ("same", "cached", "file", "bytes", "limit", "line")
        rows = [dict(zip(names, row, strict=True)) for row in said["found"]]
        assert all(row["same"] for row in rows)
        return rows, said["once"], said["twice"]

    yield run
    jobs.kill(started)


def test_four_processes_hold_each_image_once_within_the_budget_of_one(read):
    allowed = COUNT * (BYTES + 1000) + 100  # the images to train on, and no others
    rows, once, twice = read(4, allowed)
    assert [row["cached"] for row in rows] == [[True, False]] * 4
    assert len({row["file"] for row in rows}) == 1 and rows[0]["file"]
    # `free_memory` differs by a few bytes from process to process; the least counts, for all.
    assert [row["limit"] for row in rows] == [allowed] * 4
    # Each once, and the records without pixels.
    assert COUNT * BYTES < rows[0]["bytes"] < COUNT * (BYTES + 1000)
    # Each is decoded once; by processes that are at it at the same time, and for the sample, more
    # often. Those to evaluate are decoded by each process in each turn.
    assert COUNT <= once[0] < 2.5 * COUNT and twice[0] == once[0]
    assert once[1] == SAMPLE + 4 * EVAL_COUNT and twice[1] == SAMPLE + 8 * EVAL_COUNT
    assert ", in one cache for the 4 processes of this host; those of val" in rows[0]["line"]


def test_a_process_that_cannot_open_the_memory_has_its_part_and_one_may_do_without(read):
    patch = """
config.data.cache = ["false", "auto", "auto", "auto"][index]
if index == 2: shared_memory.Offer.open = lambda self: os.open("/no such file", 0)
"""
    rows, _, _ = read(4, 3 * 300_000, patch)
    assert [row["cached"] for row in rows] == [[False] * 2, *[[True] * 2] * 3]
    assert rows[1]["file"] == rows[3]["file"] != 0 == rows[2]["file"]
    assert [row["limit"] for row in rows] == [0, 600_000, 300_000, 600_000]
    assert rows[1]["line"].endswith("in one cache for the 2 processes of this host")
    assert rows[0]["line"] == ""


def test_without_shared_memory_the_budget_is_divided(read):
    allowed = 2 * COUNT * (BYTES + 1000)
    rows, once, twice = read(2, allowed, "del os.memfd_create")
    assert [row["limit"] for row in rows] == [allowed // 2] * 2
    assert [row["cached"] for row in rows] == [[True, False]] * 2
    assert once[0] == twice[0] == 16 + 2 * COUNT  # 16 for the sample
    assert "in each of 2 processes, which cannot share them; those of val" in rows[0]["line"]


def test_processes_of_two_hosts_have_a_cache_for_each_host(read):
    rows, _, _ = read(4, 10**7, "processes.system_id = lambda: 'abab'[index]")
    files = [row["file"] for row in rows]
    assert files[0] == files[2] != files[1] == files[3]
    assert [row["limit"] // 100 for row in rows] == [10**5] * 4
    assert rows[1]["line"].endswith("in one cache for the 2 processes of this host")
