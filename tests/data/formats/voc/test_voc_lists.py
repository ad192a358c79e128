"""The lists of names that are the splits of VOC: src/convmesh/data/formats/voc/lists.py."""

import pytest
from annotation_files import DOG, config_of, images, problems, read, save_image, save_xml

from convmesh.data.splits import open_eval, open_train
from convmesh.errors import ConfigError, DataError


def save(root, *names):
    for name in names:
        save_image(root / "JPEGImages" / f"{name}.jpg")
        save_xml(root / "Annotations" / f"{name}.xml", DOG)


def lists(root, folder="ImageSets/Main", **texts):
    """Writes lists; `__` in a name is a space."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (root / folder / f"{name}.txt").write_text(text, encoding="utf-8")


def splits(root, **data):
    """The stems of the images of each split, or the names in the list of unknown ones."""
    found = images(read(root, **data))
    return {
        split: [name.removeprefix("JPEGImages/").removesuffix(".jpg") for name in names]
        for split, names in found.items()
    }


# Names of lists.


def test_the_default_list_of_cvat_alone_is_the_training_split(tmp_path):
    save(tmp_path, *"abcd")
    lists(tmp_path, default="a\nb\nc\nd\n")
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\ndog:1,2,3::\n")
    assert splits(tmp_path) == {"train": ["a", "b", "c", "d"]} and problems(read(tmp_path)) == []
    half = config_of(tmp_path, val_fraction=0.5)
    assert (len(open_train(half)), len(open_eval(half))) == (2, 2)
    assert len(read(tmp_path).source("default", training=True)) == 4


def test_trainval_is_the_training_split_if_it_is_alone_or_beside_test(tmp_path):
    save(tmp_path, *"abc")
    lists(tmp_path, trainval="a\nb\n")
    said = (
        "ImageSets/Main/trainval.txt: is used as the training split; there is no list of it alone"
    )
    assert splits(tmp_path)["train"] == ["a", "b"] and said in problems(read(tmp_path))
    lists(tmp_path, test="c\n")
    assert splits(tmp_path) == {"test": ["c"], "train": ["a", "b"]}
    assert open_eval(config_of(tmp_path)).split == "test"
    assert splits(tmp_path, train_split="trainval") == {"test": ["c"], "trainval": ["a", "b"]}
    lists(tmp_path, train="a\n", val="b\n")
    assert set(splits(tmp_path)) == {"train", "val", "trainval", "test"}
    assert said not in problems(read(tmp_path))


def test_trainval_beside_val_is_refused_because_it_holds_val(tmp_path):
    save(tmp_path, *"ab")
    lists(tmp_path, trainval="a\nb\n", val="b\n")
    with pytest.raises(ConfigError, match="no split 'train' in .*; it has trainval, val"):
        open_train(config_of(tmp_path))


@pytest.mark.parametrize(
    "names, found",
    [
        (("Training", "VALID", "Test"), {"train", "valid", "test"}),
        (("train2007", "val2007"), {"train", "val"}),
        (("cars_train", "cars_val"), {"train", "val"}),
        (("all",), {"train"}),
        (("test",), {"test"}),
        (("train", "extra"), {"train", "extra"}),
    ],
)
def test_names_of_lists_in_other_spellings(tmp_path, names, found):
    save(tmp_path, *"abc")
    lists(tmp_path, **{name: f"{key}\n" for name, key in zip(names, "abc", strict=False)})
    assert set(splits(tmp_path)) == found


def test_two_lists_of_one_split_are_refused(tmp_path):
    save(tmp_path, *"ab")
    lists(tmp_path, val="a\n", validate="b\n", train="a\n")
    with pytest.raises(DataError, match="val and validate are both the split 'val'; rename or"):
        read(tmp_path)


# Folders of lists.


@pytest.mark.parametrize(
    "folder",
    ["ImageSets/Main", "imagesets/main", "ImageSets", "ImageSets/Layout", ".", "Annotations"],
)
def test_folders_of_lists(tmp_path, folder):
    save(tmp_path, *"ab")
    lists(tmp_path, folder, train="a\n", val="b\n")
    assert splits(tmp_path) == {"train": ["a"], "val": ["b"]}


def test_lists_in_several_unknown_folders_are_refused(tmp_path):
    save(tmp_path, *"ab")
    for folder in ("Layout", "Segmentation"):
        lists(tmp_path, f"ImageSets/{folder}", train="a\n")
    with pytest.raises(DataError, match="lists in Layout and Segmentation; move those to use to"):
        read(tmp_path)
    lists(tmp_path, train="b\n")
    assert splits(tmp_path) == {"train": ["b"]}


def test_other_texts_beside_the_data_are_no_lists(tmp_path):
    save(tmp_path, *"ab")
    lists(tmp_path, ".", test="a report\n", train="nothing of it\n", README="a\nb\n")
    assert splits(tmp_path) == {"train": ["a", "b"]}


def test_lists_of_paddle_name_the_image_and_its_xml(tmp_path):
    save(tmp_path, *"ab")
    line = "./JPEGImages/{0}.jpg ./Annotations/{0}.xml\n"
    lists(tmp_path, ".", train=line.format("b"), val=line.format("a"))
    assert splits(tmp_path) == {"train": ["b"], "val": ["a"]}


def test_empty_lists_and_lists_of_classes_alone_are_said(tmp_path):
    save(tmp_path, *"ab")
    lists(tmp_path, dog_train="a 1\nb -1\n", cat_train="a -1\nb -1\n", val="\n")
    assert splits(tmp_path) == {"train": ["a", "b"]}
    assert problems(read(tmp_path)) == [
        "ImageSets/Main/val.txt: is empty; ignored",
        "ImageSets: 2 lists are of one class each, such as ImageSets/Main/cat_train.txt, and none"
        " is of a split",
    ]


# Names of images.


@pytest.mark.parametrize(
    "line",
    [
        "a",
        "a.jpg",
        "a.JPG",
        "a.xml",
        "./a",
        "JPEGImages/a.jpg",
        "./JPEGImages/a.jpg",
        "../JPEGImages/a.jpg",
        "..\\JPEGImages\\a.jpg",
        "Annotations/a.xml",
        "/home/me/VOC2007/JPEGImages/a.jpg",
        "C:\\VOC2007\\JPEGImages\\a.jpg",
        "/somewhere/a",
        "VOCdevkit/VOC2007/JPEGImages/a",
    ],
)
def test_a_line_may_be_a_path_with_a_suffix(tmp_path, line):
    save(tmp_path, "a", "b")
    lists(tmp_path, train=f"{line}\n")
    assert splits(tmp_path) == {"train": ["a"]}


def test_paths_of_nested_images(tmp_path):
    save(tmp_path, "x/a", "y/a", "y/b")
    lists(tmp_path, train="/data/JPEGImages/y/a.jpg\n", val="x/a\n/elsewhere/b.jpg\n")
    assert splits(tmp_path) == {"train": ["y/a"], "val": ["x/a", "y/b"]}


@pytest.mark.parametrize("line", ["../a", "/etc/passwd", "../../JPEGImages/none.jpg"])
def test_a_path_that_leads_to_no_image_is_refused(tmp_path, line):
    save(tmp_path, "b")
    lists(tmp_path, train=f"b\n{line}\n")
    with pytest.raises(DataError, match=f"train.txt: the file name '{line}' leads outside"):
        read(tmp_path)


def test_a_path_in_an_unknown_folder_is_not_another_image(tmp_path):
    save(tmp_path, "a")
    lists(tmp_path, train="other/a.jpg\n")
    with pytest.raises(DataError, match="^other/a: no image and no annotation"):
        open_train(config_of(tmp_path))


def test_names_that_end_in_a_number(tmp_path):
    save(tmp_path, "img 1", "img 2", "frame 0001")
    lists(tmp_path, train="img 1\nimg 2\n", val="frame 0001\n", test="img 1 1\nimg 2 -1\nimg 3 7\n")
    assert splits(tmp_path) == {
        "train": ["img 1", "img 2"],
        "val": ["frame 0001"],
        "test": ["img 1", "img 2", "img 3"],
    }


def test_of_a_missing_image_the_number_is_part_of_the_name_as_in_the_other_lines(tmp_path):
    save(tmp_path, "img 1", "img 2", "img")
    lists(tmp_path, train="img 1\nimg 2\nimg 0\n", val="img 1 5\nimg 2 6\nimg 4 7\n")
    assert splits(tmp_path) == {
        "train": ["img 1", "img 2", "img 0"],
        "val": ["img 1", "img 2", "img 4"],
    }
    with pytest.raises(DataError, match="^img 0: no image and no annotation"):
        open_train(config_of(tmp_path))


@pytest.mark.parametrize("text", ["img 0\nimg 1\n", "img 0\nimg -1\nimg 1\n"])
def test_names_with_numbers_are_no_list_of_a_class_although_no_image_is_known(tmp_path, text):
    save(tmp_path, "a")
    lists(tmp_path, train="a\n", val=text)
    assert splits(tmp_path) == {"train": ["a"], "val": text.splitlines()}


def test_a_list_of_a_class_is_one_although_no_image_is_known(tmp_path):
    save(tmp_path, "a")
    lists(tmp_path, train="a\n", dog_test="000001 1\n000002 -1\n")
    assert splits(tmp_path) == {"train": ["a"]}


def test_a_number_after_each_name(tmp_path):
    save(tmp_path, "000001", "000002")
    lists(tmp_path, train="000001 1\n000002 2\n", val="000002  1 0\n")
    assert splits(tmp_path) == {"train": ["000001", "000002"], "val": ["000002"]}


def test_a_list_called_after_a_class_and_a_split_is_of_the_class(tmp_path):
    save(tmp_path, "a", "b")
    lists(tmp_path, default="a\nb\n", dog_default="a  1\nb  1\n")
    assert splits(tmp_path) == {"train": ["a", "b"]}


def test_images_that_only_a_list_of_no_split_names_are_counted(tmp_path):
    save(tmp_path, *"abcd")
    lists(tmp_path, train="a\n", val="b\n", extra="a\nc\nd\n", trainval="a\nb\n")
    said = (
        "ImageSets/Main/extra.txt: 2 images are only in this list, which is no split; not used"
        " unless data.train_split or data.eval_split is 'extra'"
    )
    assert problems(read(tmp_path)) == [said]
    assert problems(read(tmp_path, eval_split="extra")) == []


def test_names_in_other_case_are_found_and_counted(tmp_path):
    save(tmp_path, "IMG1", "IMG2", "b", "B")
    lists(tmp_path, train="img1\nimg2.JPG\nb\n", val="B\n")
    assert splits(tmp_path) == {"train": ["IMG1", "IMG2", "b"], "val": ["B"]}
    assert problems(read(tmp_path)) == [
        "Annotations: 2 names in lists are those of files but for upper and lower case,"
        " such as img1 for IMG1"
    ]


def test_names_may_be_in_quotes(tmp_path):
    save(tmp_path, "img 0", "img 1")
    lists(tmp_path, train="\"img 0\"\n'img 1'\n", dog_train='"img 0"  1\n"img 1"  -1\n')
    assert splits(tmp_path) == {"train": ["img 0", "img 1"]}


def test_a_list_may_name_an_image_that_is_not_read(tmp_path):
    save(tmp_path, "a")
    (tmp_path / "JPEGImages/b.heic").write_bytes(b"x")
    lists(tmp_path, train="a\nb.heic\n")
    [said] = problems(read(tmp_path))
    assert said.endswith(
        "its image JPEGImages/b.heic is in a format that is not read; convert it to JPEG or PNG"
    )


def test_a_name_that_two_files_have_in_other_case_is_unknown(tmp_path):
    save(tmp_path, "IMG1", "Img1", "a")
    lists(tmp_path, train="img1\na\n")
    assert splits(tmp_path) == {"train": ["img1", "a"]}
