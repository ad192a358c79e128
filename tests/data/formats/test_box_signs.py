"""Whether files hold boxes, by their content: src/convmesh/data/formats/box_signs.py."""

import pytest

from convmesh.data.formats.box_signs import holds_boxes


@pytest.mark.parametrize(
    "name, text, boxes",
    [
        ("a.json", '{"images": [], "annotations": [{"bbox": [1, 2, 3, 4]}]}', True),
        ("a.json", '{"shapes": []}', True),
        ("a.JSON", '{"annotations": [{"category_id": 1}]}', False),
        ("a.xml", "<annotation><size></size></annotation>", True),
        ("a.xml", "<annotation>\n<object name='a'/></annotation>", True),
        ("a.xml", "<project><objects/></project>", False),
        ("a.txt", "\n0 0.5 0.5 0.1 0.1\r\n", True),
        ("a.txt", "0 0.1 0.2 0.3 0.4 0.5 0.6", True),
        ("a.txt", "1 2 3\ncat/0.jpg 4\n", False),
        ("a.csv", "0 0.5 0.5 0.1 0.1", False),
    ],
)
@pytest.mark.parametrize("folder", ["", "b/c"])
def test_boxes_are_known_by_the_content_of_files(tmp_path, folder, name, text, boxes):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / name).write_text(text)
    assert holds_boxes(tmp_path) == boxes
