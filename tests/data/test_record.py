"""Records, sources and subsets: src/convmesh/data/record.py."""

import hashlib
import os

import numpy as np
import pytest

from convmesh.data.record import (
    BadExample,
    DataSet,
    Record,
    Source,
    Subset,
    check_label,
    identity,
)


def test_the_label_of_an_image_is_a_class_id():
    assert check_label(2, ("a", "b", "c"), "a.jpg") == 2
    for wrong in (-1, 3):
        with pytest.raises(BadExample, match=f"a.jpg: class id {wrong} is not one of 0..2"):
            check_label(wrong, ("a", "b", "c"), "a.jpg")


class Numbers(Source):
    classes, split, task = ("a",), "train", "classify"

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return Record(np.zeros((2, 2, 3), np.uint8), index + 1, self.name(index), label=0)

    def name(self, index):
        return f"{index}.jpg"


def test_a_subset_selects_examples_and_keeps_their_ids():
    part = Subset(Numbers(), [7, 2], "val")
    assert len(part) == 2 and part.split == "val" and part.classes == ("a",)
    assert [part[i].image_id for i in range(2)] == [8, 3]
    assert [part.name(i) for i in range(2)] == ["7.jpg", "2.jpg"]


class Stated(Numbers):
    category_ids = (7,)

    def stated_labels(self, index):
        return np.array([index % 3])


def test_a_subset_passes_on_what_its_source_states():
    assert Subset(Numbers(), [7], "val").stated_labels(0) is None
    assert Subset(Numbers(), [7], "val").category_ids is None
    part = Subset(Stated(), [7, 2], "val")
    assert [part.stated_labels(i).tolist() for i in range(2)] == [[1], [2]]
    assert part.category_ids == (7,)


def test_optional_members_of_a_source_and_a_data_set_have_defaults():
    class Opened(DataSet):
        splits = ("train",)

        def source(self, split, training):
            return Numbers()

    source = Opened().source("train", training=True)
    assert Opened().problems == ()
    assert (source.ignored_files, source.empty_folders) == ((), ())
    for incomplete in (Source, DataSet):
        with pytest.raises(TypeError, match="abstract"):
            incomplete()


def test_the_identity_of_a_source_depends_on_its_names_in_order():
    first, second = (
        identity(Subset(Numbers(), [1, 2], "a")),
        identity(Subset(Numbers(), [2, 1], "a")),
    )
    assert first["examples"] == second["examples"] == 2 and first["names"] != second["names"]
    assert identity(Subset(Stated(), [1, 2], "b")) == first


class Named(Numbers):
    def __init__(self, *names):
        self.names = names

    def __len__(self):
        return len(self.names)

    def name(self, index):
        return self.names[index]


@pytest.mark.parametrize("indices", [[1, 4, 7], [7, 2], [3, 3], []])
def test_all_names_of_a_subset_are_in_its_order(indices):
    part = Subset(Numbers(), indices, "val")
    assert list(part.all_names()) == [part.name(i) for i in range(len(indices))]


def test_the_identity_tells_where_one_name_ends_and_the_next_begins():
    assert identity(Named("ab", "c"))["names"] != identity(Named("a", "bc"))["names"]


def test_file_names_that_are_not_utf8_have_an_identity():
    first, second = (identity(Named(os.fsdecode(name))) for name in (b"\xff.jpg", b"\xfe.jpg"))
    assert first["names"] != second["names"]
    assert first["names"] == hashlib.sha256(b"\xff.jpg\n").hexdigest()


def test_iterating_ends_after_the_last_example_of_a_source_that_does_not_say_so():
    class Endless(Source):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return index

        def name(self, index):
            return str(index)

    assert list(Endless()) == [0, 1]
