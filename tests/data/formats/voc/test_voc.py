"""Pascal VOC's layout, its variants, and every error: src/convmesh/data/formats/voc/dataset.py."""

import cv2
import numpy as np
import pytest

from convmesh.config import defaults
from convmesh.data.formats.registry import find_format, open_dataset
from convmesh.data.record import BadExample
from convmesh.data.splits import open_eval, open_train
from convmesh.errors import DataError

XML = """<annotation><filename>x</filename><size><width>{w}</width><height>{h}</height></size>
{objects}</annotation>"""
OBJECT = (
    "<object><name>{0}</name><difficult>{5}</difficult><bndbox><xmin>{1}</xmin><ymin>{2}</ymin>"
    "<xmax>{3}</xmax><ymax>{4}</ymax></bndbox></object>"
)


def write(root, name, objects=(), size=(20, 30), images="JPEGImages", xml="Annotations", ext="jpg"):
    """Writes an image and its annotation; objects are (class, x0, y0, x1, y1[, difficult])."""
    image, annotation = root / images / f"{name}.{ext}", root / xml / f"{name}.xml"
    for path in (image, annotation):
        path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(image.with_suffix(".jpg")), np.zeros((*size, 3), np.uint8))
    image.with_suffix(".jpg").rename(image)
    text = "".join(OBJECT.format(*thing, *[0] * (6 - len(thing))) for thing in objects)
    annotation.write_text(XML.format(h=size[0], w=size[1], objects=text))


def config(root, **data):
    made = defaults("detect")
    made.data.root = str(root)
    made.data.update(data)
    return made


def test_lists_of_names_are_the_splits_and_coordinates_are_used_as_written(tmp_path):
    write(tmp_path, "a", [("dog", 1, 2, 30, 20), ("cat", 3, 4, 8, 9, 1)])
    write(tmp_path, "b", [("cat", 5, 6, 7, 8)])
    write(tmp_path, "c")
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("b\na\n")
    (lists / "test.txt").write_text("c\n\n")
    (lists / "dog_train.txt").write_text("a 1\nb -1\n")  # VOC's list for one class
    made = config(tmp_path)
    assert find_format(made) == "voc"
    assert open_dataset(made).splits == ("test", "train")
    train = open_train(made)
    assert [train.name(i) for i in range(2)] == ["JPEGImages/b.jpg", "JPEGImages/a.jpg"]
    record = train[1]
    assert train.classes == ("cat", "dog") and record.labels.tolist() == [1, 0]
    assert record.boxes.tolist() == [[1, 2, 30, 20], [3, 4, 8, 9]]
    assert record.crowd.tolist() == [False, False]  # difficult: kept in training
    assert len(open_eval(made)[0].boxes) == 0  # the test split: an image without objects


def test_difficult_boxes_are_regions_to_ignore_in_evaluation(tmp_path):
    write(tmp_path, "a", [("dog", 1, 2, 9, 9), ("dog", 3, 4, 8, 9, 1)])
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for split in ("train", "val"):
        (lists / f"{split}.txt").write_text("a\n")
    assert open_train(config(tmp_path))[0].crowd.tolist() == [False, False]
    assert open_eval(config(tmp_path))[0].crowd.tolist() == [False, True]


def test_xml_next_to_the_images_without_lists_a_part_is_held_out(tmp_path):
    for name in "abcd":
        write(tmp_path, name, [("dog", 1, 2, 9, 9)], images=".", xml=".")
    made = config(tmp_path, val_fraction=0.25)
    train, held_out = open_train(made), open_eval(made)
    assert (len(train), len(held_out), held_out.split) == (3, 1, "val")
    names = {train.name(i) for i in range(3)} | {held_out.name(0)}
    assert names == {"a.jpg", "b.jpg", "c.jpg", "d.jpg"}


def test_folders_of_splits_with_xml_next_to_the_images(tmp_path):
    for split in ("train", "valid", "test"):
        write(tmp_path, split, [("dog", 1, 2, 9, 9)], images=split, xml=split)
    made = config(tmp_path)
    assert find_format(made) == "voc"
    assert open_train(made).name(0) == "train/train.jpg"
    assert open_eval(made).name(0) == "valid/valid.jpg"


