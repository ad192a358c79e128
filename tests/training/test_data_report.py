"""What is doubtful in the data is said at the start, and what was left out at the end."""

import types

import pytest
import runs
from fake_run import fake_run

from convmesh.config import defaults
from convmesh.data.loading.batches import DataCounts
from convmesh.training import data_report, loop
from convmesh.training.data_report import DataReport


def reported(tmp_path, **more):
    """A run of 100 examples in batches of 40."""
    config = defaults("detect")
    config.data.on_bad_box, config.data.on_bad_example = "drop", "skip"
    config.train.batch_size = 40
    setup = types.SimpleNamespace(config=config)
    return fake_run(tmp_path, source=range(100), setup=setup, **more)


def test_a_line_for_each_count_above_0(tmp_path):
    counts = DataCounts(images=90, unreadable=1, bad_boxes=2, truncated=3, bad_partners=4, boxes=50)
    run = reported(tmp_path, counts=counts)
    DataReport().on_end(run)
    assert run.logged == [
        "1 images could not be read and were skipped (data.on_bad_example)",
        "2 bad boxes were dropped or clipped (data.on_bad_box)",
        "4 images chosen for mosaic or mixup could not be read and were left out",
        "3 boxes did not fit in data.max_boxes and were left out",
    ]
    left_out = DataCounts(bad_boxes=7, left_out_boxes=5)  # these were said at the start
    run = reported(tmp_path, counts=left_out)
    DataReport().on_end(run)
    assert run.logged == ["2 bad boxes were dropped or clipped (data.on_bad_box)"]
    run = reported(tmp_path, counts=DataCounts(images=90, boxes=50))
    DataReport().on_end(run)
    assert run.logged == []


BAD = DataCounts(images=85, unreadable=15, bad_boxes=30, source_boxes=110, left_out_boxes=10)
WARNINGS = [
    "warning: 15 of 100 images are bad, more than data.max_bad_examples=0.1 allows; `convmesh"
    " check-data` lists them",
    "warning: 20 of 100 boxes are bad, more than data.max_bad_boxes=0.1 allows; `convmesh"
    " check-data` lists them",
]


def test_too_much_that_only_reading_shows_is_said_once_after_an_epoch(tmp_path):
    run, report = reported(tmp_path, own_counts=BAD, counts=BAD), DataReport()
    run.start_step = 7
    for step in (8, 9):
        report.on_batch(run, step, None)
        assert run.logged == []
    for step in (10, 11, 12):  # 120 examples of this call are more than an epoch
        report.on_batch(run, step, None)
    report.on_end(run)
    assert run.logged[:2] == WARNINGS and "warning" not in "".join(run.logged[2:])


def test_a_run_shorter_than_an_epoch_says_it_at_its_end(tmp_path):
    run = reported(tmp_path, counts=BAD)
    DataReport().on_end(run)
    assert run.logged[:2] == WARNINGS
    run = reported(tmp_path, counts=BAD)
    run.setup.config.data.update(max_bad_boxes=0.2, max_bad_examples=0.15)
    DataReport().on_end(run)
    assert "warning" not in "".join(run.logged)


def test_other_processes_than_the_first_do_not_look_for_warnings(tmp_path, monkeypatch):
    run = reported(tmp_path)
    run.data.dataset = None
    DataReport().on_start(run)  # as `bench` runs
    run.data.dataset = "not read"
    monkeypatch.setattr(data_report.processes, "is_first", lambda: False)
    DataReport().on_start(run)
    assert run.logged == []


@pytest.mark.usefixtures("tiny_net")
def test_each_call_of_train_says_what_is_doubtful_once(tmp_path, capsys):
    root = runs.make_photos(tmp_path / "photos")
    for name in ("a.txt", "b.txt", "c.txt", "d.txt"):
        (root / "train/blue" / name).touch()
    for steps in (1, 2):  # the second call resumes
        config = runs.photo_config(root, {"train.steps": steps, "eval.every_steps": 0})
        loop.train(config, tmp_path / "run")
        err = capsys.readouterr().err
        assert err.count("warning about the data") == 1, err
        assert (
            "1 warning about the data; `convmesh check-data` lists all\n  about the data set: 1\n"
            "    split train: 4 files ignored, not an image by suffix: train/blue/a.txt,"
        ) in err
    loop.train(config, tmp_path / "run")  # it has finished
    assert "about the data" not in capsys.readouterr().err
