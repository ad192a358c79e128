"""metrics.jsonl and TensorBoard: every number once, at its step, also after a crash."""

import json
import math
import struct

import numpy as np
import pytest

from convmesh.errors import DataError, RunError
from convmesh.workdir import metrics
from convmesh.workdir.layout import Workdir
from convmesh.workdir.metrics import MetricsLog, json_numbers, read_metrics


def metrics_log(workdir, start=0):
    return MetricsLog(workdir / "metrics.jsonl", start)


def lines_of(workdir):
    return (workdir / "metrics.jsonl").read_text().splitlines()


def scalars(workdir):
    """(step, tag, value) of every event file, and the steps at which older ones are purged."""
    from tensorboardX.proto.event_pb2 import Event

    found, purged = [], []
    for path in sorted(workdir.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4
            if event.HasField("session_log"):
                purged.append(event.step)
            for value in event.summary.value:
                found.append((event.step, value.tag, value.simple_value))
    return found, purged


def test_one_line_of_json_for_each_log(tmp_path):
    with metrics_log(tmp_path) as log:
        log.log(10, "train", {"loss": np.float32(0.5), "loss/box": 0.25})
        assert len(lines_of(tmp_path)) == 1  # flushed before anything is closed
        log.log(np.int64(10), "val", {"AP": 0.125, "images": np.int64(36)})
    assert [json.loads(line) for line in lines_of(tmp_path)] == [
        {"step": 10, "split": "train", "loss": 0.5, "loss/box": 0.25},
        {"step": 10, "split": "val", "AP": 0.125, "images": 36},
    ]
    assert lines_of(tmp_path)[0].startswith('{"step": 10, "split": "train", ')
    assert lines_of(tmp_path)[1].endswith('"images": 36}')


def test_numbers_that_are_not_finite_become_null(tmp_path):
    with metrics_log(tmp_path) as log:
        log.log(1, "train", {"loss": math.nan, "loss/box": -math.inf, "AP": None, "top1": 0.5})
    row = {"step": 1, "split": "train", "loss": None, "loss/box": None, "AP": None, "top1": 0.5}
    assert read_metrics(tmp_path / "metrics.jsonl") == [row]
    assert "NaN" not in lines_of(tmp_path)[0]
    assert scalars(tmp_path)[0] == [(1, "train/top1", 0.5)]


def test_tensorboard_gets_the_numbers_by_split(tmp_path):
    with metrics_log(tmp_path) as log:
        log.log(10, "train", {"loss": 0.5})
        assert scalars(tmp_path)[0] == [(10, "train/loss", 0.5)]  # flushed
        log.log(20, "val", {"AP/white cell": 0.25})
    assert scalars(tmp_path)[0] == [(10, "train/loss", 0.5), (20, "val/AP/white_cell", 0.25)]


def test_a_resumed_run_holds_every_step_once(tmp_path):
    with metrics_log(tmp_path) as log:
        for step in (10, 20, 30, 40):
            log.log(step, "train", {"loss": 1 / step})
    with metrics_log(tmp_path, start=20) as log:
        assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [10, 20]
        log.log(30, "train", {"loss": 7})
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [10, 20, 30]
    assert rows[1]["loss"] == 1 / 20 and rows[2]["loss"] == 7
    assert scalars(tmp_path)[1] == [1, 21]
    assert not list(tmp_path.glob("*.new"))


def test_a_run_begun_again_before_its_first_checkpoint_starts_an_empty_record(tmp_path):
    with metrics_log(tmp_path) as log:
        log.log(10, "train", {"loss": 1})
    with metrics_log(tmp_path) as log:
        log.log(10, "train", {"loss": 2})
    assert [row["loss"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [2]


def test_a_half_written_last_line_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "split": "train", "loss": 1.0}\n{"step": 20, "spl')
    assert [row["step"] for row in read_metrics(path)] == [10]
    with metrics_log(tmp_path, start=20) as log:
        log.log(30, "train", {"loss": 0.5})
    assert [row["step"] for row in read_metrics(path)] == [10, 30]


def test_a_last_line_without_its_line_feed_is_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "split": "train"}')
    metrics_log(tmp_path, start=10).close()
    assert path.read_text() == '{"step": 10, "split": "train"}\n'


@pytest.mark.parametrize("line", ["{broken", "[1, 2]", '{"split": "train"}', "\x00\x00"])
def test_a_bad_line_in_the_middle_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl: line 2: "):
        read_metrics(path)


def test_no_metrics_file(tmp_path):
    with pytest.raises(DataError, match="does not exist; a training run writes it"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_reserved_names_are_refused(tmp_path):
    with metrics_log(tmp_path) as log, pytest.raises(ValueError, match="'step'"):
        log.log(1, "train", {"step": 3})


def test_json_numbers_of_other_libraries():
    found = json_numbers({"a": np.float32(0.5), "b": np.array(3), "c": True, "d": np.nan})
    assert found == {"a": 0.5, "b": 3, "c": 1, "d": None}
    assert json.dumps(found) == '{"a": 0.5, "b": 3, "c": 1, "d": null}'


def test_closing_twice_and_logging_after(tmp_path):
    log = metrics_log(tmp_path)
    log.close()
    log.close()
    with pytest.raises(ValueError, match="closed"):
        log.log(1, "train", {"loss": 1})


def test_what_a_workdir_says_of_its_metrics(tmp_path):
    workdir = Workdir(tmp_path)
    assert workdir.metrics() == [] and workdir.scores("top1") == {}
    assert workdir.last_evaluation("val") == {} and not workdir.is_evaluated(2, "val")
    with metrics_log(tmp_path) as log:
        log.log(1, "train", {"loss": 1.0, "top1": 0.9})
        log.log(2, "val", {"top1": 0.5})
        log.log(2, "train", {"loss": 0.5, "top1": 0.8})
        log.log(4, "val", {"top1": math.nan})
        log.log(4, "test", {"top1": 0.75, "images": 3})
    assert [row["step"] for row in workdir.training_rows()] == [1, 2]
    assert workdir.evaluations("top1") == {2: 0.5, 4: 0.75}
    assert workdir.scores("AP") == {} and workdir.evaluations("AP") == {2: None, 4: None}
    assert workdir.is_evaluated(2, "val") and not workdir.is_evaluated(2, "test")
    assert workdir.last_evaluation("val") == {"top1": None}
    assert workdir.last_evaluation("test") == {"top1": 0.75, "images": 3}


def test_a_split_is_no_name_of_a_metric_either(tmp_path):
    with metrics_log(tmp_path) as log, pytest.raises(ValueError, match="'split'"):
        log.log(1, "train", {"split": 3})


def test_unsigned_integers_stay_integers():
    assert json.dumps(json_numbers({"images": np.uint8(3)})) == '{"images": 3}'


def test_splits_are_told_apart_by_their_whole_name(tmp_path):
    with metrics_log(tmp_path) as log:
        log.log(2, "val[:8]", {"top1": 0.5})
    assert not Workdir(tmp_path).is_evaluated(2, "val")
    assert Workdir(tmp_path).is_evaluated(2, "val[:8]")


def test_events_that_cannot_be_written_end_the_run_with_their_folder_named(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metrics._EventFile, "write", full)
    said = "TensorBoard events cannot be written: No space left on device"
    with metrics_log(tmp_path) as log, pytest.raises(RunError, match=f"{tmp_path}: {said}"):
        log.log(1, "train", {"loss": 1})


def test_closing_closes_the_event_file(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(metrics._EventFile, "close", lambda self: closed.append(1))
    log = metrics_log(tmp_path)
    log.log(1, "train", {"loss": 1})
    log.close()
    assert closed == [1]
