"""`convmesh prepare` with small builders, whose files are then opened as training opens them."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from absl import logging as absl_logging
from tensorflow_datasets.core.download import downloader

from convmesh.cli import command_line
from convmesh.config import defaults
from convmesh.data import prepare as module
from convmesh.data.prepare import prepare
from convmesh.data.splits import open_eval, open_train
from convmesh.data.tfds_output import quiet_tfds
from convmesh.errors import ConfigError, DataError


class Pond(tfds.core.GeneratorBasedBuilder):
    """A few images with boxes; `midway` is called after each example."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="small", version=VERSION, description="small"),
        tfds.core.BuilderConfig(name="large", version=VERSION, description="large"),
    ]
    midway = staticmethod(lambda: None)

    def _info(self):
        thing = {
            "bbox": tfds.features.BBoxFeature(),
            "label": tfds.features.ClassLabel(num_classes=3),
        }
        thing |= {"is_crowd": np.bool_, "area": np.float32}
        features = {"image": tfds.features.Image(), "objects": tfds.features.Sequence(thing)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(4), "validation": self._generate_examples(2)}

    def _generate_examples(self, count):
        image = cv2.imencode(".png", np.zeros((20, 40, 3), np.uint8))[1].tobytes()
        for i in range(count):
            frame = tfds.features.BBox(ymin=0.1, xmin=0.2, ymax=0.5, xmax=0.6)
            thing = {"bbox": frame, "label": i % 3, "is_crowd": i == 1, "area": 60.5}
            yield i, {"image": image, "objects": [thing]}
            type(self).midway()


class Lake(Pond):
    """Needs the network."""

    url = ""

    def _split_generators(self, dl_manager):
        dl_manager.download(self.url)


class Tarn(Pond):
    """Needs TensorFlow, since TFDS unpacks archives with it."""

    def _split_generators(self, dl_manager):
        dl_manager.download_and_extract("http://127.0.0.1/a.zip")


class Moor(Pond):
    """Needs files that a user has to download by hand."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    bog.tar,
    from its owners"""


@pytest.fixture(autouse=True)
def no_tensorflow(monkeypatch):
    """Hides TensorFlow, so that the tests do not depend on whether it is installed."""
    find = module.importlib.util.find_spec
    monkeypatch.setattr(
        module.importlib.util,
        "find_spec",
        lambda name, *more: None if name == "tensorflow" else find(name, *more),
    )


def config(root, name="pond/small"):
    changed = defaults("detect")
    changed.data.root, changed.data.name = str(root), name
    return changed


def prepared(root):
    """The folders in `root` that TFDS and training would read as sets."""
    return sorted(path.parent.relative_to(root).as_posix() for path in root.rglob("features.json"))


def test_training_reads_a_prepared_set_and_preparing_again_changes_nothing(tmp_path, capsys):
    call = ["prepare", "--name", "pond/small", "--root", str(tmp_path)]
    assert command_line.main(call) == 0
    out = capsys.readouterr().out
    assert "pond/small/1.0.0 prepared: train 4, validation 2, in" in out
    assert f"--config.data.name=pond/small --config.data.root={tmp_path}" in out
    train, held = open_train(config(tmp_path)), open_eval(config(tmp_path))
    assert (len(train), len(held), held.split) == (4, 2, "validation")
    records = [train[i] for i in range(4)]
    assert all(np.allclose(record.boxes, [[8, 2, 24, 10]], atol=1e-5) for record in records)
    assert sorted(int(record.labels[0]) for record in records) == [0, 0, 1, 2]
    assert sum(bool(record.crowd[0]) for record in records) == 1
    assert records[0].area.tolist() == [60.5]

    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert command_line.main(call) == 0
    assert "pond/small/1.0.0 is prepared already: train 4, validation 2" in capsys.readouterr().out
    assert files == {
        path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()
    }


def test_digit_scenes_is_prepared_by_its_own_builder(tmp_path, monkeypatch):
    def prepare_pond(variant, root):
        assert (variant, root) == ("tiny", str(tmp_path))
        pond = Pond(config="small", data_dir=root, file_format="array_record")
        pond.download_and_prepare()
        return pond

    monkeypatch.setattr("convmesh.data.digit_scenes.builder.prepare", prepare_pond)
    messages = []
    folder = prepare("digit_scenes/tiny", str(tmp_path), messages.append)
    assert folder == tmp_path / "pond/small/1.0.0" and "prepared: train 4" in messages[0]


