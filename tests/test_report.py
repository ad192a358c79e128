"""The record of a run: every number once, at its step, also after a crash and a resumption."""

import io
import json
import math
import struct

import numpy as np
import pytest

from convmesh.errors import DataError
from convmesh.report import Report, duration, json_numbers, read_metrics


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def screen(self):
        """The lines that a terminal shows after all that was written."""
        rows, row, column = [""], 0, 0
        for letter in self.getvalue():
            if letter == "\r":
                column = 0
            elif letter == "\n":
                row, column = row + 1, 0
                rows.append("")
            else:
                rows[row] = rows[row][:column].ljust(column) + letter + rows[row][column + 1 :]
                column += 1
        return [line.rstrip() for line in rows]


@pytest.fixture(autouse=True)
def a_real_terminal_type(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")


def report(workdir, total=2000, start=0, batch=32, **more):
    more.setdefault("stream", io.StringIO())
    return Report(workdir, total, start, batch, **more)


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
    with report(tmp_path) as run:
        run.log(10, "train", {"loss": np.float32(0.5), "loss/box": 0.25})
        assert len(lines_of(tmp_path)) == 1  # flushed before anything is closed
        run.log(np.int64(10), "val", {"AP": 0.125, "images": np.int64(36)})
    assert [json.loads(line) for line in lines_of(tmp_path)] == [
        {"step": 10, "split": "train", "loss": 0.5, "loss/box": 0.25},
        {"step": 10, "split": "val", "AP": 0.125, "images": 36},
    ]
    assert lines_of(tmp_path)[0].startswith('{"step": 10, "split": "train", ')
    assert lines_of(tmp_path)[1].endswith('"images": 36}')


def test_numbers_that_are_not_finite_become_null(tmp_path):
    with report(tmp_path) as run:
        run.log(1, "train", {"loss": math.nan, "loss/box": -math.inf, "AP": None, "top1": 0.5})
    row = {"step": 1, "split": "train", "loss": None, "loss/box": None, "AP": None, "top1": 0.5}
    assert read_metrics(tmp_path / "metrics.jsonl") == [row]
    assert "NaN" not in lines_of(tmp_path)[0]
    assert scalars(tmp_path)[0] == [(1, "train/top1", 0.5)]


def test_tensorboard_gets_the_numbers_by_split(tmp_path):
    with report(tmp_path) as run:
        run.log(10, "train", {"loss": 0.5})
        assert scalars(tmp_path)[0] == [(10, "train/loss", 0.5)]  # flushed
        run.log(20, "val", {"AP/white cell": 0.25})
    assert scalars(tmp_path)[0] == [(10, "train/loss", 0.5), (20, "val/AP/white_cell", 0.25)]


def test_a_resumed_run_holds_every_step_once(tmp_path):
    with report(tmp_path) as run:
        for step in (10, 20, 30, 40):
            run.log(step, "train", {"loss": 1 / step})
    with report(tmp_path, start=20) as run:
        assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [10, 20]
        run.log(30, "train", {"loss": 7})
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [10, 20, 30]
    assert rows[1]["loss"] == 1 / 20 and rows[2]["loss"] == 7
    assert scalars(tmp_path)[1] == [1, 21]
    assert not list(tmp_path.glob("*.new"))


def test_a_run_begun_again_before_its_first_checkpoint_starts_an_empty_record(tmp_path):
    with report(tmp_path) as run:
        run.log(10, "train", {"loss": 1})
    with report(tmp_path) as run:
        run.log(10, "train", {"loss": 2})
    assert [row["loss"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [2]


def test_a_half_written_last_line_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "split": "train", "loss": 1.0}\n{"step": 20, "spl')
    assert [row["step"] for row in read_metrics(path)] == [10]
    with report(tmp_path, start=20) as run:
        run.log(30, "train", {"loss": 0.5})
    assert [row["step"] for row in read_metrics(path)] == [10, 30]


def test_a_last_line_without_its_line_feed_is_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "split": "train"}')
    report(tmp_path, start=10).close()
    assert path.read_text() == '{"step": 10, "split": "train"}\n'


@pytest.mark.parametrize("line", ["{broken", "[1, 2]", '{"split": "train"}', "\x00\x00"])
def test_a_bad_line_in_the_middle_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl: line 2: "):
        read_metrics(path)


def test_no_metrics_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_reserved_names_are_refused(tmp_path):
    with report(tmp_path) as run, pytest.raises(ValueError, match="'step'"):
        run.log(1, "train", {"step": 3})


def test_plain_lines_at_times_where_there_is_no_terminal(tmp_path):
    seconds = iter([0, 9, 10, 12, 13])
    run = report(tmp_path, batch=10, clock=lambda: next(seconds))
    run.progress(120, 1.2341, 75.2)
    run.progress(121, 1.5, 75)  # 9 seconds later: too soon
    run.progress(122, 0.0123456, 4.31)
    run.progress(2000, math.nan, 75)  # too soon, but the last step
    run.progress(2000)
    run.close()
    assert run._stream.getvalue().splitlines() == [
        "step 120/2000  loss 1.234  75 images/s  4:10 left",
        "step 122/2000  loss 0.01235  4.3 images/s  1:12:37 left",
        "step 2000/2000  loss nan  75 images/s",
        "step 2000/2000",
    ]


@pytest.mark.parametrize("speed", [None, 0.0, math.nan, math.inf])
def test_an_unknown_speed_is_not_shown(tmp_path, speed):
    run = report(tmp_path)
    run.progress(1, 2.0, speed)
    assert run._stream.getvalue() == "step 1/2000  loss 2.000\n"


def test_a_bar_on_a_terminal_and_lines_above_it(tmp_path):
    stream, seconds = Terminal(), iter(range(10))
    with report(tmp_path, 200, 50, 10, stream=stream, clock=lambda: next(seconds)) as run:
        run.say("goes on from step 50")
        run.progress(60, 2.5, 70)
        run.say("checkpoint at step 60")
        run.progress(100, 1.25, 10)
        lines = stream.screen()
        assert lines[:2] == ["goes on from step 50", "checkpoint at step 60"]
        assert lines[2].startswith("step 100/200 |")
        assert lines[2].endswith("| loss 1.250  10 images/s  1:40 left")
        assert len(lines) == 3
        run.progress(200, 1, 10)
    assert stream.screen()[2].startswith("step 200/200 |")
    assert stream.screen()[3:] == [""]  # what comes next starts on its own line


def test_a_dumb_terminal_gets_lines(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    report(tmp_path, stream=stream).progress(1, 2.0)
    assert stream.getvalue() == "step 1/2000  loss 2.000\n"


def test_other_processes_write_and_print_nothing(tmp_path):
    stream = Terminal()
    with report(tmp_path / "run", stream=stream, enabled=False) as run:
        run.log(1, "train", {"loss": 1})
        run.progress(1, 1, 1)
        run.say("hello")
    assert stream.getvalue() == "" and not (tmp_path / "run").exists()


def test_closing_twice_and_logging_after(tmp_path):
    run = report(tmp_path)
    run.close()
    run.close()
    with pytest.raises(ValueError, match="closed"):
        run.log(1, "train", {"loss": 1})


def test_json_numbers_of_other_libraries():
    found = json_numbers({"a": np.float32(0.5), "b": np.array(3), "c": True, "d": np.nan})
    assert found == {"a": 0.5, "b": 3, "c": 1, "d": None}
    assert json.dumps(found) == '{"a": 0.5, "b": 3, "c": 1, "d": null}'


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (250, "4:10"), (7450, "2:04:10")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text
