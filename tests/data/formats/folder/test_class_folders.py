"""Which folders are classes, and of which split: folder/class_folders.py."""

import unicodedata

import pytest

from convmesh.data.formats.folder.class_folders import find_class_folders, holds_class_folders
from convmesh.errors import DataError


def make(root, *folders, count=2):
    """Write `count` empty images into each of `folders`; a name with a suffix is a file."""
    for name in folders:
        files = [name] if "." in name else [f"{name}/{i}.png" for i in range(count)]
        for file in files:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).touch()
    return root


def names(found):
    return {
        split: {folder.path: folder.name for folder in folders}
        for split, folders in found.splits.items()
    }


def warnings(found):
    assert not any(problem.error for problem in found.problems)
    return [str(problem) for problem in found.problems]


CAT_DOG = ("cat", "dog")


def of(*tops):
    return [f"{top}/{name}" for top in tops for name in CAT_DOG]


# Splits.


@pytest.mark.parametrize(
    "train, test",
    [
        ("Training", "Testing"),
        ("TRAIN", "test_images"),
        ("train_set", "test_set"),
        ("1_train", "2_test"),
        ("seg_train", "seg_test"),
    ],
)
def test_splits_are_found_in_any_spelling(tmp_path, train, test):
    found = find_class_folders(make(tmp_path, *of(train, test)))
    assert names(found) == {
        "train": {f"{train}/cat": "cat", f"{train}/dog": "dog"},
        "test": {f"{test}/cat": "cat", f"{test}/dog": "dog"},
    }
    assert found.aliases == {train: "train", test: "test"} and not found.problems


def test_two_spellings_of_one_split_are_refused(tmp_path):
    make(tmp_path, *of("train", "Training"))
    with pytest.raises(DataError, match="Training and train are both the split 'train'"):
        find_class_folders(tmp_path)


def test_a_folder_is_a_split_if_the_config_says_so(tmp_path):
    found = find_class_folders(make(tmp_path, *of("mine", "test")), split_keys=["mine"])
    assert set(found.splits) == {"mine", "test"} and not found.problems


def test_class_folders_one_deeper_in_a_split(tmp_path):
    make(tmp_path, *of("train/train", "test/images"))
    found = find_class_folders(tmp_path)
    assert names(found) == {
        "train": {"train/train/cat": "cat", "train/train/dog": "dog"},
        "test": {"test/images/cat": "cat", "test/images/dog": "dog"},
    }
    assert warnings(found) == [
        "test/images: the class folders are in this folder of the split; used from there",
        "train/train: the class folders are in this folder of the split; used from there",
    ]


def test_a_split_with_one_class_is_not_left_for_its_subfolders(tmp_path):
    make(tmp_path, *of("train"), "test/cat/a", "test/cat/b")
    assert names(find_class_folders(tmp_path))["test"] == {"test/cat": "cat"}


@pytest.mark.parametrize("folder", ["val", "val/images", "val/val"])
def test_a_split_without_class_folders_is_left_out_and_counted(tmp_path, folder):
    found = find_class_folders(make(tmp_path, *of("train"), folder))
    assert set(found.splits) == {"train"}
    assert warnings(found) == [
        f"val: 2 images in no class folder, such as {folder}/0.png; left out"
    ]


def test_loose_images_are_counted_by_folder(tmp_path):
    make(tmp_path, *of("train"), "train", "a.png", count=3)
    assert warnings(find_class_folders(tmp_path)) == [
        "train: 3 images in no class folder, such as train/0.png; left out",
        "data.root: 1 image in no class folder, such as a.png; left out",
    ]


def test_other_folders_beside_splits_are_said(tmp_path):
    make(tmp_path, *of("train", "more"), "raw", "odd/gnu", "docs/a.pdf")
    found = find_class_folders(tmp_path)
    assert set(found.splits) == {"train", "more"}
    assert warnings(found) == [
        "more: 4 images in a folder whose name is not that of a split; used only if"
        " data.train_split or data.eval_split names it",
        "odd: 2 images in a folder that is no split; left out",
        "raw: 2 images in a folder that is no split; left out",
    ]


@pytest.mark.parametrize("copy", ["set", "set/set"])
def test_a_copy_of_the_splits_is_left_out(tmp_path, copy):
    found = find_class_folders(make(tmp_path, *of("train", "val", f"{copy}/train", f"{copy}/val")))
    assert set(found.splits) == {"train", "val"}
    assert warnings(found) == ["set: looks like a copy of the data set, with 8 images; left out"]


