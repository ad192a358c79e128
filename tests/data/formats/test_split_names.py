"""The rule for split names: src/convmesh/data/formats/split_names.py."""

import pytest

from convmesh.config import defaults
from convmesh.data.formats import split_names
from convmesh.errors import DataError


@pytest.mark.parametrize(
    "name, split",
    [
        ("train", "train"),
        ("val", "val"),
        ("valid", "valid"),
        ("validation", "validation"),
        ("test", "test"),
        ("train2017", "train"),
        ("validation2014", "validation"),
        ("train17", None),
        ("train2017x", None),
        ("my_train", None),
        ("training shoes", None),
        ("restrain", None),
        ("images", None),
    ],
)
def test_a_name_is_parsed_as_split_and_year(name, split):
    parsed = split_names.parse(name)
    assert parsed == ((split, name) if split else None)


@pytest.mark.parametrize(
    "name, split, with_year",
    [
        ("Training", "train", "train"),
        ("TESTING", "test", "test"),
        ("VALID", "valid", "valid"),
        ("Validation", "validation", "validation"),
        ("dev", "val", "val"),
        ("train_images", "train", "train"),
        ("images-val", "val", "val"),
        ("TestSet", "test", "test"),
        ("1_train", "train", "train"),
        ("Train2017", "train", "train2017"),
    ],
)
def test_splits_are_spelt_in_many_ways(name, split, with_year):
    assert split_names.parse(name) == (split, with_year)


def test_folders_get_the_names_of_their_splits():
    assert split_names.name_splits(["Training", "VALID", "extra"]) == {
        "Training": "train",
        "VALID": "valid",
        "extra": "extra",
    }
    two_years = ["train2014", "train2017", "val2017"]
    expected = {"train2014": "train2014", "train2017": "train2017", "val2017": "val"}
    assert split_names.name_splits(two_years) == expected


def test_two_folders_of_one_split_are_refused():
    with pytest.raises(DataError, match="train and Training are both the split 'train'"):
        split_names.name_splits(["train", "Training", "test"])


@pytest.mark.parametrize(
    "text, found",
    [
        ("instances_train2017", ("train", "train2017")),
        ("my-valid set", ("valid", "valid")),
        ("validation", ("validation", "validation")),
        ("annotations_val_2", ("val", "val")),
        ("test2", None),
        ("train20170", None),
        ("my_Training_1", ("train", "train")),
        ("latest", None),
        ("values", None),
        ("default", None),
    ],
)
def test_a_name_is_found_within_a_file_name(text, found):
    assert split_names.find_in(text) == found


def test_the_validation_split_has_three_names():
    assert split_names.same_split("val") == ("val", "validation", "valid")
    assert split_names.same_split("test") == ("test",)
    assert split_names.find_split("val", ("train", "valid")) == "valid"
    assert split_names.find_split("val", ("valid", "validation")) == "validation"
    assert split_names.find_split("val", ("valid", "val")) == "val"
    assert split_names.find_split("val", ("train", "test")) is None
    assert split_names.find_split("extra", ("extra",)) == "extra"


def test_the_config_can_name_the_split_to_evaluate():
    config = defaults("detect")
    assert set(split_names.evaluated_names(config)) == {"val", "valid", "validation"}
    config.data.eval_split = "test"
    assert split_names.evaluated_names(config) == ("test",)