@pytest.mark.parametrize(
    "name, message",
    [
        ("", "--name: no TFDS set named"),
        ("pnd", "--name: no TFDS set 'pnd'; did you mean pond?"),
        ("pond/smal", "pond has no config 'smal' among small, large; did you mean small"),
        ("pond/small:9.9.9", "pond/small:9.9.9: Dataset pond cannot be loaded at version 9.9.9"),
        ("cifar10/x", "cifar10 has no config 'x' among none"),
        ("coco/2017", r'coco/2017 needs TensorFlow .*: pip install "convmesh\[tfds-prepare\]"'),
        ("cifar10", "cifar10 needs TensorFlow"),
        ("tarn/small", "tarn/small needs TensorFlow"),
        ("digit_scenes/x", "digit_scenes: no config 'x'"),
    ],
)
def test_an_unusable_name_is_refused_before_anything_is_written(tmp_path, name, message):
    with pytest.raises(ConfigError, match=message):
        prepare(name, str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_the_error_for_a_manual_download_names_its_folder(tmp_path):
    with pytest.raises(DataError, match="downloads/manual: moor .*: bog.tar, from its owners"):
        prepare("moor/small", str(tmp_path))
    assert not list(tmp_path.iterdir())
    (tmp_path / "downloads/manual").mkdir(parents=True)
    (tmp_path / "downloads/manual/bog.tar").write_bytes(b"")
    prepare("moor/small", str(tmp_path))
    assert prepared(tmp_path) == ["moor/small/1.0.0"]


@pytest.mark.parametrize(
    "error, message",
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "no space left for pond/small/1.0.0"),
        # The message of array_record.
        (RuntimeError("write() failed: No space left on device; at byte 9"), "no space left for"),
        (ModuleNotFoundError("no", name="tensorflow.io"), r"pip install .convmesh\[tfds-prepare"),
        (ModuleNotFoundError("no", name="lxml.etree"), "needs the package 'lxml'"),
        (ValueError("a\nb\nbad line 3"), "cannot be prepared: ValueError: .*bad line 3"),
        (KeyboardInterrupt(), None),
    ],
)
def test_an_error_while_writing_leaves_no_partial_set(tmp_path, monkeypatch, error, message):
    def fail():
        raise error

    monkeypatch.setattr(Pond, "midway", staticmethod(fail))
    with pytest.raises((ConfigError, DataError, KeyboardInterrupt), match=message):
        prepare("pond/small", str(tmp_path))
    assert prepared(tmp_path) == [] and not list(tmp_path.rglob("*.array_record*"))
    monkeypatch.undo()
    prepare("pond/small", str(tmp_path))
    assert len(open_train(config(tmp_path))) == 4


def test_the_cause_is_found_behind_an_error_raised_while_handling_it(tmp_path, monkeypatch):
    def fail():
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            raise RuntimeError("the writer cannot be closed")

    monkeypatch.setattr(Pond, "midway", staticmethod(fail))
    with pytest.raises(DataError, match="no space left for pond/small/1.0.0"):
        prepare("pond/small", str(tmp_path))


def test_the_files_of_a_killed_preparation_are_not_read_and_it_can_be_repeated(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_prepare import Pond, prepare\n"
        "import os, signal\n"
        "Pond.midway = staticmethod(lambda: os.kill(os.getpid(), signal.SIGKILL))\n"
        f"prepare('pond/small', {str(tmp_path)!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert done.returncode == -9
    (left,) = (tmp_path / "pond/small").iterdir()
    assert left.name.startswith("incomplete.") and left.name.endswith("_1.0.0")
    with pytest.raises((ConfigError, DataError), match="convmesh prepare --name pond/small"):
        open_train(config(tmp_path))
    messages = []
    prepare("pond/small", str(tmp_path), messages.append)
    assert messages[0].startswith(f"{left}: left by an interrupted preparation")
    assert len(open_train(config(tmp_path))) == 4


def test_the_error_without_a_network_names_the_address(tmp_path, monkeypatch):
    monkeypatch.setattr(downloader, "MAX_RETRIES", 0)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(Lake, "url", "http://127.0.0.1:9/lake.zip")
    with pytest.raises(DataError, match="lake/small/1.0.0: cannot be downloaded: .*lake.zip.*kept"):
        prepare("lake/small", str(tmp_path))
    assert prepared(tmp_path) == []


def test_a_folder_with_other_files_is_not_taken_for_a_set(tmp_path):
    folder = tmp_path / "pond/small/1.0.0"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="1.0.0: exists, but is not a complete prepared set; move"):
        prepare("pond/small", str(tmp_path))
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_set_in_the_tfrecord_format_is_refused(tmp_path):
    prepare("pond/small", str(tmp_path))
    for path in (tmp_path / "pond").rglob("*"):  # without TensorFlow no such set can be written
        if path.suffix == ".json":
            path.write_bytes(path.read_bytes().replace(b"array_record", b"tfrecord"))
        elif "array_record" in path.name:
            path.rename(path.with_name(path.name.replace("array_record", "tfrecord")))
    with pytest.raises(DataError, match="prepared as tfrecord, .*; give another --root"):
        prepare("pond/small", str(tmp_path))


