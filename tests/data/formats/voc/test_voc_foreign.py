"""Objects in forms that VOC does not have: src/convmesh/data/formats/voc/foreign.py."""

from xml.etree import ElementTree

import pytest
from annotation_files import DOG, config_of, problems, read, save_image, save_xml

from convmesh.data.formats.voc.foreign import find_foreign
from convmesh.data.splits import open_train
from convmesh.errors import DataError

ITEM = '<item label="dog" x1="1" y1="2" x2="9" y2="8"/>'
CAMERA = "<camera><name>A</name><fx>1</fx><fy>2</fy><cx>3</cx><cy>4</cy></camera>"


def foreign(text):
    return find_foreign(ElementTree.fromstring(f"<annotation>{text}</annotation>"), "a.xml")


@pytest.mark.parametrize(
    "text",
    [
        ITEM,
        "<dog><left>3</left><top>3</top><width>20</width><height>20</height></dog>",
        "<item><name>dog</name><rect>1 2 30 40</rect></item>",
        "<item><name>dog</name><at>(1, 2), (30, 40)</at></item>",
        '<item class="dog" at="1,2,30,40"/>',
        "<dog><a><x>1</x><y>2</y></a><b><x>3</x><y>4</y></b></dog>",
        "<dog><minx>1</minx><miny>2</miny><maxx>3</maxx><maxy>4</maxy></dog>",
        "<x>1</x><y>2</y><w>3</w><h>4</h>",
        f"<objects>{DOG}{ITEM}</objects>",
    ],
)
def test_elements_that_hold_a_box(text):
    found = foreign(text)
    assert found.boxes and not found.numbers


@pytest.mark.parametrize(
    "text, numbers",
    [
        (CAMERA, False),
        ("<gps><lat>1.2</lat><lon>3.4</lon><alt>5</alt><acc>3</acc></gps>", False),
        ("<camera><k>1 0 0 0 1 0 0 0 1</k></camera>", False),
        ("<params><fx>1</fx><fy>2</fy><cx>3</cx><cy>4</cy><w>5</w><h>6</h></params>", False),
        ("<crop><x>1</x><y>2</y><w>3</w><h>4</h></crop>", True),
        ("<thing><a>1</a><b>2</b><c>3</c><d>4</d></thing>", True),
        ("<weather>rain</weather>", False),
    ],
)
def test_other_elements_are_no_boxes(text, numbers):
    found = foreign(text)
    assert not found.boxes and bool(found.numbers) == numbers and found


def save(root, **texts):
    for name, text in texts.items():
        save_image(root / f"{name}.jpg")
        save_xml(root / f"{name}.xml", text)


def test_boxes_in_unknown_elements_are_counted_beside_objects_and_refused_alone(tmp_path):
    save(tmp_path, a=DOG + ITEM, b=DOG + ITEM)
    beside = (
        "2 files have boxes in unknown elements that are no <object>, such as <item> in a.xml;"
        " not used"
    )
    assert problems(read(tmp_path)) == [beside]
    save(tmp_path, c=ITEM)
    assert beside in problems(read(tmp_path))
    with pytest.raises(DataError, match="1 file has no <object>, but unknown elements.* in c.xml"):
        open_train(config_of(tmp_path))


def test_numbers_that_may_be_a_box_are_a_warning_by_name(tmp_path):
    thing = "<thing><a>1</a><b>2</b><c>3</c><d>4</d></thing>"
    save(tmp_path, a=DOG + thing, b=thing, c=DOG + CAMERA, d=CAMERA)
    assert problems(read(tmp_path)) == [
        "2 files have numbers in unknown elements, such as <thing> in a.xml;"
        " not used: objects in another form?"
    ]
    assert len(open_train(config_of(tmp_path))) == 4