def imagenet(root, challenge="DET"):
    """Writes a few images as the archive of ImageNet's detection set has them."""
    for split, folder, name, objects in (
        ("train", "ILSVRC2013_train/n02084071", "n02084071_1", [("n02084071", 1, 2, 9, 9)]),
        (
            "train",
            "ILSVRC2014_train_0006",
            "ILSVRC2014_train_00060036",
            [("n02958343", 1, 2, 8, 9)],
        ),
        ("train", "ILSVRC2013_train_extra0", "ILSVRC2013_train_00000001", None),
        ("val", ".", "ILSVRC2012_val_00000001", [("n02084071", 3, 2, 9, 9)]),
        ("val", ".", "ILSVRC2013_val_00000002", []),
        ("test", ".", "ILSVRC2012_test_00000001", None),
    ):
        xml = f"Annotations/{challenge}/{split}/{folder}"
        write(
            root, name, objects or [], (20, 30), f"Data/{challenge}/{split}/{folder}", xml, "JPEG"
        )
        if objects is None:
            (root / xml / f"{name}.xml").unlink()
    lists = root / "ImageSets" / challenge
    lists.mkdir(parents=True)
    dog, car = (
        "ILSVRC2013_train/n02084071/n02084071_1",
        "ILSVRC2014_train_0006/ILSVRC2014_train_0006",
    )
    extra = "ILSVRC2013_train_extra0/ILSVRC2013_train_00000001"
    (lists / "train.txt").write_text(f"{dog} 1\n{car}0036 2\n{extra} 3\n")
    (lists / "train_1.txt").write_text(f"{dog} 0\n{car}0036 1\n")  # not all of it is annotated
    (lists / "train_2.txt").write_text(f"{dog} 1\n{extra} -1\n")
    (lists / "val.txt").write_text("ILSVRC2012_val_00000001 1\nILSVRC2013_val_00000002 2\n")
    (lists / "test.txt").write_text("ILSVRC2012_test_00000001 1\n")


def test_imagenets_detection_set_as_it_is_distributed(tmp_path):
    imagenet(tmp_path)
    made = config(tmp_path)
    found = open_dataset(made)
    assert found.splits == ("test", "train", "val") and found.category_ids is None
    train, held = open_train(made), open_eval(made)
    assert train.classes == ("n02084071", "n02958343")
    assert train.name(0) == "Data/DET/train/ILSVRC2013_train/n02084071/n02084071_1.JPEG"
    assert [train[i].labels.tolist() for i in range(3)] == [[0], [1], []]  # extra: nothing in it
    assert train[1].boxes.tolist() == [[1, 2, 8, 9]]
    assert held.name(0) == "Data/DET/val/ILSVRC2012_val_00000001.JPEG"
    assert [held[i].labels.tolist() for i in range(2)] == [[0], []]
    with pytest.raises(DataError, match="ILSVRC2012_test_00000001.JPEG: has no XML file"):
        open_eval(made, "test")  # their annotations were never published


@pytest.mark.parametrize("where", ["", "ILSVRC"])
def test_imagenets_devkit_names_and_numbers_the_classes(tmp_path, where):
    imagenet(tmp_path / where)
    devkit = tmp_path / where / "devkit/data"
    devkit.mkdir(parents=True)
    names = "n02084071 2 dog\nn02958343 1 car\nn03085013 3 computer keyboard\n"
    (devkit / "map_det.txt").write_text(names)
    made = config(tmp_path)
    assert find_format(made) == "voc"
    train = open_train(made)
    assert train.classes == ("car", "dog", "computer keyboard")
    assert train.category_ids == (1, 2, 3)
    assert [train[i].labels.tolist() for i in range(2)] == [[1], [0]]
    made.data.classes = ("dog", "car")
    train = open_train(made)
    assert train.category_ids == (2, 1) and train[0].labels.tolist() == [0]
    made.data.classes = ("dog", "car", "boat")  # a number that the devkit does not give
    assert open_train(made).category_ids is None


