"""Problems of a data set: src/convmesh/data/problems.py."""

import pytest

from convmesh.data.problems import Problem, raise_errors
from convmesh.errors import DataError


def test_errors_are_raised_and_warnings_are_not():
    warning = Problem("a.txt", "is odd", error=False)
    raise_errors([])
    raise_errors([warning])
    with pytest.raises(DataError, match="^b.txt: is wrong: line 3; `convmesh check-data` lists"):
        raise_errors([warning, Problem("b.txt", "is wrong", "line 3")])


def test_an_error_lists_the_first_problems_and_counts_the_others():
    problems = [Problem(f"{i}.txt", "is wrong") for i in range(5)]
    with pytest.raises(DataError, match=r"^0.txt: .*; 2.txt: is wrong \(and 2 more\);") as raised:
        raise_errors(problems)
    assert "3.txt" not in str(raised.value)
    with pytest.raises(DataError, match="^0.txt: .*; 2.txt: is wrong;"):
        raise_errors(problems[:3])
