"""The files of a run that other programs may have changed."""

import pytest

from convmesh.errors import DataError
from convmesh.workdir.layout import Workdir


def test_category_ids_are_one_integer_for_each_class(tmp_path):
    classes, path = ("ant", "bee"), tmp_path / "category_ids.json"
    assert Workdir(tmp_path).read_category_ids(classes) is None
    path.write_text("[7, 3]")
    assert Workdir(tmp_path).read_category_ids(classes) == (7, 3)
    for wrong in ("[7]", "[7, 3, 1]", '["7", "3"]', "[7.5, 3]", "[true, false]", '{"ant": 7}'):
        path.write_text(wrong)
        with pytest.raises(DataError, match="category_ids.json: wanted 2 integers"):
            Workdir(tmp_path).read_category_ids(classes)
