"""Small COCO data sets for tests."""

import json

import cv2
import numpy as np

from convmesh.config import defaults
from convmesh.data.formats.registry import open_dataset

CATEGORIES = [{"id": 7, "name": "dog", "supercategory": "animal"}, {"id": 3, "name": "cat"}]


def picture(path, size=(20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((*size, 3), np.uint8))


def image(number, name, **fields):
    return {"id": number, "file_name": name, "height": 20, "width": 30} | fields


def box(number, image_id, xywh=(1, 2, 3, 4), category_id=7, **fields):
    made = {"id": number, "image_id": image_id, "bbox": list(xywh), "category_id": category_id}
    return made | fields


def write(path, images=(), boxes=(), categories=CATEGORIES):
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"images": list(images), "annotations": list(boxes), "categories": categories}
    path.write_text(json.dumps(document))


def simple(root, **fields):
    """A set of one image with one box; the fields given replace those of the box."""
    picture(root / "train" / "a.jpg")
    write(root / "annotations" / "train.json", [image(1, "a.jpg")], [box(1, 1, **fields)])
    return root


def config(root, **data):
    made = defaults("detect")
    made.data.root = str(root)
    made.data.val_fraction, made.data.cache = 0.0, "false"
    made.data.update(data)
    return made


def warnings(dataset):
    return [str(problem) for problem in dataset.problems if not problem.error]


def stated(root, **fields):
    return open_dataset(config(simple(root, **fields))).unchecked("train").annotated(0)