def test_junk_is_passed_over(tmp_path):
    make(tmp_path, *of("train", "__MACOSX/train", ".cache/train"), "train/.git/a.png")
    found = find_class_folders(tmp_path)
    assert set(names(found)["train"].values()) == {"cat", "dog"} and not found.problems


# Folders of classes.


def test_any_name_is_a_class(tmp_path):
    tops = ["0", "1", "n02085620-Chihuahua", "hot dog", "data", "test tube"]
    found = find_class_folders(make(tmp_path, *tops))
    assert set(names(found)["train"]) == set(tops) and not found.problems


def test_an_inner_copy_of_class_folders_is_left_out(tmp_path):
    found = find_class_folders(make(tmp_path, *CAT_DOG, *of("pets")))
    assert names(found) == {"train": {"cat": "cat", "dog": "dog"}}
    assert warnings(found) == ["pets: looks like a copy of the data set, with 4 images; left out"]


@pytest.mark.parametrize(
    "folders",
    [
        ["images"],
        ["images", "labels"],
        ["Images", "masks"],
        ["train", "val"],
        ["my_train", "my_test"],
        ["train/images", "val/images"],
    ],
)
def test_parts_of_other_layouts_are_no_classes(tmp_path, folders):
    assert find_class_folders(make(tmp_path, *folders)).splits == {}


@pytest.mark.parametrize(
    "other, what", [("test", "a split"), ("images", "a part of another layout")]
)
def test_a_class_with_another_layouts_name_must_be_listed(tmp_path, other, what):
    make(tmp_path, *CAT_DOG, other)
    message = f"{other}: 2 images in a folder with the name of {what}, beside .* cat, dog; arrange"
    with pytest.raises(DataError, match=message):
        find_class_folders(tmp_path)
    found = find_class_folders(tmp_path, given=["cat", "dog", other])
    assert set(names(found)["train"]) == {"cat", "dog", other}


def test_a_class_may_be_called_train_and_that_is_said(tmp_path):
    found = find_class_folders(make(tmp_path, "bus", "train"))
    assert names(found) == {"train": {"bus": "bus", "train": "train"}}
    assert warnings(found) == [
        "train: taken for a class, not for the training split, as it has no class folders"
    ]


@pytest.mark.parametrize(
    "parts", [["images_001", "images_002"], ["HAM_images_part_1", "HAM_images_part_2"], ["fold1"]]
)
def test_numbered_parts_are_no_classes(tmp_path, parts):
    make(tmp_path, *parts)
    with pytest.raises(DataError, match=f"{parts[0]}.*: these folders look like parts"):
        find_class_folders(tmp_path)
    assert set(names(find_class_folders(tmp_path, given=parts))["train"]) == set(parts)


# Levels.


def test_class_split_is_read(tmp_path):
    make(tmp_path, "cat/Train", "cat/test", "dog/Train/more", "dog/test", "a.png")
    found = find_class_folders(tmp_path)
    assert names(found) == {
        "train": {"cat/Train": "cat", "dog/Train": "dog"},
        "test": {"cat/test": "cat", "dog/test": "dog"},
    }
    assert found.aliases == {"Train": "train"}
    assert warnings(found) == ["data.root: 1 image in no class folder, such as a.png; left out"]


@pytest.mark.parametrize("other", ["dog", "dog/more"])
def test_class_split_for_some_classes_only_is_refused(tmp_path, other):
    make(tmp_path, "cat/train", "cat/test", other)
    message = r"cat holds folders of splits \(test, train\) and dog other .*arrange them as SPLIT"
    with pytest.raises(DataError, match=message):
        find_class_folders(tmp_path)


@pytest.mark.parametrize("top", ["", "train/"])
def test_the_same_folders_in_all_class_folders_are_refused(tmp_path, top):
    make(tmp_path, *of(f"{top}camA", f"{top}camB/images"))
    message = f"{top}camA, {top}camB hold the same folders, cat, dog: if those are the classes"
    with pytest.raises(DataError, match=message):
        find_class_folders(tmp_path)
    found = find_class_folders(tmp_path, given=["camA", "camB"])
    assert list(names(found)["train"].values()) == ["camA", "camB"]


def test_images_in_several_folders_of_a_class_are_said(tmp_path):
    make(tmp_path, "animals/cat", "animals/dog", "cars/bmw", "cars/vw", "boats")
    assert warnings(find_class_folders(tmp_path)) == [
        "animals: the folders in it (cat, dog) are one class, animals; the same for 1 more class"
        " folders"
    ]