@pytest.mark.parametrize(
    "text, said",
    [
        ("n1 1 dog\nn2 x cat\n", "map_det.txt: line 2: 'n2 x cat', wanted a WordNet id"),
        ("n1 1 dog\nn2 2\n", "line 2: 'n2 2'"),
        ("n1 1 dog\n\nn2 2 dog\n", "'dog' is the name of several classes"),
    ],
)
def test_a_wrong_devkit_is_refused(tmp_path, text, said):
    imagenet(tmp_path)
    (tmp_path / "devkit/data").mkdir(parents=True)
    (tmp_path / "devkit/data/map_det.txt").write_text(text)
    with pytest.raises(DataError, match=said):
        open_train(config(tmp_path))


def test_a_class_that_is_not_in_the_devkit_makes_a_bad_box(tmp_path):
    imagenet(tmp_path)
    (tmp_path / "devkit/data").mkdir(parents=True)
    (tmp_path / "devkit/data/map_det.txt").write_text("n02084071 1 dog\n")
    with pytest.raises(DataError, match="class 'n02958343' is not one of the classes: object 1"):
        open_train(config(tmp_path))


def test_of_images_with_the_same_name_those_in_the_folder_of_the_list_are_used(tmp_path):
    imagenet(tmp_path)
    imagenet(tmp_path, "CLS-LOC")
    assert open_eval(config(tmp_path)).name(0) == "Data/DET/val/ILSVRC2012_val_00000001.JPEG"
    assert open_train(config(tmp_path)).name(1).startswith("Data/DET/train/ILSVRC2014")


def test_without_an_xml_only_imagenets_negatives_are_images_without_objects(tmp_path):
    imagenet(tmp_path, "CLS-LOC")  # there most training images have none, and hold objects
    with pytest.raises(DataError, match="ILSVRC2013_train_00000001.JPEG: has no XML file"):
        open_train(config(tmp_path))


def test_the_root_may_be_the_parent_of_the_data_set(tmp_path):
    write(tmp_path / "VOC2012", "a", [("dog", 1, 2, 9, 9)])
    made = config(tmp_path, val_fraction=0.0)
    assert find_format(made) == "voc" and open_train(made).name(0) == "JPEGImages/a.jpg"
    write(tmp_path / "VOC2007", "a")
    with pytest.raises(DataError, match="holds several data sets, VOC2007, VOC2012; set data"):
        open_train(made)


@pytest.mark.parametrize(
    "text, said",
    [
        ("<annotation>", "a.xml: line 1: invalid XML"),
        ("<annotation><object><name>dog</name></object></annotation>", "object 1 has no <bndbox>"),
        ("<annotation><object/></annotation>", "object 1 has no <name>"),
        (
            "<annotation><object><name>dog</name><bndbox><xmin>one</xmin></bndbox></object>"
            "</annotation>",
            "object 1: <xmin> is 'one', wanted a number",
        ),
    ],
)
def test_a_broken_annotation_is_refused_with_its_name_or_skipped(tmp_path, text, said):
    write(tmp_path, "a")
    write(tmp_path, "b", [("dog", 1, 2, 9, 9)])
    (tmp_path / "Annotations" / "a.xml").write_text(text)
    with pytest.raises(DataError, match=f"Annotations/a.xml: .*{said.removeprefix('a.xml: ')}"):
        open_train(config(tmp_path, val_fraction=0.0))
    train = open_train(config(tmp_path, val_fraction=0.0, on_bad_example="skip"))
    assert len(train) == 2
    with pytest.raises(DataError, match="Annotations/a.xml"):
        train[0]  # the loader skips it, and counts it


def test_a_missing_image_is_named(tmp_path):
    write(tmp_path, "a", [("dog", 1, 2, 9, 9)])
    write(tmp_path, "b", [("dog", 1, 2, 9, 9)])
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(DataError, match="Annotations/a.xml: its image is missing"):
        open_train(config(tmp_path))


def test_a_bad_box_is_refused_before_an_image_is_opened(tmp_path):
    write(tmp_path, "a", [("dog", 1, 2, 9, 9), ("dog", 5, 5, 5, 5), ("dog", 1, 2, 40, 9)])
    with pytest.raises(DataError, match=r"a.xml: \(5, 5, 5, 5\) has no area .*: object 2; .* 3"):
        open_train(config(tmp_path, val_fraction=0.0))
    record = open_train(config(tmp_path, val_fraction=0.0, on_bad_box="clip"))[0]
    assert record.boxes.tolist() == [[1, 2, 9, 9], [1, 2, 30, 9]] and record.bad_boxes == 2


