"""Which label file belongs to which image: src/convmesh/data/formats/yolo/pairs.py."""

import unicodedata

import pytest
from yolo_sets import ROW, annotated, config, picture, problems, simple, text, warnings

from convmesh.data.formats.registry import open_dataset
from convmesh.data.splits import open_train
from convmesh.errors import DataError


def counts(root, **data):
    """Images with the number of their boxes, and the warnings."""
    made = config(root, classes=("cat", "dog"), **data)
    train = open_train(made)
    return {train.name(i): len(train[i].boxes) for i in range(len(train))}, warnings(
        open_dataset(made)
    )


def test_labels_beside_images_in_a_folder_called_images_are_used(tmp_path):
    annotated(tmp_path, "camA/a.jpg", "camA/a.txt")
    annotated(tmp_path, "camB/images/b.jpg", "camB/images/b.txt", [ROW, ROW])
    text(tmp_path / "data.yaml", "train: [camA, camB/images]", "names: [cat, dog]")
    assert counts(tmp_path) == ({"camA/a.jpg": 1, "camB/images/b.jpg": 2}, [])


@pytest.mark.parametrize(
    "image, label",
    [
        ("Images/train/a.jpg", "Labels/train/a.txt"),
        ("TRAIN/Images/a.JPG", "TRAIN/labels/a.TXT"),
        ("images/a.jpg", "labels/A.txt"),
        ("images/train/images/a.jpg", "labels/train/images/a.txt"),  # the first `images`
        (
            unicodedata.normalize("NFD", "images/é.jpg"),
            unicodedata.normalize("NFC", "labels/é.txt"),
        ),
    ],
)
def test_names_are_compared_without_case_and_composition(tmp_path, image, label):
    annotated(tmp_path, image, label)
    assert counts(tmp_path) == ({image: 1}, [])


def test_a_name_in_the_same_case_goes_before_others(tmp_path):
    annotated(tmp_path, "images/a.jpg", "labels/a.txt")
    annotated(tmp_path, "images/A.jpg", "labels/A.txt", [ROW, ROW])
    assert counts(tmp_path)[0] == {"images/A.jpg": 2, "images/a.jpg": 1}


def test_two_label_files_of_one_image_are_refused_if_they_differ(tmp_path):
    made = simple(tmp_path, ROW)
    text(tmp_path / "images" / "a.txt", ROW, ROW)
    said = "labels/a.txt: differs from images/a.txt, which belongs to the same image; remove one"
    with pytest.raises(DataError, match=said):
        open_train(made)
    assert problems(open_dataset(config(tmp_path, on_bad_example="skip"))) == [said]
    text(tmp_path / "images" / "a.txt", "", ROW)
    assert len(open_train(made)[0].boxes) == 1
    assert warnings(open_dataset(made)) == [
        "labels: 1 label file has a copy with the same boxes, such as images/a.txt; used once"
    ]


def test_a_caption_beside_an_image_is_no_label_file(tmp_path):
    made = simple(tmp_path, ROW)
    text(tmp_path / "images" / "a.txt", "a cat on a mat")
    assert len(open_train(made)[0].boxes) == 1
    assert warnings(open_dataset(made)) == [
        "labels: 1 text file has the name of an image and no boxes, such as images/a.txt; not used"
    ]


def test_one_label_file_of_two_images_is_refused_by_name(tmp_path):
    made = simple(tmp_path, ROW)
    picture(tmp_path / "images" / "a.png")
    said = "labels/a.txt: belongs to images/a.jpg and images/a.png: which of them has these boxes"
    with pytest.raises(DataError, match=said):
        open_train(made)
    (tmp_path / "images" / "a.png").rename(tmp_path / "images" / "A.png")
    with pytest.raises(DataError, match="belongs to images/A.png and images/a.jpg"):
        open_train(made)
    text(tmp_path / "data.yaml", "train: train.txt", "names: [cat, dog]")
    text(tmp_path / "train.txt", "images/a.jpg")  # says which one is meant
    assert len(open_train(made)[0].boxes) == 1


def test_label_files_without_an_image_are_counted(tmp_path):
    made = simple(tmp_path, ROW)
    for name in ("labels/b.txt", "labels/c.txt", "labels/README.txt", "labels/classes.txt"):
        text(tmp_path / name, "cat")
    text(tmp_path / "README.dataset.txt", "read me")
    assert warnings(open_dataset(made)) == [
        "labels: 2 label files have no image, such as labels/b.txt"
    ]
    annotated(tmp_path / "images", "d.jpg", "d.txt")
    text(tmp_path / "images" / "e.txt", ROW)  # beside images that have labels beside them
    assert "3 label files have no image, such as images/e.txt" in warnings(open_dataset(made))[0]


def test_where_no_image_has_labels_one_without_an_image_is_named(tmp_path):
    made = simple(tmp_path)
    (tmp_path / "labels" / "a.txt").rename(tmp_path / "labels" / "a_1.txt")
    with pytest.raises(DataError, match="has no label file, .*while labels/a_1.txt belongs to no"):
        open_train(made)


def test_images_with_labels_that_are_in_no_split_are_counted(tmp_path):
    simple(tmp_path, ROW)
    annotated(tmp_path, "more/b.jpg", "more/b.txt")
    picture(tmp_path / "logo.png")  # has no labels
    text(tmp_path / "data.yaml", "train: images", "names: [cat, dog]")
    assert warnings(open_dataset(config(tmp_path))) == [
        "more: 1 labelled image is in no split, such as more/b.jpg"
    ]
