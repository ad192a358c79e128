"""Reads damaged and malicious files of weights, and checks that no harm comes of any.

    PYTHONPATH=tests .venv/bin/python tools/fuzz_weights.py [N] [--seed S] [--keep DIR]

N (600) files: those of `tests/hostile_weights.py`, at most N / 2, and valid ones of each form
(`tests/weight_files.py`) damaged at random. Each is read by `read_weights` in a process of its own
with limits. It is a failure if the process executes anything, opens a file for writing or connects
to anything (seen by Python's audit events), leaves a file, takes more than 1 GB or 60 s, dies, or
ends with anything but arrays or a DataError of one line that names the file. Prints a table; exits
with 1 on a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import select
import signal
import struct
import sys
import tempfile
import time
import traceback
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import hostile_weights
import numpy as np
import weight_files as files

from convmesh.errors import DataError
from convmesh.weights.files import read_weights

GB = 10**9
SECONDS = 60  # for a file
LENGTHS = (0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)
# Opcodes that swap places with others: also those that call, import and take lengths.
OPCODES = b"}](u.sabq\x85\x86\x87t)RcQKMJ\x8aXUBNGh\x93\x94\x95\x8d\x8c\x81\x82ioj20\x89\x8f\x90"
# Audit events of what a reader has no business with. The process that reads Keras's files is
# started by `subprocess.Popen`, which is looked at below, as are files that are opened.
FORBIDDEN = (
    "os.system os.exec os.posix_spawn os.spawn os.remove os.rename os.mkdir os.rmdir os.link"
    " os.symlink os.truncate os.chmod os.chown os.putenv os.startfile pty.spawn"
    " socket.connect socket.bind shutil.rmtree shutil.move shutil.copyfile pickle.find_class"
    " ctypes.dlopen code.__new__ builtins.input"
).split()


class Outcome(NamedTuple):
    """What became of a file; failure: what went wrong, or ''."""

    refused: bool
    seconds: float
    peak_bytes: int
    failure: str


# Damage.


def flip(data: bytearray, rng: random.Random) -> None:
    """A few bits."""
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_early(data: bytearray, rng: random.Random) -> None:
    """A bit of the first 200 bytes, where headers are."""
    data[rng.randrange(min(200, len(data)))] ^= 1 << rng.randrange(8)


def truncate(data: bytearray, rng: random.Random) -> None:
    """The end is missing."""
    del data[rng.randrange(len(data)) :]


def lengths(data: bytearray, rng: random.Random) -> None:
    """Four or eight bytes become a number that is extreme as a length."""
    for _ in range(rng.choice((1, 2, 4))):
        size, order = rng.choice(((2, "<H"), (4, "<I"), (8, "<Q"), (8, ">Q")))
        at = rng.randrange(max(1, len(data) - size))
        data[at : at + size] = struct.pack(order, rng.choice(LENGTHS) % 2 ** (8 * size))


def cut_out(data: bytearray, rng: random.Random) -> None:
    """Some bytes are missing in the middle."""
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 8, 64, 512))]


def repeat(data: bytearray, rng: random.Random) -> None:
    """Some bytes occur twice."""
    at = rng.randrange(len(data))
    data[at:at] = data[at : at + rng.choice((1, 8, 64, 512))]


def zeros(data: bytearray, rng: random.Random) -> None:
    """A sector of zeros, as after a lost write."""
    at = rng.randrange(len(data))
    count = min(rng.choice((16, 512)), len(data) - at)
    data[at : at + count] = bytes(count)


def another_part(data: bytearray, rng: random.Random) -> None:
    """Bytes of a file of another form."""
    other = rng.choice(list(files.VALID.values()))()
    start, at, count = rng.randrange(len(other)), rng.randrange(len(data)), rng.randrange(1, 200)
    data[at : at + count] = other[start : start + count]


def opcodes(data: bytearray, rng: random.Random) -> None:
    """Opcodes become others."""
    for _ in range(rng.choice((1, 2, 5))):
        places = [i for i, byte in enumerate(data) if byte in OPCODES]
        if places:
            data[rng.choice(places)] = rng.choice(OPCODES)


DAMAGE = (flip, flip_early, truncate, lengths, cut_out, repeat, zeros, another_part)


def damaged(form: str, rng: random.Random) -> tuple[str, bytes]:
    """The name of a kind of damage, and a file of `form` that has it.

    Half of the archives are damaged inside of a member whose checksum is right, so that the damage
    reaches what reads it.
    """
    damage = rng.choice((*DAMAGE, opcodes) if form.startswith("torch") else DAMAGE)
    if "zip" in form and rng.random() < 0.6:
        method = zipfile.ZIP_DEFLATED if "deflated" in form else zipfile.ZIP_STORED
        value, held = files.torch_value(files.ARRAYS)
        pickled = bytearray(files.pickled(value))
        damage(pickled, rng)
        return f"{damage.__name__} in the pickle", files.torch_zip(bytes(pickled), held, method)
    if "archive" in form and rng.random() < 0.5:
        inner = bytearray(files.as_keras_3())
        damage(inner, rng)
        return f"{damage.__name__} in the h5", files.zip_file({"model.weights.h5": bytes(inner)})
    data = bytearray(files.VALID[form]())
    if form == "torch legacy" and damage is opcodes:
        head = data[:600]  # the pickles; numbers follow
        damage(head, rng)
        data[:600] = head
    else:
        damage(data, rng)
    return damage.__name__, bytes(data)


# Reading in a process of its own.


def watch(events: list[str]) -> None:
    """Note audit events that reading must not cause."""

    def note(event: str, details: tuple) -> None:
        named = event == "open" and not isinstance(details[0], int) and details[0] != os.devnull
        writes = named and isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR)
        child = event == "subprocess.Popen" and "keras_child.py" not in str(details[1])
        if event in FORBIDDEN or writes or child:
            events.append(f"{event} {details!r}"[:200])

    sys.addaudithook(note)


def read_in_child(path: Path, report: int) -> None:
    """Read a file of weights and write what came of it to `report`; for a forked process."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * GB, used + 2 * GB))
    events: list[str] = []
    watch(events)
    refused, said = True, ""
    try:
        found = read_weights(path)
        refused, said = False, fault_of(found, path.stat().st_size)
    except DataError as error:
        line = str(error)
        if not (line.startswith(f"{path}: ") and line.isprintable()):
            said = f"not a line that names the file: {line!r}"
    except BaseException:
        said = traceback.format_exc()
    said = "; ".join(filter(None, [said, *events]))
    os.write(report, json.dumps([refused, said[:4000]]).encode())


