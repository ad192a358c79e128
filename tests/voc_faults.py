"""The data set of `voc_sets` with one fault each, and the line of `check-data` about it."""

import cv2
from PIL import Image
from voc_sets import CAT, DOG, lists, noise, write


def zero_area(root):
    write(root, "b", [DOG, ("dog", 5, 5, 5, 9)])


def outside(root):
    write(root, "d", [DOG, CAT, ("dog", 5, 5, 31, 9)])


def image_missing(root):
    (root / "JPEGImages/b.png").unlink()


def image_cut_short(root):
    file = root / "JPEGImages/b.png"
    file.write_bytes(file.read_bytes()[:200])


def image_is_text(root):
    (root / "JPEGImages/b.png").write_text("no image")


def size_of_another(root):
    write(root, "b", [DOG], stated=(40, 60))


def field_missing(root):
    file = root / "Annotations/b.xml"
    file.write_text(file.read_text().replace("<name>dog</name>", ""))


def duplicate(root):
    write(root, "b", [DOG, CAT, DOG])


def near_duplicate(root):
    write(root, "b", [DOG, ("dog", 1, 2, 20, 19)])  # 16 of 17 rows: 0.94


def of_two_classes(root):
    write(root, "b", [DOG, ("cat", *DOG[1:])])


def fractions_for_pixels(root):
    write(root, "b", [("dog", 0.1, 0.2, 0.5, 1.0)])


def listed_twice(root):
    lists(root, train="abcb")


def in_both_splits(root):
    lists(root, test="deb")


def same_pixels_in_both(root):
    write(root, "d", [CAT, DOG], noise(ord("b")))
    file = root / "JPEGImages/d.png"  # another file with the same pixels
    image = Image.open(file)
    image.save(file, compress_level=1)


def no_image(root):
    file = root / "Annotations/b.xml"
    file.with_name("z.xml").write_text(file.read_text())


def no_annotation(root):
    cv2.imwrite(str(root / "JPEGImages/z.png"), noise(1))


def of_one_name(root):
    cv2.imwrite(str(root / "JPEGImages/b.jpg"), noise(2))


def turned(root, orientation, stated):
    write(root, "b", [DOG], stated=stated)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(ord("b"))).save(root / "JPEGImages/b.png", exif=exif)


def turned_as_stored(root):
    turned(root, 6, (20, 30))


def upside_down(root):
    turned(root, 3, (20, 30))


def only_evaluated(root):
    write(root, "d", [CAT, DOG, ("emu", 5, 5, 9, 9)])


FAULTS = [
    (zero_area, "Annotations/b.xml: (5, 5, 5, 9) has no area in the image of 30 x 20: object 2"),
    (outside, "Annotations/d.xml: (5, 5, 31, 9) is outside of the image of 30 x 20: object 3"),
    (image_missing, "Annotations/b.xml: its image is missing"),
    (image_cut_short, "JPEGImages/b.png: truncated or damaged: "),
    (image_is_text, "JPEGImages/b.png: not an image, or in an unsupported format"),
    (
        size_of_another,
        "JPEGImages/b.png: is 30 x 20, but Annotations/b.xml says 60 x 40: its boxes",
    ),
    (field_missing, "Annotations/b.xml: object 1 has no <name>"),
    (duplicate, "Annotations/b.xml: warning: duplicate: the same box as object 1: object 3"),
    (
        near_duplicate,
        "Annotations/b.xml: warning: duplicate? object 1 has the same class and overlaps it"
        " (IoU 0.94): object 2",
    ),
    (
        of_two_classes,
        "Annotations/b.xml: warning: the same box as object 1, whose class is dog: object 2",
    ),
    (
        fractions_for_pixels,
        "JPEGImages/b.png: warning: no coordinate is above 1; are the",
    ),
    (listed_twice, "ImageSets/Main/train.txt: warning: names b 2 times"),
    (in_both_splits, "JPEGImages/b.png: warning: is in train and in test"),
    (
        same_pixels_in_both,
        "JPEGImages/d.png: warning: the same image as JPEGImages/b.png, which is in train (this"
        " one in test)",
    ),
    (no_image, "Annotations/z.xml: warning: an annotation without an image"),
    (no_annotation, "JPEGImages/z.png: warning: an image without an annotation"),
    (
        of_one_name,
        "Annotations/b.xml: JPEGImages/b.jpg and JPEGImages/b.png have its name; rename or remove",
    ),
    (
        turned_as_stored,
        "JPEGImages/b.png: warning: EXIF turns the image (orientation 6); its boxes are taken as"
        " those of the stored pixels",
    ),
    (
        upside_down,
        "JPEGImages/b.png: warning: EXIF turns the image (orientation 3); its boxes are taken as"
        " those of the upright image",
    ),
    (only_evaluated, "class emu: warning: occurs 1 time in test, but not in train"),
]