@pytest.mark.parametrize(
    "folders", [["cat/images", "dog/images"], ["cat", "cat/more", "cat/less", "dog/a"]]
)
def test_folders_in_class_folders_belong_to_the_class(tmp_path, folders):
    found = find_class_folders(make(tmp_path, *folders))
    assert set(names(found)["train"].values()) == {"cat", "dog"} and not found.problems


def test_linked_folders_are_followed(tmp_path):
    root = make(tmp_path / "root", *of("train"))
    make(tmp_path / "more", "a.png", "b.png")
    (root / "train/cat/linked").symlink_to(tmp_path / "more")
    cat = find_class_folders(root).splits["train"][0]
    assert list(cat.files) == [
        f"train/cat/{name}.png" for name in ("0", "1", "linked/a", "linked/b")
    ]


# Names.


@pytest.mark.parametrize("other", ["Cat", "cat ", "CAT"])
def test_names_that_differ_in_case_or_space_are_said(tmp_path, other):
    found = find_class_folders(make(tmp_path, "train/cat", f"train/{other}", "train/dog"))
    first, second = sorted(["train/cat", f"train/{other}"])
    assert warnings(found) == [
        f"{first}: differs only in case or space from {second}; two classes?"
    ]


def test_composed_and_decomposed_names_are_one_class(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    make(tmp_path, f"train/{composed}", f"val/{decomposed}", *of("train", "val"))
    found = find_class_folders(tmp_path)
    assert {folder.name for folder in found.splits["val"]} == {"cat", "dog", composed}
    make(tmp_path, f"train/{decomposed}")
    with pytest.raises(DataError, match="the same name in composed and decomposed"):
        find_class_folders(tmp_path)


@pytest.mark.parametrize(
    "folders, expected",
    [
        (["train/cat"], True),
        (["train/train/cat"], True),
        (["train/images/cat"], True),
        (["train/cat/sub"], True),
        (["train"], False),
        (["train/images"], False),
        (["train/train"], False),
        (["train/images", "train/labels"], False),
        (["train/docs/a.pdf"], False),
    ],
)
def test_whether_a_split_holds_class_folders(tmp_path, folders, expected):
    assert holds_class_folders(make(tmp_path, *folders) / "train") is expected


@pytest.mark.parametrize(
    "tops", [["seg_train", "my_train", "seg_test"], ["steel val", "steel test"], ["steam train"]]
)
def test_names_that_contain_a_splits_are_classes_unless_they_are_its_splits(tmp_path, tops):
    found = find_class_folders(make(tmp_path, *(f"{top}/{i}" for i, top in enumerate(tops))))
    assert names(found) == {"train": {top: top for top in tops}}


def test_a_folder_like_a_split_with_loose_images_is_left_out(tmp_path):
    found = find_class_folders(make(tmp_path, *of("train", "more"), "more"))
    assert set(found.splits) == {"train"}


def test_a_folder_with_one_of_the_splits_is_no_copy(tmp_path):
    found = find_class_folders(make(tmp_path, *of("train", "val"), "other/train"))
    assert warnings(found) == ["other: 2 images in a folder that is no split; left out"]


def test_folders_in_a_class_are_no_copy_if_some_have_other_names(tmp_path):
    found = find_class_folders(make(tmp_path, *CAT_DOG, *of("pets"), "pets/emu"))
    assert set(names(found)["train"]) == {"cat", "dog", "pets"}


def test_one_folder_that_all_classes_share_is_no_class(tmp_path):
    make(tmp_path, "cat/near", "cat/far", "dog/near", "dog/blurred", "emu/a.txt")
    assert list(names(find_class_folders(tmp_path))["train"]) == ["cat", "dog", "emu"]


def test_an_empty_class_hides_no_wrong_level(tmp_path):
    make(tmp_path, *of("camA", "camB"), "camC/a.txt")
    with pytest.raises(DataError, match="camA, camB hold the same folders"):
        find_class_folders(tmp_path)


def test_the_only_split_among_class_folders_may_be_a_class(tmp_path):
    make(tmp_path, "bus", "car", "boat", "train/steam", "train/diesel")
    with pytest.raises(DataError, match="^train: the only folder with the name of a split, beside"):
        find_class_folders(tmp_path)


def test_one_folder_of_images_beside_the_only_split_is_left_out(tmp_path):
    found = find_class_folders(make(tmp_path, *of("train"), "extra"))
    assert list(found.splits) == ["train"]
    assert warnings(found) == ["extra: 2 images in a folder that is no split; left out"]