def test_a_stated_size_that_is_not_the_images_is_refused(tmp_path):
    write(tmp_path, "a", [("dog", 1, 2, 9, 9)])
    cv2.imwrite(str(tmp_path / "JPEGImages" / "a.jpg"), np.zeros((10, 15, 3), np.uint8))
    train = open_train(config(tmp_path, val_fraction=0.0))
    with pytest.raises(DataError, match="a.jpg: is 15 x 10, but Annotations/a.xml says 30 x 20"):
        train[0]


def test_linked_folders_are_followed_and_hidden_ones_ignored(tmp_path):
    root = tmp_path / "root"
    for name in "ab":
        write(tmp_path / "elsewhere", name, [("dog", 1, 2, 9, 9)])
    write(root, "c", [("dog", 1, 2, 9, 9)])
    write(root, ".hidden/d", [("dog", 1, 2, 9, 9)])
    for folder in ("JPEGImages", "Annotations"):
        (root / folder / "more").symlink_to(tmp_path / "elsewhere" / folder)
        (root / folder / "up").symlink_to(root / folder)  # a circle
    train = open_train(config(root, val_fraction=0.0))
    names = [train.name(i) for i in range(len(train))]
    assert names == ["JPEGImages/c.jpg", "JPEGImages/more/a.jpg", "JPEGImages/more/b.jpg"]


@pytest.mark.parametrize("listed", [True, False])
def test_two_images_with_the_same_name_are_refused_and_none_is_used(tmp_path, listed):
    for name in "ab":
        write(tmp_path, name, [("dog", 1, 2, 9, 9)])
    cv2.imwrite(str(tmp_path / "JPEGImages" / "a.png"), np.full((20, 30, 3), 9, np.uint8))
    if listed:
        lists = tmp_path / "ImageSets" / "Main"
        lists.mkdir(parents=True)
        (lists / "train.txt").write_text("a\nb\n")
    said = "Annotations/a.xml: JPEGImages/a.jpg and JPEGImages/a.png have its name; rename or"
    with pytest.raises(DataError, match=said):
        open_train(config(tmp_path, val_fraction=0.0))
    train = open_train(config(tmp_path, val_fraction=0.0, on_bad_example="skip"))
    with pytest.raises(BadExample, match=said):
        train[0]
    assert train[1].boxes.tolist() == [[1, 2, 9, 9]]


def test_two_annotations_with_the_same_name_are_refused(tmp_path):
    write(tmp_path, "a", [("dog", 1, 2, 9, 9)])
    (tmp_path / "Annotations" / "a.XML").write_text("<annotation/>")
    with pytest.raises(DataError, match=r"Annotations/a.XML and Annotations/a.xml have its name"):
        open_train(config(tmp_path, val_fraction=0.0))


def test_two_images_with_the_same_name_in_no_split_are_both_reported(tmp_path):
    write(tmp_path, "a", [("dog", 1, 2, 9, 9)])
    for ext in ("jpg", "png"):
        cv2.imwrite(str(tmp_path / "JPEGImages" / f"b.{ext}"), np.zeros((20, 30, 3), np.uint8))
    found = [problem.file for problem in open_dataset(config(tmp_path)).problems]
    assert found == ["JPEGImages/b.jpg", "JPEGImages/b.png"]


def splits_of(root, **lists):
    """Returns the names of the images of each split of the lists, and all problems."""
    folder = root / "ImageSets" / "Main"
    folder.mkdir(parents=True)
    for name, text in lists.items():
        (folder / f"{name}.txt").write_text(text)
    found = open_dataset(config(root))
    sources = {split: found.unchecked(split) for split in found.splits}
    return {split: [s.name(i) for i in range(len(s))] for split, s in sources.items()}, [
        str(problem) for problem in found.problems
    ]


