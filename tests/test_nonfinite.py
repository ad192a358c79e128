"""Steps without a finite loss or gradient: told by name, and not for ever."""

import types

import numpy as np
import pytest

from convmesh import journal
from convmesh.errors import RunError
from convmesh.nonfinite import FILE, TOLD, NonFinite

SOURCE = types.SimpleNamespace(name=lambda index: f"{index}.jpg")
NAN = float("nan")


def watch(workdir, limit=3, skipped=0, start=0):
    told = []
    return NonFinite(workdir, start, skipped, limit, SOURCE, told.append), told


def numbers(skipped, **terms):
    return {"loss": 1.0, "gradient_norm": 1.0, "nonfinite_steps": skipped, **terms}


@pytest.mark.parametrize(
    "terms, named",
    [
        ({"loss": NAN, "gradient_norm": NAN, "loss/box": NAN, "loss/class": 1.0}, ["loss/box"]),
        ({"loss": NAN, "gradient_norm": NAN}, ["loss"]),
        ({"gradient_norm": float("inf")}, ["gradient"]),
    ],
)
def test_the_term_and_the_examples_are_named(tmp_path, terms, named):
    watched, told = watch(tmp_path)
    watched.take(7, numbers(1, **terms), np.array([3, 1, 1, 12, 5, 4]))
    watched.close()
    [row] = journal.read(tmp_path / FILE)
    examples = ["1.jpg", "3.jpg", "4.jpg", "5.jpg", "12.jpg"]
    assert row == {"step": 7, "terms": named, "examples": examples}
    [line] = told
    assert line == (
        f"{named[0]} not finite at step 7, its update left out; examples 1.jpg, 3.jpg, 4.jpg, "
        "5.jpg and 1 more"
    )


def test_more_than_the_limit_in_a_row_end_the_run(tmp_path):
    watched, _ = watch(tmp_path, limit=3)
    for skipped in (1, 2, 3):
        watched.take(skipped, numbers(skipped, loss=NAN), np.array([0]))
    with pytest.raises(
        RunError, match=r"loss not finite at step 4, the last of 4 in a row \(train.max_"
    ):
        watched.take(4, numbers(4, loss=NAN), np.array([0]))


def test_a_good_step_between_begins_the_row_anew(tmp_path):
    watched, told = watch(tmp_path, limit=1, skipped=2)
    for skipped in range(3, 3 + TOLD + 2):
        watched.take(skipped, numbers(skipped, loss=NAN), np.array([0]))
        watched.passed()
    assert watched.skipped == TOLD + 4
    # The terminal is not filled with them; the file has all.
    assert len(told) == TOLD and told[-1].endswith(f"further ones are told in {FILE} alone")
    assert len(journal.read(tmp_path / FILE)) == TOLD + 2


def test_a_row_goes_on_where_the_run_does(tmp_path):
    watched, _ = watch(tmp_path, limit=3)
    watched.take(5, numbers(1, loss=NAN), np.array([0]))
    for step in (7, 8):
        watched.take(step, numbers(step - 5, loss=NAN), np.array([0]))
    watched.close()
    watched, _ = watch(tmp_path, limit=3, skipped=3, start=8)
    watched.take(9, numbers(4, loss=NAN), np.array([0]))
    with pytest.raises(RunError, match="the last of 4 in a row"):
        watched.take(10, numbers(5, loss=NAN), np.array([0]))


def test_without_a_limit_it_goes_on(tmp_path):
    watched, _ = watch(tmp_path, limit=0)
    for skipped in range(1, 30):
        watched.take(skipped, numbers(skipped, loss=NAN), np.array([0]))


def test_a_run_that_goes_on_drops_what_is_beyond_its_checkpoint(tmp_path):
    watched, _ = watch(tmp_path)
    for step in (1, 2):
        watched.take(step, numbers(step, loss=NAN), np.array([0]))
    watched.close()
    watch(tmp_path, start=1, skipped=1)[0].close()
    assert [row["step"] for row in journal.read(tmp_path / FILE)] == [1]
