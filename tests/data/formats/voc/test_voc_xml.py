"""The objects of VOC's XML in the forms of several tools: src/convmesh/data/formats/voc/xml.py."""

from xml.etree import ElementTree

import numpy as np
import pytest
from annotation_files import BOX, DOG, bounds, config_of, problems, read, save_image, save_xml

from convmesh.data.formats.voc.xml import read_objects
from convmesh.data.splits import open_train
from convmesh.errors import DataError


def objects(text, root="annotation"):
    return read_objects(ElementTree.fromstring(f"<{root}>{text}</{root.split()[0]}>"), "a.xml")


def one(inside):
    """The boxes of one object, as lists."""
    return objects(f"<object><name>dog</name>{inside}</object>").boxes


def test_each_of_several_boxes_in_an_object_is_one_of_its_class():
    found = objects(f"<object><name>cap</name>{BOX}{bounds(3, 4, 5, 6)}{BOX}</object>{DOG}")
    assert found.boxes == [[1, 2, 9, 8], [3, 4, 5, 6], [1, 2, 9, 8], [1, 2, 9, 8]]
    assert found.names == ["cap", "cap", "cap", "dog"]
    assert found.locations == ["object 1, box 1", "object 1, box 2", "object 1, box 3", "object 2"]


def test_several_boxes_are_said_once_for_all_files(tmp_path):
    for name in "abc":
        save_image(tmp_path / f"{name}.jpg")
        save_xml(tmp_path / f"{name}.xml", f"<object><name>cap</name>{BOX}{BOX}</object>")
    assert problems(read(tmp_path)) == [
        "3 objects have several boxes, such as a.xml: object 1; each is used, with its class"
    ]


def test_tags_may_have_other_capitals_underscores_and_a_namespace():
    text = (
        "<Object><Name>dog</Name><DIFFICULT>1</DIFFICULT><BndBox><Xmin>1</Xmin><yMin>2</yMin>"
        "<x_max>9</x_max><YMAX>8</YMAX></BndBox></Object><Size><Width>30</Width>"
        "<Height>20</Height></Size><FileName>b.jpg</FileName>"
    )
    for root in ("annotation", "Annotation", 'annotation xmlns="http://x.org/voc"'):
        found = objects(text, root)
        assert (
            found.boxes == [[1, 2, 9, 8]] and found.names == ["dog"] and found.difficult == [True]
        )
        assert found.size == (20, 30) and found.image == "b.jpg" and not found.foreign


@pytest.mark.parametrize(
    "box, expected",
    [
        ("<bbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bbox>", [1, 2, 9, 8]),
        ("<bndbox><ymin>2</ymin><xmin>1</xmin><ymax>8</ymax><xmax>9</xmax></bndbox>", [1, 2, 9, 8]),
        ('<bndbox xmin="1" ymin="2" xmax="9" ymax="8"/>', [1, 2, 9, 8]),
        (
            "<bndbox><left>1</left><top>2</top><right>9</right><bottom>8</bottom></bndbox>",
            [1, 2, 9, 8],
        ),
        (
            "<bndbox><xmin>1</xmin><ymin>2</ymin><width>9</width><height>8</height></bndbox>",
            [1, 2, 10, 10],
        ),
        (
            "<robndbox><cx>10</cx><cy>8</cy><w>6</w><h>2</h><angle>1.5707963</angle></robndbox>",
            [9, 5, 11, 11],
        ),
        (
            "<robndbox><cx>10</cx><cy>8</cy><w>6</w><h>2</h><angle>0.7853982</angle></robndbox>",
            [10 - 8**0.5, 8 - 8**0.5, 10 + 8**0.5, 8 + 8**0.5],
        ),
        (
            "<polygon><username>me</username><pt><x>4</x><y>2</y></pt><pt><x>9</x><y>5</y></pt>"
            "<pt><x>1</x><y>8</y></pt></polygon>",
            [1, 2, 9, 8],
        ),
        ("<polygon><x1>4</x1><y1>2</y1><x2>9</x2><y2>5</y2><x3>1</x3><y3>8</y3></polygon>", None),
        ("<points>4,2;9,5;1,8</points>", None),
        ("<points><point>4,2</point><point>9,5</point><point>1,8</point></points>", None),
        ("<bndbox><x1>4</x1><y1>2</y1><x2>9</x2><y2>5</y2><x3>1</x3><y3>8</y3></bndbox>", None),
    ],
)
def test_a_box_or_the_upright_box_around_an_outline(box, expected):
    np.testing.assert_allclose(one(box), [expected or [1, 2, 9, 8]], atol=1e-6)


