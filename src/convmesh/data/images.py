"""Decoding of image files into upright RGB pixels.

Pillow reads the header (size, format, orientation), but for JPEGs without any peculiarity. OpenCV
decodes the pixels about twice as fast as Pillow, and a large JPEG at a half, quarter or eighth of
its size 5 to 10 times as fast. Pillow decodes what OpenCV would decode differently or not at all
(CMYK, 16 bits, GIF, TIFF, WebP).
"""

from __future__ import annotations

import io
import re
import struct

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from convmesh.data.documents import read_bytes
from convmesh.data.record import BadExample, Shrink
from convmesh.data.stores import mirrored_set

# File name suffixes of images, in lower case.
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .dib .gif .tif .tiff"
    " .ppm .pgm .pbm .pnm .jp2 .avif .tga".split()
)
# Those of images in formats that are not read, so that a message can name them.
UNREAD_SUFFIXES = frozenset(
    ".heic .heif .hif .svg .psd .ico .eps .pdf .jxl .exr .hdr .dcm"
    " .cr2 .cr3 .nef .arw .dng .raf .orf .rw2".split()
)
# How files in such formats begin, whatever they are called. A telephone's .jpg may be HEIC.
_UNREAD_MAGIC = {
    rb"....ftyp(hei[cx]|hev[cx]|mif1|msf1)": "HEIC",
    rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg[^>]*>\s*)?<svg": "SVG",
    rb"8BPS": "PSD",
    rb"\x00\x00\x01\x00": "ICO",
    rb"%!PS": "EPS",
    rb"%PDF": "PDF",
    rb"\xff\x0a|\x00\x00\x00\x0cJXL ": "JPEG XL",
    rb"\x76\x2f\x31\x01": "OpenEXR",
    rb"#\?RADIANCE": "Radiance HDR",
    rb".{128}DICM": "DICOM",
}
# The formats that Pillow may open. Others run a program in the file (EPS) or decode pixels before
# the size is known (ICO).
_FORMATS = "JPEG PNG WEBP BMP DIB GIF TIFF PPM JPEG2000 AVIF TGA".split()

# A file of a few kilobytes can declare an image that fills the memory. Pillow also warns from here
# on: 89 million pixels, 268 MB decoded.
MAX_PIXELS = 89_478_485
MAX_BYTES = 2**30  # of a file; MAX_PIXELS with four channels of 16 bits are 0.7 GB

_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 0x0102
# The largest value of a PGM or PPM, the third number of its header, which may hold comments.
_PPM_LARGEST = rb"P[2356](?:\s+(?:#[^\n]*\n\s*)*\d+){2}\s+(?:#[^\n]*\n\s*)*(\d+)\s"
# Values of 14 bits in 16 are below a quarter of the scale, which is read as below this.
_DARK = 64
_CV2_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
# OR-ed with _CV2_FLAGS, which select colour, these flags only reduce the size.
_CV2_REDUCED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
# Markers of JPEG segments: of those that state the size (baseline, extended, progressive), and of
# others that any file may have (quantization, Huffman tables, restart interval, comment).
_JPEG_SIZE = frozenset((b"\xff\xc0", b"\xff\xc1", b"\xff\xc2"))
_MOST_SEGMENTS = 64  # of a file that is read here
_JPEG_PLAIN = frozenset((b"\xff\xdb", b"\xff\xc4", b"\xff\xdd", b"\xff\xfe"))
_JPEG_NAMED = {b"\xff\xe0": b"JFIF\0", b"\xff\xe2": b"ICC_PROFILE\0"}
# The formats and Pillow modes that OpenCV decodes to the same pixels as Pillow.
_CV2_READS = {
    "JPEG": {"L", "RGB"},
    "PNG": {"1", "L", "LA", "P", "RGB", "RGBA"},
}


def decode(data: bytes, name: str, shrink: Shrink | None = None) -> np.ndarray:
    """Return the image in `data` as uint8 [height, width, 3] RGB, upright according to EXIF.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size (rounded up) if `shrink` allows it.

    Greyscale is repeated in all channels; alpha is dropped, not blended; 16 bits are reduced to the
    upper 8; CMYK is converted without colour profiles; an animation gives its first frame.
    Raises BadExample with `name` if `data` is empty, not an image, truncated, or larger than
    MAX_PIXELS.
    """
    return _decode_upright(data, name, shrink)[0]


