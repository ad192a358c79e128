"""Scanning reads every example once, in order."""

from voc_sets import config_for, write_set

from convmesh.data.checks.inspection import inspect


def test_progress_is_reported_and_the_order_kept(tmp_path, monkeypatch):
    write_set(tmp_path)
    monkeypatch.setattr("convmesh.data.checks.scan._CHUNK", 2)
    calls = []
    found = inspect(config_for(tmp_path), lambda *numbers: calls.append(numbers))
    assert calls == [(i + 1, 5) for i in range(5)]
    assert [len(e.boxes) for split in found.splits for e in split.examples] == [2, 1, 1, 2, 0]
