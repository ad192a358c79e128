"""Parsing of damaged and malicious JSON, XML and YAML."""

import os

import pytest

from convmesh.data import documents
from convmesh.errors import DataError

BILLION_LAUGHS = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><a>&b;</a>'


@pytest.fixture
def write(tmp_path):
    def write(data):
        path = tmp_path / "file"
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    return write


def test_plain_documents_are_parsed(write):
    assert documents.read_json(write('{"a": [1, "ü"]}')) == {"a": [1, "ü"]}
    assert documents.read_json(write(b"\xef\xbb\xbf[1]")) == [1]
    assert documents.read_yaml(write("names: [a, 'b']\nnc: 2")) == {"names": ["a", "b"], "nc": 2}
    root = documents.read_xml(write("<annotation><size><width>3</width></size></annotation>"))
    assert root.findtext("size/width") == "3"


def test_yaml_below_some_keys_is_text_as_written(write):
    path = write("Names: {010: 0x1F, 1: [no, ~, 1e3]}\nnc: 2\nnames: 80")
    assert documents.read_yaml(path, text_keys=["names"]) == {
        "Names": {"010": "0x1F", "1": ["no", "~", "1e3"]},
        "nc": 2,
        "names": 80,
    }
    assert documents.read_yaml(path)["Names"] == {8: 31, 1: [False, None, "1e3"]}


@pytest.mark.parametrize(
    "read, data, message",
    [
        (documents.read_json, '{"a":\n [1,]}', "line 2: invalid JSON"),
        (documents.read_json, "[" * 100_000, "nested too deeply"),
        (documents.read_json, "9" * 5000, "digit"),
        (documents.read_json, b"\xff\xfe{}", "byte 0: not UTF-8"),
        (documents.read_xml, "<a>\n<b></a>", "line 2: invalid XML"),
        (documents.read_xml, BILLION_LAUGHS, "line 1: has a DOCTYPE"),
        (documents.read_xml, BILLION_LAUGHS.encode("utf-16"), "has a DOCTYPE"),
        (documents.read_xml, "<a>" * 101, "nested too deeply"),
        (documents.read_xml, '<?xml version="1.0" encoding="rot13"?><a/>', "invalid XML"),
        (documents.read_xml, "", "invalid XML"),
        (documents.read_yaml, "a: [1", "line 1: invalid YAML"),
        (documents.read_yaml, "!!python/object/apply:os.getcwd []", "invalid YAML"),
        (documents.read_yaml, "a: &x [1]\nb: *x", r"line 2: an alias"),
        (documents.read_yaml, "[" * 5000, "nested too deeply"),
        (documents.read_yaml, "d: 2020-13-45", "invalid YAML"),
        (documents.read_yaml, "a:\n  b: 1\n  b: 2", "line 2: b occurs 2 times"),
    ],
)
def test_an_invalid_or_malicious_document_raises_an_error_with_its_path(write, read, data, message):
    path = write(data)
    with pytest.raises(DataError, match=message) as raised:
        read(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_file_larger_than_the_limit_is_not_read(write, monkeypatch):
    monkeypatch.setattr(documents, "MAX_JSON", 3)
    assert documents.read_json(write("123")) == 123
    with pytest.raises(DataError, match="4 bytes exceed the limit of 3"):
        documents.read_json(write("1234"))


def test_pipes_devices_and_folders_raise_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(DataError, match="not a regular file"):
            documents.read_json(path)
    with pytest.raises(DataError, match="Is a directory"):
        documents.read_json(tmp_path)
    with pytest.raises(DataError, match="No such file"):
        documents.read_json(tmp_path / "none")


@pytest.mark.parametrize("name", ["a.png", "a/b.png", "a\\b.png", "./a.png", "..a.png", "a..b/c"])
def test_names_inside_the_root_are_accepted(tmp_path, name):
    path = documents.path_inside(tmp_path, name, "file")
    assert path.resolve().is_relative_to(tmp_path.resolve())


@pytest.mark.parametrize(
    "name", ["../a", "a/../../b", "/etc/passwd", "..\\a", "C:\\a", "\\\\host\\a", "", None, 3, "\0"]
)
def test_names_that_lead_outside_or_are_no_names_are_rejected(tmp_path, name):
    with pytest.raises(DataError, match="^file: "):
        documents.path_inside(tmp_path, name, "file")


def test_the_depth_of_xml_is_limited_and_not_its_number_of_elements(write):
    deepest = documents.read_xml(write("<a>" * 100 + "</a>" * 100))
    assert len(list(deepest.iter())) == 100
    assert len(documents.read_xml(write("<a>" + "<b/>" * 200 + "</a>"))) == 200


@pytest.mark.parametrize("kind, read", [("XML", documents.read_xml), ("YAML", documents.read_yaml)])
def test_each_kind_of_document_has_a_limit_of_its_own(write, monkeypatch, kind, read):
    monkeypatch.setattr(documents, f"MAX_{kind}", 4)
    read(write("<a/>"))
    with pytest.raises(DataError, match="5 bytes exceed the limit of 4"):
        read(write("<aa/>"))


def test_objects_of_json_are_converted_from_the_inside_out(write):
    path = write('{"a": {"b": 1, "c": 2}}')
    assert documents.read_json(path, lambda entry: sum(entry.values()) + 1) == 5