def test_the_box_is_used_although_there_is_an_outline_too():
    assert one(f"<polygon><x1>0</x1><y1>0</y1></polygon>{BOX}") == [[1, 2, 9, 8]]


@pytest.mark.parametrize(
    "more",
    [
        "<bbox><xmin>3</xmin><ymin>3</ymin><xmax>6</xmax><ymax>6</ymax></bbox>",
        "<bbox>1 2 3 4</bbox>",
        "<bndbox2><xmin>3</xmin><ymin>3</ymin><xmax>6</xmax><ymax>6</ymax></bndbox2>",
        '<visible x="3" y="3" w="6" h="6"/>',
        f"<boxes>{BOX}</boxes>",
    ],
)
def test_a_further_box_of_an_object_is_said(more):
    found = objects(f"<object><name>dog</name>{BOX}{more}</object>")
    assert found.boxes == [[1, 2, 9, 8]]
    [(what, where)] = found.remarks
    assert what == "objects have a further box in another element; left out"
    assert where.startswith("object 1: <")


@pytest.mark.parametrize(
    "more",
    [
        BOX.replace("bndbox", "bbox"),
        "<keypoints><x1>1</x1><y1>1</y1><x2>2</x2><y2>2</y2><x3>3</x3><y3>3</y3></keypoints>",
        f"<parts><part><name>head</name>{BOX}</part></parts>",
    ],
)
def test_the_same_box_again_and_parts_are_no_further_boxes(more):
    assert objects(f"<object><name>dog</name>{BOX}{more}</object>").remarks == []


def test_a_part_is_no_object():
    part = f"<part><name>head</name>{bounds(2, 2, 3, 3)}</part>"
    found = objects(f"<object><name>man</name>{BOX}{part}</object>")
    assert found.boxes == [[1, 2, 9, 8]] and found.names == ["man"]
    with pytest.raises(DataError, match="object 1 has no <bndbox>"):
        one(part)


def test_objects_may_be_in_a_list():
    found = objects(f"<objects>{DOG}{DOG}</objects>")
    assert len(found.boxes) == 2 and not found.foreign


@pytest.mark.parametrize(
    "text, said",
    [
        (f"<objects><item><name>dog</name>{BOX}</item></objects>", "<bndbox> is in <objects>, not"),
        (f"<item>{BOX}</item>{DOG}", "<bndbox> is in <item>, not in an <object>"),
        (f"<objects>{DOG}{BOX}</objects>", "<bndbox> is in <objects>, not in an <object>"),
        (BOX, "<bndbox> is not in an <object>"),
        (f"<object>{BOX}</object>", "object 1 has no <name>"),
        (f"<object><name>a</name><name>b</name>{BOX}</object>", "object 1 has several <name>"),
    ],
)
def test_boxes_outside_of_an_object_are_refused(text, said):
    with pytest.raises(DataError, match=f"^a.xml: {said}"):
        objects(text)


