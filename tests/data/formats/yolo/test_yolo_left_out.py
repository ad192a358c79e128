"""Images and folders of a YOLO data set that are not used, and what is said about them."""

import pytest
from yolo_sets import ROW, annotated, config, picture, problems, simple, text, warnings

from convmesh.data.formats.registry import find_format, open_dataset
from convmesh.data.splits import open_eval, open_train
from convmesh.errors import ConfigError, DataError

NAMES = ("cat", "dog")


def splits(root, arrangement, *names):
    """An image and its label file for each split."""
    for name in names:
        image, label = (f"{part.format(name)}/a" for part in arrangement)
        annotated(root, f"{image}.jpg", f"{label}.txt")
    text(root / "classes.txt", *NAMES)
    return config(root)


@pytest.mark.parametrize(
    "arrangement", [("{}/images", "{}/labels"), ("images/{}", "labels/{}"), ("{}", "{}")]
)
def test_labelled_images_in_a_folder_that_is_no_split_are_counted(tmp_path, arrangement):
    made = splits(tmp_path, arrangement, "train", "val", "extra", "train_part2")
    folder = arrangement[0].format("extra")
    assert warnings(open_dataset(made)) == [
        f"{folder}: 2 labelled images are in no split, such as {folder}/a.jpg; used only if"
        " data.train_split or data.eval_split names their folder: extra, train_part2"
    ]
    asked_for = config(tmp_path, train_split="train_part2", eval_split="extra")
    assert warnings(open_dataset(asked_for)) == []
    assert open_eval(asked_for).name(0) == f"{folder}/a.jpg"


def test_images_whose_labels_are_in_a_folder_of_another_name_are_counted(tmp_path):
    made = simple(tmp_path, ROW)
    annotated(tmp_path, "images2/b.jpg", "labels2/b.txt")
    picture(tmp_path / "images2" / "c.jpg")
    text(tmp_path / "labels2" / "readme.txt", "read me")
    assert warnings(open_dataset(made)) == [
        "images2: 1 image is in no split, such as images2/b.jpg, whose label file may be"
        " labels2/b.txt"
    ]


def test_a_test_split_without_labels_is_left_out_and_a_part_of_train_held_out(tmp_path):
    splits(tmp_path, ("{}/images", "{}/labels"), "train")
    annotated(tmp_path, "train/images/b.jpg", "train/labels/b.txt")
    for name in "xyz":
        picture(tmp_path / "test" / "images" / f"{name}.jpg")
    made = config(tmp_path, val_fraction=0.5)
    assert warnings(open_dataset(made)) == [
        "test/images: none of the 3 images of split 'test' has a label file, such as"
        " test/labels/x.txt for test/images/x.jpg; left out, and a part of the training split is"
        " held out to evaluate on; data.eval_split='test' would use it"
    ]
    assert (len(open_train(made)), len(open_eval(made))) == (1, 1)
    refused = "test/images: none of the 3 images of split 'test' has a label file"
    with pytest.raises(DataError, match=refused):
        open_eval(config(tmp_path, val_fraction=0.5, eval_split="test"))
    text(tmp_path / "test" / "boxes" / "y.txt", ROW)  # it has labels, but elsewhere
    with pytest.raises(DataError, match=refused):
        open_eval(made)


def test_a_split_that_data_yaml_states_and_that_is_missing_may_be_removed(tmp_path):
    annotated(tmp_path, "train/images/a.jpg", "train/labels/a.txt")
    names = "names: [cat, dog]"
    text(tmp_path / "data.yaml", "train: ../train/images", "val: ../valid/images", names)
    said = r"val: \.\./valid/images is neither .* images are in train/images \(1\); correct it, or"
    with pytest.raises(DataError, match=f"{said} remove the key val to hold out a part of"):
        open_dataset(config(tmp_path))
    text(tmp_path / "data.yaml", "train: ../training/images", names)
    with pytest.raises(DataError, match=r"train: .* in train/images \(1\); correct it$"):
        open_dataset(config(tmp_path))


