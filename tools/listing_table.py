"""Seconds and memory of opening class folders with millions of images, first and later.

    python tools/listing_table.py --files 14000000 --classes 21000

The folders are made up: what the file system answers is computed, so that neither its speed nor
14 million files are needed. Each start is a process of its own, which opens the data set, holds
images out for evaluation, computes the identities, the survey and the warnings about its files, and
draws the order of an epoch: what training does before it reads an image. Memory is the largest
resident size, which includes mapped files, that all processes share.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

ROOT = Path("/made-up")


class Disk:
    """ROOT/train/CLASS/IMAGE.JPEG: answers of the file system."""

    def __init__(self, files: int, classes: int):
        """So many images, as evenly as possible over so many classes."""
        self._each = [files // classes + (i < files % classes) for i in range(classes)]
        self._names = {f"n{i:08d}": i for i in range(classes)}

    def scandir(self, place) -> "Entries":
        """The entries of a folder."""
        path = Path(place)
        if path == ROOT:
            return Entries([Entry("train", f"{ROOT}/train", True)])
        if path == ROOT / "train":
            return Entries(Entry(name, f"{path}/{name}", True) for name in self._names)
        number = self._names[path.name]
        names = (f"{path.name}_{i}.JPEG" for i in range(self._each[number]))
        return Entries(Entry(name, "", False) for name in names)

    def stat(self, path) -> SimpleNamespace:
        """The time of a folder, an hour ago."""
        return SimpleNamespace(st_mtime_ns=1_700_000_000_000_000_000, st_ctime_ns=0, st_ino=0)


class Entries:
    """The entries of a folder, as of `os.scandir`."""

    def __init__(self, entries):
        self._entries = entries

    def __iter__(self):
        return iter(self._entries)

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        pass


class Entry:
    """A file or a folder, as an `os.DirEntry`."""

    __slots__ = ("name", "path", "_folder")

    def __init__(self, name: str, path: str, folder: bool):
        self.name, self.path, self._folder = name, path, folder

    def is_symlink(self) -> bool:
        """No entry is a link."""
        return False

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return self._folder


def start(files: int, classes: int) -> None:
    """Opens the data set; prints seconds and megabytes of each part."""
    from convmesh.config import defaults
    from convmesh.data import order, splits
    from convmesh.data.checks.inspection import warnings_at_start
    from convmesh.data.formats import files as format_files
    from convmesh.data.formats.folder import dataset, folder_index, folder_tree
    from convmesh.data.record import identity, truth_identity
    from convmesh.data.survey import survey

    disk = Disk(files, classes)
    fake = SimpleNamespace(**{name: getattr(os, name) for name in dir(os) if name[:1] != "_"})
    fake.scandir, fake.stat = disk.scandir, disk.stat
    fake.path = SimpleNamespace(**{n: getattr(os.path, n) for n in dir(os.path) if n[0] != "_"})
    fake.path.realpath = lambda path: str(path)
    config = defaults("classify")
    config.data.root, config.data.format = str(ROOT), "folder"
    for module in (folder_tree, folder_index, format_files):
        mock.patch.object(module, "os", fake).start()
    mock.patch.object(dataset, "root_folder", lambda config: ROOT).start()
    mock.patch.object(Path, "is_dir", lambda path: True).start()
    since = time.perf_counter()

    def report(part: str) -> None:
        nonlocal since
        now = time.perf_counter()
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| {part} | {now - since:.1f} s | {megabytes:,.0f} MB |", flush=True)
        since = now

    report("imports")
    data = splits.open_data(config)
    source = data.train
    report(f"opened {len(source):,} images to train on, {len(data.eval):,} held out")
    identity(source)
    report("identity")
    survey(source)
    report("survey")
    assert data.dataset is not None
    warnings_at_start(data.dataset, config)
    report("warnings about the files")
    truth_identity(data.eval)
    report("identity of what is evaluated")
    order.example_at(0, len(source), seed=0)
    report("order of an epoch")


def main() -> None:
    """Prints the table of a first and of a later start."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--files", type=int, default=14_000_000)
    parser.add_argument("--classes", type=int, default=21_000)
    parser.add_argument("--start", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.start:
        return start(args.files, args.classes)
    command = [sys.executable, __file__, "--start"]
    command += [f"--files={args.files}", f"--classes={args.classes}"]
    with tempfile.TemporaryDirectory() as cache:
        for name in ("first", "later"):
            print(f"| {name} start | took | most memory so far |\n|---|---|---|", flush=True)
            subprocess.run(command, check=True, env=os.environ | {"CONVMESH_CACHE": cache})


if __name__ == "__main__":
    main()
