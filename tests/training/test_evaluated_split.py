"""An evaluated split that has changed between two calls of one run is noticed."""

import numpy as np
import pytest
import runs
from PIL import Image

from convmesh.config import apply_overrides
from convmesh.data import record
from convmesh.data.record import Source, truth_identity
from convmesh.training.evaluated_split import note_evaluated_split
from convmesh.training.loop import train
from convmesh.workdir.layout import Workdir


class Names(Source):
    task, classes = "classify", ("a", "b")

    def __init__(self, labels, split="val"):
        self.labels, self.split = labels, split

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        raise IndexError

    def name(self, index):
        return f"{index}.png"

    def stated_labels(self, index):
        return np.array([self.labels[index]])


def log_evaluations(workdir, *steps, split="val"):
    with (workdir.root / "metrics.jsonl").open("a") as file:
        for step in steps:
            file.write(f'{{"step": {step}, "split": "{split}", "top1": 0.{step}}}\n')


@pytest.mark.parametrize(
    "changed, said",
    [
        (Names([0, 1, 1]), "3 images instead of 2"),
        (Names([1, 1]), "files, boxes or labels differ"),
        (Names([0, 1], "test"), "it was val"),
    ],
)
def test_earlier_scores_are_not_compared(tmp_path, changed, said):
    workdir = Workdir(tmp_path)
    assert note_evaluated_split(workdir, Names([0, 1]), 0) == ""
    log_evaluations(workdir, 2, 4)
    assert note_evaluated_split(workdir, Names([0, 1]), 4) == ""
    assert workdir.scores("top1") == {2: 0.2, 4: 0.4}
    assert said in note_evaluated_split(workdir, changed, 4)
    log_evaluations(workdir, 4, 6, split="new")
    # The evaluation of step 4 is done, unless it was of another split.
    again = {4: 0.4} if changed.split == "test" else {}
    assert workdir.scores("top1") == again | {6: 0.6}
    assert workdir.evaluated_split() == truth_identity(changed)


def test_runs_of_earlier_versions_keep_their_scores(tmp_path):
    workdir = Workdir(tmp_path)
    log_evaluations(workdir, 2)
    assert note_evaluated_split(workdir, Names([0, 1]), 2) == ""
    assert workdir.scores("top1") == {2: 0.2}


@pytest.mark.usefixtures("tiny_net")
def test_a_resumed_run_says_it_and_forgets_the_best(tmp_path, capsys):
    root = runs.make_photos(tmp_path / "photos")
    changes = {"train.steps": 4, "eval.every_steps": 2, "checkpoint.keep": 1}
    config = runs.photo_config(root, changes)
    workdir = Workdir(runs.train(config, tmp_path / "run"))
    assert list(workdir.scores("top1")) == [2, 4]
    red = next((root / "val/red").glob("*.png"))
    Image.new("RGB", (24, 24), "red").save(red.with_name("one_more.png"))
    capsys.readouterr()
    train(apply_overrides(config, {"train.steps": 6}), workdir.root)
    err = capsys.readouterr().err
    assert "the evaluated split val has changed since the last call: it has 13 images" in err
    assert list(workdir.scores("top1")) == [6]
    train(apply_overrides(config, {"train.steps": 8}), workdir.root)
    assert "has changed" not in capsys.readouterr().err
    assert list(workdir.scores("top1")) == [6, 8]


def test_of_a_large_split_the_sizes_of_some_files_are_asked(monkeypatch):
    asked = []

    class Sized(Names):
        def stated_size(self, index):
            asked.append(index)
            return str(index).encode()

    truth_identity(Sized([0] * 7))
    assert asked == list(range(7))
    asked.clear()
    monkeypatch.setattr(record, "_SIZES_AT_MOST", 3)
    assert truth_identity(Sized([0] * 7)) != truth_identity(Names([0] * 7))
    assert asked == [0, 3, 6]