def test_images_in_a_format_that_is_not_read_are_named(tmp_path):
    made = simple(tmp_path, ROW)
    for name in ("b", "c"):
        text(tmp_path / "images" / f"{name}.heic", "")
    text(tmp_path / "labels" / "b.txt", ROW)
    text(tmp_path / "images" / "a.dng", "")  # converted: a.jpg
    text(tmp_path / "images" / "about.pdf", "")
    text(tmp_path / "favicon.ico", "")
    assert warnings(open_dataset(made)) == [
        "images: 2 images are in a format that is not read (.heic), such as images/b.heic; left"
        " out: convert them to JPEG or PNG"
    ]
    for name in ("a.jpg", "a.dng", "about.pdf"):
        (tmp_path / "images" / name).unlink()
    (tmp_path / "favicon.ico").unlink()
    with pytest.raises(DataError, match=r": 2 images in a format that is not read \(.heic\), such"):
        open_dataset(made)


@pytest.mark.parametrize("folder", [True, False])
def test_labels_without_any_image_are_counted(tmp_path, folder):
    text(tmp_path / "labels" / "a.txt", ROW)
    text(tmp_path / "classes.txt", *NAMES)
    if folder:
        (tmp_path / "images").mkdir()
    said = "1 label file, such as labels/a.txt, but no images; put each .* such as images/a.jpg"
    with pytest.raises(DataError, match=said):
        open_dataset(config(tmp_path))


@pytest.mark.parametrize("file", ["det_train.json", "labels.csv", "a.png", "classes.txt"])
def test_a_folder_of_labels_without_text_is_no_sign(tmp_path, file):
    picture(tmp_path / "images" / "a.jpg")
    text(tmp_path / "labels" / file, "[]")
    with pytest.raises(ConfigError, match="no known layout of boxes"):
        find_format(config(tmp_path, classes=NAMES))
    text(tmp_path / "labels" / "train" / "cam" / "a.txt", ROW)
    assert find_format(config(tmp_path)) == "yolo"


def test_the_folder_above_is_named_if_it_names_the_classes(tmp_path):
    annotated(tmp_path, "train/images/a.jpg", "train/labels/a.txt")
    said = "data.classes: not set, and .* has no data.yaml"
    with pytest.raises(ConfigError, match=said):
        open_dataset(config(tmp_path / "train"))
    text(tmp_path / "data.yaml", "train: ../train/images", "names: [cat, dog]")
    said = "does not name the classes, and data.yaml in the folder above it does; set data.root to"
    with pytest.raises(ConfigError, match=f"{said} {tmp_path}$"):
        open_dataset(config(tmp_path / "train"))
    assert len(open_train(config(tmp_path / "train", classes=NAMES))) == 1


def test_a_folder_of_obj_data_alone_is_no_data_set(tmp_path):
    annotated(tmp_path, "data/obj/a.jpg", "data/obj/a.txt")
    text(tmp_path / "data" / "obj.names", *NAMES)
    text(tmp_path / "data" / "train.txt", "data/obj/a.jpg")
    text(tmp_path / "cfg" / "obj.data", "classes = 2", "train = data/train.txt")
    assert warnings(open_dataset(config(tmp_path))) == [
        "data: the data set is in this folder of data.root; used from there",
        "cfg: describes a data set, but has no images; not used",
    ]
    annotated(tmp_path, "cfg/obj/b.jpg", "cfg/obj/b.txt")
    with pytest.raises(ConfigError, match="several data sets: cfg, data"):
        open_dataset(config(tmp_path))


def test_each_of_two_images_with_one_label_file_has_its_own_error(tmp_path):
    made = simple(tmp_path, ROW)
    picture(tmp_path / "images" / "a.png")
    assert problems(open_dataset(made)) == [
        "labels/a.txt: belongs to images/a.jpg and images/a.png: which of them has these boxes is"
        " not known; rename or remove one",
        "images/a.png: has the same label file as images/a.jpg, labels/a.txt",
    ]


def test_one_image_without_a_label_file_is_counted_in_the_singular(tmp_path):
    made = simple(tmp_path, ROW)
    picture(tmp_path / "images" / "b.jpg")
    assert warnings(open_dataset(made)) == [
        "images: 1 image of split 'train' has no label file, such as labels/b.txt for"
        " images/b.jpg; it is an image without boxes"
    ]


def test_one_class_is_enough(tmp_path):
    made = simple(tmp_path, "0 0.5 0.25 0.2 0.1", names=("cat",))
    train = open_train(made)
    assert train.classes == ("cat",) and train[0].labels.tolist() == [0]
