"""Fonts: which one is taken for which characters."""

import pytest
from font_files import write_font
from matplotlib.ft2font import FT2Font

from convmesh.plots import fonts
from convmesh.plots.fonts import OPENCV, default_font, font_for, installed_fonts


@pytest.mark.parametrize("text", ["cat", "Кошка", "Γάτα", "قطة", "חתול", "café", "é", "e\u0323"])
def test_dejavu_is_taken_where_it_has_the_letters(text):
    assert font_for(text) == default_font()
    font = FT2Font(default_font())
    assert all(font.get_char_index(ord(c)) for c in text)


@pytest.mark.parametrize(
    "text", ["猫", "红细胞", "漢字", "ねこ", "カタカナ", "고양이", "뷁", "：", "ｶ"]
)
def test_opencv_has_chinese_japanese_and_korean(use_fonts, text):
    use_fonts()
    assert font_for(text) == OPENCV


# U+9FFF is among the ideographs, but OpenCV draws a question mark.
@pytest.mark.parametrize(
    "text", ["बिल्ली", "แมว", "தமிழ்", "\U00020bb7", "🚀", "\u9fff", "\ue000", "猫ก"]
)
def test_without_an_installed_font_other_scripts_have_none(use_fonts, text):
    use_fonts()
    assert font_for(text) is None


def test_opencv_4_has_no_font(use_fonts):
    use_fonts(opencv=False)
    assert font_for("猫") is None and font_for("Кошка") == default_font()


def test_an_installed_font_is_taken_for_what_it_has(use_fonts, tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font at all")
    thai = write_font(tmp_path / "thai.ttf", "กข")
    both = write_font(tmp_path / "both.ttf", "กขค")
    use_fonts(tmp_path / "broken.ttf", tmp_path / "gone.ttf", thai, both)
    assert font_for("ก") == str(thai) and font_for("กค") == str(both)
    assert font_for("ก\u200d") == str(thai)  # a joiner needs no glyph
    assert font_for("\u200d") is None and font_for("ง") is None


def test_fonts_of_boxes_or_of_nothing_are_passed_by(use_fonts, tmp_path):
    last = write_font(tmp_path / "Last Resort.otf", "ก")
    blank = write_font(tmp_path / "blank.ttf", "ก", side=0)
    use_fonts(last, blank)
    assert font_for("ก") is None


def test_the_preferred_font_comes_first(use_fonts, tmp_path):
    mine = write_font(tmp_path / "mine.ttf", "a")
    assert font_for("a", str(mine)) == str(mine) and font_for("b", str(mine)) == default_font()


def test_plain_fonts_come_first(monkeypatch):
    files = ["/f/NotoSerifThai-Bold.ttf", "/f/Loma.ttf", "/f/NotoSansThai-Regular.ttf"]
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: files)
    fonts.installed_fonts.cache_clear()
    try:
        assert list(installed_fonts()) == [files[2], files[1], files[0]]
    finally:
        fonts.installed_fonts.cache_clear()
