"""Small data sets in YOLO's layout, for the tests of its modules."""

import cv2
import numpy as np

from convmesh.config import defaults

ROW = "1 0.5 0.25 0.2 0.1"  # in 30 x 20: 12 4 18 6


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((20, 30, 3), np.uint8))


def text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def config(root, **data):
    made = defaults("detect")
    made.data.root = str(root)
    made.data.val_fraction, made.data.cache = 0.0, "false"
    made.data.update(data)
    return made


def simple(root, *rows, names=("cat", "dog")):
    """A set of one image with these rows."""
    picture(root / "images" / "a.jpg")
    text(root / "labels" / "a.txt", *rows)
    text(root / "classes.txt", *names)
    return config(root)


def warnings(dataset):
    return [str(problem) for problem in dataset.problems if not problem.error]


def annotated(root, image="a.jpg", label="a.txt", rows=(ROW,)):
    """An image and its label file below `root`."""
    picture(root / image)
    text(root / label, *rows)


def problems(dataset, split="train"):
    """All problems of the files, errors too, and those of the images of a split."""
    source = dataset.unchecked(split)
    images = [p for i in range(len(source)) for p in source.stated_problems(i)]
    return [str(problem) for problem in (*dataset.problems, *images)]
