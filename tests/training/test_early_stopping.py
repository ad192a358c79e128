"""When a run has gone too long without a new best."""

import json
import types

import pytest
from fake_run import fake_run

from convmesh.errors import DataError
from convmesh.training.early_stopping import EarlyStopping


def counted(patience, metric, scores):
    stopping = EarlyStopping(patience, metric)
    for score in scores:
        stopping.count(score)
    return stopping


@pytest.mark.parametrize(
    "scores, patience, out",
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
def test_patience(scores, patience, out):
    assert counted(patience, "AP", scores).is_out is out


def write_log(folder, scores):
    rows = [{"step": step, "split": "val", "top1": score} for step, score in scores.items()]
    rows.insert(0, {"step": 1, "split": "train", "loss": 1, "top1": 0.99})  # of a batch
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def restored(folder, patience, start_step):
    run = fake_run(folder, start_step)
    EarlyStopping(patience, "top1").on_restore(run)
    return run.finish_reason


def test_scores_count_in_the_order_of_their_steps(tmp_path):
    write_log(tmp_path, {8: 0.5, 4: 0.4})
    assert restored(tmp_path, 1, 8) is None
    write_log(tmp_path, {8: 0.4, 4: 0.5})
    assert restored(tmp_path, 1, 8).startswith("after 1 evaluation without a better top1")


def test_its_words():
    stopping = counted(2, "top1", (0.5, 0.1, 0.2))
    assert str(stopping) == "2 evaluations without a better top1 (train.patience=2)"
    assert "1 evaluation without a better top1 " in str(counted(1, "top1", (0.5, 0.1)))
    blind = "1 evaluation without a value of AP_large, see checkpoint.best_metric "
    assert str(counted(1, "AP_large", (None,))).startswith(blind)


def test_it_resumes_from_the_log_up_to_the_step_of_the_checkpoint(tmp_path):
    write_log(tmp_path, {4: 0.5, 8: None, 12: 0.4})
    assert restored(tmp_path, 2, 12)
    assert restored(tmp_path, 2, 8) is None
    assert restored(tmp_path, 3, 12) is None
    assert restored(tmp_path / "nowhere", 1, 12) is None
    (tmp_path / "metrics.jsonl").write_text("nonsense\n{}\n")
    with pytest.raises(DataError, match="metrics.jsonl: line 1"):
        restored(tmp_path, 1, 12)


def test_an_evaluation_too_many_finishes_the_run_and_says_so(tmp_path):
    run = fake_run(tmp_path, setup=types.SimpleNamespace(steps=8))
    stopping = EarlyStopping(1, "top1")
    stopping.after_evaluation(run, 2, {"top1": 0.5})
    assert run.finish_reason is None and run.logged == []
    stopping.after_evaluation(run, 4, {"top1": 0.5})
    why = "after 1 evaluation without a better top1 (train.patience=1)"
    assert run.finish_reason == why
    assert run.logged == [f"the run ends at step 4 of 8, {why}"]


def test_the_last_evaluation_of_a_run_ends_nothing(tmp_path):
    run = fake_run(tmp_path, setup=types.SimpleNamespace(steps=4))
    stopping = counted(1, "top1", (0.5,))
    stopping.after_evaluation(run, 4, {"top1": 0.1})
    assert run.finish_reason is None and run.logged == []


def test_without_patience_the_log_is_not_read(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("nonsense\n{}\n")
    assert restored(tmp_path, 0, 12) is None
