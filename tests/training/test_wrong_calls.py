"""Wrong calls and unusable data: one line, the right status, nothing written."""

import contextlib

import cv2
import numpy as np
import pytest
import runs
import tensorflow_datasets as tfds

from convmesh.cli import command_line
from convmesh.config import defaults
from convmesh.data.record import Record, Source
from convmesh.errors import DataError
from convmesh.training.loop import _read_sample
from convmesh.workdir.metrics import read_metrics

pytestmark = pytest.mark.usefixtures("tiny_net")


# --- bad calls ------------------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path, capsys, photos):
    """Calls `convmesh train` with a recipe for `root` and flags: (status, stdout, stderr)."""

    def train(*flags, root=photos, changes=()):
        recipe = runs.write_recipe(tmp_path / "recipe.py", runs.photo_config(root, changes))
        flags = [f"--config.{flag}" for flag in flags]
        workdir = str(tmp_path / "run")
        status = command_line.main(["train", "--config", recipe, "--workdir", workdir, *flags])
        return status, *capsys.readouterr()

    return train


@pytest.fixture
def refused(call, tmp_path):
    """`call`, which must end with one line and leave nothing behind; (status, that line)."""

    def train(*flags, **given):
        status, out, err = call(*flags, **given)
        assert out == "" and err.count("\n") == 1, out + err
        assert err.startswith("convmesh: error: ")
        assert not (tmp_path / "run").exists()
        return status, err.strip()

    return train


@pytest.mark.parametrize(
    "flag, said",
    [
        ("train.stepz=3", "train.stepz: no such key; did you mean train.steps?"),
        ("train.steps=many", "train.steps: got 'many', wanted an integer"),
        ("train.steps=-1", "train.steps: got -1"),
        ("model.name=tiny_nett", "model.name='tiny_nett': no such model"),
        ("model.name=detector_tiny", "model.name='detector_tiny': no such model for task"),
        ("model.backbone=resnet18", "model.backbone: only task detect uses it, but task is"),
        ("mesh.data=3", "mesh.data=3, mesh.spatial=1, mesh.model=1: this mesh does not fit"),
        ("train.batch_size=12", "train.batch_size=12: does not divide over the 8 devices"),
        ("model.norm_group=3", "model.norm_group=3: 8 examples"),
        ("data.train_split=tran", "no split 'tran'"),
        ("data.eval_split=tests", "no split 'tests'"),
        ("data.root=/not/there", "data.root: /not/there is not a folder"),
        ("data.name=mnistt", "data.name"),
        ("checkpoint.best_metric=AP", "checkpoint.best_metric: got 'AP'"),
    ],
)
def test_a_wrong_call_ends_with_one_line_and_nothing_written(refused, flag, said):
    status, line = refused(flag)
    assert status == 2
    assert said in line


def test_a_recipe_that_is_not_there(tmp_path, capsys):
    workdir = tmp_path / "run"
    (tmp_path / "recipe.py").touch()
    call = ["train", "--config", str(tmp_path / "recepi.py"), "--workdir", str(workdir)]
    assert command_line.main(call) == 2
    err = capsys.readouterr().err
    assert "no such recipe file" in err and "recipe.py?" in err and err.count("\n") == 1
    assert not workdir.exists()


def test_an_empty_folder(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    status, line = refused(root=tmp_path / "empty")
    assert status == 2 and str(tmp_path / "empty") in line


def test_classes_without_images(refused, tmp_path):
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    status, line = refused(root=tmp_path / "photos")
    assert status == 2 and "no class folders with images" in line


@pytest.fixture
def damaged(tmp_path):
    """Photos of which one to train on, and one to evaluate, cannot be read."""
    root = runs.make_photos(tmp_path / "photos")
    (root / "train/blue/0.png").write_bytes(b"no picture")
    (root / "val/red/1.png").write_bytes((root / "val/red/1.png").read_bytes()[:100])
    return root


def test_an_unreadable_image_is_refused_by_name(refused, damaged):
    status, line = refused(root=damaged)
    assert status == 1
    assert f"{damaged}/train/blue/0.png: not an image" in line


def test_an_unreadable_image_is_skipped_and_counted_on_request(call, damaged, tmp_path):
    status, out, err = call("data.on_bad_example=skip", "train.steps=3", root=damaged)
    assert status == 0, err
    # 3 steps of 8 are one pass over 24 images.
    assert "1 images could not be read and were skipped" in err
    assert "1 images could not be read and were not counted" in err
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    assert rows[-1]["images"] == runs.VAL_PHOTOS - 1
    assert all(np.isfinite(row["loss"]) for row in rows if row["split"] == "train")


class OddLabels(tfds.core.GeneratorBasedBuilder):
    """8 pictures a split, one of them with a class id that four classes do not have."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(shape=(8, 8, 3)), "label": np.int64}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples() for split in ("train", "validation")}

    def _generate_examples(self):
        for i, label in enumerate([0, 1, 2, 3, 4, 0, -1, 2]):
            done, data = cv2.imencode(".png", np.full((8, 8, 3), 30 * i, np.uint8))
            assert done
            yield i, {"image": data.tobytes(), "label": label}


def test_a_class_id_out_of_range(refused, call, tmp_path, capsys):
    OddLabels(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    capsys.readouterr()  # what TFDS says
    flags = ("data.name=odd_labels", "data.classes=a,b,c,d", "train.steps=1")
    status, line = refused(*flags, root=tmp_path)
    assert status == 1
    assert "class id 4 is not one of 0..3" in line and "train-00000005" in line
    # Passed by: neither a NaN nor, for -1, the last class.
    status, _, err = call(*flags, "data.on_bad_example=skip", root=tmp_path)
    assert status == 0
    assert "2 images could not be read and were skipped" in err
    train, val = read_metrics(tmp_path / "run/metrics.jsonl")
    assert np.isfinite(train["loss"]) and val["images"] == 6


class Boxes(Source):
    """Images of 4 good boxes, or of as many bad ones as listed."""

    task, classes, split = "detect", ("a",), "train"

    def __init__(self, bad):
        self.bad = bad

    def __len__(self):
        return len(self.bad)

    def name(self, index):
        return str(index)

    def __getitem__(self, index):
        bad = self.bad[index]
        boxes = np.tile(np.float32([1, 1, 5, 5]), (4 - bad, 1))
        image = np.zeros((8, 8, 3), np.uint8)
        return Record(image, index, str(index), boxes=boxes, bad_boxes=bad, dropped_boxes=bad)


@pytest.mark.parametrize(
    "bad, allowed, refused",
    [([3, 3], 0.1, True), ([2, 2], 0.1, False), ([3, 3], 0.9, False), ([2], 0.1, False)],
)
def test_a_sample_of_which_most_boxes_are_bad_is_refused(bad, allowed, refused):
    config = defaults("detect")
    config.data.on_bad_box, config.data.max_bad_boxes = "drop", allowed
    expected = contextlib.nullcontext()
    if refused:
        expected = pytest.raises(DataError, match="of a sample 6 of 8 boxes are bad, more than dat")
    with expected:
        _read_sample(Boxes(bad), config)
