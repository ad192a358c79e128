"""Small VOC data sets, written file by file."""

import cv2
import numpy as np

from convmesh.config import defaults

OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)
DOG, CAT = ("dog", 1, 2, 20, 18), ("cat", 3, 4, 9, 9)


def noise(seed, size=(20, 30)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def write(root, name, objects=(), image=None, stated=None):
    """Writes an image (noise by default) and its annotation; objects: (class, x0, y0, x1, y1)."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    image = noise(sum(map(ord, name))) if image is None else image
    cv2.imwrite(str(root / "JPEGImages" / f"{name}.png"), image)
    height, width = stated or image.shape[:2]
    text = f"<annotation><size><width>{width}</width><height>{height}</height></size>"
    text += "".join(OBJECT.format(kind, 0, *box) for kind, *box in objects) + "</annotation>"
    (root / "Annotations" / f"{name}.xml").write_text(text)


def lists(root, **splits):
    for split, names in splits.items():
        (root / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{n}\n" for n in names))


def write_set(root):
    """A set without faults: a, b, c are trained on, d and e (without boxes) evaluated."""
    write(root, "a", [DOG, CAT])
    write(root, "b", [DOG])
    write(root, "c", [CAT])
    write(root, "d", [CAT, DOG])
    write(root, "e")
    lists(root, train="abc", test="de")


def config_for(root, task="detect", **changes):
    config = defaults(task)
    config.data.root = str(root)
    config.data.update(changes)
    return config
