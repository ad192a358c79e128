"""Fonts that a test has, instead of those of the machine."""

import pytest

from convmesh.plots import fonts, names, scripts, typeset

CACHES = (
    fonts.font_for, fonts._code_points, fonts._open, fonts._opencv_has, scripts.readable,
    scripts._tell_missing_script, typeset.typeset, typeset._drawn, names._shown,
)  # fmt: skip


def forget():
    for cache in CACHES:
        cache.cache_clear()


@pytest.fixture
def use_fonts(monkeypatch):
    """A function that says which fonts are installed, and whether OpenCV has one."""

    of_opencv = fonts.opencv_font

    def use(*installed, opencv=True):
        monkeypatch.setattr(fonts, "installed_fonts", lambda: tuple(map(str, installed)))
        monkeypatch.setattr(fonts, "opencv_font", of_opencv if opencv else lambda: None)
        forget()

    yield use
    forget()
