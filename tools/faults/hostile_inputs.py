"""Damaged and hostile images, labels and documents: each must be handled as the policy says."""

import io
import os
import random
import resource
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import runs
from PIL import Image

from convmesh.config import apply_overrides
from convmesh.data import documents
from convmesh.data.box_checks import BoxPolicy, StatedBoxes, check_boxes
from convmesh.data.loading.loader import eval_batches
from convmesh.data.record import BadExample, check_label
from convmesh.data.splits import open_eval
from convmesh.errors import DataError

SIDE = 40
MAX_MEMORY = 1.2e9  # bytes that the process may use; half of them are JAX and other imports


def _picture(rng: random.Random) -> Image.Image:
    noise = np.random.default_rng(rng.randrange(2**31))
    return Image.fromarray(noise.integers(0, 255, (SIDE, SIDE + 7, 3), np.uint8))


def _encoded(image: Image.Image, image_format: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, image_format, **options)
    return out.getvalue()


def _png_that_claims(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


# Images that cannot be read: functions that return bytes, or a function that creates a path.


def _cut(rng):
    data = _encoded(_picture(rng), rng.choice(["PNG", "WEBP"]))
    return data[: rng.randrange(1, len(data) - 12)]


def _bomb(rng):
    if rng.random() < 0.5:  # 30 KB of data that claim 1.9 gigapixels
        return _png_that_claims(43_000, 43_000, b"\0" * 1_000_000)
    return _png_that_claims(2**31 - 1, rng.randrange(1, 2**31 - 1))


BAD_IMAGES = {
    "empty": lambda rng: b"",
    "cut short": _cut,
    "cut in its header": lambda rng: _encoded(_picture(rng), "JPEG")[: rng.randrange(1, 20)],
    "bomb": _bomb,
    "text": lambda rng: b"<html>404</html>" * rng.randrange(1, 99),
    "noise": lambda rng: rng.randbytes(rng.randrange(1, 5000)),
    "32 bits": lambda rng: _encoded(Image.new("F", (9, 9), rng.random()), "TIFF"),
    "pipe": lambda rng: os.mkfifo,
    "device": lambda rng: lambda path: os.symlink("/dev/zero", path),
    "link to nowhere": lambda rng: lambda path: os.symlink("nowhere.png", path),
    "link to itself": lambda rng: lambda path: os.symlink(os.path.basename(path), path),
    "huge and sparse": lambda rng: _sparse,
}


def _sparse(path: str) -> None:
    with open(path, "wb") as file:
        file.truncate(2**40)


GOOD_IMAGES = {
    "photo": lambda rng: _encoded(_picture(rng), "JPEG"),
    "grey": lambda rng: _encoded(_picture(rng).convert("L"), "PNG"),
    "CMYK": lambda rng: _encoded(_picture(rng).convert("CMYK"), "JPEG"),
    "palette": lambda rng: _encoded(_picture(rng).convert("P"), "GIF"),
    "alpha": lambda rng: _encoded(_picture(rng).convert("RGBA"), "PNG"),
    "16 bits": lambda rng: _encoded(Image.new("I;16", (SIDE + 7, SIDE), 40_000), "PNG"),
    "another type than its name": lambda rng: _encoded(_picture(rng), "WEBP"),
    "rotated by EXIF": lambda rng: _encoded(
        _picture(rng), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
    ),
}


def _nested(opening: bytes, depth: int):
    """A document of brackets or elements nested up to ten times `depth`."""
    return lambda rng: opening * rng.randrange(depth, 10 * depth)


BAD_DOCUMENTS = [
    (documents.read_json, _nested(b"[", 20_000)),
    (documents.read_json, lambda rng: b'{"images": [' + rng.randbytes(50)),
    (documents.read_json, lambda rng: b'{"id": ' + b"9" * 10_000 + b"}"),
    (
        documents.read_json,
        lambda rng: b'{"a": [1, 2, 3, 4]}'[: rng.randrange(1, 19)],
    ),
    (documents.read_json, lambda rng: os.mkfifo),
    (documents.read_json, lambda rng: _sparse),
    (documents.read_xml, _nested(b"<a>", 20_000)),
    (
        documents.read_xml,
        lambda rng: (
            b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
            + b"".join(b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9))
            + b"]><a>&j;</a>"
        ),
    ),
    (
        documents.read_xml,
        lambda rng: b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
    ),
    (documents.read_xml, lambda rng: '<!DOCTYPE a SYSTEM "x.dtd"><a/>'.encode("utf-16")),
    (documents.read_xml, lambda rng: b"<annotation><object>" + rng.randbytes(9)),
    (documents.read_xml, lambda rng: b'<?xml version="1.0" encoding="rot13"?><a/>'),
    (documents.read_yaml, _nested(b"[", 2_000)),
    (documents.read_yaml, lambda rng: b"names: !!python/object/apply:os.system ['touch pwned']"),
    (documents.read_yaml, lambda rng: b"!!python/name:os.system"),
    (
        documents.read_yaml,
        lambda rng: (
            b"a: &a [x, x, x]\n"
            + b"".join(
                b"%c: &%c [*%c, *%c]\n" % (98 + i, 98 + i, 97 + i, 97 + i) for i in range(20)
            )
        ),
    ),
    (documents.read_yaml, lambda rng: b"names: {0: a, 1: [b, c}"),
    (documents.read_yaml, lambda rng: b"d: 2020-13-45"),
]
BAD_NAMES = [
    "../../etc/passwd",
    "/etc/passwd",
    "a/../../b.png",
    "..\\b.png",
    "C:\\b.png",
    "",
    None,
    7,
]
BAD_NAMES += ["a\0b.png", "\\\\host\\share\\b.png"]


