"""Figures: class names in them are short and are not taken for formulas."""

import pictures

from convmesh.plots.figures import new_figure, save_figure, short_names


def test_long_names_are_cut_in_the_middle_and_dollars_escaped():
    names = ["cat", "a" * 30 + "the end", "costs $5"]
    assert short_names(names) == ["cat", "a" * 14 + "...e end", r"costs \$5"]


def test_a_figure_is_saved_in_its_size(tmp_path):
    save_figure(new_figure(2.0, 1.0), tmp_path / "new" / "a.png")
    assert pictures.read(tmp_path / "new" / "a.png").shape == (110, 220, 3)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
