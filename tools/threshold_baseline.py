"""A baseline without learning on DigitScenes: thresholds, components, nearest neighbour.

    python tools/threshold_baseline.py [--scenes 500] [--segment colours|edges|both]

Regions of one colour are segmented, and each region of a plausible size is compared with every
training digit. `colours` quantises colours by k-means, with few and with many centres, and takes
the connected components of each centre. `edges` links neighbouring pixels that differ little, at
three thresholds, so that a digit with a gradual change of colour stays in one region. A region's
mask, resized to 8 x 8, gets the label of the nearest training digit, which is also tried rotated
and sheared a little; the similarity is the score. Overlapping regions are suppressed greedily.
Prints COCO's AP and AP50.
"""

import argparse
import contextlib
import io

import cv2
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from convmesh.data.digit_scenes import digits, scenes

GRID = 8


def colour_regions(image):
    """Yield label maps [h, w] of regions with one quantised colour."""
    smooth = cv2.bilateralFilter(image, 5, 40, 3)
    pixels = cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.float32)
    for centres in (4, 8, 14):
        cv2.setRNGSeed(0)
        stop = (cv2.TERM_CRITERIA_MAX_ITER + cv2.TERM_CRITERIA_EPS, 12, 1.0)
        _, nearest, _ = cv2.kmeans(pixels, centres, None, stop, 1, cv2.KMEANS_PP_CENTERS)
        nearest = nearest.reshape(image.shape[:2])
        for k in range(centres):
            yield cv2.connectedComponents((nearest == k).astype(np.uint8), connectivity=4)[1]


def edge_regions(image):
    """Yield label maps [h, w] of regions without a colour edge inside."""
    planes = image.astype(np.int32)
    size = planes.shape[0] * planes.shape[1]
    at = np.arange(size).reshape(planes.shape[:2])
    for threshold in (6, 12, 20):
        ends = []
        for a, b, i, j in (
            (planes[:, 1:], planes[:, :-1], at[:, 1:], at[:, :-1]),
            (planes[1:], planes[:-1], at[1:], at[:-1]),
        ):
            near = np.abs(a - b).max(2) <= threshold
            ends.append(np.stack([i[near], j[near]]))
        i, j = np.concatenate(ends, 1)
        graph = coo_array((np.ones(len(i), np.int8), (i, j)), (size, size))
        labels = connected_components(graph, directed=False)[1].reshape(at.shape)
        # Antialiased pixels at a digit's edge belong to no region. 0 is the background in OpenCV.
        yield labels + 1


def descriptor(mask):
    """A mask resized to 8 x 8 with its aspect ratio, as a vector of length 1."""
    height, width = mask.shape
    side = max(height, width)
    square = np.zeros((side, side), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = mask
    small = cv2.resize(square, (GRID, GRID), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (3, 3), 0.6).reshape(-1)
    return small / max(float(np.linalg.norm(small)), 1e-6)


def training_digits():
    """Return descriptors [n, 64] and labels [n] of the training digits, each in five poses."""
    images, labels = digits.source_digits()
    chosen = digits.DIGIT_RANGES["train"]
    found = []
    for digit in images[chosen.start : chosen.stop]:
        large = cv2.resize(
            np.pad(digit, 3).astype(np.float32), (84, 84), interpolation=cv2.INTER_LINEAR
        )
        for angle, shear in ((0, 0), (-10, 0), (10, 0), (0, -0.12), (0, 0.12)):
            turn = cv2.getRotationMatrix2D((41.5, 41.5), angle, 1)
            turn = turn @ np.array([[1, shear, -shear * 41.5], [0, 1, 0], [0, 0, 1]])
            ink = cv2.warpAffine(large, turn, (84, 84)) > 6.5
            x0, y0, x1, y1 = digits.tight_box(ink)
            found.append(descriptor(ink[y0:y1, x0:x1]))
    return np.array(found), np.repeat(labels[chosen.start : chosen.stop], 5)


def regions(label_maps):
    """Yield (box x0 y0 x1 y1, mask) of the regions whose size is that of a digit."""
    for labels in label_maps:
        top = labels.max() + 1
        area = np.bincount(labels.reshape(-1), minlength=top)
        area[0] = 0
        for k in np.flatnonzero((area >= 24) & (area <= 9000)):
            rows, columns = np.nonzero(labels == k)
            y0, y1, x0, x1 = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
            if 12 <= max(y1 - y0, x1 - x0) <= 114:
                mask = np.zeros((y1 - y0, x1 - x0), np.float32)
                mask[rows - y0, columns - x0] = 1
                yield (x0, y0, x1, y1), mask


def detect(image, methods, known, known_labels):
    """Return boxes [n, 4] x0 y0 x1 y1, labels [n] and scores [n]."""
    found = [region for method in methods for region in regions(method(image))]
    if not found:
        return np.zeros((0, 4)), np.zeros(0, int), np.zeros(0)
    boxes = np.array([box for box, _ in found], float)
    similarity = np.array([descriptor(mask) for _, mask in found]) @ known.T
    nearest, scores = similarity.argmax(1), similarity.max(1)
    order, kept = np.argsort(-scores, kind="stable"), []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for i in order:
        sides = np.minimum(boxes[i, 2:], boxes[kept, 2:]) - np.maximum(
            boxes[i, :2], boxes[kept, :2]
        )
        both = np.clip(sides, 0, None).prod(-1) if kept else np.zeros(0)
        if not (both > 0.5 * (areas[i] + areas[kept] - both)).any():
            kept.append(int(i))
    # Half of the antialiased edge is missing: a region is about half a pixel short on each side.
    edge = np.array([-0.5, -0.5, 0.5, 0.5])
    return boxes[kept] + edge, known_labels[nearest[kept]], scores[kept]


def evaluate(count, methods):
    """Return AP and AP50 over the first `count` scenes of the test split."""
    known, known_labels = training_digits()
    images, truth, detections = [], [], []
    for index in range(count):
        image, boxes, labels, _ = scenes.compose(0, "test", index)
        images.append({"id": index, "width": scenes.SIZE, "height": scenes.SIZE})
        for (x0, y0, x1, y1), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": index,
                    "category_id": label,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                }
            )
        for (x0, y0, x1, y1), label, score in zip(
            *detect(image, methods, known, known_labels), strict=True
        ):
            detections.append(
                {
                    "image_id": index,
                    "category_id": int(label),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "score": float(score),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": images,
            "annotations": truth,
            "categories": [{"id": k, "name": str(k)} for k in range(10)],
        }
        coco.createIndex()
        scored = COCOeval(coco, coco.loadRes(detections), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return scored.stats[0], scored.stats[1]


def main():
    """Score the baseline and print it."""
    parser = argparse.ArgumentParser(description="Thresholds and nearest neighbour on DigitScenes.")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--segment", choices=["colours", "edges", "both"], default="both")
    chosen = parser.parse_args()
    methods = {"colours": [colour_regions], "edges": [edge_regions]}
    methods["both"] = methods["colours"] + methods["edges"]
    ap, ap50 = evaluate(chosen.scenes, methods[chosen.segment])
    print(f"{chosen.segment}, {chosen.scenes} test scenes: AP {ap:.3f}, AP50 {ap50:.3f}")


if __name__ == "__main__":
    main()
