"""Parsing of damaged and malicious JSON, XML and YAML."""

import os
import sys

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
        (documents.read_xml, "<a>" * 101 + "</a>" * 101, "nested too deeply"),
        (documents.read_xml, "<a>" * 20_000 + "</a>" * 20_000, "nested too deeply"),
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


# Encodings of XML.

CHINESE = "<a><name>螺母镕 ü</name></a>"  # 镕 is in GBK, not in GB2312


@pytest.mark.parametrize(
    "declared, codec",
    [
        ("utf8", "utf-8"),  # as ElementTree.write(encoding="utf8") writes it
        ("UTF-8", "utf-8"),
        ("UTF-8", "utf-8-sig"),
        ("gb2312", "utf-8-sig"),  # the mark decides
        ("utf-16", "utf-16"),
        ("UTF-16", "utf-8"),  # of programs that write a string to a UTF-8 file
        ("utf-16", "utf-16-le"),
        ("utf-16", "utf-16-be"),
        ("utf-8", "utf-16"),
        ("utf-32", "utf-32"),
        ("gb2312", "gbk"),
        ("GBK", "gbk"),
        ("gb18030", "gb18030"),
        ("gb2312", "gb18030"),
    ],
)
def test_xml_is_read_in_the_encoding_that_it_has(write, declared, codec):
    text = f"<?xml version='1.0' encoding='{declared}'?>\n{CHINESE}"
    assert documents.read_xml(write(text.encode(codec))).findtext("name") == "螺母镕 ü"


@pytest.mark.parametrize(
    "declared, codec, name",
    [
        ("Shift_JIS", "cp932", "犬①"),
        ("EUC-JP", "euc_jp", "犬"),
        ("Big5", "big5", "貓"),
        ("EUC-KR", "cp949", "개똠"),
        ("windows-1251", "cp1251", "кот"),
        ("ISO-8859-1", "latin-1", "Käfer"),
        ("US-ASCII", "ascii", "cat"),
    ],
)
def test_encodings_of_other_languages(write, declared, codec, name):
    text = f'<?xml version="1.0" encoding="{declared}" standalone="yes"?><a><name>{name}</name></a>'
    assert documents.read_xml(write(text.encode(codec))).findtext("name") == name


@pytest.mark.parametrize(
    "data, message",
    [
        (CHINESE.encode("gbk"), "byte 9: not UTF-8; save it as UTF-8"),
        (
            b"<?xml version='1.0' encoding='utf-8'?>" + CHINESE.encode("gbk"),
            "byte 47: not utf-8, which it declares; save it as UTF-8",
        ),
        (b"\xef\xbb\xbf<a>\xff</a>", "byte 6: not UTF-8; save"),
        (b"\xff\xfe<\0a\0>\0\0\xd8", "byte 8: not UTF-16-LE"),
        (b"<?xml version='1.0' encoding='gb2312'?><a>\xff\xff</a>", "byte 42: not gb2312, which"),
        (b"<?xml version='1.0' encoding='punycode'?><a/>", "encoding 'punycode' is not known; sav"),
        (b"<?xml version='1.0' encoding='x-mac-klingon'?><a/>", "'x-mac-klingon' is not known"),
        (b"<?xml version='1.0' encoding='hex'?><a/>", "invalid XML: encoding 'hex' is not known"),
    ],
)
def test_xml_in_another_encoding_than_it_declares_is_refused_with_the_byte(write, data, message):
    with pytest.raises(DataError, match=message):
        documents.read_xml(write(data))


@pytest.mark.parametrize("codec", ["gbk", "utf-16", "cp932", "utf-8-sig", "utf-32"])
def test_what_is_refused_in_utf8_is_refused_in_every_encoding(write, codec):
    declaration = f"<?xml version='1.0' encoding='{codec.removesuffix('-sig')}'?>\n"
    for text, message in ((BILLION_LAUGHS, "line 2: has a DOCTYPE"), ("<a>" * 101, "too deeply")):
        with pytest.raises(DataError, match=message):
            documents.read_xml(write((declaration + text).encode(codec)))


@pytest.mark.skipif(sys.platform != "linux", reason="a file of Linux")
def test_a_file_whose_size_is_not_stated_is_read():
    assert os.stat("/proc/self/status").st_size == 0
    assert documents.read_bytes("/proc/self/status", 10**6).startswith(b"Name:")