def test_names_in_lists_may_hold_spaces_and_end_in_a_number(tmp_path):
    for name in ("my photo 0", "my photo 1", "my photo", "b/other photo 0"):
        write(tmp_path, name, [("dog", 1, 2, 9, 9)])
    splits, problems = splits_of(
        tmp_path,
        train="my photo 0\nmy photo 1.jpg\nother photo 0\n",
        val="my photo  7\nmy photo 1 8\n",  # with numbers, as in ImageNet's
        dog_train="my photo 0 -1\nmy photo 1 1\nmy photo 0\n",  # not the list of a class
        dog_val="my photo 0 -1\nmy photo 1 1\nmy photo -1\n",
    )
    assert splits == {
        "train": [
            "JPEGImages/my photo 0.jpg",
            "JPEGImages/my photo 1.jpg",
            "JPEGImages/b/other photo 0.jpg",
        ],
        "val": ["JPEGImages/my photo.jpg", "JPEGImages/my photo 1.jpg"],
        "dog_train": ["JPEGImages/my photo 0.jpg", "JPEGImages/my photo 1.jpg"],
    }
    assert problems == ["ImageSets/Main/dog_train.txt: names my photo 0 2 times"]


def test_an_unknown_name_in_a_list_is_reported_in_full(tmp_path):
    write(tmp_path, "a", [("dog", 1, 2, 9, 9)])
    splits, _ = splits_of(tmp_path, train="a\nmy photo 3 of it\n", val="a 0\nnone 1 2\n")
    assert splits == {"train": ["JPEGImages/a.jpg", "my photo 3 of it"], "val": splits["val"]}
    with pytest.raises(DataError, match="^my photo 3 of it: no image and no annotation"):
        open_train(config(tmp_path))


def test_one_line_without_a_flag_makes_a_list_a_split(tmp_path):
    for name in "ab":
        write(tmp_path, name, [("dog", 1, 2, 9, 9)])
    splits, _ = splits_of(tmp_path, train="a 0\nb\n", dog_train="a  1\nb -1\n", val="a 1\n")
    a, b = "JPEGImages/a.jpg", "JPEGImages/b.jpg"
    assert splits == {"train": [a, b], "val": [a]}


def test_an_image_that_a_list_names_in_two_ways_is_used_once(tmp_path):
    write(tmp_path, "x/a", [("dog", 1, 2, 9, 9)])
    splits, problems = splits_of(tmp_path, train="a\nx/a\nx/a.jpg\n")
    assert splits == {"train": ["JPEGImages/x/a.jpg"]}
    assert problems == ["ImageSets/Main/train.txt: names a 3 times"]


@pytest.mark.parametrize("given, ignored", [("1", True), ("true", True), (" True ", True)])
@pytest.mark.parametrize("name", ["dog", " dog\n"])
def test_the_words_of_tools_for_a_difficult_object(tmp_path, given, ignored, name):
    write(tmp_path, "a", [(name, 1, 2, 9, 9, given), ("dog", 1, 2, 8, 8, "Unspecified")])
    source = open_dataset(config(tmp_path)).source("train", training=False)
    assert source.classes == ("dog",) and source[0].crowd.tolist() == [ignored, False]


@pytest.mark.parametrize("stated", [("20", "0"), ("0", "0"), ("", "30"), ("20", "x")])
def test_a_size_that_is_not_stated_in_full_is_unknown(tmp_path, stated):
    write(tmp_path, "a", [("dog", 1, 2, 9, 9)])
    path = tmp_path / "Annotations" / "a.xml"
    height, width = stated
    sides = f"<width>{width}</width><height>{height}</height>"
    path.write_text(path.read_text().replace("<width>30</width><height>20</height>", sides))
    source = open_dataset(config(tmp_path)).unchecked("train")
    assert source.annotated(0).size is None and source[0].boxes.tolist() == [[1, 2, 9, 9]]


def test_a_size_may_be_written_with_decimals(tmp_path):
    write(tmp_path, "a", [("dog", 1, 2, 9, 9)])
    path = tmp_path / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("<width>30<", "<width>30.0<"))
    assert open_dataset(config(tmp_path)).unchecked("train").annotated(0).size == (20, 30)


def test_images_are_numbered_from_one_and_classes_sorted(tmp_path):
    kinds = ["zebra", "ant", "moose", "bee"]
    for name, kind in zip("abcd", kinds, strict=True):
        write(tmp_path, name, [(kind, 1, 2, 9, 9)])
    source = open_dataset(config(tmp_path)).source("train", training=True)
    assert source.classes == ("ant", "bee", "moose", "zebra")
    assert [source[i].image_id for i in range(4)] == [1, 2, 3, 4]
    assert [source[i].labels.tolist() for i in range(4)] == [[3], [0], [2], [1]]
