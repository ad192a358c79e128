"""Folders that look like no classes: src/convmesh/data/formats/folder/doubts.py."""

import pytest

from convmesh.data.formats.folder.class_folders import find_class_folders
from convmesh.errors import DataError


def make(root, *folders, **files):
    """Write two empty images into each of `folders`, named after it, and text files."""
    for name in folders:
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(2):
            (root / name / f"{name.replace('/', '_')}_{i}.png").touch()
    for name, text in files.items():
        (root / f"{name}.csv").write_text(text)
    return root


def names(root, given=()):
    return [folder.name for folder in find_class_folders(root, given).splits["train"]]


def warnings(root, given=()):
    return [str(problem) for problem in find_class_folders(root, given).problems]


TABLES = {
    "labels": "image,label\npart_a_0.png,cat\n",
    "metadata": ",image_id,dx\n0,part_a_1,nevus\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_labels_beside_folders_of_its_images_is_refused(tmp_path, name):
    make(tmp_path, "part_a", "more", **{name: TABLES[name]})
    with pytest.raises(DataError, match=f"{name}.csv: a table of labels, .*folders more, part_a"):
        names(tmp_path)
    assert names(tmp_path, ["part_a", "more"]) == ["more", "part_a"]


@pytest.mark.parametrize(
    "table",
    [
        "image,label\ncat_0.png,cat\n",  # the same classes
        "label,name\n0,felis\n",
        "image,width\ncat_0.png,64\n",
        "",
    ],
)
def test_other_tables_beside_class_folders_are_left_alone(tmp_path, table):
    make(tmp_path, "cat", "dog", about=table)
    assert names(tmp_path) == ["cat", "dog"]


def test_a_table_about_one_class_is_left_alone(tmp_path):
    make(tmp_path, "cat", "dog", **{"cat.metadata": "image,label\ncat_0.png,x\n"})
    assert names(tmp_path) == ["cat", "dog"]


@pytest.mark.parametrize("folder", ["test1", "train_512", "val 2"])
def test_numbered_names_of_splits_are_no_classes(tmp_path, folder):
    with pytest.raises(DataError, match=f"{folder}: 2 images in a folder with the name of a split"):
        names(make(tmp_path, "other", folder))


@pytest.mark.parametrize("copy", ["Set/set", "data/other"])
def test_two_copies_of_the_class_folders_are_refused(tmp_path, copy):
    make(tmp_path, "set/cat", "set/dog", f"{copy}/cat", f"{copy}/dog")
    with pytest.raises(DataError, match="hold the same folders, cat, dog: .* set data.root to one"):
        names(tmp_path)


@pytest.mark.parametrize("tops", [("data", "odd"), ("pets", "docs"), ("pets", "sample_images")])
def test_class_folders_in_a_folder_beside_others_are_refused(tmp_path, tops):
    make(tmp_path, f"{tops[0]}/cat", f"{tops[0]}/dog", tops[1])
    with pytest.raises(DataError, match=f"cat, dog and not in {tops[1]}: set data.root to .*"):
        names(tmp_path)
    assert set(names(tmp_path, tops)) == {*tops}


@pytest.mark.parametrize("top", ["", "train/"])
@pytest.mark.parametrize("given", [(), ("cat", "dog")])
def test_masks_in_class_folders_are_left_out_and_counted(tmp_path, top, given):
    make(tmp_path, f"{top}cat/images", f"{top}cat/masks", f"{top}dog", f"{top}dog/Labels")
    found = find_class_folders(tmp_path, given)
    assert sum(len(list(folder.files)) for folder in found.splits["train"]) == 4
    (problem,) = map(str, found.problems)
    assert "4 images in folders of masks or labels in the class folders, such as" in problem


def test_masks_in_the_splits_of_classes_are_left_out(tmp_path):
    make(tmp_path, *(f"{name}/train/{part}" for name in ("a", "b") for part in ("images", "masks")))
    found = find_class_folders(tmp_path)
    assert [len(list(folder.files)) for folder in found.splits["train"]] == [2, 2]
    assert len(found.problems) == 2


@pytest.mark.parametrize("name", ["mask", "label", "image", "train"])
def test_a_doubtful_name_in_a_split_is_a_class_and_said(tmp_path, name):
    make(tmp_path, "train/cat", f"train/{name}", "test/cat", f"test/{name}")
    assert set(names(tmp_path)) == {"cat", name}
    assert any(f"train/{name}: taken for a class" in line for line in warnings(tmp_path))
    assert set(names(tmp_path, ["cat", name])) == {"cat", name}
    assert not warnings(tmp_path, ["cat", name])


def test_a_folder_of_masks_beside_classes_is_refused_unless_classes_are_given(tmp_path):
    make(tmp_path, "train/cat", "train/masks", "train/dog")
    with pytest.raises(DataError, match=r"train/masks: 2 images in .*; list all classes in data.c"):
        names(tmp_path)
    assert names(tmp_path, ["cat", "dog"]) == ["cat", "dog"]
    (left_out,) = warnings(tmp_path, ["cat", "dog"])
    assert "2 images in no class folder, such as train/masks" in left_out
    assert names(tmp_path, ["cat", "dog", "masks"]) == ["cat", "dog", "masks"]


@pytest.mark.parametrize("top", ["", "train/"])
def test_a_class_folder_in_another_is_said(tmp_path, top):
    make(tmp_path, f"{top}cat", f"{top}dog", f"{top}dog/more/Cat")
    (problem,) = warnings(tmp_path)
    assert f"{top}dog/more/Cat: 1 folder in a class folder with the name of another" in problem
