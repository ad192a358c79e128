"""The text of `--help-config`."""

import re

from convmesh.config import KEYS, describe


def test_every_key_is_listed_with_its_default_and_meaning():
    text = describe()
    words = " ".join(text.split())
    for name, key in KEYS.items():
        default = "(required)" if name == "task" else repr(key.default)
        assert re.search(rf"^{re.escape(f'{name} = {default}')}$", text, re.MULTILINE), name
        assert f"{' '.join(key.doc.split())} [" in words, name
    assert "[two integers, as in (192, 256), each 0 or at least 4]" in words
    assert "[a number, -1 or at least 0 and below 1]" in words
    assert "[a number, above 0; task detect only]" in words
    assert max(map(len, text.splitlines())) <= 96


def test_an_empty_line_is_before_each_group_and_nowhere_else():
    blocks = [block.splitlines() for block in describe().split("\n\n")]
    assert blocks[0] == ["All config keys, with their defaults and allowed values."]
    names = [[line.partition(" ")[0] for line in block if line[0] != " "] for block in blocks[1:]]
    assert [name for block in names for name in block] == list(KEYS)
    assert names[0] == ["task", "precision", "init_from"]
    groups = [{name.partition(".")[0] for name in block} for block in names[1:]]
    assert all(len(group) == 1 for group in groups)
    assert len(set().union(*groups)) == len(groups)
