"""Which file an image name of a COCO file is: src/convmesh/data/formats/coco/images.py."""

import unicodedata

import pytest
from coco_files import box, config, image, picture, simple, warnings, write

from convmesh.data.formats.registry import open_dataset
from convmesh.data.splits import open_train
from convmesh.errors import DataError


def a_set(root, files, names, json="annotations/train.json"):
    """A set whose `files` are there, and whose JSON file lists `names`, each with one box."""
    for file in files:
        picture(root / file)
    images = [image(i, name) for i, name in enumerate(names)]
    write(root / json, images, [box(i, i) for i in range(len(names))])
    return config(root)


def found(made):
    train = open_train(made)
    return [train.name(i) for i in range(len(train))]


@pytest.mark.parametrize(
    "file, name",
    [
        ("train/IMG0.JPG", "img0.jpg"),
        ("train/a/img0.jpg", "A/img0.JPG"),
        ("train/" + unicodedata.normalize("NFD", "Übung.jpg"), "Übung.jpg"),  # macOS
        ("train/a/Übung.jpg", "a/" + unicodedata.normalize("NFD", "Übung.jpg")),
    ],
)
def test_a_name_in_another_spelling_is_found_and_counted(tmp_path, file, name):
    made = a_set(tmp_path, [file, "train/b.jpg"], [name, "b.jpg"])
    assert found(made) == [file, "train/b.jpg"]
    said = f"annotations/train.json: images found in another spelling: 1, such as {name}"
    assert warnings(open_dataset(made)) == [f"{said} ({file.removeprefix('train/')})"]


def test_an_exact_name_is_taken_before_another_spelling(tmp_path):
    made = a_set(tmp_path, ["train/a.jpg", "train/A.jpg"], ["a.jpg", "A.jpg"])
    assert found(made) == ["train/a.jpg", "train/A.jpg"]
    assert warnings(open_dataset(made)) == []


def test_two_files_of_one_spelling_are_not_chosen_from(tmp_path):
    made = a_set(tmp_path, ["train/A.jpg", "train/a.JPG"], ["a.jpg"])
    with pytest.raises(DataError, match="image 0: a.jpg is there 2 times: train/A.jpg, train/a.J"):
        open_train(made)


def test_a_name_that_is_there_several_times_is_said_to_be(tmp_path):
    files = [f"images/Job{i}/a.jpg" for i in (1, 2)]
    made = a_set(tmp_path, files, ["a.jpg"], "annotations/instances_default.json")
    said = "a.jpg is there 2 times: images/Job1/a.jpg, images/Job2/a.jpg; file_name must say which"
    with pytest.raises(DataError, match=said):
        open_train(made)


@pytest.mark.parametrize("folder", ["/home/me/set/train", "C:\\set\\train", "../../media/train"])
def test_folders_of_another_machine_in_front_are_left_away(tmp_path, folder):
    separator = "\\" if "\\" in folder else "/"
    made = a_set(tmp_path, ["train/a.jpg", "val/a.jpg"], [f"{folder}{separator}a.jpg"])
    assert found(made) == ["train/a.jpg"]
    assert "only by the last part of their names: 1" in warnings(open_dataset(made))[0]


def test_of_several_files_the_one_in_the_named_folder_is_taken(tmp_path):
    files = ["images/x/a.jpg", "images/y/a.jpg"]
    made = a_set(tmp_path, files, ["upload/y/a.jpg"], "result.json")
    assert found(made) == ["images/y/a.jpg"]


def test_a_file_in_the_folder_of_other_names_is_not_taken(tmp_path):
    made = a_set(tmp_path, ["images/b/0.jpg", "images/b/1.jpg"], ["a/0.jpg", "b/1.jpg"])
    said = "image 0: a/0.jpg not found in images, .*; there is images/b/0.jpg: correct file_name"
    with pytest.raises(DataError, match=said):
        open_train(made)


@pytest.mark.parametrize(
    "files, names",
    [
        (["images/b/0.jpg", "images/c/1.jpg"], ["a/0.jpg", "a/1.jpg"]),
        (["images/a/0.jpg", "images/a/1.jpg"], ["b/0.jpg", "c/1.jpg"]),
    ],
)
def test_a_folder_that_stands_for_several_is_not_guessed(tmp_path, files, names):
    with pytest.raises(DataError, match=f"{names[0]} not found.*there is {files[0]}"):
        open_train(a_set(tmp_path, files, names))


def test_a_folder_under_another_name_is_accepted_where_that_is_all(tmp_path):
    files, names = ["images/b/0.jpg", "images/b/1.jpg"], ["upload/1/0.jpg", "upload/1/1.jpg"]
    made = a_set(tmp_path, files, names)
    assert found(made) == files
    assert (
        "last part of their names: 2, such as upload/1/0.jpg (b/0.jpg)"
        in (warnings(open_dataset(made))[0])
    )