def _create(content, path: Path) -> None:
    """Writes bytes to `path`, or calls a function that creates it."""
    if callable(content):
        content(str(path))
    else:
        path.write_bytes(content)


def feed(folder: str, n: int, seed: int) -> dict:
    """Reads n hostile inputs of all kinds; returns counts and what did not follow the policy."""
    rng, root = random.Random(seed), Path(folder)
    failures: list[str] = []
    counts = {"images": n // 2, "labels and boxes": n // 6, "file names": n // 6}
    counts["documents"] = n - sum(counts.values())
    (root / "documents").mkdir(parents=True)
    os.chdir(root / "documents")
    _feed_images(root / "images", counts["images"], rng, failures)
    for _ in range(counts["labels and boxes"]):
        _feed_labels(rng, failures)
    for i in range(counts["documents"]):
        _feed_document(root / "documents" / f"{i}", rng, failures)
    for _ in range(counts["file names"]):
        name = rng.choice(BAD_NAMES)
        try:
            failures.append(f"{name!r} became {documents.path_inside(root, name, 'a.json')}")
        except DataError:
            pass
    if any(path.name == "pwned" for path in root.rglob("*")):
        failures.append("a document was executed")
    shutil.rmtree(root, ignore_errors=True)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if used > MAX_MEMORY:
        failures.append(f"{used / 1e6:.0f} MB of memory were used")
    notes = {**counts, "most MB of memory": used / 1e6}
    return {"n": n, "failures": failures, "notes": notes}


def _feed_document(path: Path, rng: random.Random, failures: list[str]) -> None:
    """A bad document is refused with DataError that names it."""
    read, create = rng.choice(BAD_DOCUMENTS)
    _create(create(rng), path)
    try:
        failures.append(f"{read.__name__} took {path.name}: {read(path)!r:.80}")
    except DataError as error:
        if str(path) not in str(error):
            failures.append(f"{read.__name__}: not named: {error}")


def _feed_images(root: Path, n: int, rng: random.Random, failures: list[str]) -> None:
    """A data set of n bad images among good ones, read as evaluation reads it."""
    names: dict[str, str] = {}
    for folder in ("train/a", "train/b", "val/a"):
        (root / folder).mkdir(parents=True)
    for name in "ab":
        _create(GOOD_IMAGES["photo"](rng), root / "train" / name / "0.jpg")
    for i in range(2 * n):
        kinds = BAD_IMAGES if i < n else GOOD_IMAGES
        kind = rng.choice(sorted(kinds))
        names[f"val/a/{i}.png"] = kind
        _create(kinds[kind](rng), root / "val" / "a" / f"{i}.png")
    config = apply_overrides(
        runs.photo_config(root), {"data.on_bad_example": "skip", "data.cache": "false"}
    )
    source = open_eval(config)
    good = 0
    with eval_batches(source, config, 16) as batches:
        for batch in batches:
            for index, present, size in zip(
                batch.index, batch.present, batch.original_size, strict=True
            ):
                if index < 0:
                    continue
                name = source.name(int(index))
                kind = names.pop(name)
                if bool(present) != (kind in GOOD_IMAGES):
                    failures.append(f"{kind}: {'read' if present else 'not read'}")
                expected = (SIDE + 7, SIDE) if kind == "rotated by EXIF" else (SIDE, SIDE + 7)
                if present and tuple(size) != expected:
                    failures.append(f"{kind}: {tuple(size)}")
                good += bool(present)
        counted = batches.counts.unreadable, batches.counts.images
    if names or counted != (n, n) or good != n:
        failures.append(f"{len(names)} images were left out; counted {counted} of {n} and {n}")
    for index in range(len(source)):
        try:
            source[index]
        except BadExample as error:
            if source.name(index) not in str(error):
                failures.append(f"not named: {error}")


def _feed_labels(rng: random.Random, failures: list[str]) -> None:
    """A label out of range is refused; boxes go by policy, and their number is exact."""
    label = rng.choice([-1, 4, 2**31, -(2**40)])
    try:
        failures.append(f"label {label} became {check_label(label, runs.CLASSES, 'x')}")
    except BadExample:
        pass
    good = [[1, 1, 5, 5], [0, 0, 30, 20]]
    kinds = {  # box: how many are left of it after clipping
        (float("nan"), 0, 3, 3): 0,
        (0, 0, float("inf"), 3): 0,
        (5, 5, 5, 9): 0,
        (9, 9, 3, 3): 0,
        (-4, 2, 8, 8): 1,
        (40, 40, 50, 50): 0,
        (0, 0, 1e30, 1e30): 1,
    }
    bad = rng.choices(list(kinds), k=rng.randrange(1, 6))
    boxes, labels = np.array([*good, *bad]), np.zeros(2 + len(bad), int)
    crowd = np.zeros(len(boxes), bool)
    wrong = rng.random() < 0.3
    labels[-1] = 99 if wrong else 0
    for policy in ("fail", "drop", "clip"):
        stated = StatedBoxes(boxes, labels, crowd)
        refused = policy == "fail" or (policy == "clip" and wrong)  # no clipping mends a class id
        try:
            checked = check_boxes(stated, (20, 30), BoxPolicy(4, policy), "x")
        except DataError:
            if not refused:
                failures.append(f"{policy}: refused {bad}")
            continue
        kept, ids, counted = checked.boxes, checked.labels, checked.bad
        left = 2
        if policy == "clip":
            left += sum(kinds[b] for b in bad)
        inside = (kept >= 0).all() and (kept[:, 2:] <= [30, 20]).all() and (ids < 4).all()
        if refused or len(kept) != left or counted != len(bad) or not inside:
            failures.append(f"{policy}: {bad} became {kept.tolist()}, {counted} counted")
