"""What the rows of all label files of a YOLO data set look like.

One row cannot tell a polygon of four points from an oriented box, or a corner from a centre; all
rows together can. Each rule asks for several rows, and for (nearly) all of them to agree.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import numpy as np

from convmesh.data.formats.yolo.labels import ROUNDING, Rows
from convmesh.data.problems import Problem

_FEWEST = 3  # rows from which anything is concluded
_FEWEST_BOXES = 5
_FEWEST_POINTS = 10  # rows with points that have no visibility
_SAMPLE = 2000  # rows of points that are looked at
_NEARLY_ALL = 0.95
_NEAR = 0.01  # of the image size
_EXPORT = "export the boxes (class x y width height)"


class Survey:
    """Collects the rows of all label files."""

    def __init__(self) -> None:
        """Begin without any."""
        self._where, self._columns = "", Counter[int]()
        self._boxes, self._labels = list[np.ndarray](), list[np.ndarray]()
        self._points: list[list[float]] = []
        self._sixth: list[dict[str, int]] = []  # of each file: sixth number -> class id
        self._repeated = False

    def add(self, file: str, rows: Rows) -> None:
        """Add the rows of a label file."""
        self._where = self._where or os.path.dirname(file) or "."
        self._columns.update(rows.columns)
        self._labels.append(rows.labels)
        if rows.points:
            self._boxes.append(rows.boxes[[count <= 6 for count in rows.columns]])
            if len(self._lengths_of_points) == 1 and len(self._points) < _SAMPLE:
                self._points += rows.points
        else:
            self._boxes.append(rows.boxes)
        if rows.sixth:
            ids = rows.labels[np.isin(rows.lines, list(rows.sixth))].tolist()
            self._sixth.append(dict(zip(rows.sixth.values(), ids, strict=True)))
            self._repeated |= len(self._sixth[-1]) < len(rows.sixth)

    @property
    def _lengths_of_points(self) -> list[int]:
        """How many numbers the rows have that are no boxes."""
        return [count for count in self._columns if count > 6]

    @property
    def has_track_ids(self) -> bool:
        """Whether the sixth numbers are certainly the ids of tracks.

        These are integers that count from 0 or 1, no two of an image are the same, and some occur
        in several images, always with one class. Angles and confidences are not like that.
        """
        if not self._sixth or self._repeated:
            return False
        pairs = {pair for file in self._sixth for pair in file.items()}
        ids = {text for text, _ in pairs}
        if not all(text.isdecimal() for text in ids) or len(ids) < len(pairs):
            return False
        return (
            1 < max(map(int, ids)) <= 2 * len(ids) + 10
            and sum(map(len, self._sixth)) > len(ids)
            and any(len(file) > 1 for file in self._sixth)
        )

    def problems(self, num_names: int, named_by: str) -> list[Problem]:
        """Return what the rows look like, if it is not what was wanted.

        num_names: how many classes have a name. named_by: where their names are stated.
        """
        found = [
            self._error(what)
            for what in (self._ids_from_1(num_names, named_by), self._boxes_in_other_form())
            if what
        ]
        if self.has_track_ids:
            what = f"{self._columns[6]} rows have a sixth number, a track id; it is not used"
            found.append(Problem(self._where, what, error=False))
        return [*found, *self._about_points()]

    def _error(self, what: str) -> Problem:
        return Problem(self._where, what)

    def _ids_from_1(self, num_names: int, named_by: str) -> str:
        """Return the error that class ids count from 1, or ''."""
        labels = np.concatenate([np.zeros(0, np.int64), *self._labels])
        if len(labels) < _FEWEST or labels.min() < 1 or labels.max() != num_names:
            return ""
        return (
            f"the class ids start at 1: no row has id 0, and {(labels == num_names).sum()} have"
            f" {num_names}, but the {num_names} names in {named_by} have the ids"
            f" 0..{num_names - 1}; subtract 1 from every id, or put a name for id 0 first"
        )

    def _boxes_in_other_form(self) -> str:
        """Return the error that boxes are not centre and size in fractions, or ''."""
        boxes = np.concatenate([np.zeros((0, 4)), *self._boxes])
        if len(boxes) < _FEWEST_BOXES:
            return ""
        # As written: x, y and width, height.
        first, second = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        beyond = ((first > 1) | (second > 1)).any(1)
        if beyond.mean() > 0.5:
            return (
                f"{beyond.sum()} of {len(boxes)} boxes have coordinates above 1: in pixels?"
                " Coordinates must be fractions of the image size"
            )
        outside = ((boxes < 0) | (boxes > 1)).any(1).mean()
        ordered = (second > first - ROUNDING).all(1).mean() >= _NEARLY_ALL
        share = f"{round(100 * outside)}% of the boxes would leave their images"
        wanted = "write the centre x y and width height"
        if outside > 0.5 and ordered:
            return f"the rows look like corners, class x0 y0 x1 y1: {share}; {wanted}"
        if outside > 0.1 and (first + second <= 1 + ROUNDING).all():
            return f"the rows look like class, upper left corner, size: {share}; {wanted}"
        return ""

    def _about_points(self) -> Iterator[Problem]:
        """Yield what rows are that all have the same number of coordinates, more than a box."""
        if len(self._lengths_of_points) != 1 or len(self._points) < _FEWEST:
            return
        rows = np.array(self._points)
        count = rows.shape[1]
        others = len(self._columns) > 1
        numbers = f"every row{' that is no box' if others else ''} has {count} numbers"
        if count == 7 and _has_confidence_and_id(rows):
            what = f"{numbers}, which look like a box, a confidence and a track id, not a triangle"
            yield self._error(f"{what}; remove the last two")
        elif count == 9 and _is_parallelogram(rows).mean() >= _NEARLY_ALL:
            if not _is_upright(rows).all():
                what = f"all {self._columns[9]} rows look like oriented boxes (class and 4 corners)"
                what += "; the upright boxes around them are used"
                yield Problem(self._where, what, error=False)
        elif count > 6 and _has_keypoints(rows):
            what = f"{numbers}, which look like a box and keypoints (pose), not a polygon"
            yield self._error(f"{what}; {_EXPORT}")
        elif count == 9 and not _is_upright(rows).all():
            what = f"all {self._columns[9]} rows have 4 corners; the upright boxes around them are"
            yield Problem(self._where, f"{what} used", error=False)
        elif count > 9:
            what = f"{numbers}: taken for polygons of {count // 2} points, the boxes around them"
            what += f" are used; if they are keypoints (pose), {_EXPORT}"
            yield Problem(self._where, what, error=False)


# Rows of points: float64 [n, c], as written.


def _has_confidence_and_id(rows: np.ndarray) -> bool:
    confidence, track = rows[:, 5], rows[:, 6]
    return bool(
        ((confidence > 0) & (confidence <= 1)).all()
        and (track == np.round(track)).all()
        and (_points_inside(rows, rows[:, 1:3, None]) & _is_inside(rows)).all()
    )


def _has_keypoints(rows: np.ndarray) -> bool:
    """Return whether rows are class, box, and points in it, with or without visibility."""
    points = rows[:, 5:]
    if points.shape[1] % 3 == 0:
        triples = points.reshape(len(rows), -1, 3)
        seen = triples[..., 2]
        confident = np.isin(seen, (0, 1, 2)) | ((seen >= 0) & (seen <= 1))
        if confident.all() and _mostly_in_box(rows, triples[..., :2], seen > 0):
            return True
    if points.shape[1] % 2 or len(rows) < _FEWEST_POINTS:
        return False
    pairs = points.reshape(len(rows), -1, 2)
    return _mostly_in_box(rows, pairs, (pairs != 0).any(-1))


def _mostly_in_box(rows: np.ndarray, points: np.ndarray, seen: np.ndarray) -> bool:
    """Return whether boxes are in the image and the points [n, k, 2] that are seen in the boxes."""
    inside = _points_inside(rows, points.transpose(0, 2, 1))
    return bool(
        seen.any() and inside[seen].mean() >= _NEARLY_ALL and _is_inside(rows).mean() >= _NEARLY_ALL
    )


def _points_inside(rows: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return bool [n, k]: whether points [n, 2, k] are in the box that each row begins with."""
    centre, size = rows[:, 1:3, None], rows[:, 3:5, None]
    return np.asarray((np.abs(points - centre) <= size / 2 + _NEAR).all(1))


def _is_inside(rows: np.ndarray) -> np.ndarray:
    """Return bool [n, 1]: whether the box that each row begins with is in the image."""
    centre, size = rows[:, 1:3], rows[:, 3:5]
    low, high = centre - size / 2, centre + size / 2
    inside = (size > 0) & (low >= -_NEAR) & (high <= 1 + _NEAR)
    return np.asarray(inside.all(1, keepdims=True))


def _is_parallelogram(rows: np.ndarray) -> np.ndarray:
    """Return bool [n]: whether the four points are. A rectangle is, in fractions of the image."""
    a, b, c, d = (rows[:, i : i + 2] for i in (1, 3, 5, 7))
    return np.asarray((np.abs(a + c - b - d) <= _NEAR).all(1))


def _is_upright(rows: np.ndarray) -> np.ndarray:
    """Return bool [n]: whether the four points are the corners of an upright box."""
    x, y = np.sort(rows[:, 1::2]), np.sort(rows[:, 2::2])
    pairs = np.abs(np.concatenate([x[:, ::2] - x[:, 1::2], y[:, ::2] - y[:, 1::2]], 1))
    return np.asarray((pairs <= _NEAR / 10).all(1))
