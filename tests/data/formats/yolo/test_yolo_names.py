"""Where the names of YOLO's classes come from: src/convmesh/data/formats/yolo/names.py."""

import re

import pytest
from yolo_sets import ROW, annotated, config, simple, text, warnings

from convmesh.data.formats.registry import open_dataset
from convmesh.data.splits import open_train
from convmesh.errors import ConfigError, DataError

TRICKY = "010 011 12:30 0x1F yes no on OFF null ~ 1e3 2020-01-31 1_000 .5 08".split()


@pytest.mark.parametrize(
    "lines",
    [
        ["names:", *(f"  {i}: {name}" for i, name in enumerate(TRICKY))],
        ["names:", *(f"  - {name}" for name in TRICKY)],
        [f"names: [{', '.join(TRICKY)}]"],
        [f"Names: {{{', '.join(f'{i}: {name}' for i, name in enumerate(TRICKY))}}}"],
        ["names:", *(f'  "{i}": {name}' for i, name in reversed([*enumerate(TRICKY)]))],
    ],
)
def test_names_in_data_yaml_stay_as_they_are_written(tmp_path, lines):
    simple(tmp_path, ROW)
    (tmp_path / "classes.txt").unlink()
    text(tmp_path / "data.yaml", *lines, f"nc: {len(TRICKY)}")
    assert open_train(config(tmp_path)).classes == tuple(TRICKY)


@pytest.mark.parametrize(
    "lines, said",
    [
        (["names: cat, dog"], "names: 'cat, dog' is not a list of names; write names: [cat, dog]"),
        (
            ["names: {cat: 0, dog: 1}"],
            "names: the ids are not 0..1; write `0: NAME`, not `NAME: 0`",
        ),
        (["names: {1: cat, 2: dog}"], "names: the ids are not 0..1"),
        (["names: {0: cat, 00: dog}"], "names: the ids are not 0..1"),
        (["names: [[cat], dog]"], "names: ['cat'] is not text"),
        (["names: [cat, dog]", "nc: 3"], "nc: 3, but there are 2 names"),
        (["names: [cat, dog]", "Names: [cat]"], "Names: occurs twice, with other capitals"),
    ],
)
def test_names_that_are_no_list_are_refused_with_what_to_do(tmp_path, lines, said):
    simple(tmp_path, ROW)
    text(tmp_path / "data.yaml", *lines)
    with pytest.raises(DataError, match=f"^data.yaml: {re.escape(said)}"):
        open_train(config(tmp_path))


def test_a_repeated_id_or_key_is_refused_with_its_line(tmp_path):
    simple(tmp_path, ROW)
    text(tmp_path / "data.yaml", "names:", "  0: cat", "  0: dog")
    with pytest.raises(DataError, match="data.yaml: line 2: 0 occurs 2 times"):
        open_train(config(tmp_path))


@pytest.mark.parametrize(
    "lines, said",
    [
        (["cat, dog"], "line 1: 'cat, dog'; write one name a line"),
        (["0: cat", "1: dog"], "line 1: '0: cat' has a number before the name"),
        (["1 cat", "2 dog"], "line 1: '1 cat' has a number before the name"),
        (["cat", "cat"], "'cat' occurs 2 times"),
    ],
)
def test_a_file_of_names_in_another_form_is_refused(tmp_path, lines, said):
    with pytest.raises(DataError, match=f"^classes.txt: {re.escape(said)}"):
        open_train(simple(tmp_path, ROW, names=lines))


def test_names_that_begin_with_a_number_are_names(tmp_path):
    assert open_train(simple(tmp_path, ROW, names=["2 wheels", "4 wheels"])).classes == (
        "2 wheels",
        "4 wheels",
    )


def test_files_with_different_names_are_refused_unless_data_yaml_says_which(tmp_path):
    for split, name in (("train", "_darknet.labels"), ("valid", "_darknet.labels")):
        annotated(tmp_path / split)
        text(tmp_path / split / name, "cat", "dog")
    made = config(tmp_path)
    assert open_train(made).classes == ("cat", "dog")
    text(tmp_path / "valid" / "_darknet.labels", "cat")  # the same ids
    assert open_train(made).classes == ("cat", "dog")
    text(tmp_path / "valid" / "_darknet.labels", "dog", "cat")
    said = "valid/_darknet.labels: states other names than train/_darknet.labels, dog, cat instead"
    with pytest.raises(DataError, match=said):
        open_train(made)
    text(tmp_path / "data.yaml", "names: [cat, dog]")
    assert open_train(made).classes == ("cat", "dog")
    assert warnings(open_dataset(made)) == [
        "valid/_darknet.labels: states other names than data.yaml, which is used: dog, cat instead"
        " of cat, dog"
    ]


def test_the_list_of_proposals_of_labelimg_is_only_used_alone(tmp_path):
    annotated(tmp_path)
    text(tmp_path / "predefined_classes.txt", "dog", "person")
    assert open_train(config(tmp_path)).classes == ("dog", "person")
    text(tmp_path / "CLASSES.TXT", "cat", "nut")
    assert open_train(config(tmp_path)).classes == ("cat", "nut")


def test_a_data_yaml_without_names_is_said_to_have_none(tmp_path):
    annotated(tmp_path)
    text(tmp_path / "data.yaml", "train: .", "labels: [cat, dog]")
    with pytest.raises(ConfigError, match=r"data.yaml has no key names \(it has train, labels\)"):
        open_train(config(tmp_path))
