"""Small sets of images with an annotation file each, and what is read of them."""

import cv2
import numpy as np

from convmesh.config import defaults
from convmesh.data.formats.registry import open_dataset

SIZE = "<size><width>30</width><height>20</height></size>"
BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
DOG = f"<object><name>dog</name>{BOX}</object>"


def bounds(x0, y0, x1, y1):
    """A <bndbox>."""
    return f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>"


def save_image(path):
    """Writes a black image of 30 x 20 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((20, 30, 3), np.uint8))


def save_xml(path, objects=DOG, filename=""):
    """Writes an XML file with `objects`, a text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f"<filename>{filename}</filename>" if filename else ""
    path.write_text(f"<annotation>{name}{SIZE}{objects}</annotation>", encoding="utf-8")


def config_of(root, **data):
    """A config for detection in `root`, that holds nothing out."""
    config = defaults("detect")
    config.data.root, config.data.val_fraction = str(root), 0.0
    config.data.update(data)
    return config


def read(root, **data):
    """The data set in `root`."""
    return open_dataset(config_of(root, **data))


def images(dataset):
    """The names of the images in each split."""
    sources = {split: dataset.unchecked(split) for split in dataset.splits}
    return {split: [s.name(i) for i in range(len(s))] for split, s in sources.items()}


def problems(dataset):
    """All problems of the files, and of single images, as text."""
    sources = [dataset.unchecked(split) for split in dataset.splits]
    of_images = [p for s in sources for i in range(len(s)) for p in s.stated_problems(i)]
    return [str(problem) for problem in (*dataset.problems, *of_images)]
