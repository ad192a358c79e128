import pytest

from convmesh.errors import DataError
from convmesh.weights.class_names import coco_classes, imagenet_classes, read_class_names


def test_the_thousand_classes_of_imagenet_are_in_the_order_of_the_outputs():
    names = imagenet_classes()
    assert len(names) == len(set(names)) == 1000
    places = {0: "tench", 207: "golden retriever", 281: "tabby", 817: "sports car", 999: "toilet tissue"}  # fmt: skip # noqa: E501
    assert {i: names[i] for i in places} == places


def test_the_classes_of_coco_are_in_the_order_of_its_category_ids():
    names = coco_classes()
    assert len(names) == len(set(names)) == 90
    # The ids of COCO's annotations, which count from 1.
    places = {1: "person", 13: "stop sign", 12: "N/A (12)", 37: "sports ball", 90: "toothbrush"}
    assert {i: names[i - 1] for i in places} == places
    assert sum(name.startswith("N/A") for name in names) == 10 and "__background__" not in names


@pytest.mark.parametrize(
    "content",
    [
        "red fox\nblue\n grün \n\n",
        '["red fox", "blue", "grün"]',
        "\ufeffred fox\r\nblue\r\ngrün",
    ],  # fmt: skip # noqa: E501
)
def test_names_are_read_from_lines_or_a_json_list(tmp_path, content):
    file = tmp_path / "names.txt"
    file.write_bytes(content.encode())
    assert read_class_names(file) == ("red fox", "blue", "grün")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "name 1 of 0|no list of class names"),
        (b"red\n\nblue", "name 2 of 3 is ''"),
        (b"red\nblue\nred", "'red' is the name of class 0 and of class 2"),
        (b'["red", 3]', "no list of class names"),
        (b'["red", ', "no JSON list"),
        (b"re\x00d", "name 1 of 1"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_other_content_is_refused_with_the_file(tmp_path, content, message):
    file = tmp_path / "names.txt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_class_names(file)
    assert str(error.value).startswith(f"{file}: ") and "\n" not in str(error.value)


def test_a_file_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(DataError, match="none.txt: No such file"):
        read_class_names(tmp_path / "none.txt")
