"""Class names as they are shown: different ones look different."""

from convmesh.plots.figures import short_name
from convmesh.plots.names import shown_names


def test_names_that_have_a_font_stay_as_they_are():
    names = ["cat", "Кошка", "猫", "costs $5"]
    assert shown_names(names) == names


def test_names_in_latin_for_want_of_a_font_carry_their_class_id(use_fonts):
    use_fonts(opencv=False)
    assert shown_names(["cat", "猫", "毛", "Mao"]) == ["cat", "Mao #1", "Mao #2", "Mao #3"]
    assert shown_names(["猫", "cat", "猫"], [7, 0, 7]) == ["Mao #7", "cat", "Mao #7"]


def test_different_names_that_look_the_same_carry_their_class_id():
    assert shown_names(["caf\u00e9", "cafe\u0301", "tea"]) == ["café #0", "café #1", "tea"]
    assert shown_names(["a b", "a  b ", "\u200b", "ab"]) == ["a b #0", "a b #1", "#2", "ab"]
    long = ["a very long name of number one, end", "a very long name of number two, end"]
    assert shown_names(long, shorten=short_name) == [
        "a very long na..., end #0", "a very long na..., end #1"
    ]  # fmt: skip
