"""The example log of whole runs: each example exactly once an epoch, whoever reads it."""

import types

import numpy as np
import pytest
import runs
from fake_run import fake_run

from convmesh.config import defaults
from convmesh.data.loading.loader import train_batches
from convmesh.data.record import BadExample, Record, Source
from convmesh.data.splits import open_train
from convmesh.distributed import processes
from convmesh.distributed.batch import ProcessShard
from convmesh.training import loop
from convmesh.training.example_log import ExampleLog
from convmesh.workdir import json_lines

pytestmark = pytest.mark.usefixtures("tiny_net")


def examples_of(config, folder):
    loop.train(config, folder / "run", [ExampleLog(folder / "examples.jsonl")])
    return json_lines.read_json_lines(folder / "examples.jsonl")


@pytest.fixture(scope="module")
def rows(tiny_net, photos, tmp_path_factory):
    """The example log of 8 steps of 16 of 24 images: epochs that run on into each other."""
    config = runs.photo_config(photos, {"train.batch_size": 16, "eval.every_steps": 0})
    return examples_of(config, tmp_path_factory.mktemp("examples"))


@pytest.mark.parametrize("own", [True, False])
def test_lines_of_lost_steps_go_from_a_file_of_each_process_and_stay_in_one_of_all(
    tmp_path, monkeypatch, own
):
    path = tmp_path / "examples"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    status = path.stat()
    of_first = (status.st_ino + own, status.st_size)
    monkeypatch.setattr(processes, "is_first", lambda: False)
    monkeypatch.setattr(processes, "broadcast", lambda value: of_first)
    log = ExampleLog(path)
    setup = types.SimpleNamespace(config=defaults("detect"))
    log.on_start(fake_run(tmp_path, source=Greys(), setup=setup, start_step=1))
    log.close(False)
    kept = [row["step"] for row in json_lines.read_json_lines(path)]
    assert kept == ([1] if own else [1, 2])


def test_each_example_once_an_epoch_and_every_place_taken(rows, photos):
    assert [row["position"] for row in rows] == list(range(8 * 16))
    assert all(row["step"] == 1 + row["position"] // 16 for row in rows)
    assert all(row["epoch"] == row["position"] // 24 for row in rows)
    source = open_train(runs.photo_config(photos))
    orders = []
    for epoch in range(5):
        there = [row for row in rows if row["epoch"] == epoch]
        assert sorted(row["index"] for row in there) == list(range(24))
        assert all(row["example"] == source.name(row["index"]) for row in there)
        orders.append([row["index"] for row in there])
    assert len({tuple(order) for order in orders}) == 5
    assert all(row["present"] and row["partners"] == [] for row in rows)


def test_worker_processes_and_another_batch_size_give_the_same_order(rows, photos, tmp_path):
    changes = {"data.workers": 2, "train.batch_size": 8, "eval.every_steps": 0}
    found = examples_of(runs.photo_config(photos, changes), tmp_path)
    place = lambda row: {name: row[name] for name in ("position", "epoch", "index", "example")}  # noqa: E731
    assert [place(row) for row in found] == [place(row) for row in rows[:64]]


def test_another_seed_gives_another_order(rows, photos, tmp_path):
    changes = {"train.seed": 1, "train.steps": 3, "eval.every_steps": 0}
    found = examples_of(runs.photo_config(photos, changes), tmp_path)
    assert sorted(row["index"] for row in found) == list(range(24))
    assert [row["index"] for row in found] != [row["index"] for row in rows[:24]]


def test_the_image_after_one_that_cannot_be_read_takes_its_place(tmp_path):
    root = runs.make_photos(tmp_path / "photos")
    (root / "train/blue/0.png").write_bytes(b"no picture")
    changes = {"data.on_bad_example": "skip", "train.steps": 3, "eval.every_steps": 0}
    found = examples_of(runs.photo_config(root, changes), tmp_path)
    examples = [row["example"] for row in found]
    assert len(examples) == 24 and "train/blue/0.png" not in examples
    assert examples.count("train/blue/1.png") == 2 and all(row["present"] for row in found)


class Greys(Source):
    """Ten images, each of its own grey; the fifth cannot be read."""

    classes, split, task = ("a",), "train", "detect"

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index == 5:
            raise BadExample("5: cut short")
        return Record(np.full((16, 16, 3), 10 * (index + 1), np.uint8), index, str(index))

    def name(self, index):
        return f"{index}.png"


def test_partners_are_those_whose_pixels_were_trained_on(tmp_path):
    config = defaults("detect")
    config.data.image_size = (16, 16)
    config.data.on_bad_example = "skip"
    config.data.augment.update(mosaic=0.7, color=0.0)
    config.train.batch_size = 4
    shard, seen = ProcessShard.whole_batch(4, 16), []
    setup = types.SimpleNamespace(config=config, train_shard=lambda: shard)
    run = fake_run(tmp_path, source=Greys(), setup=setup)
    path = tmp_path / "examples.jsonl"
    log = ExampleLog(path)
    log.on_start(run)
    with train_batches(Greys(), config, 0, shard, steps=10) as batches:
        for step in range(1, 11):
            batch = next(batches)
            log.on_batch(run, step, batch)
            log.after_step(run, step)
            seen += [set(np.unique(image)) - {114} for image in batch.image]
    log.close(failed=False)
    rows = json_lines.read_json_lines(path)
    for row, greys in zip(rows, seen, strict=True):
        there = [row["index"], *row["partners"]]
        assert greys - {0} == {10 * (index + 1) for index in there}
    assert {len(row["partners"]) for row in rows[:28]} == {0, 2, 3}
    assert all(row["partners"] == [] for row in rows[28:])
