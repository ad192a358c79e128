"""The ledger of whole runs: each example exactly once an epoch, whoever reads it."""

import pytest
import runs

from convmesh import journal, training
from convmesh.data import open_train

pytestmark = pytest.mark.usefixtures("tiny_net")


def ledger_of(config, folder):
    training.train(config, folder / "run", ledger=folder / "ledger.jsonl")
    return journal.read(folder / "ledger.jsonl")


@pytest.fixture(scope="module")
def rows(tiny_net, photos, tmp_path_factory):
    """The ledger of 8 steps of 16 of 24 images: epochs that run on into each other."""
    config = runs.photo_config(photos, {"train.batch_size": 16, "eval.every_steps": 0})
    return ledger_of(config, tmp_path_factory.mktemp("ledger"))


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
    found = ledger_of(runs.photo_config(photos, changes), tmp_path)
    place = lambda row: {name: row[name] for name in ("position", "epoch", "index", "example")}  # noqa: E731
    assert [place(row) for row in found] == [place(row) for row in rows[:64]]


def test_another_seed_gives_another_order(rows, photos, tmp_path):
    changes = {"train.seed": 1, "train.steps": 3, "eval.every_steps": 0}
    found = ledger_of(runs.photo_config(photos, changes), tmp_path)
    assert sorted(row["index"] for row in found) == list(range(24))
    assert [row["index"] for row in found] != [row["index"] for row in rows[:24]]


def test_an_image_that_cannot_be_read_keeps_its_place(tmp_path):
    root = runs.make_photos(tmp_path / "photos")
    (root / "train/blue/0.png").write_bytes(b"no picture")
    changes = {"data.on_bad_example": "skip", "train.steps": 3, "eval.every_steps": 0}
    found = ledger_of(runs.photo_config(root, changes), tmp_path)
    assert [row["example"] for row in found if not row["present"]] == ["train/blue/0.png"]
    assert len(found) == 24
