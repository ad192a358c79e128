"""The files of a run that other programs may have changed."""

from pathlib import Path

import disk_calls
import pytest

from convmesh.config import defaults
from convmesh.data.stores.object_store import ObjectStore
from convmesh.distributed import console
from convmesh.errors import ConfigError, DataError, RunError
from convmesh.workdir.layout import Workdir


@pytest.mark.parametrize("root", ["file:///run", "http://host/run", "s3://"])
def test_an_address_of_no_object_store_is_refused(root):
    with pytest.raises(ConfigError, match=f"{root}: "):
        Workdir(root)


def test_a_run_in_an_object_store_is_named_by_its_address(address, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CONVMESH_CACHE", str(tmp_path))
    written = Workdir(address)
    assert not written.has_run()
    written.write_run(defaults("classify"), ("ä", "b"))
    written.publish()
    ObjectStore(address).write("classes.json", b'["b"]')
    read = Workdir(address)
    assert read.has_run() and read.read_classes() == ("b",)
    console.print_status(f"{read} and {read.config_file}: read")
    assert capsys.readouterr().err == f"{address} and {address}/config.json: read\n"


def test_category_ids_are_one_integer_for_each_class(tmp_path):
    classes, path = ("ant", "bee"), tmp_path / "category_ids.json"
    assert Workdir(tmp_path).read_category_ids(classes) is None
    path.write_text("[7, 3]")
    assert Workdir(tmp_path).read_category_ids(classes) == (7, 3)
    for wrong in ("[7]", "[7, 3, 1]", '["7", "3"]', "[7.5, 3]", "[true, false]", '{"ant": 7}'):
        path.write_text(wrong)
        with pytest.raises(DataError, match="category_ids.json: wanted 2 integers"):
            Workdir(tmp_path).read_category_ids(classes)


def test_a_checkpoint_is_a_folder_named_by_its_step(tmp_path):
    workdir = Workdir(tmp_path)
    assert not workdir.has_checkpoints()
    for name in ("2.damaged", "3.deleted", "4.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert not workdir.has_checkpoints()
    (tmp_path / "checkpoints" / "2").mkdir()
    assert workdir.has_checkpoints()


def test_a_run_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file/run: cannot be written: Not a directory"):
        Workdir(tmp_path / "file" / "run").write_run(defaults("classify"), ("a", "b"))


def test_the_config_is_written_last_since_it_makes_a_folder_a_run(tmp_path, monkeypatch):
    calls = disk_calls.record(monkeypatch, tmp_path)
    Workdir(tmp_path).write_run(defaults("classify"), ("a", "b"), (7, 3))
    assert [call[2] for call in calls if call[0] == "rename"] == [
        "classes.json", "category_ids.json", "config.json",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["config.json", "classes.json"])
def test_a_run_without_config_or_classes_is_none(tmp_path, name):
    workdir = Workdir(tmp_path)
    workdir.write_run(defaults("classify"), ("a", "b"))
    (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=f"{name}: missing; --workdir must be a folder"):
        workdir.read_run()


def test_files_of_an_evaluation_that_are_indented_end_in_a_line_feed(tmp_path):
    files = Workdir(tmp_path).evaluation("val")
    files.write("metrics", {"AP": 0.5}, indent=1)
    files.write("predictions", [1, 2])
    assert (tmp_path / "eval/val/metrics.json").read_text() == '{\n "AP": 0.5\n}\n'
    assert (tmp_path / "eval/val/predictions.json").read_text() == "[1, 2]"
    assert files.read("metrics") == {"AP": 0.5}


def test_a_workdir_may_be_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Workdir("~/runs/a").config_file == tmp_path / "runs/a/config.json"
    assert Workdir("~nobody_of_this_name/a").root == Path("~nobody_of_this_name/a")
