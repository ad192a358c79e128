"""Commands about data: check-data, prepare."""

import json
import os
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from convmesh.cli import data_commands
from convmesh.cli.command_line import main


@pytest.fixture
def photos_recipe(tmp_path, monkeypatch):
    """A recipe without a model, for a folder of photos; the current folder is empty."""
    for i, name in enumerate(("train/cat/0", "train/dog/1", "val/cat/2", "val/dog/3")):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((9, 9, 3), 50 * i, np.uint8))
    recipe = tmp_path / "photos.py"
    recipe.write_text(
        "from convmesh.config import defaults\n"
        "def get_config():\n"
        "    config = defaults('classify')\n"
        f"    config.data.root = {str(tmp_path / 'photos')!r}\n"
        "    return config\n"
    )
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return str(recipe)


def test_check_data_returns_0_for_warnings_and_1_for_errors(photos_recipe, tmp_path, capsys):
    command = ["check-data", "--config", photos_recipe]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-2:] == [
        "check_data.png: 4 of the images as they are read",
        "0 errors, 0 warnings: training accepts this data",
    ]
    assert err == "" and cv2.imread("check_data.png").shape[2] == 3
    (tmp_path / "photos/val/dog/3.png").write_text("no image")
    assert main([*command, "--no-picture"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "val/dog/3.png: not an image, or in an unsupported format"
    assert lines[-1].startswith("1 error, 0 warnings: training would be refused; fix them, or set")
    assert main([*command, "--config.data.on_bad_example=skip", "--output", "a/b.png"]) == 0
    assert "val/dog/3.png: warning: not an image" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["a", "check_data.png"]
    assert (tmp_path / "here/a/b.png").is_file()


def test_check_data_needs_no_sizes_and_lists_what_training_would_refuse(
    photos_recipe, tmp_path, capsys
):
    root = f"--config.data.root={tmp_path / 'photos'}"
    command = ["check-data", "--config", "classify", root, "--no-picture"]
    assert main([*command, "--json"]) == 0
    assert capsys.readouterr().err == ""
    (tmp_path / "photos/train/cat/0.png").unlink()  # a class without images
    assert main([*command, "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["refused"] is True and err == ""


def test_check_data_json_prints_nothing_else(photos_recipe, tmp_path, capsys):
    (tmp_path / "photos/val/dog/3.png").write_text("no image")
    assert main(["check-data", "--config", photos_recipe, "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["refused"] is True and printed["problems"][0]["file"] == "val/dog/3.png"
    assert list((tmp_path / "here").iterdir()) == []
    assert main(["check-data", "--config", photos_recipe, "--json", "--output", "x.png"]) == 1
    json.loads(capsys.readouterr().out)
    assert (tmp_path / "here/x.png").is_file()


def test_check_data_shows_progress_on_a_terminal(photos_recipe, monkeypatch, capsys):
    monkeypatch.setattr(data_commands, "SECONDS_BETWEEN_UPDATES", -1)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main(["check-data", "--config", photos_recipe, "--no-picture"]) == 0
    shown = [f"\r{n} of 4 images" for n in (1, 2, 3)]
    assert capsys.readouterr().err == "".join(shown) + "\r\033[K"


def test_only_a_picture_named_by_output_must_be_written(photos_recipe, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("convmesh.plots.png.save_png", full)
    command = ["check-data", "--config", photos_recipe]
    assert main(command) == 0
    printed = (
        "check_data.png cannot be written (No space left on device); choose another with --output"
    )
    assert printed in capsys.readouterr().out
    assert main([*command, "--output", "x.png"]) == 1
    assert capsys.readouterr().err == "convmesh: error: No space left on device\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--config.data.rot=x", "data.rot: no such key; did you mean data.root?"),
        ("--config.data.root=", "data.root: not set"),
        ("--config.data.root=nowhere", "data.root: nowhere is not a folder"),
        ("--config.data.eval_split=tset", "data: no split 'tset' in"),
        ("--config.task=detect", "has no known layout of boxes; found 4 images"),
        ("--output x.jpg", "--output x.jpg: the picture is a PNG; end its name with .png"),
        ("--output x.png --no-picture", "not allowed with argument"),
        ("--output full.png", "--output full.png: is a folder; name a file in it"),
        ("--workdir w", "--workdir: convmesh check-data has no such flag"),
    ],
)
def test_check_data_writes_nothing_if_the_call_is_wrong(photos_recipe, failed, flags, message):
    os.mkdir("full.png")
    status, line = failed("check-data", "--config", photos_recipe, *flags.split())
    assert status == 2 and message in line
    assert os.listdir() == ["full.png"] and os.listdir("full.png") == []


def test_prepare_passes_its_flags(monkeypatch):
    made = []
    monkeypatch.setattr("convmesh.data.prepare.prepare", lambda *args: made.append(args))
    assert main(["prepare", "--name", "coco/2017"]) == 0
    assert main(["prepare", "--name", "coco/2017", "--root", "data"]) == 0
    assert made == [("coco/2017", ""), ("coco/2017", "data")]


def test_only_the_first_process_reads_and_prepares_data(photos_recipe, monkeypatch, capsys):
    monkeypatch.setattr("convmesh.distributed.processes.is_first", lambda: False)
    monkeypatch.setattr("convmesh.data.prepare.prepare", lambda *_: pytest.fail("not the first"))
    assert main(["check-data", "--config", photos_recipe]) == 0
    assert main(["prepare", "--name", "coco/2017"]) == 0
    assert capsys.readouterr() == ("", "") and os.listdir() == []


def test_the_picture_holds_16_images_and_is_left_out_if_none_can_be_read(
    photos_recipe, tmp_path, capsys
):
    for i in range(20):
        path = tmp_path / f"photos/train/cat/{i + 10}.png"
        cv2.imwrite(str(path), np.full((9, 9 + i, 3), 10 * i, np.uint8))
    assert main(["check-data", "--config", photos_recipe]) == 0
    assert "check_data.png: 16 of the images as they are read" in capsys.readouterr().out
    os.remove("check_data.png")
    for path in (tmp_path / "photos").rglob("*.png"):
        path.write_text("no image")
    assert main(["check-data", "--config", photos_recipe]) == 1
    out, err = capsys.readouterr()
    assert "check_data.png" not in out and err == "" and os.listdir() == []


def test_progress_is_shown_at_most_ten_times_per_second(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    times = iter([5.0, 5.0625, 5.125, 5.1875, 5.25, 5.25])
    monkeypatch.setattr(data_commands, "time", SimpleNamespace(monotonic=lambda: next(times)))
    show = data_commands._progress()
    for done in range(1, 7):
        show(1000 * done, 6000)
    shown = "".join(f"\r{n},000 of 6,000 images" for n in (1, 3, 5))
    assert capsys.readouterr().err == shown + "\r\033[K"
