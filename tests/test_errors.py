"""The texts that errors are made of."""

import pytest

from convmesh.errors import first_line, nearest, some


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("trian", "; did you mean train?"),
        ("tra", "; did you mean train?"),  # 2 * 3 of 3 + 5 letters
        ("tr", ""),  # 2 * 2 of 2 + 5 letters: too few
        ("", ""),
    ],
)
def test_only_a_similar_word_is_suggested(word, hint):
    assert nearest(word, iter(["eval", "train", "trains"])) == hint
    assert nearest(word, []) == ""


def test_the_first_line_of_a_message_or_the_type():
    assert first_line(ValueError("\n  one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"


def test_of_many_names_the_first_are_shown():
    assert some(["a", "b"]) == "a, b" and some(()) == ""
    assert some(["a", "b", "c", "d"]) == "a, b, c, ... (4 in all)"
    assert some(["a", "b", "c", "d"], shown=4) == "a, b, c, d"
