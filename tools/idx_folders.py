"""Writes a data set in the layout of MNIST (idx files) as folders of classes, which convmesh reads.

    python tools/idx_folders.py FOLDER OUTPUT

FOLDER holds train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz and the same of t10k, or the
files without .gz; OUTPUT gets train/CLASS/NUMBER.png and test/CLASS/NUMBER.png. Classes are named
by their numbers.
"""

import argparse
import gzip
from pathlib import Path

import cv2
import numpy as np

SPLITS = {"train": "train", "t10k": "test"}


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in an idx file: a header with number and sizes of its axes, then bytes."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    axes = data[3]
    shape = np.frombuffer(data, ">i4", axes, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def find(folder: Path, stem: str) -> Path:
    """The file of this name, with or without .gz."""
    found = sorted(folder.glob(f"{stem}*"))
    if not found:
        raise SystemExit(f"{folder}: no file {stem}*")
    return found[0]


def main() -> None:
    """Writes both splits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    for name, split in SPLITS.items():
        images = read_idx(find(args.folder, f"{name}-images"))
        labels = read_idx(find(args.folder, f"{name}-labels"))
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = args.output / split / str(label) / f"{number:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not cv2.imwrite(str(path), image):
                raise SystemExit(f"{path}: cannot be written")
        print(f"{args.output / split}: {len(images)} images")


if __name__ == "__main__":
    main()
