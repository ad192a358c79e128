"""Which batch is drawn, and when the curves are."""

import types

import pytest
from fake_run import fake_run

from convmesh.distributed import processes
from convmesh.training import pictures


@pytest.fixture
def drawn(monkeypatch):
    """What was drawn, instead of drawing."""
    calls = []
    monkeypatch.setattr(pictures, "draw_batch", lambda batch, classes: (batch, classes))
    monkeypatch.setattr(pictures, "save_png", lambda picture, path: calls.append((picture, path)))
    monkeypatch.setattr(
        pictures.training_curves, "draw_curves", lambda metrics, path: calls.append((metrics, path))
    )
    return calls


def test_the_batch_of_the_first_step_of_the_call_is_drawn(tmp_path, drawn):
    run = fake_run(tmp_path, start_step=4, setup=types.SimpleNamespace(classes=("a", "b")))
    for step in (5, 6):
        pictures.FirstBatch().on_batch(run, step, f"batch {step}")
    assert drawn == [(("batch 5", ("a", "b")), tmp_path / "plots" / "first_batch.png")]


def test_the_curves_are_drawn_at_the_end(tmp_path, drawn):
    pictures.Curves().on_end(fake_run(tmp_path))
    assert drawn == [(tmp_path / "metrics.jsonl", tmp_path / "plots" / "curves.png")]


def test_a_run_restored_draws_curves_only_if_it_is_finished_and_has_none(tmp_path, drawn):
    pictures.Curves().on_restore(fake_run(tmp_path, finished=False))
    assert drawn == []
    pictures.Curves().on_restore(fake_run(tmp_path, finished=True))
    assert len(drawn) == 1
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "curves.png").write_bytes(b"")
    pictures.Curves().on_restore(fake_run(tmp_path, finished=True))
    assert len(drawn) == 1


def test_other_processes_draw_nothing(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(processes, "index", lambda: 1)
    run = fake_run(tmp_path, setup=types.SimpleNamespace(classes=("a",)))
    pictures.FirstBatch().on_batch(run, 1, "batch")
    pictures.Curves().on_end(run)
    assert drawn == []
