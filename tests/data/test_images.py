import io
import os

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from convmesh.data import images
from convmesh.data.record import BadExample

ORIENTATION = 0x0112


def picture(height=24, width=40):
    """Smooth, so that JPEG changes it by a few levels only, and different in every corner."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 2], -1).astype(np.uint8)


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def with_orientation(value, kind="JPEG"):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    options = {"quality": 95} if kind == "JPEG" else {}
    return encoded(Image.fromarray(picture()), kind, exif=exif, **options)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("value", range(1, 9))
def test_images_are_turned_upright_by_their_orientation(kind, value):
    data = with_orientation(value, kind)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    found = images.decode(data, "a")
    assert found.shape == np.asarray(expected).shape
    assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 3


def test_orientation_six_is_a_quarter_turn_clockwise():
    stored = picture()
    assert np.array_equal(images.turn_upright(stored, 6), np.rot90(stored, -1))
    assert np.array_equal(images.turn_upright(stored, 8), np.rot90(stored))
    assert np.array_equal(images.turn_upright(stored, 99), stored)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_turned_like_the_pixels(orientation):
    boxes = np.array([[3, 2, 10, 7], [25, 11, 39, 24]])
    stored = np.zeros((24, 40, 3), np.uint8)
    for channel, (x0, y0, x1, y1) in enumerate(boxes):
        stored[y0:y1, x0:x1, channel] = 255
    # Pillow turns the pixels upright.
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(Image.fromarray(stored), "PNG", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    found = images.turn_boxes(boxes, (24, 40), orientation)
    for channel in range(2):
        ys, xs = np.nonzero(upright[..., channel])
        assert found[channel].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.mark.parametrize(
    "kind, mode, tolerance",
    [
        ("JPEG", "RGB", 3),
        ("JPEG", "L", 3),
        ("JPEG", "CMYK", 8),
        ("PNG", "RGB", 0),
        ("PNG", "RGBA", 0),
        ("PNG", "L", 0),
        ("PNG", "LA", 0),
        ("PNG", "P", 0),
        ("PNG", "1", 0),
        ("GIF", "P", 0),
        ("BMP", "RGB", 0),
        ("TIFF", "RGB", 0),
        ("TIFF", "CMYK", 0),
        ("WEBP", "RGB", 3),
        ("PPM", "RGB", 0),
    ],
)
def test_every_format_and_mode_is_decoded_to_rgb(kind, mode, tolerance):
    image = Image.fromarray(picture()).convert(mode)
    data = encoded(image, kind, **({"quality": 95} if kind in ("JPEG", "WEBP") else {}))
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    found = images.decode(data, "a")
    assert found.dtype == np.uint8 and found.shape == (24, 40, 3) and found.flags.c_contiguous
    assert np.abs(found.astype(int) - expected).max() <= tolerance


def test_alpha_is_dropped_and_not_blended():
    pixels = np.dstack([picture(), np.zeros((24, 40), np.uint8)])
    data = encoded(Image.fromarray(pixels, "RGBA"), "PNG")
    assert np.array_equal(images.decode(data, "a"), picture())


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_reduced_to_the_upper_eight(kind):
    grey = np.arange(0, 65536, 41, dtype=np.uint16)[:1500].reshape(30, 50)
    found = images.decode(encoded(Image.fromarray(grey), kind), "a")
    assert np.array_equal(found[..., 0], grey >> 8)
    assert np.array_equal(found[..., 0], found[..., 2])


def test_an_animation_gives_its_first_frame():
    first, second = Image.new("RGB", (8, 6), (255, 0, 0)), Image.new("RGB", (8, 6), (0, 0, 255))
    data = encoded(first, "GIF", save_all=True, append_images=[second])
    assert (images.decode(data, "a") == (255, 0, 0)).all()


def test_an_animation_with_an_image_of_its_own_gives_that_image():
    colours = [(255, 0, 0), (0, 0, 255), (0, 255, 0)]
    still, *frames = [Image.new("RGB", (8, 6), colour) for colour in colours]
    for default_image in (True, False):
        options = {"save_all": True, "append_images": frames, "default_image": default_image}
        assert (images.decode(encoded(still, "PNG", **options), "a") == (255, 0, 0)).all()


@pytest.mark.filterwarnings("error")
def test_the_palette_of_an_animation_may_be_translucent():
    still, frame = (Image.new("P", (4, 4), index) for index in (1, 2))
    for image in (still, frame):
        image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    options = {"save_all": True, "append_images": [frame], "default_image": True}
    data = encoded(still, "PNG", transparency=b"\xff\x80\x00", **options)
    assert (images.decode(data, "a") == (200, 0, 0)).all()


@pytest.mark.parametrize("largest, times", [(65535, 1), (4095, 16), (1023, 64)])
def test_a_pgm_of_16_bits_is_read_by_its_stated_largest_value(largest, times):
    grey = np.arange(0, largest + 1, largest // 11, dtype=np.uint16)[:12].reshape(3, 4)
    data = b"P5\n4 3\n%d\n" % largest + grey.astype(">u2").tobytes()
    expected = grey * 65535.0 / largest / 256
    found = images.decode(data, "a.pgm")
    assert found.shape == (3, 4, 3) and np.abs(found[..., 0] - expected).max() <= 1


def test_floating_point_is_refused_for_what_it_is():
    data = b"Pf\n2 2\n-1.0\n" + bytes(16)
    with pytest.raises(BadExample, match="^a.pfm: 32 bits per pixel; save it with 8 or 16"):
        images.decode(data, "a.pfm")


def sixteen_bits(kind, bits, channels=1):
    """The file of an image of 16 bits whose values need only `bits`."""
    values = np.linspace(0, 2**bits - 1, 12 * channels).astype(np.uint16)
    if kind == ".pgm":
        return b"P5\n4 3\n65535\n" + values.astype(">u2").tobytes()
    return cv2.imencode(kind, values.reshape(3, 4, channels))[1].tobytes()


@pytest.mark.parametrize("kind, channels", [(".png", 1), (".png", 3), (".tif", 1), (".tif", 3)])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_few_bits_in_sixteen_are_nearly_black(kind, channels, bits):
    data = sixteen_bits(kind, bits, channels)
    image = images.decode(data, "a")
    assert images.looks_nearly_black(image) and images.stored_bits(data) == 16
    said = f"16 bits a channel, of which {bits} or fewer are used (values up to {2**bits - 1} of"
    assert said in images.unused_bits(image, images.stored_bits(data))


def test_images_that_use_their_bits_or_have_eight_are_not_said_to_be_nearly_black():
    for kind in (".png", ".tif", ".pgm"):
        data = sixteen_bits(kind, 16)
        assert images.stored_bits(data) == 16
        assert images.unused_bits(images.decode(data, "a"), 16) == ""
    for kind in ("PNG", "TIFF", "PPM", "JPEG", "GIF"):
        dark = encoded(Image.fromarray(picture() // 16), kind)
        assert images.unused_bits(images.decode(dark, "a"), images.stored_bits(dark)) == ""
    assert images.stored_bits(b"no image") == 8


@pytest.mark.parametrize(
    "data, name",
    [
        (b"\0\0\0\x18ftypheic" + bytes(20), "HEIC"),
        (b"\0\0\0\x18ftypmif1" + bytes(20), "HEIC"),
        (b'<?xml version="1.0"?>\n<!-- x -->\n<svg xmlns="x">', "SVG"),
        (b"<svg>", "SVG"),
        (b"8BPS" + bytes(20), "PSD"),
        (b"%PDF-1.4", "PDF"),
        (b"\xff\x0a" + bytes(20), "JPEG XL"),
        (b"\x76\x2f\x31\x01" + bytes(20), "OpenEXR"),
        (b"#?RADIANCE\n", "Radiance HDR"),
        (bytes(128) + b"DICM", "DICOM"),
    ],
)
def test_a_format_that_is_not_read_is_named_whatever_the_file_is_called(data, name):
    said = rf"a.jpg: not an image, or in an unsupported format \({name}; save it as JPEG or PNG"
    with pytest.raises(BadExample, match=said):
        images.decode(data, "a.jpg")


def test_suffixes_are_read_or_not():
    assert {".heic", ".svg", ".dng", ".psd", ".eps", ".jxl"} <= images.UNREAD_SUFFIXES
    assert not images.SUFFIXES & images.UNREAD_SUFFIXES


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(picture(200, 300)), "JPEG")[:-800],
        encoded(Image.fromarray(picture(200, 300)), "JPEG")[:-2],
        encoded(Image.fromarray(picture(200, 300)), "JPEG", progressive=True)[:-800],
        encoded(Image.fromarray(picture(200, 300)), "PNG")[:-200],
        encoded(Image.fromarray(picture(200, 300)), "WEBP")[:-200],
        encoded(Image.fromarray(picture(200, 300)), "GIF")[:-3000],
        encoded(Image.fromarray(picture(200, 300)), "BMP")[:-3000],
    ],
    ids=["jpeg", "jpeg by two bytes", "progressive", "png", "webp", "gif", "bmp"],
)
def test_a_truncated_file_raises_an_error_with_its_name(data):
    with pytest.raises(BadExample, match="^some/a.jpg: .*(truncated|damaged|broken)"):
        images.decode(data, "some/a.jpg")


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "empty"),
        (b"<html>not found</html>", "not an image"),
        (b"\xff\xd8\xff", "not an image"),
    ],
)
def test_a_file_without_an_image_raises_an_error_with_its_name(data, message):
    with pytest.raises(BadExample, match=f"^some/a.jpg: .*{message}"):
        images.decode(data, "some/a.jpg")


def jpeg(mode="RGB", **options):
    return encoded(Image.fromarray(picture()).convert(mode), "JPEG", **options)


def with_segment(marker, content):
    """A JPEG with another segment, before all of its own."""
    return (
        b"\xff\xd8\xff"
        + bytes([marker])
        + (2 + len(content)).to_bytes(2, "big")
        + content
        + (jpeg()[2:])
    )


@pytest.mark.parametrize(
    "data",
    [
        jpeg(),
        jpeg("L"),
        jpeg(progressive=True),
        jpeg(optimize=True, subsampling=0),
        jpeg(comment=b"a comment", icc_profile=b"profile" * 20_000),  # of several segments
        jpeg(restart_marker_rows=1),
    ],
    ids="colour grey progressive optimized icc restarts".split(),
)
def test_a_plain_jpeg_is_decoded_without_pillow_to_the_same_pixels(data, monkeypatch):
    assert images.plain_jpeg_size(data) == (24, 40)
    with monkeypatch.context() as patch:
        patch.setattr(images, "plain_jpeg_size", lambda data: None)
        expected = images.decode(data, "a")
    monkeypatch.setattr(images, "_open_header", None)
    assert np.array_equal(images.decode(data, "a"), expected)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        encoded(Image.fromarray(picture()), "PNG"),
        jpeg("CMYK"),
        with_orientation(6),
        with_segment(0xEE, b"Adobe\0d\0\0\0\0\0"),
        with_segment(0xE2, b"MPF\0" + bytes(20)),  # a second picture
        with_segment(0xE0, b"JFIF"),  # cut off
        with_segment(0xE0, b"JFXX\0\x10" + bytes(20)),
        with_segment(0xE2, b"ICC_PROFILE\0"),
        with_segment(0xC9, bytes(9)),  # arithmetic coding
        jpeg().replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"),  # 12 bits
        jpeg().replace(b"\xff\xc0\0\x11\x08\0\x18", b"\xff\xc0\0\x11\x08\0\0"),  # no height yet
        b"\xff\xd8" + b"\xff\xfe\0\2" * 100 + jpeg()[2:],  # many segments
    ],
    ids="empty png cmyk exif adobe several jfif jfxx icc arithmetic bits height many".split(),
)
def test_any_other_file_is_left_to_pillow(data):
    assert images.plain_jpeg_size(data) is None


def test_the_header_of_a_plain_jpeg_may_end_anywhere(monkeypatch):
    data = jpeg(comment=b"a comment")
    begin = data.index(b"\xff\xda")
    assert [images.plain_jpeg_size(data[:n]) for n in range(begin + 2)] == [None] * (begin + 2)
    assert images.plain_jpeg_size(data[: begin + 2]) == (24, 40)
    monkeypatch.setattr(images, "MAX_PIXELS", 24 * 40 - 1)
    assert images.plain_jpeg_size(data) is None


def test_bytes_after_the_end_are_ignored():
    data = encoded(Image.fromarray(picture()), "JPEG")
    assert np.array_equal(images.decode(data + b"\0" * 5000, "a"), images.decode(data, "a"))


def test_the_format_is_that_of_the_bytes_not_of_the_name(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(Image.fromarray(picture()), "PNG"))
    assert np.array_equal(images.read_image(str(path)), picture())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadExample, match="missing.jpg: No such file"):
        images.read_image(str(tmp_path / "missing.jpg"))


def test_an_image_with_too_many_pixels_is_not_decoded(monkeypatch):
    data = encoded(Image.fromarray(picture()), "PNG")
    monkeypatch.setattr(images, "MAX_PIXELS", 24 * 40 - 1)
    with pytest.raises(BadExample, match="^a.png: 40 x 24 pixels exceed the limit of 959"):
        images.decode(data, "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(BadExample, match="^a.png: "):
        images.decode(data, "a.png")


@pytest.mark.parametrize(
    "allowed, times", [(0.4, 1), (1.9, 1), (2.0, 2), (7.9, 4), (8.0, 8), (99.0, 8)]
)
def test_a_jpeg_is_decoded_as_small_as_allowed(allowed, times):
    # Odd sides; smooth, so that all ways of shrinking give the same.
    rows, columns = np.mgrid[:101, :203] / 203
    smooth = np.stack([rows, columns, 1 - columns], -1)
    image = (255 * smooth).astype(np.uint8)
    data = encoded(Image.fromarray(image), "JPEG", quality=95)
    sizes = []
    shrink = lambda h, w: sizes.append((h, w)) or allowed  # noqa: E731
    found = images.decode(data, "a", shrink)
    assert sizes == [(101, 203)]
    assert found.shape == (-(-101 // times), -(-203 // times), 3)
    centres = np.minimum(np.arange(found.shape[1]) * times + times // 2, 202)
    assert np.abs(found[2, :, 1].astype(int) - image[0, centres, 1]).max() < 8 + 2 * times


def test_shrink_gets_the_upright_size_of_a_jpeg_and_is_not_called_for_other_formats():
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = Image.fromarray(np.zeros((40, 80, 3), np.uint8))
    found = images.decode(
        encoded(sideways, "JPEG", exif=exif), "a", lambda h, w: 2 if (h, w) == (80, 40) else 1
    )
    assert found.shape == (40, 20, 3)
    never = lambda h, w: pytest.fail("called")  # noqa: E731
    assert images.decode(encoded(sideways, "PNG"), "a", never).shape == (40, 80, 3)


def test_formats_that_run_programs_or_decode_before_the_size_is_known_are_not_opened():
    for data in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop", _icon()):
        with pytest.raises(BadExample, match="x.jpg: not an image, or in an unsupported format"):
            images.decode(data, "x.jpg")


def _icon():
    return encoded(Image.fromarray(picture()), "ICO")


def test_pipes_devices_folders_and_huge_files_raise_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder.png").mkdir()
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(2**40)
    for name, message in (
        ("pipe.png", "not a regular file"),
        ("zero.png", "not a regular file"),
        ("loop.png", "symbolic links"),
        ("folder.png", "directory"),
        ("huge.png", "1099511627776 bytes exceed the limit"),
    ):
        with pytest.raises(BadExample, match=f"{name}: .*{message}"):
            images.read_image(str(tmp_path / name))


def test_an_image_with_the_largest_number_of_pixels_is_decoded(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 24 * 40)
    data = encoded(Image.fromarray(picture()), "PNG")
    assert images.decode(data, "a.png").shape == (24, 40, 3)


def test_the_orientation_in_a_text_of_a_png_is_applied():
    """ImageMagick writes EXIF into PNG as hexadecimal text."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    block = exif.tobytes()
    text = PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(block):8d}\n{block.hex()}\n", zip=True)
    data = encoded(Image.fromarray(picture()), "PNG", pnginfo=text)
    assert np.array_equal(images.decode(data, "a.png"), np.rot90(picture(), -1))


def test_bits_that_pillow_hides_are_known_from_the_header():
    header = b"P6\n# a comment\n4 # another\n2\n65535\n"
    dark = header + np.full((2, 4, 3), 4000, ">u2").tobytes()
    assert images.stored_bits(dark) == 16
    assert "nearly black" in images.unused_bits(images.decode(dark, "a.ppm"), 16)
    assert images.stored_bits(b"P6 4 2 255\n" + bytes(24)) == 8