def test_a_file_of_another_folder_with_the_same_name_elsewhere_is_not_taken(tmp_path):
    files = ["train/b/0.jpg", "train/1.jpg", "val/c/0.jpg"]
    with pytest.raises(DataError, match="a/0.jpg is there 2 times: train/b/0.jpg, val/c/0.jpg"):
        open_train(a_set(tmp_path, files, ["a/0.jpg", "1.jpg"]))


def test_a_file_of_another_split_is_not_taken(tmp_path):
    made = a_set(tmp_path, ["images/val/0.jpg"], ["train/0.jpg"])
    with pytest.raises(DataError, match="train/0.jpg not found.*there is images/val/0.jpg"):
        open_train(made)
    made = a_set(tmp_path / "b", ["train/0.jpg"], ["/set/val/0.jpg"])
    with pytest.raises(DataError, match="leads outside"):
        open_train(made)


def test_a_missing_file_with_another_suffix_is_named(tmp_path):
    made = a_set(tmp_path, ["train/0.png", "train/1.jpg"], ["0.jpg", "1.jpg"])
    said = "0.jpg not found in train, .*; there is train/0.png: correct the suffix in file_name"
    with pytest.raises(DataError, match=said):
        open_train(made)


def test_images_outside_of_the_root_are_found_by_the_same_rules(tmp_path):
    picture(tmp_path / "elsewhere" / "A.jpg")
    write(tmp_path / "set" / "train.json", [image(0, "a.jpg"), image(1, "x/b.jpg")])
    made = config(tmp_path / "set", train_images=str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match="image 1: x/b.jpg not found"):
        open_train(made)
    picture(tmp_path / "elsewhere" / "b.jpg")
    # Named without the folders above, so that the data may be moved.
    assert found(made) == ["elsewhere/A.jpg", "elsewhere/b.jpg"]


def test_images_that_no_annotation_file_lists_are_counted(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / split / "a.jpg")
        write(tmp_path / "annotations" / f"{split}.json", [image(1, "a.jpg")], [box(1, 1)])
    assert warnings(open_dataset(config(tmp_path))) == []
    picture(tmp_path / "train" / "more" / "b.JPG")
    (tmp_path / "train" / "notes.txt").write_text("")
    dataset = open_dataset(config(tmp_path))
    said = "train: images that no annotations list: 1, such as more/b.JPG"
    assert warnings(dataset) == [said]
    assert [problem.split for problem in dataset.problems] == ["train"]


def test_in_a_folder_of_several_splits_unlisted_images_are_normal(tmp_path):
    for name in "abc":
        picture(tmp_path / "images" / f"{name}.jpg")
    for split, name in (("train", "a"), ("val", "b")):
        write(tmp_path / "annotations" / f"{split}.json", [image(1, f"{name}.jpg")], [box(1, 1)])
    assert warnings(open_dataset(config(tmp_path))) == []


def test_an_image_that_is_found_does_not_hide_one_that_is_not(tmp_path):
    simple(tmp_path)
    write(tmp_path / "annotations" / "train.json", [image(1, "a.jpg"), image(2, "sub/b.jpg")])
    with pytest.raises(DataError, match="image 2: sub/b.jpg not found in train, "):
        open_train(config(tmp_path))


def test_a_name_found_by_its_last_part_is_reported_and_must_be_unique(tmp_path):
    picture(tmp_path / "images" / "x" / "a.jpg")
    write(tmp_path / "result.json", [image(1, "upload/a.jpg")])
    assert warnings(open_dataset(config(tmp_path))) == [
        "result.json: images found only by the last part of their names: 1, such as upload/a.jpg"
        " (x/a.jpg)"
    ]
    picture(tmp_path / "images" / "y" / "a.jpg")
    with pytest.raises(DataError, match="upload/a.jpg is there 2 times: images/x/a.jpg, im"):
        open_train(config(tmp_path))


def test_two_names_of_one_image_are_refused(tmp_path):
    picture(tmp_path / "images" / "a.jpg")
    write(tmp_path / "result.json", [image(1, "x/a.jpg"), image(2, "y/a.jpg")])
    with pytest.raises(DataError, match="result.json: x/a.jpg and y/a.jpg are the same image"):
        open_train(config(tmp_path))


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/secret.jpg", "C:\\secret.jpg"])
def test_no_name_leads_out_of_the_root(tmp_path, name):
    root = tmp_path / "root"
    picture(tmp_path / "secret.jpg")
    write(root / "annotations" / "train.json", [image(1, name)])
    with pytest.raises(DataError, match="image 1: the file name .* leads outside"):
        open_train(config(root))