@pytest.mark.parametrize(
    "box, said",
    [
        (
            "<bndbox><x>1</x><y>2</y><width>3</width><height>4</height></bndbox>",
            "object 1: <bndbox> has x, y, width, height; wanted xmin, ymin, xmax, ymax",
        ),
        ("<bndbox><xmin>1</xmin><ymin>2</ymin></bndbox>", "<bndbox> has xmin, ymin; wanted xmin"),
        ("<bndbox/>", "<bndbox> has nothing; wanted xmin"),
        (bounds(1, 2, 3, 4).replace("</bndbox>", bounds(5, 6, 7, 8)[8:]), "has several <xmin>"),
        (bounds("1,5", 2, 3, 4), "<xmin> is '1,5', wanted a number"),
        (bounds("1_5", 2, 3, 4), "<xmin> is '1_5', wanted a number"),
        (bounds("nan", 2, 3, 4), "<xmin> is 'nan', wanted a number"),
        ("<segm><mask>a.png</mask></segm>", "object 1 has no <bndbox>, but <segm>"),
        (f"<item>{BOX}</item>", "object 1 has no <bndbox>, but <item>"),
        ("<polygon><pt><x>1</x><y>2</y></pt></polygon>", "<polygon> has no points x, y that are"),
        ("<points>1,2;3</points>", "<points> has no points x, y that are understood"),
        ("<robndbox><cx>1</cx><cy>2</cy></robndbox>", "<robndbox> has cx, cy; wanted cx, cy, w, h"),
        (
            "<robndbox><cx>1</cx><cy>2</cy><w>3</w><h>4</h><angle>45</angle></robndbox>",
            "<angle> is 45, wanted radians",
        ),
        (
            "<points>1,2;3,4</points><polygon><pt><x>1</x><y>2</y></pt><pt><x>3</x><y>4</y></pt>"
            "</polygon>",
            "object 1 has <points> and <polygon>; which is its box",
        ),
    ],
)
def test_a_box_in_a_form_that_is_not_understood_is_refused_by_name(box, said):
    with pytest.raises(DataError, match=said):
        one(box)


@pytest.mark.parametrize("root", ["annotations", "doc", "VOC"])
def test_another_root_is_refused_by_name(root):
    with pytest.raises(DataError, match=f"a.xml: its root is <{root}>, wanted <annotation>: this"):
        objects(DOG, root)


@pytest.mark.parametrize(
    "given, difficult",
    [("1", True), ("Yes", True), ("TRUE", True), ("0", False), ("no", False), ("", False)],
)
def test_difficult_in_the_words_of_tools(given, difficult):
    found = objects(f"<object><name>dog</name><Difficult>{given}</Difficult>{BOX}</object>")
    assert found.difficult == [difficult] and not found.remarks


def test_an_unknown_word_for_difficult_is_said():
    found = objects(f"<object><name>dog</name><difficult>maybe</difficult>{BOX}</object>")
    assert found.difficult == [False] and "neither 0 nor 1 but 'maybe'" in found.remarks[0][0]


def test_objects_that_labelme_deleted_are_left_out_and_said():
    found = objects(f"<object><name>dog</name><deleted>1</deleted>{BOX}</object>{DOG}")
    assert found.names == ["dog"] and found.locations == ["object 2"]
    assert found.remarks == [("objects are marked as deleted; left out", "object 1")]


# Files without any object.

ITEMS = "<objects><item><x>1</x><y>2</y><w>3</w><h>4</h></item></objects>"


def save(root, **texts):
    for name, text in texts.items():
        save_image(root / "JPEGImages" / f"{name}.jpg")
        save_xml(root / "Annotations" / f"{name}.xml", text)


def test_numbers_in_unknown_elements_and_no_object_are_refused(tmp_path):
    save(tmp_path, a=DOG, b=ITEMS, c=ITEMS)
    said = (
        "Annotations: 2 files have no <object>, but unknown elements, such as <objects> in"
        " Annotations/b.xml; objects in another form"
    )
    for policy in ("fail", "drop"):
        with pytest.raises(DataError, match=said):
            open_train(config_of(tmp_path, on_bad_box=policy))


def test_unknown_elements_without_numbers_are_a_warning(tmp_path):
    save(tmp_path, a=DOG, b="<weather>rain</weather>", c="<segmented>0</segmented>")
    assert problems(read(tmp_path)) == [
        "Annotations: 1 file has no <object>, but unknown elements, such as <weather> in"
        " Annotations/b.xml; images without objects"
    ]


def test_elements_that_are_also_beside_objects_are_no_objects(tmp_path):
    camera = "<camera><fx>1</fx><fy>2</fy><cx>3</cx><cy>4</cy></camera>"
    save(tmp_path, a=camera + DOG, b=camera)
    assert problems(read(tmp_path)) == []


def test_one_file_for_all_images_is_named(tmp_path):
    save_image(tmp_path / "images/a.jpg")
    text = '<annotations><image name="a.jpg"><box label="dog" xtl="1"/></image></annotations>'
    (tmp_path / "annotations.xml").write_text(text)
    with pytest.raises(DataError, match="^annotations.xml: its root is <annotations>.*CVAT's"):
        read(tmp_path)
