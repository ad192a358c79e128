"""How findings are counted, shown and written."""

import json

import pytest
from voc_sets import CAT, DOG, config_for, lists, write, write_set

from convmesh.data.checks.findings import Finding, Inspection, merge_warnings
from convmesh.data.checks.inspection import inspect
from convmesh.data.checks.scan import ScannedSplit
from convmesh.data.problems import Problem


@pytest.fixture
def root(tmp_path):
    """A data set without faults, see `write_set`."""
    write_set(tmp_path / "set")
    return tmp_path / "set"


def test_the_verdict_counts_errors_that_no_policy_accepts(root):
    write(root, "b", [DOG, ("dog", 5, 5, 5, 9)])
    found = inspect(config_for(root))
    file = Finding(Problem("x", "broken"), "file")
    verdict = Inspection([*found.findings, file], {}).verdict()
    assert verdict.endswith("or set data.on_bad_box to drop or clip (1 must be fixed)")
    assert Inspection([file], {}).verdict().endswith("would be refused; fix them")


def test_the_sample_shows_findings_of_each_kind_and_other_images(root):
    write(root, "b", [DOG, CAT, DOG])
    write(root, "d", [CAT, DOG, ("dog", 5, 5, 5, 9)])
    found = inspect(config_for(root))
    images, examples = zip(*found.sample(4), strict=True)
    assert [example["name"] for example in examples] == [
        "train: JPEGImages/b.png",
        "test: JPEGImages/d.png",
        "train: JPEGImages/a.png",
        "test: JPEGImages/e.png",
    ]
    assert [example["doubted"].tolist() for example in examples] == [
        [False, False, True],
        [False, False, True],
        [False, False],
        [],
    ]
    assert all(image.shape == (20, 30, 3) for image in images)
    names = [example["name"] for _, example in found.sample(2)]  # half of them show no findings
    assert names == ["train: JPEGImages/b.png", "train: JPEGImages/a.png"]
    assert len(list(found.sample(100))) == 5


def test_json_contains_all_findings(root):
    write(root, "b", [DOG, ("dog", 5, 5, 5, 9)])
    lists(root, test="deb")
    found = json.loads(json.dumps(inspect(config_for(root)).to_json()))
    assert (found["refused"], found["errors"], found["warnings"]) == (True, 2, 1)
    assert found["problems"][0] == {
        "file": "Annotations/b.xml",
        "what": "(5, 5, 5, 9) has no area in the image of 30 x 20",
        "where": "object 2",
        "error": True,
        "kind": "box",
    }
    assert found["summary"]["splits"]["train"]["bad_boxes"] == 1
    assert found["summary"]["format"] == "voc"


def test_at_most_half_of_a_sample_shows_findings_and_the_rest_is_spread_evenly(root):
    write(root, "b", [DOG, CAT, DOG])
    write(root, "d", [CAT, DOG, ("dog", 5, 5, 5, 9)])
    found = inspect(config_for(root))
    assert found._sample_positions(3) == [(0, 1), (0, 0), (1, 1)]  # one of two findings
    assert found._sample_positions(1) == [(0, 0)]
    assert inspect(config_for(root, on_bad_box="drop"))._sample_positions(0) == []


def test_as_many_unit_warnings_as_allowed_are_not_merged():
    split = ScannedSplit("train", None, range(2))
    units = [
        Finding(Problem(f"{i}.png", "doubtful", error=False), "units", (0, i)) for i in range(2)
    ]
    assert merge_warnings(units, [split], {"units": 2}) == units
    [merged] = merge_warnings(units, [split], {"units": 1})
    assert str(merged) == "split train: warning: 2 images, first 0.png: doubtful"
