"""Texts as runs of one font: none without a glyph, in the order in which they are read."""

import pytest
from font_files import write_font
from matplotlib.ft2font import FT2Font

from convmesh.plots.fonts import OPENCV, default_font
from convmesh.plots.scripts import Run, is_altered, readable, runs

NAMES = (
    "cat", "红细胞", "繁體", "ねこ カタカナ", "고양이", "Кошка", "Γάτα", "قطة سوداء", "חתול",
    "हिन्दी बिल्ली", "แมว", "தமிழ்", "አማርኛ", "Việt Nam", "🚀 😀", "𠮷野家", "mixed 猫 cat",
)  # fmt: skip


@pytest.mark.parametrize("opencv", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_every_character_has_a_glyph(use_fonts, name, opencv):
    use_fonts(opencv=opencv)
    found = runs(f"{name} 0.87")
    assert "".join(run.text for run in found).strip()
    for run in found:
        if run.font == OPENCV:
            assert opencv and not run.text.isascii()
        else:
            font = FT2Font(run.font)
            assert all(font.get_char_index(ord(c)) for c in run.text), run


def test_a_script_without_a_font_is_written_in_latin(use_fonts):
    use_fonts(opencv=False)
    assert [readable(name) for name in ("红细胞", "ねこ", "고양이", "हिन्दी")] == [
        "HongXiBao", "neko", "GoYangI", "hindi"
    ]  # fmt: skip
    assert readable("a 猫.jpg") == "a Mao.jpg" and readable("Кошка") == "Кошка"
    assert readable("\ue000") == "U+E000" and readable("\udce9") == "U+DCE9"
    assert is_altered("猫") and not is_altered("Кошка") and not is_altered("e\u0301")


def test_each_script_without_a_font_is_told_once(use_fonts, capsys):
    use_fonts(opencv=False)
    for name in ("猫", "毛", "고양이", "แมว", "a แมว", "🚀"):
        readable(name)
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(" has ")[2].partition(":")[0] for line in told] == [
        "Chinese or Japanese", "Korean", "Thai", "symbols or emoji"
    ]  # fmt: skip
    assert "Noto Sans CJK" in told[0] and "Noto Sans Thai" in told[2]
    use_fonts()
    readable("猫")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cafe\u0301", "café"),  # as macOS writes file names
        ("\u1100\u1161", "가"),
        ("a\nb\tc\u3000d", "a b c d"),
        ("\u200bc\u200ea\ufefft", "cat"),
        ("😀\ufe0f", "😀"),
        ("葛\U000e0100", "葛"),
    ],
)
def test_text_is_composed_and_without_what_is_not_seen(text, shown):
    assert readable(text) == shown and not is_altered(text)


def test_marks_stay_with_their_letter(use_fonts, tmp_path):
    font = write_font(tmp_path / "some.ttf", "กa\u0e31")
    use_fonts(font)
    assert runs("ก\u0e31a") == [Run(str(font), "ก\u0e31"), Run(default_font(), "a")]
    assert runs("\u0e31") == [Run(str(font), "\u0e31")]
    use_fonts()
    assert runs("\u0e31") == []


def order(text):
    return [run.text for run in runs(text)]


def test_right_to_left_words_are_runs_within_a_text_from_left_to_right():
    assert order("חתול 0.87") == ["חתול", " 0.87"]
    assert order("missed חתול שחור") == ["missed ", "חתול שחור"]
    assert order("קפה 3 שחור 0.5") == ["קפה 3 שחור", " 0.5"]
    assert order("(is קפה)") == ["(is ", "קפה", ")"]
    assert order("קפה (שחור) 1") == ["קפה (שחור)", " 1"]
    assert order("cat 0.87") == ["cat 0.87"]


def test_fonts_within_a_right_to_left_word_are_in_the_order_of_reading(use_fonts, tmp_path):
    syriac = write_font(tmp_path / "syriac.ttf", "\u0710\u0712")
    use_fonts(syriac)
    first, second = Run(str(syriac), "\u0710\u0712"), Run(default_font(), "חת")
    assert runs("\u0710\u0712חת") == [second, first]


def test_a_word_from_right_to_left_is_one_run_where_one_font_has_it(tmp_path):
    brackets = str(write_font(tmp_path / "brackets.ttf", "()c"))
    assert runs("קפה (שחור)", brackets) == [Run(default_font(), "קפה (שחור)")]
    assert runs("(c)", brackets) == [Run(brackets, "(c)")]
