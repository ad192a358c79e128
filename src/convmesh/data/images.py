"""From the bytes of an image file to upright RGB pixels.

Pillow reads the header (size, kind, orientation) and OpenCV the pixels, about twice as fast, and a
large JPEG at a half, quarter or eighth of its size, 5 to 10 times as fast. What OpenCV reads in
another way or not at all (CMYK, 16 bits, GIF, TIFF, WebP) Pillow reads.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from convmesh.data.documents import read_bytes
from convmesh.data.record import BadExample

# What a folder may hold as images, in lower case.
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .dib .gif .tif .tiff"
    " .ppm .pgm .pbm .pnm .jp2 .avif .tga".split()
)
# Those alone: Pillow also knows some that run a program of the file's (EPS) or decode it before its
# size is known (ICO).
_FORMATS = "JPEG PNG WEBP BMP DIB GIF TIFF PPM JPEG2000 AVIF TGA".split()

# A file of a few kilobytes can claim a picture that fills the memory. This is also where Pillow
# starts to warn: 89 million pixels, 268 MB decoded.
MAX_PIXELS = 89_478_485
MAX_BYTES = 2**30  # of a file; MAX_PIXELS of 16 bits and four channels are 0.7 GB

_ORIENTATION = 0x0112
_CV2_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
# The flags of "grayscale" are those of the size alone; RGB comes from _CV2_FLAGS.
_CV2_REDUCED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
# From (height, width) of an upright image to how many times smaller it may be decoded.
Shrink = Callable[[int, int], float]
# The formats and Pillow modes that OpenCV decodes to the same pixels.
_CV2_READS = {
    "JPEG": {"L", "RGB"},
    "PNG": {"1", "L", "LA", "P", "RGB", "RGBA"},
}


def decode(data: bytes, name: str, shrink: Shrink | None = None) -> np.ndarray:
    """Return the image in `data` as uint8 [height, width, 3]: RGB, turned upright by its EXIF tag.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size (rounded up) where `shrink` allows it.

    Greyscale is repeated; alpha is left out (the colour under it is kept); 16 bits become the upper
    8; CMYK is converted without colour profiles; of an animation the first frame is taken.
    Raises BadExample naming `name` if `data` is empty, no image, cut short, or larger than
    MAX_PIXELS.
    """
    return _upright(data, name, shrink)[0]


def _upright(data: bytes, name: str, shrink: Shrink | None) -> tuple[np.ndarray, int]:
    """Return what `decode` does, and the EXIF orientation by which the image was turned."""
    if not data:
        raise BadExample(f"{name}: the file is empty")
    try:
        header = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        raise BadExample(f"{name}: not an image, or of a kind that cannot be read") from None
    except Image.DecompressionBombError as error:
        raise BadExample(f"{name}: {error}") from None
    except Exception as error:  # a broken header fails in many ways, none of them ours
        raise BadExample(f"{name}: broken image header: {error}") from None
    width, height = header.size
    if width * height > MAX_PIXELS:
        raise BadExample(
            f"{name}: {width} x {height} pixels are more than the limit of {MAX_PIXELS}"
        )
    times = 1
    if shrink is not None and header.format == "JPEG":
        turned = _orientation(header, data) in (5, 6, 7, 8)
        allowed = shrink(*((width, height) if turned else (height, width)))
        times = max(times for times in _CV2_REDUCED if times <= max(1, allowed))
    image = _with_cv2(data, header, times)
    if image is None:  # another kind, or damaged: Pillow then says how
        image = _with_pillow(header, name)
    # Asked for last: Pillow turns a TIFF itself when it loads it, and then takes the tag away.
    orientation = _orientation(header, data)
    return turn_upright(image, orientation), orientation


def read_image(path: str, shrink: Shrink | None = None) -> np.ndarray:
    """Return the image file at `path`, as `decode` does. Raises BadExample naming the file."""
    return decode(_read(path), str(path), shrink)


def read_turned(path: str) -> tuple[np.ndarray, int]:
    """Return the image file at `path`, upright, and the EXIF orientation it was turned by."""
    return _upright(_read(path), str(path), None)


def _read(path: str) -> bytes:
    try:
        return read_bytes(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise BadExample(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def turn_upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return `image` [h, w, 3] turned as its EXIF `orientation` (1..8) asks, else as it is."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)  # the file's rows are the picture's columns
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def turn_boxes(boxes: np.ndarray, size: tuple[int, int], orientation: int) -> np.ndarray:
    """Return `boxes` [n, 4] on pixels as stored, of `size` (h, w), as they lie once upright."""
    height, width = size
    x0, y0, x1, y1 = np.reshape(boxes, (-1, 4)).T
    if orientation in (5, 6, 7, 8):
        x0, y0, x1, y1, height, width = y0, x0, y1, x1, width, height
    if orientation in (2, 3, 6, 7):
        x0, x1 = width - x1, width - x0
    if orientation in (3, 4, 7, 8):
        y0, y1 = height - y1, height - y0
    return np.stack([x0, y0, x1, y1], 1)


def _orientation(header: Image.Image, data: bytes) -> int:
    """Return the EXIF orientation; 1 where there is none or the tag is damaged."""
    # Pillow would decode a whole PNG to look for a tag behind the pixels.
    if header.format == "PNG" and b"eXIf" not in data and b"Raw profile type exif" not in data:
        return 1
    try:
        return int(header.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block says nothing against the pixels
        return 1


def _with_cv2(data: bytes, header: Image.Image, times: int) -> np.ndarray | None:
    """Return the pixels as stored, `times` smaller, or None where that is left to Pillow."""
    if header.mode not in _CV2_READS.get(header.format or "", ()):
        return None
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _CV2_FLAGS | _CV2_REDUCED[times])
    except cv2.error:
        return None
    size = -(-header.height // times), -(-header.width // times)
    if image is None or image.shape[:2] != size:
        return None
    return image


def _with_pillow(header: Image.Image, name: str) -> np.ndarray:
    try:
        header.load()
        if header.mode.startswith("I;16"):
            grey = (np.asarray(header).astype(np.uint16) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if header.mode in ("I", "F"):
            raise BadExample(f"{name}: 32 bits a pixel; save it with 8 or 16")
        return np.asarray(header.convert("RGB"))
    except BadExample:
        raise
    except Exception as error:  # Pillow's plugins raise whatever their parser meets
        raise BadExample(f"{name}: cut short or damaged: {error}") from None