def _decode_upright(data: bytes, name: str, shrink: Shrink | None) -> tuple[np.ndarray, int]:
    """Return the image as `decode` does, and its EXIF orientation."""
    if not data:
        raise BadExample(f"{name}: the file is empty")
    if plain := plain_jpeg_size(data):
        image = _with_cv2(data, plain, _reduction(shrink, plain))
        if image is not None:
            return image, 1
    header = _open_header(data, name)
    size = header.height, header.width
    times = 1
    if shrink is not None and header.format == "JPEG":
        transposed = _orientation(header, data) in (5, 6, 7, 8)
        times = _reduction(shrink, size[::-1] if transposed else size)
    image = _with_cv2(data, size, times) if not plain and _cv2_reads(header) else None
    if image is None:  # another format, or damaged: then Pillow gives the reason
        image = _with_pillow(header, name)
    # Read last: Pillow rotates a TIFF itself when it loads it, and removes the tag.
    orientation = _orientation(header, data)
    return turn_upright(image, orientation), orientation


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return (height, width) of a JPEG whose segments are all of the usual kinds; else None.

    Such a file has no orientation, no second picture, and one or three channels of 8 bits, and is
    within MAX_PIXELS. Between decoded images Pillow takes a tenth of the decoding for the header.
    (Pillow also refuses some tables in it that say what cannot be, and OpenCV decodes.)
    """
    if data[:2] != b"\xff\xd8":
        return None
    at, size = 2, None
    for _ in range(_MOST_SEGMENTS):
        marker, length = data[at : at + 2], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == b"\xff\xda":  # the pixels
            return size
        if marker in _JPEG_SIZE and len(data) >= at + 10:
            depth, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            size = height, width
            if depth != 8 or channels not in (1, 3) or not 0 < height * width <= MAX_PIXELS:
                return None
        elif marker in _JPEG_NAMED:  # another name may say that there are several pictures
            name = _JPEG_NAMED[marker]
            if length < 16 or data[at + 4 : at + 4 + len(name)] != name:
                return None
        elif marker not in _JPEG_PLAIN:
            return None
        at += 2 + length
    return None


def _reduction(shrink: Shrink | None, size: tuple[int, int]) -> int:
    """Return the factor by which to decode an image of `size` (height, width) smaller."""
    allowed = 1 if shrink is None else max(1, shrink(*size))
    return max(times for times in _CV2_REDUCED if times <= allowed)


def _open_header(data: bytes, name: str) -> Image.Image:
    """Return the image with its header parsed and no pixels decoded. Raises BadExample."""
    try:
        header = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        unread = f" ({like}; save it as JPEG or PNG)" if (like := _unread_format(data)) else ""
        raise BadExample(f"{name}: not an image, or in an unsupported format{unread}") from None
    except Image.DecompressionBombError as error:
        raise BadExample(f"{name}: {error}") from None
    except Exception as error:  # plugins raise errors of many types for a broken header
        raise BadExample(f"{name}: broken image header: {error}") from None
    width, height = header.size
    if width * height > MAX_PIXELS:
        raise BadExample(f"{name}: {width} x {height} pixels exceed the limit of {MAX_PIXELS}")
    return header


def _unread_format(data: bytes) -> str:
    """Return the name of a format that is not read, '' if it is none that is known."""
    start = data[:1024]
    return next(
        (name for magic, name in _UNREAD_MAGIC.items() if re.match(magic, start, re.DOTALL)), ""
    )


def looks_nearly_black(image: np.ndarray) -> bool:
    """Return whether `image` uint8 is as dark as one whose 16 bits hold values of 14 or fewer."""
    return bool(image.size) and int(image.max()) < _DARK


def unused_bits(image: np.ndarray, stored_bits: int) -> str:
    """Return what is to be said about a decoded `image` uint8 whose file uses few of its bits.

    stored_bits: of a channel of the file, from `stored_bits`. '' if the file uses its bits.
    Cameras and scanners store 10, 12 or 14 bits as numbers of 16: their upper 8 are nearly black.
    """
    if stored_bits < 16 or not looks_nearly_black(image):
        return ""
    used = 8 + int(image.max()).bit_length()
    return (
        f"nearly black: 16 bits a channel, of which {used} or fewer are used (values up to"
        f" {2**used - 1} of 65535); scale them to all 16, or save 8 bits"
    )


def stored_bits(data: bytes) -> int:
    """Return the bits of a channel of the image in `data`, from its header; 8 if it is broken."""
    try:
        header = _open_header(data, "")
    except BadExample:
        return 8
    if header.format == "PNG":
        return data[24]  # of the header, which is the first chunk
    if header.format == "TIFF":
        bits = max(header.tag_v2.get(_BITS_PER_SAMPLE, (8,)))  # type: ignore[attr-defined]
        return bits if bits <= 8 else max(bits, 16)  # 12 bits are read as the lower ones of 16
    if header.format == "PPM" and (largest := re.match(_PPM_LARGEST, data)):
        return 16 if int(largest[1]) > 255 else 8
    return 16 if header.mode.startswith("I") else 8


def read_stored_bits(path: str) -> int:
    """Return the bits of a channel of the image file at `path`; 8 if it cannot be read."""
    try:
        return stored_bits(_read(path))
    except BadExample:
        return 8


def read_image(path: str, shrink: Shrink | None = None) -> np.ndarray:
    """Return the image file at `path` as `decode` does. Raises BadExample with the path."""
    return decode(_read(path), str(path), shrink)


def read_turned(path: str) -> tuple[np.ndarray, int]:
    """Return the image file at `path`, upright, and its EXIF orientation."""
    return _decode_upright(_read(path), str(path), None)


def _read(path: str) -> bytes:
    try:
        data = mirrored_set.content(path, MAX_BYTES)
        return read_bytes(path, MAX_BYTES) if data is None else data
    except (OSError, ValueError) as error:
        raise BadExample(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def turn_upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return `image` [h, w, 3] rotated and flipped for its EXIF `orientation`, 1..8."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)  # the rows of the file are columns of the upright image
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def turn_boxes(boxes: np.ndarray, size: tuple[int, int], orientation: int) -> np.ndarray:
    """Map `boxes` [n, 4] on stored pixels of `size` (h, w) to the upright image."""
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
    """Return the EXIF orientation; 1 if there is none or the tag is damaged."""
    # Pillow would decode all pixels of a PNG to search for a tag after them.
    if header.format == "PNG" and b"eXIf" not in data and b"Raw profile type exif" not in data:
        return 1
    try:
        return int(header.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block does not matter to the pixels
        return 1


def _cv2_reads(header: Image.Image) -> bool:
    """Return whether OpenCV decodes the image as Pillow does."""
    if header.mode not in _CV2_READS.get(header.format or "", ()):
        return False
    # OpenCV would show the animation, which is not the image that others show.
    return not getattr(header, "default_image", False)


def _with_cv2(data: bytes, size: tuple[int, int], times: int) -> np.ndarray | None:
    """Return the stored pixels, of `size` (height, width) reduced by the factor `times`.

    None if OpenCV cannot decode them.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _CV2_FLAGS | _CV2_REDUCED[times])
    except cv2.error:
        return None
    if image is None or image.shape[:2] != (-(-size[0] // times), -(-size[1] // times)):
        return None
    return image


def _with_pillow(header: Image.Image, name: str) -> np.ndarray:
    try:
        header.load()
        # Pillow scales PGM of more than 8 bits to 16, in numbers of 32.
        if header.mode.startswith("I;16") or (header.mode, header.format) == ("I", "PPM"):
            grey = (np.asarray(header).astype(np.uint16) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if header.mode in ("I", "F"):
            raise BadExample(f"{name}: 32 bits per pixel; save it with 8 or 16")
        # Pillow warns where alpha of a palette is lost directly.
        translucent = header.mode == "P" and isinstance(header.info.get("transparency"), bytes)
        return np.asarray((header.convert("RGBA") if translucent else header).convert("RGB"))
    except BadExample:
        raise
    except Exception as error:  # plugins raise errors of many types for broken pixels
        raise BadExample(f"{name}: truncated or damaged: {error}") from None
