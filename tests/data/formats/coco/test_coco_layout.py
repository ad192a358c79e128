"""Where COCO's files and images are: src/convmesh/data/formats/coco/layout.py."""

import pytest
from coco_files import box, config, image, picture, warnings, write

from convmesh.data.formats.registry import find_format, open_dataset
from convmesh.data.splits import open_eval, open_train
from convmesh.errors import ConfigError, DataError


@pytest.mark.parametrize(
    "annotations, pictures",
    [
        ("Annotations/train.json", "Images"),
        ("ANNOTATIONS/TRAIN.JSON", "TRAIN"),
        ("annotation/Training.json", "Images/Training"),
        ("annotations/instances_train2017.json", "Train2017"),
        ("annotations/train.json", "train_images"),
        ("Train/_annotations.coco.json", "Train"),
        ("TRAINING/_annotations.coco.json", "TRAINING/Images"),
        ("train/my_coco.json", "train"),
        ("train/labels_of_mine.json", "train"),
    ],
)
def test_names_in_other_spellings(tmp_path, annotations, pictures):
    picture(tmp_path / pictures / "a.jpg")
    write(tmp_path / annotations, [image(1, "a.jpg")], [box(1, 1)])
    made = config(tmp_path, format="coco")
    dataset, train = open_dataset(made), open_train(made)
    assert dataset.splits == ("train",) and warnings(dataset) == []
    assert train.name(0) == f"{pictures}/a.jpg" and len(train[0].boxes) == 1


def test_splits_in_other_spellings_are_the_splits_of_the_run(tmp_path):
    for name in ("Training", "VALID", "Testing"):
        picture(tmp_path / name / f"{name}.jpg")
        write(tmp_path / name / "_annotations.coco.json", [image(1, f"{name}.jpg")], [box(1, 1)])
    made = config(tmp_path)
    assert find_format(made) == "coco"
    assert open_train(made).name(0) == "Training/Training.jpg"
    assert open_eval(made).name(0) == "VALID/VALID.jpg"
    assert open_eval(made, "test").name(0) == "Testing/Testing.jpg"


def test_two_folders_of_one_split_are_refused(tmp_path):
    for name in ("train", "Training"):
        picture(tmp_path / name / "a.jpg")
        write(tmp_path / name / "_annotations.coco.json", [image(1, "a.jpg")], [box(1, 1)])
    with pytest.raises(DataError, match="Training and train are both the split 'train'"):
        open_dataset(config(tmp_path))


def test_cocos_files_of_persons_are_named_if_there_are_no_others(tmp_path):
    write(tmp_path / "annotations" / "person_keypoints_train2017.json")
    said = "annotations/person_keypoints_train2017.json: without boxes, or of persons only"
    with pytest.raises(DataError, match=said):
        open_dataset(config(tmp_path, format="coco"))


def test_paths_of_the_config_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    picture(tmp_path / "pictures" / "a.jpg")
    write(tmp_path / "mine.json", [image(1, "a.jpg")], [box(1, 1)])
    keys = {"train_annotations": "~/mine.json", "train_images": "~/pictures"}
    made = config("~", **keys)
    assert len(open_train(made)[0].boxes) == 1
    made.data.train_annotations = "~nobody_of_this_name/mine.json"
    with pytest.raises(ConfigError, match="data.train_annotations: .*is not a file"):
        open_train(made)