def test_prepare_takes_no_config_keys(tmp_path, capsys):
    status = command_line.main(["prepare", "--name", "pond", "--config.data.root=x"])
    assert status == 2 and capsys.readouterr().err.endswith("prepare: takes no --config.KEY\n")


class Planned:
    """A builder of which only messages are asked."""

    info = SimpleNamespace(full_name="pond/small/1.0.0")
    data_dir_root = "/data"


@pytest.mark.parametrize(
    "error, message",
    [
        (OSError(errno.EDQUOT, "Quota"), "/data: no space left for pond/small/1.0.0 "),
        (TimeoutError("slow"), "pond/small/1.0.0: cannot be downloaded: slow; downloaded files"),
        (ConnectionError("cut"), "pond/small/1.0.0: cannot be downloaded: cut; downloaded files"),
        (ValueError("a" * 301), f"cannot be prepared: ValueError: {'a' * 300}$"),
        (ValueError(" one \n\n two\nlast "), "ValueError: one ... last$"),
        (ValueError(), "cannot be prepared: ValueError: ValueError$"),
    ],
)
def test_the_message_names_the_likely_cause(error, message):
    found = module._user_error(error, Planned())
    assert isinstance(found, DataError) and re.search(message, str(found))


def test_digit_scenes_without_a_config_is_the_full_one_in_the_default_folder(monkeypatch, tmp_path):
    calls = []
    made = SimpleNamespace(
        info=SimpleNamespace(full_name="digit_scenes/full/2.0.0", splits={}), data_dir=tmp_path
    )
    monkeypatch.setattr(
        "convmesh.data.digit_scenes.builder.prepare", lambda *call: calls.append(call) or made
    )
    messages = []
    prepare("digit_scenes", "", messages.append)
    prepare("digit_scenes/tiny", "~/sets", messages.append)
    assert calls == [("full", None), ("tiny", os.path.expanduser("~/sets"))]
    assert messages[1] == "train on it with --config.data.name=digit_scenes/full"
    assert messages[3].endswith(f"--config.data.root={os.path.expanduser('~/sets')}")


def test_a_set_is_written_below_the_home_folder_and_not_below_a_folder_called_tilde(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert prepare("pond/small:1.0.0", "~/sets") == tmp_path / "sets/pond/small/1.0.0"
    assert not (tmp_path / "~").exists()


def test_an_empty_folder_of_manual_downloads_is_refused(tmp_path):
    (tmp_path / "downloads/manual").mkdir(parents=True)
    with pytest.raises(DataError, match="downloads/manual: moor has to be downloaded by hand"):
        prepare("moor/small", str(tmp_path))


def test_nothing_is_fetched_from_the_buckets_of_tfds(tmp_path, monkeypatch):
    configs = []
    monkeypatch.setattr(
        Pond, "download_and_prepare", lambda self, download_config: configs.append(download_config)
    )
    monkeypatch.setattr(module, "_log_prepared", lambda builder, *_: Path(builder.data_dir))
    prepare("pond/small", str(tmp_path))
    assert [config.try_download_gcs for config in configs] == [False]


def test_the_verbosity_of_absl_is_restored():
    before = absl_logging.get_verbosity()
    try:
        absl_logging.set_verbosity(absl_logging.INFO)
        with pytest.raises(KeyError), quiet_tfds():
            assert absl_logging.get_verbosity() == absl_logging.ERROR
            raise KeyError
        assert absl_logging.get_verbosity() == absl_logging.INFO
    finally:
        absl_logging.set_verbosity(before)