def fault_of(found: dict[str, np.ndarray], size: int) -> str:
    """What is wrong with arrays that were read from a damaged file of `size` bytes, or ''."""
    for name, array in found.items():
        if not isinstance(name, str) or array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
            return f"{name!r} is {array.dtype}"
        array.sum()  # every number can be reached
    total = sum(array.nbytes for array in found.values())
    return f"{total} bytes from a file of {size}" if total > 2 * size + 2**27 else ""


def judge(path: Path, folder: Path) -> Outcome:
    """Read a file in a forked process, and judge it by what is seen from outside."""
    before = sorted(folder.rglob("*"))
    start = time.monotonic()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setsid()
            os.chdir(folder / "here")
            read_in_child(path, writing)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    in_time = bool(select.select([reading], [], [], SECONDS)[0])
    data = os.read(reading, 10_000) if in_time else b""
    os.close(reading)
    if not in_time:
        os.killpg(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)  # its memory, or that of its child if that is more
    seconds, peak = time.monotonic() - start, usage.ru_maxrss * 1024
    failures = []
    refused = False
    if not in_time:
        failures.append(f"not done after {SECONDS} s")
    elif not data:
        failures.append(f"the process ended with {os.waitstatus_to_exitcode(status)}")
    else:
        refused, said = json.loads(data)
        failures += [said] if said else []
    if peak > GB:
        failures.append(f"{peak / GB:.2f} GB of memory")
    if sorted(folder.rglob("*")) != before:
        failures.append("it left a file")
    return Outcome(refused, seconds, peak, "; ".join(failures))


def trials(count: int, rng: random.Random, canary: Path):
    """(group, name, bytes, whether it must be refused) for each file."""
    hostile = hostile_weights.hostile(canary)
    chosen = rng.sample(list(hostile), min(len(hostile), count // 2))
    for name in chosen:
        yield "made to do harm", name, hostile[name][0], True
    forms = list(files.VALID)
    for i in range(count - len(chosen)):
        form = forms[i % len(forms)]
        name, data = damaged(form, rng)
        yield f"{form}, damaged", f"{name} ({i})", data, False


def main() -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("count", nargs="?", type=int, default=600, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that failed")
    flags = parser.parse_args()
    rows: dict[str, list[Outcome]] = defaultdict(list)
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "here").mkdir()
        path = folder / "weights"
        rng = random.Random(flags.seed)
        for group, name, data, must in trials(flags.count, rng, folder / "canary"):
            path.write_bytes(data)
            outcome = judge(path, folder)
            if must and not outcome.refused and not outcome.failure:
                outcome = outcome._replace(failure="it was read")
            rows[group].append(outcome)
            if outcome.failure:
                failed += 1
                print(f"{group}: {name}: {outcome.failure}", file=sys.stderr, flush=True)
                if flags.keep:
                    flags.keep.mkdir(parents=True, exist_ok=True)
                    (flags.keep / f"{failed}.weights").write_bytes(data)
    print(table(rows))
    return int(failed > 0)


def table(rows: dict[str, list[Outcome]]) -> str:
    """A Markdown table with a row for each group, and one for all."""
    lines = [
        "| files | number | refused | read | failures | slowest, s | most memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    everything = [outcome for outcomes in rows.values() for outcome in outcomes]
    for group, outcomes in {**rows, "all": everything}.items():
        refused = sum(o.refused for o in outcomes)
        failures = sum(bool(o.failure) for o in outcomes)
        cells = (
            group,
            len(outcomes),
            refused,
            len(outcomes) - refused - sum(bool(o.failure) and not o.refused for o in outcomes),
            failures,
            f"{max(o.seconds for o in outcomes):.1f}",
            f"{max(o.peak_bytes for o in outcomes) / 1e6:.0f}",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
