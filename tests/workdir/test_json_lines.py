"""Lines that belong to steps: never twice, never half."""

import os

import disk_calls
import pytest

from convmesh.errors import DataError, RunError
from convmesh.workdir import json_lines
from convmesh.workdir.json_lines import JsonLines


def steps(path):
    return [row["step"] for row in json_lines.read_json_lines(path)]


def test_lines_of_later_steps_are_dropped_when_a_run_goes_on(tmp_path):
    path = tmp_path / "j"
    for start, added in ((0, [1, 2, 3]), (2, [3, 4]), (2, [])):
        file = JsonLines(path, start)
        file.add({"step": step} for step in added)
        file.close()
    assert steps(path) == [1, 2]


def test_a_half_written_last_line_is_left_out_and_another_refused(tmp_path):
    path = tmp_path / "j"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    assert steps(path) == [1]
    JsonLines(path, 1).add([{"step": 2}])
    assert steps(path) == [1, 2]
    path.write_text('{"step": 1}\n{"st\n{"step": 2}\n')
    with pytest.raises(DataError, match="j: line 2: not a JSON object with a step"):
        json_lines.read_json_lines(path)


def test_two_processes_add_to_one_file(tmp_path):
    one, other = JsonLines(tmp_path / "j"), JsonLines(tmp_path / "j", drops=False)
    for step in range(1, 50):
        one.add([{"step": step, "by": "one"}] * 3)
        other.add([{"step": step, "by": "other"}] * 3)
    rows = json_lines.read_json_lines(tmp_path / "j")
    assert len(rows) == 49 * 6
    assert all(row == rows[3 * (i // 3)] for i, row in enumerate(rows))


def test_a_disk_that_takes_no_more_is_told(tmp_path):
    with pytest.raises(RunError, match="/dev/full: cannot be written: No space left on device"):
        JsonLines("/dev/full", drops=False).add([{"step": 1}])
    with pytest.raises(RunError, match="file/j: cannot be written: Not a directory"):
        (tmp_path / "file").write_text("")
        JsonLines(tmp_path / "file" / "j")


def test_a_write_that_takes_a_part_is_gone_on_with(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:3]))
    JsonLines(tmp_path / "j").add([{"step": 1}, {"step": 2}])
    monkeypatch.undo()
    assert steps(tmp_path / "j") == [1, 2]


def test_sync_brings_every_line_to_the_disk(tmp_path, monkeypatch):
    file = JsonLines(tmp_path / "j")
    calls = disk_calls.record(monkeypatch, tmp_path)
    file.add([{"step": 1}])
    file.add([{"step": 2}])
    assert calls == []
    file.sync()
    assert calls == [("fsync", "j", b'{"step": 1}\n{"step": 2}\n')]
    file.close()
    file.sync()
    assert len(calls) == 1


@pytest.mark.parametrize("step", ['"2"', "2.0", "null"])
def test_a_step_that_is_no_integer_is_refused(tmp_path, step):
    (tmp_path / "j").write_text(f'{{"step": {step}}}\n{{"step": 3}}\n')
    with pytest.raises(DataError, match="j: line 1: not a JSON object with a step"):
        json_lines.read_json_lines(tmp_path / "j")


def test_a_bad_last_line_that_is_complete_is_refused(tmp_path):
    (tmp_path / "j").write_text('{"step": 1}\n{"st\n')
    with pytest.raises(DataError, match="j: line 2: "):
        json_lines.read_json_lines(tmp_path / "j")


def test_empty_lines_are_passed_over(tmp_path):
    (tmp_path / "j").write_text('\n{"step": 1}\n \n{"step": 2}\n\n')
    assert steps(tmp_path / "j") == [1, 2]


def test_a_number_that_json_does_not_know_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        JsonLines(tmp_path / "j").add([{"step": 1}, {"step": 2, "loss": float("nan")}])
    assert (tmp_path / "j").read_bytes() == b""
