"""When a run has gone too long without a new best."""

import json

import pytest

from convmesh.errors import DataError
from convmesh.patience import Patience


@pytest.mark.parametrize(
    "scores, limit, out",
    [
        ([], 1, False),
        ([0.5], 1, False),  # the first is the best
        ([0.5, 0.4], 1, True),
        ([0.5, 0.5], 1, True),  # an equal one is no better
        ([0.5, 0.4, 0.6], 2, False),
        ([0.5, 0.4, 0.6, 0.5], 2, False),
        ([0.5, 0.4, 0.6, 0.5, 0.59], 2, True),
        ([0.5, float("nan"), None], 2, True),
        ([float("nan"), None], 2, True),  # a run that never finds a number
        ([None, 0.0], 2, False),
        ([0.5] * 100, 0, False),  # off
    ],
)
def test_patience(scores, limit, out):
    patience = Patience(limit, "AP")
    for score in scores:
        patience.note(score)
    assert patience.is_out is out
    assert Patience(limit, "AP", dict(enumerate(scores))).is_out is out


def test_scores_count_in_the_order_of_their_steps():
    assert not Patience(1, "AP", {8: 0.5, 4: 0.4}).is_out
    assert Patience(1, "AP", {8: 0.4, 4: 0.5}).is_out


def test_it_says_what_it_has_counted():
    patience = Patience(2, "top1", {1: 0.5, 2: 0.1, 3: 0.2})
    assert str(patience) == "2 evaluations without a better top1 (train.patience=2)"
    assert "1 evaluation without a better top1 " in str(Patience(1, "top1", {1: 0.5, 2: 0.1}))
    blind = "1 evaluation that found no number for AP_large, see checkpoint.best_metric "
    assert str(Patience(1, "AP_large", {1: None})).startswith(blind)


def test_it_goes_on_from_the_log_up_to_the_step_of_the_checkpoint(tmp_path):
    rows = [
        {"step": 1, "split": "train", "loss": 1, "top1": 0.99},  # of a batch
        {"step": 4, "split": "val", "top1": 0.5},
        {"step": 8, "split": "val", "top1": None},
        {"step": 12, "split": "val", "top1": 0.4},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert Patience.of_run(2, "top1", tmp_path, 12).is_out
    assert not Patience.of_run(2, "top1", tmp_path, 8).is_out
    assert not Patience.of_run(3, "top1", tmp_path, 12).is_out
    assert not Patience.of_run(1, "top1", tmp_path / "nowhere", 12).is_out
    (tmp_path / "metrics.jsonl").write_text("nonsense\n{}\n")
    with pytest.raises(DataError, match="metrics.jsonl: line 1"):
        Patience.of_run(1, "top1", tmp_path, 12)
