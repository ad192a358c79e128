"""Counted warnings: src/convmesh/data/formats/tally.py."""

import pytest

from convmesh.data.formats.tally import Tally, counted


def test_one_line_for_each_kind_with_its_number_and_first_example():
    tally = Tally()
    for name in ("a.xml", "b.xml"):
        tally.add("objects have several boxes; each is used", name)
    tally.add("files are empty", "c.xml", count=3)
    assert [(p.file, p.what, p.error) for p in tally.problems("Annotations")] == [
        ("Annotations", "2 objects have several boxes, such as a.xml; each is used", False),
        ("Annotations", "3 files are empty, such as c.xml", False),
    ]
    assert tally.has("files are empty") and not tally.has("files")


@pytest.mark.parametrize(
    "what, one",
    [
        ("JSON files are not LabelMe's", "1 JSON file is not LabelMe's"),
        ("objects have boxes", "1 object has boxes"),
        ("annotations name another", "1 annotation names another"),
    ],
)
def test_one_is_in_the_singular(what, one):
    assert counted(1, what) == one and counted(2, what) == f"2 {what}"
