"""Plain images, and what is found in a picture that was drawn on one."""

import cv2
import numpy as np


def plain(height, width, value=128):
    return np.full((height, width, 3), value, np.uint8)


def count(picture, color, tolerance=0):
    """Pixels of that colour. Letters are soft at their edges, so text needs a tolerance."""
    apart = np.abs(picture.astype(int) - np.array(color)).max(axis=-1)
    return int((apart <= tolerance).sum())


def record_texts(monkeypatch):
    """The list that each text is added to when it is drawn."""
    written, put = [], cv2.putText

    def record(canvas, text, *rest):
        written.append(text)
        return put(canvas, text, *rest)

    monkeypatch.setattr(cv2, "putText", record)
    return written


def read(path):
    """A PNG file as RGB."""
    return cv2.imread(str(path))[:, :, ::-1]
